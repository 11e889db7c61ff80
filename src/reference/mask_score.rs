//! Spec 4.4: the mask value of a key, a function of its value vectors alone.

use super::linear::linear;

/// `s_m = exp(A[m] · softplus(dt_proj[m] · v + bias[m]))`; `v` holds all K/V heads, head-major. The result is `[a.len()]`.
pub fn mask_score(dt_weight: &[f32], bias: Option<&[f32]>, a: &[f32], v: &[f64]) -> Vec<f64> {
    let dt = linear(dt_weight, v, bias, a.len());
    dt.iter().zip(a).map(|(&dt, &a)| (f64::from(a) * softplus(dt)).exp()).collect()
}

/// `ln(1 + e^z)`, and `z` itself above 20.
pub fn softplus(z: f64) -> f64 {
    if z > 20.0 {
        z
    } else {
        z.exp().ln_1p()
    }
}
