//! The CUDA kernels against the reference, on the emulator: through the real doors, the real driver bindings and the stand-in
//! driver (tests/emulator). Every format, ragged sizes, hard numbers; each case under another order of threads.
#![cfg(feature = "cuda")]

mod attention;
#[path = "../common/mod.rs"]
mod common;
mod experts;
mod linear;
mod sampling;

use common::{
    cases::{stored, Fill, Random},
    close::{exactly, within, Worst, EPS, FUNCTION},
    emulator,
};
use doge_engine::{
    cuda::{Buffer, Device, DeviceMatrix, Input, MaskScore, Norm, Projection, Residual, Rows},
    reference::{self, gated_activation::activate, linear::linear},
    Activation, Dtype, Layout, Matrix,
};

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

fn assert_passed(what: &str, worst: Worst) {
    assert!(worst.passed(), "{what}: {}", worst.what);
}

/// The longest chain of roundings of a sum over `n` columns: a lane's own, the tree over the lanes, product and bias.
fn chain(dtype: Dtype, n: usize) -> f64 {
    match dtype.is_int() {
        false => ((8 * n.div_ceil(256)).min(n) + 5 + 2) as f64,
        // a group of 32, its scale, this half warp's groups, the eight half warps, the bias
        true => (32 + 2 * n.div_ceil(256) + 8 + 2) as f64,
    }
}

/// Each element of `x`, padding included, stands beside it as bf16, if anything does.
fn assert_rounded(what: &str, x: &Input) {
    let mut want: Vec<u16> = padded(&x.exact).into_iter().map(|x| half::bf16::from_f32(x).to_bits()).collect();
    want.truncate(x.rounded.len());
    assert_passed(what, exactly("rounded", &x.rounded.to_vec().unwrap(), &want));
}

/// All rows with the zeros between them.
fn padded(x: &Rows) -> Vec<f32> {
    let (all, zeros) = (x.read(x.rows()).unwrap(), vec![0.0; x.stride() - x.cols()]);
    all.chunks_exact(x.cols()).flat_map(|row| [row, &zeros].concat()).collect()
}

struct Weight {
    matrix: DeviceMatrix,
    wide: Vec<f32>,
}

impl Weight {
    fn new(gpu: &Device, dtype: Dtype, layout: Layout, rows: usize, cols: usize, values: &[f32]) -> Self {
        let bytes = stored(dtype, layout, [rows, cols], values);
        let matrix = Matrix::with_layout(dtype, layout, rows, cols, &bytes).unwrap();
        Weight { matrix: DeviceMatrix::upload(gpu, matrix).unwrap(), wide: reference::embed::widen(matrix) }
    }

    fn linear(gpu: &Device, dtype: Dtype, rows: usize, cols: usize, random: &mut Random, fill: Fill) -> Self {
        let layout = if dtype.is_int() { Layout::Tiles } else { Layout::Rows };
        Weight::new(gpu, dtype, layout, rows, cols, &random.fill(fill, rows * cols, 4.0))
    }

    /// `(Σ w x + bias, Σ |w x| + |bias|)` of each output of a row.
    fn of(&self, x: &[f32], bias: Option<&[f32]>, outputs: usize) -> (Vec<f64>, Vec<f64>) {
        let magnitudes = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<f32>>();
        let terms = linear(&magnitudes(&self.wide), &f64s(&magnitudes(x)), bias.map(magnitudes).as_deref(), outputs);
        (linear(&self.wide, &f64s(x), bias, outputs), terms)
    }
}

#[test]
fn norms_of_every_length() {
    let gpu = emulator::device();
    const RMS_EPS: f32 = 1e-6;
    for (i, cols) in [1, 2, 7, 8, 48, 127, 128, 129, 256, 1000].into_iter().enumerate() {
        for fill in Fill::ALL {
            let random = &mut Random::new(i as u64);
            let (rows, largest) = (1 + i % 3, (f32::MAX / cols as f32).sqrt() / 4.0);
            let [x, branch] = [(); 2].map(|()| random.fill(fill, rows * cols, largest));
            let [gate, weight] = [(); 2].map(|()| random.fill(Fill::Uniform, cols, 1.0));
            let mut stream = Rows::from_slice(&gpu, cols, &x).unwrap();
            let mut out = Input::new(Rows::zeros(&gpu, rows, cols).unwrap(), i % 3 != 0).unwrap();
            let (gate_there, branch_there) =
                (Buffer::from_slice(&gpu, &gate).unwrap(), Rows::from_slice(&gpu, cols, &branch).unwrap());
            let residual = (i % 2 == 0).then_some(Residual { gate: &gate_there, branch: &branch_there });
            let is_residual = residual.is_some();
            gpu.rms_norm(&mut out, &mut stream, residual, &Buffer::from_slice(&gpu, &weight).unwrap(), RMS_EPS, rows).unwrap();
            let after = stream.read(rows).unwrap();
            let sum = |i: usize| f64::from(gate[i % cols]) * f64::from(x[i]) + f64::from(branch[i]);
            let want: Vec<f64> = (0..rows * cols).map(|i| if is_residual { sum(i) } else { f64::from(x[i]) }).collect();
            let size = |i: usize| f64::from((gate[i % cols] * x[i]).abs()) + f64::from(branch[i].abs());
            assert_passed("x", within("x", &after, &want, |i| if is_residual { 2.0 * EPS * size(i) } else { 0.0 }));
            let norm = |x: &[f32]| reference::rms_norm::rms_norm(&f64s(x), &weight, f64::from(RMS_EPS));
            let want: Vec<f64> = after.chunks_exact(cols).flat_map(norm).collect();
            let c = (4 * cols.div_ceil(4 * 128) + 5 + 4) as f64 / 2.0 + 6.0; // a thread's quads, lanes, warps
            let what = format!("{cols} columns, {fill:?}");
            assert_passed(&what, within("out", &out.exact.read(rows).unwrap(), &want, |i| c * EPS * want[i].abs()));
            assert_rounded(&what, &out);
        }
    }
}

#[test]
fn mask_scores_of_every_shape() {
    let gpu = emulator::device();
    for (i, (rows, heads, cols)) in [(1, 1, 2), (3, 4, 24), (5, 2, 48), (2, 8, 300), (9, 3, 7)].into_iter().enumerate() {
        let random = &mut Random::new(i as u64);
        let v = random.fill(Fill::Uniform, rows * cols, 1.0);
        let dt = random.fill(Fill::Uniform, heads * cols, 1.0);
        let [bias, a] = [(); 2].map(|()| random.fill(Fill::Uniform, heads, 1.0));
        let bias = (i % 2 == 0).then_some(bias);
        let there = bias.as_ref().map(|bias| Buffer::from_slice(&gpu, bias).unwrap());
        let mut out = Buffer::zeros(&gpu, rows * heads).unwrap();
        let (dt_there, v_there) = (Rows::from_slice(&gpu, cols, &dt).unwrap(), Rows::from_slice(&gpu, cols, &v).unwrap());
        let a_there = Buffer::from_slice(&gpu, &a).unwrap();
        let score = MaskScore { dt_weight: &dt_there, bias: there.as_ref(), a: &a_there };
        gpu.mask_score(&mut out, &score, &v_there, rows).unwrap();
        let (mut want, mut budget) = (Vec::new(), Vec::new());
        for v in v.chunks_exact(cols) {
            let s = reference::mask_score::mask_score(&dt, bias.as_deref(), &a, &f64s(v));
            for (m, s) in s.into_iter().enumerate() {
                let terms: f64 = v.iter().zip(&dt[m * cols..]).map(|(v, w)| f64::from((v * w).abs())).sum();
                let dt_error = chain(Dtype::F32, cols) * EPS * (terms + 1.0);
                // exp of A · softplus(dt): softplus is no steeper than 1, exp makes absolute errors relative ones.
                let argument = (s.ln() / f64::from(a[m])).abs();
                let exponent = f64::from(a[m].abs()) * (dt_error + (2.0 * FUNCTION + 2.0) * EPS * (argument + 1.0));
                budget.push(s * (exponent.exp_m1() + FUNCTION * EPS));
                want.push(s);
            }
        }
        let got = out.to_vec().unwrap();
        assert_passed(&format!("{rows}x{cols} to {heads}"), within("s", &got, &want, |i| budget[i]));
    }
}

/// They check what they compute before they time it: a kernel that reads or multiplies something else is an error.
#[test]
fn roofs_are_of_right_results() {
    use doge_engine::ops::PeakKind;
    let gpu = emulator::device();
    let all = || -> doge_engine::Result<[f64; 3]> {
        Ok([gpu.read_bandwidth(1 << 14)?, gpu.peak(PeakKind::F32)?, gpu.peak(PeakKind::Bf16)?])
    };
    assert!(all().unwrap().iter().all(|rate| rate.is_finite() && *rate > 0.0));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let gpu = emulator::device();
    let weight = Weight::linear(&gpu, Dtype::F32, 4, 8, &mut Random::new(1), Fill::Uniform);
    let x = Rows::zeros(&gpu, 2, 8).unwrap();
    let mut short = Rows::zeros(&gpu, 1, 4).unwrap();
    let error = gpu.linear(&mut [Projection { out: &mut short, weight: &weight.matrix, bias: None }], &x, 2).unwrap_err();
    assert!(error.to_string().contains("linear: out"), "{error}");
    let mut out = Rows::zeros(&gpu, 2, 4).unwrap();
    let narrow = Rows::zeros(&gpu, 2, 7).unwrap();
    assert!(gpu.linear(&mut [Projection { out: &mut out, weight: &weight.matrix, bias: None }], &narrow, 2).is_err());
    let bias = Buffer::zeros(&gpu, 3).unwrap();
    assert!(gpu.linear(&mut [Projection { out: &mut out, weight: &weight.matrix, bias: Some(&bias) }], &x, 2).is_err());
}
