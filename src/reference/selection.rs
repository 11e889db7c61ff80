//! Spec 4.4 and 8: which keys a query keeps.

use std::ops::Range;

/// The keys that query `q` may see: `j ≤ q`, and `j > q − sliding_window`.
pub fn visible(q: usize, sliding_window: Option<usize>) -> Range<usize> {
    sliding_window.map_or(0, |window| (q + 1).saturating_sub(window))..q + 1
}

/// The `keep` visible keys of largest mask value, ties to the lower index. Ascending by index.
pub fn kept(s: &[f64], visible: Range<usize>, keep: usize) -> Vec<u32> {
    let keys = visible.clone().map(|j| j as u32);
    if visible.len() <= keep {
        return keys.collect();
    }
    // In the order "largest first", the value of the first key that is not kept.
    let mut values = s[visible.clone()].to_vec();
    let (better, &mut limit, _) = values.select_nth_unstable_by(keep, |a, b| b.total_cmp(a));
    let mut equals_kept = better.iter().filter(|&&s| s == limit).count();
    let is_kept = |&j: &u32| {
        let s = s[j as usize];
        let first_equals = s == limit && equals_kept > 0;
        equals_kept -= usize::from(first_equals);
        s > limit || first_equals
    };
    keys.filter(is_kept).collect()
}

/// Spec 8: the first query that does not keep key `j` any more: `j` itself if it never got in, the number of queries if it
/// stays. `kept[q]` are the keys of query `q`, queries and keys both counted from 0. Means nothing with a sliding window.
pub fn evicted_at(kept: &[Vec<u32>]) -> Vec<u32> {
    let mut out: Vec<u32> = (0..kept.len() as u32).collect();
    for (q, keys) in kept.iter().enumerate() {
        for &j in keys {
            out[j as usize] = q as u32 + 1;
        }
    }
    out
}
