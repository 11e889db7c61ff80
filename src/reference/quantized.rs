//! Integer weights: "Integer formats" and "Activations for integer weights" of kernels/doge_kernels.h.

use super::embed::{quant, scale};
use crate::Matrix;

/// A row of x as int8, with the scale of each 32 columns. Filled up with zeros to a multiple of 64 columns.
pub struct QuantizedRow {
    /// In -127..=127.
    pub q: Vec<i8>,
    /// Of each 32 columns.
    pub scale: Vec<f32>,
    /// `-128 Σ q` of each 32 columns.
    pub offset: Vec<i32>,
}

/// `q = round(x / scale)`, ties to even, where `scale` puts the largest magnitude of 32 columns on 127. In f32, so that the
/// integers are the same everywhere.
pub fn quantize_row(x: &[f32]) -> QuantizedRow {
    let mut padded = x.to_vec();
    padded.resize(x.len().next_multiple_of(64), 0.0);
    let (mut q, mut scale, mut offset) = (Vec::new(), Vec::new(), Vec::new());
    for group in padded.chunks_exact(32) {
        let max = if group.iter().any(|x| x.is_nan()) { f32::NAN } else { group.iter().fold(0.0f32, |max, x| max.max(x.abs())) };
        let inverse = 127.0 / max;
        let inverse = if inverse > f32::MAX { f32::MAX } else { inverse };
        let whole: Vec<i8> = group.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
        offset.push(-128 * whole.iter().map(|&q| i32::from(q)).sum::<i32>());
        scale.push(1.0 / inverse);
        q.extend(whole);
    }
    QuantizedRow { q, scale, offset }
}

/// `out[o] = Σ_g (Σ_c q_w[o][c] · q_x[c]) · scale_w[o][g] · scale_x[g] (+ bias[o])`, and the sums of the magnitudes of what
/// is added.
pub fn linear_int(weight: Matrix<'_>, x: &QuantizedRow, bias: Option<&[f32]>) -> (Vec<f64>, Vec<f64>) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let (mut out, mut magnitudes) = (Vec::new(), Vec::new());
    for o in 0..rows {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[o]));
        let (mut sum, mut magnitude) = (bias, bias.abs());
        for begin in (0..cols).step_by(32) {
            let products = (begin..cols.min(begin + 32)).map(|c| i64::from(quant(weight, o, c)) * i64::from(x.q[c]));
            let dot: i64 = products.sum();
            let term = dot as f64 * f64::from(scale(weight, o, begin)) * f64::from(x.scale[begin / 32]);
            sum += term;
            magnitude += term.abs();
        }
        out.push(sum);
        magnitudes.push(magnitude);
    }
    (out, magnitudes)
}
