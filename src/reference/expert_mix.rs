//! Spec 4.6: the routed experts of one token.

use super::{gated_activation::activate, linear::linear};
use crate::Activation;

/// `Σ_e weight[e] · act(down_embed[expert[e]] · x) · up_embed[expert[e]]`, `[x.len()]`; both tables are `[num_experts, x.len()]`.
pub fn expert_mix(x: &[f64], expert: &[u32], weight: &[f64], down_embed: &[f32], up_embed: &[f32], act: Activation) -> Vec<f64> {
    let n = x.len();
    let mut y = vec![0.0; n];
    for (&expert, p) in expert.iter().zip(weight) {
        let row = expert as usize * n..(expert as usize + 1) * n;
        let hit = p * activate(act, linear(&down_embed[row.clone()], x, None, 1)[0]);
        for (y, &up) in y.iter_mut().zip(&up_embed[row]) {
            *y += hit * f64::from(up);
        }
    }
    y
}
