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

/// The worst element of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Error as a fraction of its budget; 0 is bit-equal, above 1 is a failure.
    pub fraction: f64,
    /// What to print of it.
    pub what: String,
}

impl Worst {
    pub fn failure(what: String) -> Self {
        Worst { fraction: f64::INFINITY, what }
    }

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
pub fn exactly<T: Copy + PartialEq + std::fmt::Debug>(name: &str, got: &[T], want: &[T]) -> Worst {
    assert_eq!(got.len(), want.len(), "{name}: the check itself compares different lengths");
    match got.iter().zip(want).position(|(got, want)| got != want) {
        Some(i) => Worst::failure(format!("{name}[{i}] = {:?}, must be exactly {:?}", got[i], want[i])),
        None => Worst::default(),
    }
}
