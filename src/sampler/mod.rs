//! From logits to the next token, by transformers' rules and in its order:
//!
//! 1. logit bias (transformers' `sequence_bias` of single tokens);
//! 2. repetition penalty, over prompt and output;
//! 3. presence and frequency penalty, over the output, as OpenAI defines them. transformers has neither; they stand where
//!    it puts a caller's own processors, after the repetition penalty (as vLLM does) and before the temperature, because
//!    their definition is in units of raw logits;
//! 4. temperature, top-k, top-p, min-p, typical-p, each on what the one before left;
//! 5. softmax and one draw.
//!
//! Where transformers leaves equal logits to the sort of the day, the lower token id comes first here.
//!
//! The random numbers are PCG64's and the exponentials `libm`'s, so a seed means the same on every machine.

#[cfg(feature = "cuda")]
mod draws;
mod filters;
mod settings;

use rand_pcg::rand_core::Rng;
use rand_pcg::Pcg64;

#[cfg(feature = "cuda")]
pub use draws::Draws;
pub use settings::SamplingSettings;

use crate::{Error, Result};
use filters::Candidate;

/// PCG's default stream; a seed selects the state. Part of what a seed means: never change it.
const STREAM: u128 = 0x0a02_bdbf_7bb3_c0a7_ac28_fa16_a64a_bf96;

/// Chooses tokens. Keeps its buffers, so that after the first token nothing is allocated.
///
/// ```
/// use doge_engine::{Sampler, SamplingSettings};
///
/// let mut sampler = Sampler::new(SamplingSettings::default().do_sample(true).top_k(2).seed(7))?;
/// let id = sampler.sample(&[1.0, 3.0, -2.0, 2.5], &[], &[])?;
/// assert!(id == 1 || id == 3);
/// # Ok::<(), doge_engine::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplingSettings,
    random: Pcg64,
    /// One per vocabulary entry: logits after bias and penalties, then relative to the largest and over the temperature.
    scores: Vec<f32>,
    /// One per vocabulary entry, all zero between calls: how often a token occurs in a stretch of history.
    counts: Vec<u32>,
    /// What the filters have left.
    candidates: Vec<Candidate>,
    /// Top-k's candidates for the k-th largest score.
    largest: Vec<f32>,
    /// What [`Sampler::probabilities`] hands out.
    probabilities: Vec<f32>,
}

impl Sampler {
    /// A sampler whose draws begin with the seed of the settings.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if a setting is out of range.
    pub fn new(settings: SamplingSettings) -> Result<Sampler> {
        settings.validate()?;
        let random = Pcg64::new(u128::from(settings.seed), STREAM);
        Ok(Sampler {
            settings,
            random,
            scores: Vec::new(),
            counts: Vec::new(),
            candidates: Vec::new(),
            largest: Vec::new(),
            probabilities: Vec::new(),
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &SamplingSettings {
        &self.settings
    }

    /// Chooses the token that follows `prompt` and `generated` (token ids; with one list of all tokens,
    /// `tokens.split_at(prompt_len)`). `logits`: one per vocabulary entry. A greedy sampler draws no random number.
    ///
    /// Logits of negative infinity are never chosen; those of positive infinity share all the probability.
    ///
    /// # Errors
    /// [`Error::NonFiniteValue`] if a logit is NaN or none is above negative infinity; [`Error::TokenOutOfRange`] if a
    /// biased token, or with a penalty a token of the history, has no logit; [`Error::BadArgument`] if there are no logits.
    pub fn sample(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<u32> {
        if self.settings.is_greedy() {
            return self.best(logits, prompt, generated);
        }
        self.filter(logits, prompt, generated)?;
        let total: f64 = self.candidates.iter().map(|c| filters::weight(c.score)).sum();
        let target = uniform(&mut self.random) * total;
        let mut sum = 0.0;
        let drawn = self.candidates.iter().find(|c| {
            sum += filters::weight(c.score);
            target < sum
        });
        // The sum above ends at `total`, which is larger than `target`.
        drawn.map(|c| c.id).ok_or_else(no_candidate)
    }

    /// The distribution that [`Sampler::sample`] would draw from, one probability per vocabulary entry; greedy: 1 for the
    /// token it would take. Draws nothing.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    #[expect(clippy::indexing_slicing, reason = "one for each logit; candidates are places among them")]
    pub fn probabilities(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<&[f32]> {
        self.probabilities.clear();
        self.probabilities.resize(logits.len(), 0.0);
        if self.settings.is_greedy() {
            let best = self.best(logits, prompt, generated)?;
            self.probabilities[best as usize] = 1.0;
            return Ok(&self.probabilities);
        }
        self.filter(logits, prompt, generated)?;
        let total: f64 = self.candidates.iter().map(|c| filters::weight(c.score)).sum();
        for c in &self.candidates {
            self.probabilities[c.id as usize] = (filters::weight(c.score) / total) as f32;
        }
        Ok(&self.probabilities)
    }

    /// Steps 1 to 3 and the likeliest token.
    fn best(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<u32> {
        let largest = self.penalise(logits, prompt, generated)?;
        self.scores.iter().position(|&x| x == largest).map(|id| id as u32).ok_or_else(no_candidate)
    }

    /// Steps 1 to 4: leaves in `candidates` what may be drawn, in an order that depends on scores and ids alone.
    fn filter(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<()> {
        let largest = self.penalise(logits, prompt, generated)?;
        let temperature = self.settings.temperature;
        for x in &mut self.scores {
            // Relative to the largest first: no temperature can overflow what matters, and infinity minus itself is avoided.
            *x = if *x == largest { 0.0 } else { (*x - largest) / temperature };
        }
        let settings = &self.settings;
        let floor = match settings.top_k {
            k if k == 0 || k >= self.scores.len() => f32::MIN,
            k => filters::kth_largest(&self.scores, k, &mut self.largest).max(f32::MIN),
        };
        self.candidates.clear();
        let ids = 0u32..;
        let kept = ids.zip(&self.scores).filter(|(_, &score)| score >= floor);
        self.candidates.extend(kept.map(|(id, &score)| Candidate { id, score, key: score }));
        if settings.top_p < 1.0 {
            filters::top_p(&mut self.candidates, settings.top_p);
        }
        if settings.min_p > 0.0 {
            self.candidates.retain(|c| filters::weight(c.score) >= f64::from(settings.min_p));
        }
        if settings.typical_p < 1.0 {
            filters::typical_p(&mut self.candidates, settings.typical_p);
        }
        Ok(())
    }

    /// Steps 1 to 3: fills `scores` and returns the largest, which is above negative infinity.
    #[expect(clippy::indexing_slicing, reason = "saturating_sub of a length is no more than it")]
    fn penalise(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<f32> {
        if logits.is_empty() || u32::try_from(logits.len()).is_err() {
            let why = format!("one per vocabulary entry, 1 to {}, are needed; there are {}", u32::MAX, logits.len());
            return Err(Error::BadArgument { what: "logits", why });
        }
        // A sweep without an early exit is one that the compiler turns into SIMD.
        if logits.iter().fold(false, |nan, x| nan | x.is_nan()) {
            let id = logits.iter().position(|x| x.is_nan()).unwrap_or_default();
            return Err(Error::NonFiniteValue { place: format!("the logits (NaN for token {id})") });
        }
        let settings = &self.settings;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.counts.resize(logits.len(), 0);

        for &(id, bias) in &settings.logit_bias {
            let score = at(&mut self.scores, id)?;
            // Forbidding a token whose logit is infinite would make NaN.
            *score = if bias == f32::NEG_INFINITY { bias } else { *score + bias };
        }
        let repetition = settings.repetition_penalty != 1.0;
        let occurrence = settings.presence_penalty != 0.0 || settings.frequency_penalty != 0.0;
        if repetition || occurrence {
            for &id in prompt.iter().chain(generated) {
                at(&mut self.scores, id)?;
            }
        }
        if repetition {
            let window = settings.repetition_window.unwrap_or(usize::MAX);
            let from_generated = generated.len().saturating_sub(window);
            let from_prompt = prompt.len().saturating_sub(window.saturating_sub(generated.len()));
            let seen = prompt[from_prompt..].iter().chain(&generated[from_generated..]);
            for_each_token(seen, &mut self.counts, &mut self.scores, |score, _| {
                let penalty = settings.repetition_penalty;
                if score < 0.0 {
                    score * penalty
                } else {
                    score / penalty
                }
            });
        }
        if occurrence {
            for_each_token(generated.iter(), &mut self.counts, &mut self.scores, |score, n| {
                score - settings.frequency_penalty * n as f32 - settings.presence_penalty
            });
        }
        let largest = filters::largest(&self.scores);
        if largest == f32::NEG_INFINITY {
            Err(no_candidate())
        } else {
            Ok(largest)
        }
    }
}

/// 53 random bits make every f64 of the grid in [0, 1).
fn uniform(random: &mut Pcg64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn no_candidate() -> Error {
    Error::NonFiniteValue { place: "the logits (all are negative infinity, so there is no token to choose)".into() }
}

fn at<T>(per_token: &mut [T], id: u32) -> Result<&mut T> {
    let vocab_size = per_token.len();
    per_token.get_mut(id as usize).ok_or(Error::TokenOutOfRange { id, vocab_size })
}

/// Applies `rule(score, occurrences)` once to each token of `seen`. `counts` is zero before and after.
#[expect(clippy::indexing_slicing, reason = "each token of `seen` was found to have a score")]
fn for_each_token<'a>(
    seen: impl Iterator<Item = &'a u32> + Clone,
    counts: &mut [u32],
    scores: &mut [f32],
    rule: impl Fn(f32, u32) -> f32,
) {
    seen.clone().for_each(|&id| counts[id as usize] += 1);
    for &id in seen {
        let count = std::mem::take(&mut counts[id as usize]);
        if count > 0 {
            scores[id as usize] = rule(scores[id as usize], count);
        }
    }
}
