//! The loop that makes tokens: feed, choose, feed the chosen one.

#[cfg(feature = "text")]
mod text;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

#[cfg(feature = "text")]
pub use text::TextGeneration;

use crate::{model::Session, ops::Cpu, Error, Result, Sampler};

/// When a generation ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Until<'a> {
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// Tokens that end the text. The one that does is among the generated ids.
    pub eos_token_ids: &'a [u32],
    /// Looked at before each token; true ends the generation. May be set from another thread or a signal handler.
    pub cancel: Option<&'a AtomicBool>,
    /// Greedy tokens that a GPU may choose before the host looks; 0 means 1. Where a generation is cut off by its caller, by
    /// `cancel` or by a stop string, the session may then hold up to this many tokens more than were given out: take more
    /// than 1 only for a session that ends with the generation. Does nothing on the CPU.
    pub ahead: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// One of [`Until::eos_token_ids`] was generated; it is the last id.
    Eos,
    /// A stop string was generated. The last ids hold it, the text does not.
    StopString,
    /// [`Until::max_new_tokens`] were generated.
    Length,
    /// The session has no room for another token.
    ContextFull,
    /// [`Until::cancel`] was set.
    Cancelled,
}

impl Finish {
    /// The word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::StopString => "stop_string",
            Finish::Length => "length",
            Finish::ContextFull => "context_full",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// Where the time went. The four parts do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of the prompt that were fed (not those the session already held), all in one call.
    pub prefill_tokens: usize,
    pub prefill: Duration,
    /// Generated tokens that were fed back, one a call. The last one generated never is, and the first one comes from
    /// the prefill, so this is one less than the generated tokens.
    pub decode_tokens: usize,
    pub decode: Duration,
    /// Choosing tokens from logits.
    pub sampling: Duration,
    /// Making text of tokens and looking for stop strings.
    pub detokenising: Duration,
}

/// A generation in progress: an iterator over token ids. It ends (`None`) for the reason that [`Generation::finish`]
/// gives, or after an error.
///
/// Room for the whole generation is made before the first token; from the second one on, nothing is allocated (but for the
/// list of ids beyond the first 65536).
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    cpu: Cpu,
    prompt: &'a [u32],
    until: Until<'a>,
    generated: Vec<u32>,
    finish: Option<Finish>,
    failed: bool,
    timings: Timings,
    /// Chosen by a device, not yet given out; the last one first.
    #[cfg(feature = "cuda")]
    chosen: Vec<u32>,
}

/// More ids than this are made room for as they come.
const MAX_IDS_RESERVED: usize = 1 << 16;

impl<'a> Generation<'a> {
    /// Continues `prompt`, the sequence from its very first token on. The session may hold the beginning of it already
    /// (an earlier turn of a chat): only what comes after [`Session::tokens`] is fed. The sampler's penalties see all of it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if there is no token to feed, [`Error::ContextFull`] if the prompt has no room in the session,
    /// [`Error::OutOfMemory`].
    pub fn new(session: &'a mut Session, sampler: &'a mut Sampler, prompt: &'a [u32], until: Until<'a>) -> Result<Self> {
        let held = session.tokens();
        if prompt.len() <= held {
            let why = format!("{} tokens, all of which the session holds; there must be at least one to feed", prompt.len());
            return Err(Error::BadArgument { what: "prompt", why });
        }
        if prompt.len() > session.ctx_size() {
            return Err(Error::ContextFull { limit: session.ctx_size() });
        }
        session.reserve((prompt.len() - held).saturating_add(until.max_new_tokens))?;
        let generated = Vec::with_capacity(until.max_new_tokens.min(MAX_IDS_RESERVED));
        let cpu = session.cpu().clone();
        let timings = Timings::default();
        Ok(Generation {
            session,
            sampler,
            cpu,
            prompt,
            until,
            generated,
            finish: None,
            failed: false,
            timings,
            #[cfg(feature = "cuda")]
            chosen: Vec::new(),
        })
    }

    /// The ids generated so far, the one that ended the text included.
    pub fn ids(&self) -> &[u32] {
        &self.generated
    }

    /// Why it ended; `None` while it goes on, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

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
        let Some(&last) = self.generated.last().filter(|_| takes_likeliest(self.sampler)) else { return Ok(None) };
        if self.session.model().device().is_none() || self.until.eos_token_ids.len() > 64 {
            return Ok(None);
        }
        if self.chosen.is_empty() {
            let steps = (self.until.max_new_tokens - self.generated.len()).min(self.until.ahead.max(1));
            let start = Instant::now();
            self.chosen = self.session.decode(last, steps, self.until.eos_token_ids)?;
            self.timings.decode += start.elapsed();
            self.timings.decode_tokens += self.chosen.len();
            self.chosen.reverse();
        }
        Ok(self.chosen.pop())
    }

    /// Feeds what is new and chooses a token.
    fn step(&mut self) -> Result<u32> {
        #[cfg(feature = "cuda")]
        if let Some(id) = self.step_on_device()? {
            return Ok(id);
        }
        let last = self.generated.last().map(std::slice::from_ref);
        let new = match last {
            Some(last) => last,
            None => &self.prompt[self.session.tokens()..],
        };
        let start = Instant::now();
        let logits = self.session.feed(new)?;
        let fed = Instant::now();
        let id = if takes_likeliest(self.sampler) {
            self.cpu.argmax(logits)? as u32
        } else {
            self.sampler.sample(logits, self.prompt, &self.generated)?
        };
        self.timings.sampling += fed.elapsed();
        let (tokens, time) = match last {
            None => (&mut self.timings.prefill_tokens, &mut self.timings.prefill),
            Some(_) => (&mut self.timings.decode_tokens, &mut self.timings.decode),
        };
        *tokens += new.len();
        *time += fed - start;
        Ok(id)
    }
}

/// Is the next token the one with the largest logit, as the logits are?
fn takes_likeliest(sampler: &Sampler) -> bool {
    let s = sampler.settings();
    let as_they_are =
        s.logit_bias.is_empty() && s.repetition_penalty == 1.0 && s.presence_penalty == 0.0 && s.frequency_penalty == 0.0;
    s.is_greedy() && as_they_are
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
