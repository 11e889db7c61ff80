//! What makes a measurement of several samples, and of the machine before and after them.

use std::fs::{self, DirEntry};

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

/// Fewer values than this tell nothing of how far their median may be off.
pub const ENOUGH: usize = 5;

/// How far the median may be off, whatever the distribution: as far as the farther of the outermost of five values, or of more
/// without as many at either end as leave it between them in 15 of 16 cases (of 8 one, of 11 two).
pub fn median_spread(mut x: Vec<f64>) -> Option<f64> {
    x.sort_by(f64::total_cmp);
    let left_out = x.len().checked_sub(ENOUGH)? / 3;
    let (least, largest, median) = (x[left_out], x[x.len() - 1 - left_out], median(x));
    Some((largest - median).max(median - least))
}

/// Seconds for which the threads of this process, all together, could have run and had no processor, as far as Linux tells.
pub fn waited() -> f64 {
    let of_thread = |task: DirEntry| {
        let times = fs::read_to_string(task.path().join("schedstat")).ok()?; // running, waiting, how often
        times.split(' ').nth(1)?.parse::<u64>().ok()
    };
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(of_thread).sum::<u64>() as f64 * 1e-9
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
        // The median is seldom in the middle of its range: 9 is as far from 3 as another median may be.
        assert_eq!(median_spread(vec![3.0, 1.0, 2.0, 9.0, 4.0]), Some(6.0));
        assert_eq!(median_spread(vec![100.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1.0]), Some(2.5));
        assert_eq!((median_spread(vec![1.0, 2.0, 3.0, 4.0]), median_spread(vec![])), (None, None));
    }
}
