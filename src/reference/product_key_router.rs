//! Spec 4.6: the experts of one token, by sorting all K² of them; and spec 6: whose router logits a token gets.

use std::cmp::Ordering;

/// The `n_top` experts of largest `x[i] + y[j]`, expert id `i·K + j`: better score first, ties to the lower id.
/// Returns them ascending by id, with the softmax over their scores in that order.
///
/// `scores` are given because a tie must be judged in the precision that made it: `x[i] + y[j]` rounded to f32 in a kernel
/// check, f64 in the model.
pub fn top_experts(scores: &[f64], n_top: usize) -> (Vec<u32>, Vec<f64>) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b)));
    order.truncate(n_top);
    order.sort_unstable();
    let max = order.iter().map(|&e| scores[e]).fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = order.iter().map(|&e| (scores[e] - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    (order.iter().map(|&e| e as u32).collect(), exp.iter().map(|e| e / sum).collect())
}

/// `score(e) = lx[e div K] + ly[e mod K]` of all K² experts.
pub fn scores(lx: &[f64], ly: &[f64]) -> Vec<f64> {
    lx.iter().flat_map(|x| ly.iter().map(move |y| x + y)).collect()
}

/// Spec 6: where each token's `lx` and `ly` come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// From its own router logits.
    PerToken,
    /// As the reference does it: a call's gate output `[N, 2K]` is read as `[2, N, K]`.
    Reference,
}

impl Routing {
    /// `(lx, ly)` of token `n` of a call of `gate.len()` tokens; `gate[n]` is `[2K]`.
    pub fn logits(self, gate: &[Vec<f64>], n: usize) -> (&[f64], &[f64]) {
        let half = |token: usize, half: usize| {
            let keys = gate[token].len() / 2;
            &gate[token][half * keys..(half + 1) * keys]
        };
        let calls = gate.len();
        match self {
            Routing::PerToken => (half(n, 0), half(n, 1)),
            Routing::Reference => (half(n / 2, n % 2), half((calls + n) / 2, (calls + n) % 2)),
        }
    }
}
