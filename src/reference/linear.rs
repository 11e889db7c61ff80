//! Spec, notation: matrices are `[out, in]`, `y = W x + b`.

/// `weight` is `[out, x.len()]`, the result `[out]`.
pub fn linear(weight: &[f32], x: &[f64], bias: Option<&[f32]>, out: usize) -> Vec<f64> {
    let n = x.len();
    (0..out)
        .map(|o| {
            let dot: f64 = weight[o * n..(o + 1) * n].iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
            dot + bias.map_or(0.0, |b| f64::from(b[o]))
        })
        .collect()
}
