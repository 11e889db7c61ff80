//! Greedy choice.

/// Index of the largest element, the lowest one on ties; NaN is never the largest; 0 if there is nothing but NaN.
pub fn argmax(x: &[f32]) -> usize {
    let mut best = None;
    for (i, &x) in x.iter().enumerate().filter(|(_, x)| !x.is_nan()) {
        if best.is_none_or(|(_, top)| x > top) {
            best = Some((i, x));
        }
    }
    best.map_or(0, |(i, _)| i)
}
