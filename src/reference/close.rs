//! How far an f32 result may be from the f64 reference: for every element an error budget, from a formula, never from a
//! trial run. `EPS` is half an ulp of 1: what one rounded f32 operation may add, relative to its result.
//!
//! | class | budget |
//! | --- | --- |
//! | exact | 0: copies, conversions, choices |
//! | elementwise | a count of roundings × EPS × the terms of the element's formula |
//! | reduction | c × EPS × Σ\|terms\|, c from the longest chain of additions (Higham, Accuracy and Stability, 4.2) |
//! | composed | the parts' budgets through the derivative of what follows them |
//!
//! Every budget also allows `TINY`: below the smallest normal number f32 has no relative precision.

use super::{
    dynamic_mask_attention::{weights, Key},
    gated_activation::activate,
};
use crate::Activation;

/// Unit roundoff of f32.
pub const EPS: f64 = 1.0 / (1u64 << 24) as f64;

/// A few of the smallest normal numbers: a level may flush subnormal intermediate results, and a product of them can grow.
pub const TINY: f64 = 4.0 * f32::MIN_POSITIVE as f64;

/// What exp, log1p, tanh and erf of kernels/cpu/vec_math.inl may be off, in EPS: two ulp, which is four EPS.
pub const FUNCTION: f64 = 4.0;

/// The longest chain of roundings in a sum of `n` products over `lanes` lanes: the lane's own chain, the tree over the
/// lanes (counted twice, a tail may take its own way), the product and the bias.
pub fn chain(n: usize, lanes: usize) -> f64 {
    (n.div_ceil(lanes) + 2 * lanes.ilog2() as usize + 2) as f64
}

/// The same where `n` products with an f32 in three bf16 parts are summed by registers that multiply tiles: the chain of 16 even
/// or 16 odd columns, the sum of both, an addition for each part of each 32 columns, and the bias. The parts of a number have its
/// sign, so that their magnitudes add up to its own.
pub fn split_chain(n: usize) -> f64 {
    (16 + 1 + 3 * n.div_ceil(32) + 1) as f64
}

/// The worst element of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Error as a fraction of its budget; 0 is bit-equal, above 1 is a failure.
    pub fraction: f64,
    /// What to print of it.
    pub what: String,
}

impl Worst {
    /// Not a matter of numbers.
    pub fn failure(what: String) -> Self {
        Worst { fraction: f64::INFINITY, what }
    }

    /// Within its budget?
    pub fn passed(&self) -> bool {
        self.fraction <= 1.0
    }

    /// The worse of two.
    pub fn max(self, other: Worst) -> Worst {
        if other.fraction > self.fraction {
            other
        } else {
            self
        }
    }
}

/// Holds each element against the reference within its budget. `name` is the output's name in messages.
///
/// # Panics
/// If the lengths differ, which is a mistake of the check.
pub fn within(name: &str, got: &[f32], want: &[f64], budget: impl Fn(usize) -> f64) -> Worst {
    assert_eq!(got.len(), want.len(), "{name}: the check itself compares different lengths");
    let mut worst = Worst::default();
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let (budget, got64) = (budget(i) + TINY, f64::from(got));
        let fraction = if got64 == want { 0.0 } else { (got64 - want).abs() / budget };
        // NaN in the result, the reference or the budget is a failure; so is a budget that allows everything.
        let fraction = if fraction.is_nan() || !budget.is_finite() { f64::INFINITY } else { fraction };
        if fraction > worst.fraction {
            let what = format!("{name}[{i}] = {got:e}, reference {want:e}: {fraction:.3} of the {budget:.3e} allowed");
            worst = Worst { fraction, what };
        }
    }
    worst
}

/// Holds each element against the reference bit for bit.
///
/// # Panics
/// If the lengths differ, which is a mistake of the check.
pub fn exactly<T: Copy + PartialEq + std::fmt::Debug>(name: &str, got: &[T], want: &[T]) -> Worst {
    assert_eq!(got.len(), want.len(), "{name}: the check itself compares different lengths");
    match got.iter().zip(want).position(|(got, want)| got != want) {
        Some(i) => Worst::failure(format!("{name}[{i}] = {:?}, must be exactly {:?}", got[i], want[i])),
        None => Worst::default(),
    }
}

/// What an activation in f32 may be off at x: a count of roundings × the magnitude of the terms of its formula.
pub fn activation_budget(act: Activation, x: f64) -> f64 {
    let y = activate(act, x).abs();
    // e^-x leaves f32 beyond 88: the sigmoid is then below the smallest normal number, and may be 0.
    let sigmoid_underflow = x.abs().min(128.0) * f64::from(f32::MIN_POSITIVE);
    // exp of an argument of this size, off by the rounding of the constant and of the product: relative error is its absolute one.
    let argument = |z: f64| 2.0 * z.abs().min(128.0);
    match act {
        Activation::Linear | Activation::Relu => 0.0,
        Activation::Relu2 => EPS * y,
        Activation::Sigmoid | Activation::Silu => (FUNCTION + 3.0) * EPS * y + sigmoid_underflow,
        Activation::QuickGelu => (FUNCTION + 3.0 + argument(1.702 * x)) * EPS * y + sigmoid_underflow,
        Activation::Tanh => (FUNCTION + 3.0) * EPS * y,
        // x/2 · (1 + f): the sum's terms are of size |x|.
        Activation::Gelu | Activation::GeluTanh => (FUNCTION + 4.0) * EPS * x.abs(),
        Activation::Mish => (2.0 * FUNCTION + 3.0) * EPS * y + sigmoid_underflow,
    }
}

/// A bound of an activation's slope between -x and x.
pub fn activation_slope(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Relu2 => 2.0 * x.abs(),
        Activation::Relu | Activation::Linear | Activation::Sigmoid | Activation::Tanh => 1.0,
        // silu 1.100, gelu 1.129, quick_gelu 1.100, mish 1.089
        Activation::Silu | Activation::Gelu | Activation::GeluTanh | Activation::QuickGelu | Activation::Mish => 1.13,
    }
}

/// A score is a reduction, two more roundings, and its distance to the maximum one more; exp turns the absolute error of
/// its argument into a relative one of the weight. Then the weighted sum: a chain of as many terms as there are keys, each
/// rescaled where a new maximum is met; and the same for the denominator.
pub fn attention_budget(q: &[f64], kept: &[Key<'_>], scale: f64, out: &[f64], lanes: usize) -> Vec<f64> {
    let dot = |f: fn(f64) -> f64, k: &[f64]| q.iter().zip(k).map(|(q, k)| f(q * k)).sum::<f64>();
    let score: Vec<f64> = kept.iter().map(|key| dot(|x| x, key.k) * scale + key.s).collect();
    let max = score.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let score_error =
        |key: &Key| EPS * (chain(q.len(), lanes) * dot(f64::abs, key.k) * scale + 2.0 * (dot(f64::abs, key.k) * scale + key.s));
    // The maximum cancels in the quotient: only its distance from the score is rounded.
    let relative: Vec<f64> = kept
        .iter()
        .zip(&score)
        .map(|(key, score)| {
            (score_error(key) + EPS * (max - score).min(128.0)).exp_m1() + EPS * (2.0 * FUNCTION + 2.0 * kept.len() as f64 + 4.0)
        })
        .collect();
    let p = weights(q, kept, scale);
    (0..out.len())
        .map(|c| {
            p.iter().zip(kept).zip(&relative).map(|((p, key), relative)| p * (key.v[c].abs() + out[c].abs()) * relative).sum()
        })
        .collect()
}

/// The same where q is a rounded one and each weight is rounded to bf16, for the sum over v and for their own: and what the dot
/// instruction takes for 0, of each key a weight, a product and the sum so far.
pub fn rounded_attention_budget(q: &[f64], kept: &[Key<'_>], scale: f64, out: &[f64], lanes: usize) -> Vec<f64> {
    let (half_ulp, least) = (f64::exp2(-8.0), f64::from(f32::MIN_POSITIVE));
    let p = weights(q, kept, scale);
    let rounding = |c: usize| {
        let of_key = |(p, key): (&f64, &Key)| (p * half_ulp + least) * (key.v[c].abs() + out[c].abs()) + 2.0 * least;
        p.iter().zip(kept).map(of_key).sum::<f64>()
    };
    let exact = attention_budget(q, kept, scale, out, lanes);
    // 1 % for the errors of errors.
    exact.into_iter().enumerate().map(|(c, budget)| 1.01 * (budget + rounding(c))).collect()
}
