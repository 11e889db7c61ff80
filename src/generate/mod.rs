//! The loop that makes tokens: feed, choose, feed the chosen one.

#[cfg(feature = "text")]
mod text;
mod until;

use std::{ops::ControlFlow, slice, sync::atomic::Ordering, time::Instant};

#[cfg(feature = "text")]
pub use text::TextGeneration;
pub use until::{Finish, Timings, Until};

use crate::{model::Session, ops::Cpu, Error, Result, Sampler, TokenLogprob};

/// A generation in progress: an iterator over token ids. It ends (`None`) for the reason that [`Generation::finish`]
/// gives, or after an error.
///
/// Room for the whole generation is made before the first token; from the second one on, nothing is allocated (but for the
/// list of ids beyond the first 65536, and for log probabilities).
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
/// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
/// use doge_engine::{Finish, Generation, Sampler, SamplingSettings, Until};
///
/// let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
/// let mut greedy = Sampler::new(SamplingSettings::default())?;
/// let until = Until::default().max_new_tokens(3);
/// let mut generation = Generation::new(&mut session, &mut greedy, &[0, 597, 49, 41, 51, 18, 203], until)?;
/// let ids = generation.by_ref().collect::<Result<Vec<u32>, _>>()?;
/// assert_eq!((ids, generation.finish()), (vec![203, 63, 529], Some(Finish::Length)));
/// # Ok(())
/// # }
/// ```
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    cpu: Cpu,
    prompt: &'a [u32],
    until: Until<'a>,
    hook: Option<Box<LogitsHook<'a>>>,
    /// What the hook made of the logits.
    hooked: Vec<f32>,
    /// How many likeliest tokens to tell of, if any is.
    top: Option<usize>,
    logprobs: Vec<TokenLogprob>,
    generated: Vec<u32>,
    finish: Option<Finish>,
    failed: bool,
    timings: Timings,
    /// Chosen by a device, not yet given out; the last one first.
    #[cfg(feature = "cuda")]
    chosen: Vec<u32>,
}

/// Changes the logits `[vocab_size]` of the next token; given the prompt and what was generated so far.
type LogitsHook<'a> = dyn FnMut(&mut [f32], &[u32], &[u32]) + Send + 'a;

/// More ids than this are made room for as they come.
const MAX_IDS_RESERVED: usize = 1 << 16;

impl<'a> Generation<'a> {
    /// Continues `prompt`, the sequence from its very first token on. The session may hold the beginning of it already
    /// (an earlier turn of a chat), or all of it, if it has its [`Session::logits`] (a fork): only what comes after
    /// [`Session::tokens`] is fed. The sampler's penalties see all of it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if there is nothing to go on from, [`Error::ContextFull`] if the prompt has no room in the
    /// session, [`Error::OutOfMemory`]. Never panics.
    pub fn new(session: &'a mut Session, sampler: &'a mut Sampler, prompt: &'a [u32], until: Until<'a>) -> Result<Self> {
        let held = session.tokens();
        if prompt.len() < held || (prompt.len() == held && session.logits().is_none()) {
            let why = format!("has {} tokens where the session holds {held}; there must be at least one to feed", prompt.len());
            return Err(Error::BadArgument { what: "prompt", why });
        }
        if prompt.len() > session.ctx_size() {
            return Err(Error::ContextFull { limit: session.ctx_size() });
        }
        session.reserve((prompt.len() - held).saturating_add(until.max_new_tokens.min(MAX_IDS_RESERVED)))?;
        let generated = Vec::with_capacity(until.max_new_tokens.min(MAX_IDS_RESERVED));
        let cpu = session.cpu().clone();
        let (hook, hooked, top, logprobs, timings) = Default::default();
        let (finish, failed) = (None, false);
        Ok(Generation {
            session,
            sampler,
            cpu,
            prompt,
            until,
            hook,
            hooked,
            top,
            logprobs,
            generated,
            finish,
            failed,
            timings,
            #[cfg(feature = "cuda")]
            chosen: Vec::new(),
        })
    }

    /// Calls `hook(logits, prompt, generated)` before each token is chosen. It may change the logits `[vocab_size]` in any
    /// way: what it leaves goes through the sampler's own bias, penalties and filters. Negative infinity forbids a token.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
    /// # use doge_engine::{Generation, Sampler, SamplingSettings, Until};
    /// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    /// # let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    /// # let mut greedy = Sampler::new(SamplingSettings::default())?;
    /// let generation = Generation::new(&mut session, &mut greedy, &[0, 597], Until::default().max_new_tokens(5))?
    ///     .with_logits_hook(|logits, _, generated| {
    ///         generated.iter().for_each(|&id| logits[id as usize] = f32::NEG_INFINITY); // no token twice
    ///     });
    /// let mut ids = generation.collect::<Result<Vec<u32>, _>>()?;
    /// ids.sort();
    /// ids.dedup();
    /// assert_eq!(ids.len(), 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_logits_hook(mut self, hook: impl FnMut(&mut [f32], &[u32], &[u32]) + Send + 'a) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Keeps, for [`Generation::logprobs`], how likely each chosen token was and what the `top` likeliest were.
    pub fn with_logprobs(mut self, top: usize) -> Self {
        self.top = Some(top);
        self
    }

    /// One entry for each of [`Generation::ids`], by the model's own logits: before hook, bias, penalties and temperature.
    /// Empty unless [asked for](Generation::with_logprobs).
    pub fn logprobs(&self) -> &[TokenLogprob] {
        &self.logprobs
    }

    /// Runs to the end, giving each token to `on_token`, which may end it ([`Finish::Cancelled`]) by
    /// [`ControlFlow::Break`]. [`Generation::finish`] has the reason for the end.
    ///
    /// # Errors
    /// The first that [`Generation::next`] gives. Never panics, unless `on_token` does.
    pub fn stream(&mut self, mut on_token: impl FnMut(u32) -> ControlFlow<()>) -> Result<()> {
        while let Some(id) = self.next() {
            if on_token(id?).is_break() {
                self.cancel();
            }
        }
        Ok(())
    }

    /// Ends it here, as [`Finish::Cancelled`], unless it is over already.
    pub fn cancel(&mut self) {
        self.finish.get_or_insert(Finish::Cancelled);
    }

    /// The ids generated so far, the one that ended the text included.
    pub fn ids(&self) -> &[u32] {
        &self.generated
    }

    /// Why it ended; `None` while it goes on, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The ids generated, why it ended, and where the time went.
    pub fn into_parts(self) -> (Vec<u32>, Option<Finish>, Timings) {
        (self.generated, self.finish, self.timings)
    }

    /// Why there is no next token to make, if so.
    fn end(&self) -> Option<Finish> {
        if self.until.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            Some(Finish::Cancelled)
        } else if self.generated.len() >= self.until.max_new_tokens {
            Some(Finish::Length)
        } else if self.has_chosen() {
            None
        } else if !self.generated.is_empty() && self.session.tokens() >= self.session.ctx_size() {
            Some(Finish::ContextFull)
        } else {
            None
        }
    }

    /// Has a device chosen tokens that were not given out?
    fn has_chosen(&self) -> bool {
        #[cfg(feature = "cuda")]
        return !self.chosen.is_empty();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The next token of a device that feeds its own choice; `None` where the host chooses.
    #[cfg(feature = "cuda")]
    fn step_on_device(&mut self) -> Result<Option<u32>> {
        let chooses = self.hook.is_none() && (takes_likeliest(self.sampler) || self.sampler.draws_on_device());
        let Some(&last) = self.generated.last().filter(|_| chooses) else { return Ok(None) };
        // The host has to see the logits of each token if it tells of them.
        if self.top.is_some() || self.session.model().device().is_none() || self.until.eos_token_ids.len() > 64 {
            return Ok(None);
        }
        if self.chosen.is_empty() {
            let steps = (self.until.max_new_tokens - self.generated.len()).min(self.until.ahead.max(1));
            let start = Instant::now();
            self.chosen = if takes_likeliest(self.sampler) {
                self.session.decode(last, steps, self.until.eos_token_ids)?
            } else {
                self.session.decode_drawn(last, steps, self.until.eos_token_ids, self.sampler)?
            };
            self.timings.decode += start.elapsed();
            self.timings.decode_tokens += self.chosen.len();
            self.chosen.reverse();
        }
        Ok(self.chosen.pop())
    }

    /// Is the next token the one with the largest logit, as the logits are?
    fn takes_likeliest(&self) -> bool {
        self.hook.is_none() && takes_likeliest(self.sampler)
    }

    /// Feeds what is new and chooses a token.
    fn step(&mut self) -> Result<u32> {
        #[cfg(feature = "cuda")]
        if let Some(id) = self.step_on_device()? {
            return Ok(id);
        }
        let (last, held) = (self.generated.last(), self.session.tokens());
        let new = last.map_or_else(|| self.prompt.get(held..).unwrap_or_default(), slice::from_ref);
        let start = Instant::now();
        let fed = match (new, self.until.cancel) {
            ([], _) => Ok(()), // a fork that stands at the end of the prompt
            (new, Some(cancel)) => self.session.feed_until(new, cancel).map(drop),
            (new, None) => self.session.feed(new).map(drop),
        };
        let done = Instant::now();
        let (tokens, time) = match last {
            None => (&mut self.timings.prefill_tokens, &mut self.timings.prefill),
            Some(_) => (&mut self.timings.decode_tokens, &mut self.timings.decode),
        };
        *tokens += self.session.tokens() - held;
        *time += done - start;
        fed?;
        let id = self.choose()?;
        self.timings.sampling += done.elapsed();
        Ok(id)
    }

    fn choose(&mut self) -> Result<u32> {
        let likeliest = self.takes_likeliest();
        let logits = self.session.logits().unwrap_or_default(); // there are some: `feed` gave them, or `new` looked
        let given = match &mut self.hook {
            None => logits,
            Some(hook) => {
                self.hooked.clear();
                self.hooked.extend_from_slice(logits);
                hook(&mut self.hooked, self.prompt, &self.generated);
                &self.hooked
            }
        };
        let id =
            if likeliest { self.cpu.argmax(given)? as u32 } else { self.sampler.sample(given, self.prompt, &self.generated)? };
        self.logprobs.extend(self.top.map(|top| TokenLogprob::new(logits, id, top)));
        Ok(id)
    }
}

/// Does the sampler leave the logits as they are, and take the largest?
fn takes_likeliest(sampler: &Sampler) -> bool {
    let settings = sampler.settings();
    settings.is_greedy() && settings.leaves_logits()
}

impl Iterator for Generation<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        self.finish = self.end();
        if self.finish.is_some() {
            return None;
        }
        let step = self.step();
        match step {
            Ok(id) => {
                self.generated.push(id);
                if self.until.eos_token_ids.contains(&id) {
                    self.finish = Some(Finish::Eos);
                }
            }
            Err(Error::Cancelled { .. }) => {
                self.finish = Some(Finish::Cancelled);
                return None;
            }
            Err(_) => self.failed = true,
        }
        Some(step)
    }
}

impl std::fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generation({} tokens after {}, {:?})", self.generated.len(), self.prompt.len(), self.finish)
    }
}
