//! Launches that a sequence makes between the large ones: round_row, mask_score, argmax.

use doge_engine::{
    cuda::{Buffer, Device, Input, MaskScore, Next, NextSizes, Rows},
    reference::{
        self,
        close::{chain, exactly, within, Worst, EPS, FUNCTION},
        linear::linear,
        mask_score::softplus,
    },
    Result,
};
use half::bf16;

use super::{
    super::{f64s, magnitudes, Store},
    copies, numbers, DeviceJob, LANES,
};

pub struct Round {
    x: Vec<f32>,
    there: Vec<Input>,
}

impl Round {
    pub fn make(gpu: &Device, n: usize, rows: usize, cols: usize) -> Result<Box<dyn DeviceJob>> {
        let x = numbers(&mut Store::new(1), rows * cols, -1.0, 1.0)?;
        Ok(Box::new(Round { there: copies(n, |_| Input::new(Rows::from_slice(gpu, cols, &x)?, true))?, x }))
    }
}

impl DeviceJob for Round {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        let rows = self.there[copy].exact.rows();
        gpu.round(&mut self.there[copy], rows)
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let (rows, all) = (&self.there[0].exact, self.there[0].rounded.to_vec()?);
        let got: Vec<u16> = all.chunks_exact(rows.stride()).flat_map(|row| &row[..rows.cols()]).copied().collect();
        let want: Vec<u16> = self.x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        Ok(exactly("rounded", &got, &want))
    }
}

pub struct Score {
    weight: Vec<f32>,
    bias: Vec<f32>,
    a: Vec<f32>,
    v: Vec<f32>,
    weight_there: Vec<Rows>,
    bias_there: Buffer<f32>,
    a_there: Buffer<f32>,
    v_there: Vec<Rows>,
    out: Buffer<f32>,
}

impl Score {
    pub fn make(gpu: &Device, n: usize, rows: usize, cols: usize, heads: usize) -> Result<Box<dyn DeviceJob>> {
        let (mut store, width) = (Store::new(1), (3.0 / cols as f32).sqrt());
        let weight = numbers(&mut store, heads * cols, -width, width)?;
        let (bias, a) = (numbers(&mut store, heads, -1.0, 1.0)?, numbers(&mut store, heads, -0.3, 0.3)?);
        let v = numbers(&mut store, rows * cols, -1.0, 1.0)?;
        Ok(Box::new(Score {
            weight_there: copies(n, |_| Rows::from_slice(gpu, cols, &weight))?,
            bias_there: Buffer::from_slice(gpu, &bias)?,
            a_there: Buffer::from_slice(gpu, &a)?,
            v_there: copies(n, |_| Rows::from_slice(gpu, cols, &v))?,
            out: Buffer::zeros(gpu, rows * heads)?,
            weight,
            bias,
            a,
            v,
        }))
    }
}

impl DeviceJob for Score {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        let score = MaskScore { dt_weight: &self.weight_there[copy], bias: Some(&self.bias_there), a: &self.a_there };
        gpu.mask_score(&mut self.out, &score, &self.v_there[copy], self.v_there[copy].rows())
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let Score { weight, bias, a, v, .. } = self;
        let cols = weight.len() / a.len();
        let (mut want, mut budget) = (Vec::new(), Vec::new());
        for v in v.chunks_exact(cols) {
            let s = reference::mask_score::mask_score(weight, Some(bias), a, &f64s(v));
            let dt = linear(weight, &f64s(v), Some(bias), a.len());
            let terms = linear(&magnitudes(weight), &f64s(&magnitudes(v)), Some(&magnitudes(bias)), a.len());
            for m in 0..a.len() {
                // As on the CPU: dt is a reduction, softplus bends it and errs itself, exp makes that a relative error.
                let (a, softplus) = (f64::from(a[m]).abs(), softplus(dt[m]));
                let error = chain(cols, LANES) * EPS * terms[m] + FUNCTION * EPS * softplus.max(1.0);
                budget.push(s[m] * ((a * error + EPS * a * softplus).exp_m1() + FUNCTION * EPS));
            }
            want.extend(s);
        }
        Ok(within("out", &self.out.to_vec()?, &want, |i| budget[i]))
    }
}

pub struct Argmax {
    largest: u32,
    logits: Vec<Rows>,
    next: Next,
}

impl Argmax {
    pub fn make(gpu: &Device, n: usize, vocab: usize) -> Result<Box<dyn DeviceJob>> {
        let logits = numbers(&mut Store::new(1), vocab, -8.0, 8.0)?;
        let largest = reference::argmax::argmax(&logits) as u32;
        let mut next = Next::new(gpu, NextSizes { rows: 1, vocab })?;
        // The run ends with the first call: those after it search, and leave everything as it is.
        next.begin_run(0, 0, &[largest], None)?;
        Ok(Box::new(Argmax { largest, logits: copies(n, |_| Rows::from_slice(gpu, vocab, &logits))?, next }))
    }
}

impl DeviceJob for Argmax {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        gpu.argmax(&self.logits[copy], &mut self.next)
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        Ok(exactly("next", &self.next.end_run()?.ids, &[self.largest]))
    }
}
