//! How well a model predicts a text, and how far another format of the same model is from it.

use crate::{
    logprobs::log_sum,
    model::{Model, Observer, Session, SessionOptions},
    ops::{Cpu, Routing},
    Error, Result,
};

/// How a text is cut: windows that each start a fresh session. A window scores its last `stride` tokens, the first window
/// all of them; the first token of a window has nothing before it and is never scored. What does not fill a window at the
/// end is left out. Made by [`Windows::of`] and the methods of the fields' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Windows {
    /// Tokens of a window, at least 2.
    pub window: usize,
    /// Tokens from one window's start to the next one's, at most `window`.
    pub stride: usize,
    /// Windows at most.
    pub count: usize,
}

impl Windows {
    /// Windows side by side, all there are.
    pub fn of(window: usize) -> Self {
        Windows { window, stride: window, count: usize::MAX }
    }

    /// Sets [`Windows::stride`].
    pub fn stride(self, stride: usize) -> Self {
        Windows { stride, ..self }
    }

    /// Sets [`Windows::count`].
    pub fn count(self, count: usize) -> Self {
        Windows { count, ..self }
    }

    /// Each window, and the place in it of the first token that it scores.
    fn cut<'a>(&self, ids: &'a [u32]) -> Result<impl Iterator<Item = (&'a [u32], usize)>> {
        let Windows { window, stride, count } = *self;
        if window < 2 {
            return Err(Error::BadArgument { what: "window", why: "one token predicts nothing; take 2 or more".into() });
        }
        if stride == 0 || stride > window {
            return Err(Error::BadArgument {
                what: "stride",
                why: format!("{stride} is not between 1 and the window, {window}"),
            });
        }
        if ids.len() < window {
            return Err(Error::BadArgument { what: "window", why: format!("the text has only {} tokens", ids.len()) });
        }
        let first_scored = move |i: usize| if i == 0 { 1 } else { (window - stride).max(1) };
        Ok(ids.windows(window).step_by(stride).take(count).enumerate().map(move |(i, w)| (w, first_scored(i))))
    }
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mean {
    /// Of the values.
    pub mean: f64,
    /// The standard error of the mean.
    pub error: f64,
    /// How many values.
    pub count: usize,
}

impl Mean {
    fn of(x: &[f64]) -> Mean {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0).max(1.0);
        Mean { mean, error: (variance / n).sqrt(), count: x.len() }
    }

    /// e to the mean, and the error that this has.
    pub fn exp(&self) -> (f64, f64) {
        let middle = libm::exp(self.mean);
        (middle, middle * self.error)
    }
}

/// A format of a model beside another one, on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// −log p of each token that came, in nats.
    pub nll: Mean,
    /// The same of the model it is compared with.
    pub base_nll: Mean,
    /// The difference of the two, token by token: its error is far below those of the two.
    pub nll_difference: Mean,
    /// Kullback–Leibler divergence of the model's prediction from the base's, in nats.
    pub kl: Mean,
    /// How often both hold the same token for the likeliest.
    pub same_top: Mean,
}

/// −log p of the tokens of a text, in nats.
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// # use doge_engine::{embedded, model::{LoadOptions, Model, SessionOptions}, ops::Cpu};
/// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
/// use doge_engine::perplexity::{score, Windows};
///
/// let ids = [0, 597, 49, 41, 51, 18, 203];
/// let loss = score(&model, &cpu, &ids, Windows::of(4), SessionOptions::default())?;
/// assert!(loss.count == 3 && loss.exp().0 > 1.0); // the first window is the only one that is full
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::BadArgument`] for windows that cut nothing, and the errors of [`Session::feed`].
pub fn score(model: &Model, cpu: &Cpu, ids: &[u32], windows: Windows, options: SessionOptions) -> Result<Mean> {
    let mut nll = Vec::new();
    for (window, first) in windows.cut(ids)? {
        let mut loss = Loss { window, first, nll: &mut nll };
        Session::new(model, cpu, options)?.feed_observed(window, &mut loss)?;
    }
    Ok(Mean::of(&nll))
}

struct Loss<'a> {
    window: &'a [u32],
    first: usize,
    nll: &'a mut Vec<f64>,
}

impl Observer for Loss<'_> {
    fn logits(&mut self, place: usize, logits: &[f32]) {
        if let Some(&next) = self.window.get(place + 1).filter(|_| place + 1 >= self.first) {
            self.nll.push(log_sum(logits) - logit(logits, next));
        }
    }
}

/// Compares a model with a base, which reads the same tokens; each where and how it is to run.
///
/// # Errors
/// As [`score`]; [`Error::BadArgument`] if the two have not the same vocabulary.
pub fn compare(
    (model, cpu, options): (&Model, &Cpu, SessionOptions),
    (base, base_cpu, base_options): (&Model, &Cpu, SessionOptions),
    ids: &[u32],
    windows: Windows,
) -> Result<Comparison> {
    if model.config().vocab_size != base.config().vocab_size {
        return Err(Error::BadArgument { what: "base", why: "has another vocabulary".into() });
    }
    let mut tokens = Tokens::default();
    for (window, first) in windows.cut(ids)? {
        let (mut session, mut base_session) = (Session::new(model, cpu, options)?, Session::new(base, base_cpu, base_options)?);
        // In turns, so that not more than a block's logits need to be held: by the host, on a device too. Where the length of a
        // call matters, in one, as `score` does.
        let in_one = [(model, options), (base, base_options)].iter().any(|(model, options)| {
            let config = model.config();
            let looks_at_length = config.rope.looks_at_length(window.len(), config.max_position_embeddings);
            looks_at_length || options.routing == Routing::Reference
        });
        for block in window.chunks(if in_one { window.len() } else { options.block_on_cpu() }) {
            let mut held = Held::default();
            base_session.feed_observed(block, &mut held)?;
            session.feed_observed(block, &mut Beside { window, first, base: &held, tokens: &mut tokens })?;
        }
    }
    let difference: Vec<f64> = tokens.nll.iter().zip(&tokens.base_nll).map(|(a, b)| a - b).collect();
    Ok(Comparison {
        nll: Mean::of(&tokens.nll),
        base_nll: Mean::of(&tokens.base_nll),
        nll_difference: Mean::of(&difference),
        kl: Mean::of(&tokens.kl),
        same_top: Mean::of(&tokens.same_top),
    })
}

/// What is known of each scored token.
#[derive(Default)]
struct Tokens {
    nll: Vec<f64>,
    base_nll: Vec<f64>,
    kl: Vec<f64>,
    same_top: Vec<f64>,
}

/// The logits of a block.
#[derive(Default)]
struct Held {
    first_place: Option<usize>,
    logits: Vec<f32>,
}

impl Observer for Held {
    fn logits(&mut self, place: usize, logits: &[f32]) {
        self.first_place.get_or_insert(place);
        self.logits.extend_from_slice(logits);
    }
}

struct Beside<'a> {
    window: &'a [u32],
    first: usize,
    base: &'a Held,
    tokens: &'a mut Tokens,
}

impl Observer for Beside<'_> {
    fn logits(&mut self, place: usize, logits: &[f32]) {
        let Some(&next) = self.window.get(place + 1).filter(|_| place + 1 >= self.first) else { return };
        let row = place - self.base.first_place.unwrap_or(place);
        let Some(base) = self.base.logits.chunks_exact(logits.len().max(1)).nth(row) else { return };
        let (sum, base_sum) = (log_sum(logits), log_sum(base));
        let divergence = |(&x, &b): (&f32, &f32)| {
            let (log_p, base_log_p) = (f64::from(x) - sum, f64::from(b) - base_sum);
            libm::exp(base_log_p) * (base_log_p - log_p)
        };
        self.tokens.nll.push(sum - logit(logits, next));
        self.tokens.base_nll.push(base_sum - logit(base, next));
        self.tokens.kl.push(logits.iter().zip(base).map(divergence).sum());
        self.tokens.same_top.push(f64::from(u8::from(top(logits) == top(base))));
    }
}

fn logit(logits: &[f32], id: u32) -> f64 {
    logits.get(id as usize).map_or(f64::NAN, |&x| x.into())
}

/// The lowest index of the largest.
fn top(logits: &[f32]) -> usize {
    let larger = |best: (usize, f32), (i, &x): (usize, &f32)| if x > best.1 { (i, x) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_score_each_token_once() {
        let ids: Vec<u32> = (0..23).collect();
        let scored = |windows: Windows| -> Vec<u32> {
            windows.cut(&ids).unwrap().flat_map(|(window, first)| window[first..].to_vec()).collect()
        };
        assert_eq!(scored(Windows::of(8)), [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(scored(Windows { window: 8, stride: 3, count: 3 }), (1..14).collect::<Vec<_>>());
        for (window, stride) in [(1, 1), (8, 0), (8, 9), (24, 24)] {
            assert!(Windows { window, stride, count: 1 }.cut(&ids).is_err(), "{window}, {stride}");
        }
    }

    #[test]
    fn mean_and_error() {
        let mean = Mean::of(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!((mean.mean, mean.count), (3.0, 4));
        assert!((mean.error - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
