//! What makes a measurement of several samples, and of the machine before and after them.

/// Measurements of the roof that differ by more than this tell nothing about what was measured between them.
const UNSTEADY: f64 = 0.15;

pub fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    let middle = x.len() / 2;
    match x.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (x[middle - 1] + x[middle]) / 2.0,
        _ => x[middle],
    }
}

/// Median of the absolute deviations from the median.
pub fn mad(x: &[f64]) -> f64 {
    let middle = median(x.to_vec());
    median(x.iter().map(|x| (x - middle).abs()).collect())
}

/// Half the distance between the least and the largest.
pub fn half_range(x: &[f64]) -> f64 {
    let (least, largest) = x.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    if least <= largest {
        (largest - least) / 2.0
    } else {
        0.0
    }
}

/// What the machine could do at best just before and just after, in bytes or operations a second.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    pub before: f64,
    pub after: f64,
}

impl Beside {
    pub fn mean(self) -> f64 {
        (self.before + self.after) / 2.0
    }

    /// The machine changed between the two.
    pub fn unsteady(self) -> bool {
        (self.before - self.after).abs() > UNSTEADY * self.mean()
    }
}
