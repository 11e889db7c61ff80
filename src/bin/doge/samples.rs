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

/// How far the median may be off, whatever the distribution: half of what lies between the outermost of five values, or of more
/// without as many at either end as leave it there in 15 of 16 cases (of 8 one, of 11 two).
pub fn median_spread(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    let left_out = x.len().saturating_sub(5) / 3;
    match &x[left_out..x.len() - left_out] {
        [least, .., largest] => (largest - least) / 2.0,
        _ => 0.0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_values_the_outermost_do_not_count() {
        assert_eq!(median_spread(vec![3.0, 1.0, 2.0, 9.0, 4.0]), 4.0);
        assert_eq!(median_spread(vec![100.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1.0]), 2.5);
        assert_eq!((median_spread(vec![2.0]), median_spread(vec![])), (0.0, 0.0));
    }
}
