//! `hidden_act` of config.json (spec §4.5).

use crate::{ffi, Error, Result};

/// The activation of the MLP and of the experts. The discriminants are the contract's `DogeActivation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Activation {
    /// x · sigmoid(x)
    #[default]
    Silu = ffi::DOGE_SILU,
    /// x · Φ(x), by erf
    Gelu = ffi::DOGE_GELU,
    /// The same with the usual tanh in the place of erf.
    GeluTanh = ffi::DOGE_GELU_TANH,
    /// max(x, 0)
    Relu = ffi::DOGE_RELU,
    /// max(x, 0)²
    Relu2 = ffi::DOGE_RELU2,
    /// 1 / (1 + e^−x)
    Sigmoid = ffi::DOGE_SIGMOID,
    /// tanh(x)
    Tanh = ffi::DOGE_TANH,
    /// x · sigmoid(1.702 x)
    QuickGelu = ffi::DOGE_QUICK_GELU,
    /// x · tanh(ln(1 + e^x))
    Mish = ffi::DOGE_MISH,
    /// x
    Linear = ffi::DOGE_LINEAR,
}

/// Transformers' names. Several mean the same function; the first of each is the one we print.
const NAMES: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("relu2", Activation::Relu2),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("quick_gelu", Activation::QuickGelu),
    ("mish", Activation::Mish),
    ("linear", Activation::Linear),
];

impl Activation {
    /// Every activation, in the contract's order.
    pub const ALL: [Activation; ffi::DOGE_ACTIVATION_COUNT as usize] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Relu2,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::QuickGelu,
        Activation::Mish,
        Activation::Linear,
    ];

    /// The name in config.json.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, act)| *act == self).map_or("", |(name, _)| name)
    }
}

impl std::fmt::Display for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Activation {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        NAMES.iter().find(|(name, _)| *name == s).map(|(_, act)| *act).ok_or_else(|| Error::UnknownWord {
            what: "activation (hidden_act)",
            word: s.to_string(),
            expected: NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        })
    }
}
