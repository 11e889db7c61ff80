//! How likely tokens were: natural logarithms of their probabilities, by the model's own logits.

use std::cmp::Ordering;

use crate::model::Observer;

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Logprob {
    /// The token.
    pub id: u32,
    /// ln p, at most 0.
    pub logprob: f32,
}

/// A token that came, how likely it was, and what was likelier.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// ln p, at most 0; negative infinity for an id outside the vocabulary.
    pub logprob: f32,
    /// The likeliest tokens in its place, likeliest first, ties to the lower id; as many as were asked for.
    pub top: Vec<Logprob>,
}

impl TokenLogprob {
    /// Of token `id`, where `logits` `[vocab_size]` are the model's. By softmax over all of them, in f64. Never panics.
    ///
    /// ```
    /// let token = doge_engine::TokenLogprob::new(&[0.0, 0.0, -1e9, -1e9], 1, 1);
    /// assert!((token.logprob - 0.5f32.ln()).abs() < 1e-6);
    /// assert_eq!(token.top[0].id, 0);
    /// ```
    pub fn new(logits: &[f32], id: u32, top: usize) -> Self {
        let sum = log_sum(logits);
        let logprob = |x: f32| (f64::from(x) - sum) as f32;
        let likeliest = likeliest(logits, top);
        TokenLogprob {
            id,
            logprob: logits.get(id as usize).map_or(f32::NEG_INFINITY, |&x| logprob(x)),
            top: likeliest.into_iter().map(|(id, x)| Logprob { id, logprob: logprob(x) }).collect(),
        }
    }
}

/// log Σ e^x
pub(crate) fn log_sum(logits: &[f32]) -> f64 {
    let top = f64::from(logits.iter().fold(f32::NEG_INFINITY, |top, &x| top.max(x)));
    libm::log(logits.iter().map(|&x| libm::exp(f64::from(x) - top)).sum()) + top
}

/// The `top` largest and their places.
fn likeliest(logits: &[f32], top: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    if top == 0 {
        return Vec::new();
    }
    let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
    if top < all.len() {
        all.select_nth_unstable_by(top, order);
        all.truncate(top);
    }
    all.sort_unstable_by(order);
    all
}

/// Scores the tokens of one call.
pub(crate) struct Scores<'a> {
    /// Place of the call's first token.
    first: usize,
    ids: &'a [u32],
    top: usize,
    scores: Vec<Option<TokenLogprob>>,
}

impl<'a> Scores<'a> {
    pub fn new(first: usize, ids: &'a [u32], top: usize) -> Self {
        Scores { first, ids, top, scores: Vec::with_capacity(ids.len()) }
    }

    /// Scores the first token by the logits before it.
    pub fn of_first(&mut self, logits: &[f32]) {
        self.scores.extend(self.ids.first().map(|&id| Some(TokenLogprob::new(logits, id, self.top))));
    }

    pub fn finish(mut self) -> Vec<Option<TokenLogprob>> {
        if self.scores.len() < self.ids.len() {
            self.scores.insert(0, None);
        }
        self.scores
    }
}

impl Observer for Scores<'_> {
    fn logits(&mut self, place: usize, logits: &[f32]) {
        let next = self.ids.get(place + 1 - self.first);
        self.scores.extend(next.map(|&id| Some(TokenLogprob::new(logits, id, self.top))));
    }
}
