//! Spec 4.1 and 3.

/// Spec 4.1: `weight · x / sqrt(mean(x²) + eps)`.
pub fn rms_norm(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, &w)| f64::from(w) * (x / (mean + eps).sqrt())).collect()
}

/// Spec 4.2: each head's channels by themselves, one weight vector for all heads.
pub fn qk_norm(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    x.chunks_exact(weight.len()).flat_map(|head| rms_norm(head, weight, eps)).collect()
}

/// Spec 3: `gate · x + branch` per channel; the gate multiplies the stream, not the branch.
pub fn residual(x: &[f64], gate: &[f32], branch: &[f64]) -> Vec<f64> {
    x.iter().zip(gate).zip(branch).map(|((x, &g), b)| f64::from(g) * x + b).collect()
}
