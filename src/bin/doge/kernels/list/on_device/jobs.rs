//! Inputs, launches and checks of each.

use doge_engine::{
    cuda::{Buffer, Device, DeviceMatrix, FullSets, Input, LayerShape, Projection, Residual, Rows},
    reference::{
        close::{activation_budget, attention_budget, chain, exactly, within, Worst, EPS},
        dynamic_mask_attention::{dynamic_mask_attention, Key},
        embed::widen,
        gated_activation::activate,
        linear::linear,
        rms_norm as norms,
    },
    Activation, Dtype, Layout, Result,
};
use half::bf16;

use super::{
    super::{f64s, magnitudes, store::strip, Store},
    copies, numbers, DeviceJob, LANES,
};

const RMS_EPS: f32 = 1e-6;
/// In attention eight threads share the sum of a key.
const LANES_OF_A_KEY: usize = 8;

pub struct Linear {
    weight: Vec<DeviceMatrix>,
    /// The first 16 rows of the weights, widened.
    wide: Vec<f32>,
    x: Vec<f32>,
    x_there: Input,
    rounds: bool,
    out: Rows,
}

/// Outputs that are checked.
const TILE: usize = 16;

impl Linear {
    pub fn make(
        gpu: &Device,
        n: usize,
        dtype: Dtype,
        rounds: bool,
        [rows, cols, outputs]: [usize; 3],
    ) -> Result<Box<dyn DeviceJob>> {
        let mut store = Store::new(1);
        let layout = if dtype.is_int() { Layout::Tiles } else { Layout::Rows };
        let (weight, x) = (store.weights(dtype, layout, outputs, cols)?, numbers(&mut store, rows * cols, -1.0, 1.0)?);
        let mut x_there = Input::new(Rows::from_slice(gpu, cols, &x)?, rounds)?;
        if rounds {
            gpu.round(&mut x_there, rows)?;
        }
        Ok(Box::new(Linear {
            weight: copies(n, |_| DeviceMatrix::upload(gpu, weight.get(0)))?,
            wide: widen(strip(&weight.get(0), 0, TILE)),
            x,
            x_there,
            rounds,
            out: Rows::zeros(gpu, rows, outputs)?,
        }))
    }
}

impl DeviceJob for Linear {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        let (x, rows) = (&self.x_there, self.x_there.exact.rows());
        let mut projections = [Projection { out: &mut self.out, weight: &self.weight[copy], bias: None }];
        if self.rounds {
            gpu.gemm_bf16(&mut projections, x, rows)
        } else {
            gpu.linear(&mut projections, &x.exact, rows)
        }
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let (rows, cols, outputs) = (self.x_there.exact.rows(), self.x_there.exact.cols(), self.out.cols());
        let out = self.out.read(rows)?;
        let mut worst = Worst::default();
        for row in [0, rows - 1] {
            let rounds = |&x: &f32| if self.rounds { bf16::from_f32(x).to_f32() } else { x };
            let x: Vec<f32> = self.x[row * cols..][..cols].iter().map(rounds).collect();
            let want = linear(&self.wide, &f64s(&x), None, TILE);
            let terms = linear(&magnitudes(&self.wide), &f64s(&magnitudes(&x)), None, TILE);
            // Tensor cores may truncate, in any order; whole numbers are summed by groups of 32, each with its scale.
            let c = if self.rounds { 2.0 * (cols + 2) as f64 } else { chain(cols, LANES) + 32.0 };
            worst = worst.max(within(&format!("out[{row}]"), &out[row * outputs..][..TILE], &want, |i| c * EPS * terms[i]));
        }
        Ok(worst)
    }
}

pub struct Embed {
    table: Vec<DeviceMatrix>,
    wide: Vec<f32>,
    ids: Vec<u32>,
    ids_there: Buffer<u32>,
    out: Rows,
}

impl Embed {
    pub fn make(gpu: &Device, n: usize, dtype: Dtype, rows: usize, cols: usize) -> Result<Box<dyn DeviceJob>> {
        let mut store = Store::new(1);
        let (layout, table_rows) =
            if dtype.is_int() { (Layout::Tiles, rows.next_multiple_of(TILE)) } else { (Layout::Rows, rows) };
        let table = store.weights(dtype, layout, table_rows, cols)?;
        let ids: Vec<u32> = (0..rows).map(|_| store.below(table_rows) as u32).collect();
        Ok(Box::new(Embed {
            table: copies(n, |_| DeviceMatrix::upload(gpu, table.get(0)))?,
            wide: widen(table.get(0)),
            ids_there: Buffer::from_slice(gpu, &ids)?,
            ids,
            out: Rows::zeros(gpu, rows, cols)?,
        }))
    }
}

impl DeviceJob for Embed {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        gpu.embed(&mut self.out, &self.table[copy], &self.ids_there, self.ids.len())
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let cols = self.out.cols();
        let want: Vec<f32> = self.ids.iter().flat_map(|&id| &self.wide[id as usize * cols..][..cols]).copied().collect();
        Ok(exactly("out", &self.out.read(self.ids.len())?, &want))
    }
}

pub struct Norm {
    x: Vec<f32>,
    weight: Vec<f32>,
    x_there: Vec<Rows>,
    out: Vec<Input>,
    weight_there: Buffer<f32>,
    residual: Option<GatedBranch>,
}

/// A branch and its gate, below 1: x stays finite, call after call.
struct GatedBranch {
    gate: Vec<f32>,
    branch: Vec<f32>,
    gate_there: Buffer<f32>,
    branch_there: Vec<Rows>,
}

impl Norm {
    pub fn make(gpu: &Device, n: usize, with_residual: bool, rows: usize, cols: usize) -> Result<Box<dyn DeviceJob>> {
        let mut store = Store::new(1);
        let (x, weight) = (numbers(&mut store, rows * cols, -1.0, 1.0)?, numbers(&mut store, cols, 0.5, 1.5)?);
        let residual = match with_residual {
            false => None,
            true => {
                let (gate, branch) = (numbers(&mut store, cols, 0.5, 0.95)?, numbers(&mut store, rows * cols, -1.0, 1.0)?);
                let (gate_there, branch_there) =
                    (Buffer::from_slice(gpu, &gate)?, copies(n, |_| Rows::from_slice(gpu, cols, &branch))?);
                Some(GatedBranch { gate, branch, gate_there, branch_there })
            }
        };
        Ok(Box::new(Norm {
            x_there: copies(n, |_| Rows::from_slice(gpu, cols, &x))?,
            out: copies(n, |_| Input::new(Rows::zeros(gpu, rows, cols)?, false))?,
            weight_there: Buffer::from_slice(gpu, &weight)?,
            x,
            weight,
            residual,
        }))
    }
}

impl DeviceJob for Norm {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        let rows = self.x_there[copy].rows();
        let residual = self.residual.as_ref().map(|r| Residual { gate: &r.gate_there, branch: &r.branch_there[copy] });
        gpu.rms_norm(&mut self.out[copy], &mut self.x_there[copy], residual, &self.weight_there, RMS_EPS, rows)
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let (rows, cols) = (self.x_there[0].rows(), self.x_there[0].cols());
        let (out, x) = (self.out[0].exact.read(rows)?, self.x_there[0].read(rows)?);
        let mut worst = Worst::default();
        for row in [0, rows - 1].map(|row| row * cols..(row + 1) * cols) {
            let mut want = f64s(&self.x[row.clone()]);
            if let Some(GatedBranch { gate, branch, .. }) = &self.residual {
                let terms: Vec<f64> =
                    (0..cols).map(|i| (f64::from(gate[i]) * want[i]).abs() + f64::from(branch[row.start + i].abs())).collect();
                want = norms::residual(&want, gate, &f64s(&branch[row.clone()]));
                worst = worst.max(within("x", &x[row.clone()], &want, |i| 2.0 * EPS * terms[i]));
            }
            // The norm is judged on the x that the kernel left.
            let want = norms::rms_norm(&f64s(&x[row.clone()]), &self.weight, f64::from(RMS_EPS));
            let c = chain(cols, LANES) / 2.0 + 6.0;
            worst = worst.max(within("out", &out[row], &want, |i| c * EPS * want[i].abs()));
        }
        Ok(worst)
    }
}

pub struct Gated {
    gate: Vec<f32>,
    up: Vec<f32>,
    gate_there: Vec<Rows>,
    up_there: Vec<Rows>,
}

impl Gated {
    pub fn make(gpu: &Device, n: usize, rows: usize, cols: usize) -> Result<Box<dyn DeviceJob>> {
        let mut store = Store::new(1);
        let (gate, up) = (numbers(&mut store, rows * cols, -4.0, 4.0)?, numbers(&mut store, rows * cols, -1.0, 1.0)?);
        let (gate_there, up_there) =
            (copies(n, |_| Rows::from_slice(gpu, cols, &gate))?, copies(n, |_| Rows::from_slice(gpu, cols, &up))?);
        Ok(Box::new(Gated { gate, up, gate_there, up_there }))
    }
}

impl DeviceJob for Gated {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        let rows = self.up_there[copy].rows();
        gpu.gated_activation(&mut self.gate_there[copy], &self.up_there[copy], Activation::Silu, rows)
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let got = self.gate_there[0].read(self.gate_there[0].rows())?;
        let gate = |i: usize| f64::from(self.gate[i]);
        let want: Vec<f64> = (0..got.len()).map(|i| activate(Activation::Silu, gate(i)) * f64::from(self.up[i])).collect();
        let budget = |i: usize| activation_budget(Activation::Silu, gate(i)) * f64::from(self.up[i].abs()) + EPS * want[i].abs();
        Ok(within("gate", &got, &want, budget))
    }
}

pub struct Attention {
    layer: LayerShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Vec<f32>,
    sets: Vec<FullSets>,
}

impl Attention {
    pub fn make(gpu: &Device, n: usize, layer: LayerShape, queries: usize, keys: usize) -> Result<Box<dyn DeviceJob>> {
        let (mut store, kv) = (Store::new(1), keys * layer.kv_heads * layer.head_dim);
        let q = numbers(&mut store, queries * layer.q_heads * layer.head_dim, -1.0, 1.0)?;
        let (k, v) = (numbers(&mut store, kv, -1.0, 1.0)?, numbers(&mut store, kv, -1.0, 1.0)?);
        let mask = numbers(&mut store, keys * layer.mask_heads, 0.2, 2.0)?;
        let sets = copies(n, |_| FullSets::new(gpu, layer, false, &q, (&k, &v), &mask))?;
        Ok(Box::new(Attention { layer, q, k, v, mask, sets }))
    }
}

impl DeviceJob for Attention {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        self.sets[copy].run(gpu)
    }

    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?;
        let LayerShape { q_heads, mask_heads, kv_heads, head_dim: d, .. } = self.layer;
        let (out, keys) = (self.sets[0].out(), self.mask.len() / mask_heads);
        let (rows, got) = (out.rows(), out.read(out.rows())?);
        let (k, v, scale) = (f64s(&self.k), f64s(&self.v), (d as f64).powf(-0.5));
        let mut worst = Worst::default();
        for (row, head) in [(0, 0), (rows - 1, q_heads - 1)] {
            let mask_head = head / (q_heads / mask_heads);
            let key = |place: usize| {
                let at = (place * kv_heads + mask_head / (mask_heads / kv_heads)) * d;
                Key { k: &k[at..][..d], v: &v[at..][..d], s: f64::from(self.mask[place * mask_heads + mask_head]) }
            };
            let seen: Vec<Key> = (0..keys - rows + row + 1).map(key).collect();
            let at = (row * q_heads + head) * d;
            let q = f64s(&self.q[at..][..d]);
            let want = dynamic_mask_attention(&q, &seen, scale);
            let budget = attention_budget(&q, &seen, scale, &want, LANES_OF_A_KEY);
            worst = worst.max(within(&format!("query {row}, head {head}"), &got[at..][..d], &want, |i| budget[i]));
        }
        Ok(worst)
    }
}
