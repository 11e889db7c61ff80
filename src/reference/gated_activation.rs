//! Spec 4.5: `act(gate) · up`.

use super::mask_score::softplus;
use crate::Activation;

/// `act(x)` by the formulas of the specification.
pub fn activate(act: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match act {
        Activation::Silu => x * sigmoid(x),
        // 1 + erf(z) = erfc(-z), which keeps its digits where erf is close to -1.
        Activation::Gelu => x / 2.0 * libm::erfc(-x / 2f64.sqrt()),
        Activation::GeluTanh => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            // 1 + tanh(z) = 2 sigmoid(2z)
            x * sigmoid(2.0 * z)
        }
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Mish => x * softplus(x).tanh(),
        Activation::Linear => x,
    }
}

/// Element by element.
pub fn gated_activation(gate: &[f64], up: &[f64], act: Activation) -> Vec<f64> {
    gate.iter().zip(up).map(|(&gate, up)| activate(act, gate) * up).collect()
}
