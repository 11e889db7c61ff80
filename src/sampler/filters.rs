//! The filters of step 4, on scores that are relative to the largest (so the largest is 0).

use std::cmp::Ordering;

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub id: u32,
    /// Logit relative to the largest, over the temperature: 0 or negative, never NaN.
    pub score: f32,
    /// What typical-p sorts by.
    pub key: f32,
}

/// exp(score): the probability but for the common factor. In f64 so that sums over a vocabulary do not drift.
pub(super) fn weight(score: f32) -> f64 {
    f64::from(libm::expf(score))
}

fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// The largest of `scores`, which hold no NaN. In lanes: one running maximum is a chain of dependent steps, 16 are SIMD.
pub(super) fn largest(scores: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = scores.chunks_exact(lanes.len());
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = larger(*lane, x));
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// The k-th largest of `scores` (0 < k <= len). Reads them once: `buffer` collects what beats the best bound so far, and
/// each time it is full it is cut back to its k largest, which raises the bound.
pub(super) fn kth_largest(scores: &[f32], k: usize, buffer: &mut Vec<f32>) -> f32 {
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let full = k + k.max(1024);
    let mut bound = f32::NEG_INFINITY;
    buffer.clear();
    for &x in scores {
        // Scores at the bound cannot change the k-th largest once k are at least as large.
        if x > bound || buffer.len() < k {
            buffer.push(x);
            if buffer.len() == full {
                bound = *buffer.select_nth_unstable_by(k - 1, descending).1;
                buffer.truncate(k);
            }
        }
    }
    *buffer.select_nth_unstable_by(k - 1, descending).1
}

/// Keeps the likeliest candidates, in order, until their probabilities reach `p`; at least one.
///
/// transformers sums from the unlikely end and removes what stays within 1 - p, which is the same set. Only as much is
/// sorted as is needed: the set is usually a few tokens out of a large vocabulary.
#[expect(clippy::indexing_slicing, reason = "the loop's condition")]
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    let total: f64 = candidates.iter().map(|c| weight(c.score)).sum();
    let (mut sorted, mut step, mut sum) = (0, 256, 0.0);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let head = if step < rest.len() { rest.select_nth_unstable_by(step, likelier).0 } else { rest };
        head.sort_unstable_by(likelier);
        for (i, c) in head.iter().enumerate() {
            sum += weight(c.score);
            if sum >= f64::from(p) * total {
                candidates.truncate(sorted + i + 1);
                return;
            }
        }
        sorted += head.len();
        step *= 4;
    }
}

/// Locally typical sampling: keeps the candidates whose surprise -ln(probability) is nearest to its expectation until
/// their probabilities reach `mass`, and those as near as the last of them.
pub(super) fn typical_p(candidates: &mut Vec<Candidate>, mass: f32) {
    let total: f64 = candidates.iter().map(|c| weight(c.score)).sum();
    let ln_total = libm::log(total);
    let surprise = |c: &Candidate| ln_total - f64::from(c.score);
    let expected: f64 = candidates.iter().map(|c| weight(c.score) / total * surprise(c)).sum();
    for c in candidates.iter_mut() {
        c.key = (surprise(c) - expected).abs() as f32;
    }
    candidates.sort_unstable_by(|a, b| a.key.total_cmp(&b.key).then(a.id.cmp(&b.id)));
    let mut sum = 0.0;
    let last = candidates.iter().position(|c| {
        sum += weight(c.score) / total;
        sum >= f64::from(mass)
    });
    if let Some(last) = last {
        let key = candidates.get(last).map_or(f32::INFINITY, |c| c.key);
        let kept = candidates.partition_point(|c| c.key <= key);
        candidates.truncate(kept);
    }
}
