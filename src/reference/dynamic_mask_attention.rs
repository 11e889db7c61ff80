//! Spec 4.4: attention of one head's query over the keys it keeps.

/// One kept key.
pub struct Key<'a> {
    /// `[head_dim]`, rotated.
    pub k: &'a [f64],
    /// `[head_dim]`
    pub v: &'a [f64],
    /// Its mask value.
    pub s: f64,
}

/// `softmax_j(q·k_j · scale + s_j)`. Empty if nothing is kept.
pub fn weights(q: &[f64], kept: &[Key<'_>], scale: f64) -> Vec<f64> {
    let score: Vec<f64> = kept.iter().map(|key| q.iter().zip(key.k).map(|(q, k)| q * k).sum::<f64>() * scale + key.s).collect();
    let max = score.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = score.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

/// `Σ_j weights_j · v_j`, `[q.len()]`. Zeros if nothing is kept.
pub fn dynamic_mask_attention(q: &[f64], kept: &[Key<'_>], scale: f64) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    for (p, key) in weights(q, kept, scale).iter().zip(kept) {
        for (out, v) in out.iter_mut().zip(key.v) {
            *out += p * v;
        }
    }
    out
}
