//! When a generation ends, why it ended, and where the time went.

use std::{sync::atomic::AtomicBool, time::Duration};

/// When a generation ends. Made by `Until::default()` and the methods of the fields' names.
///
/// ```
/// let until = doge_engine::Until::default().max_new_tokens(100).eos_token_ids(&[1, 2]);
/// assert!(until.cancel.is_none());
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Until<'a> {
    /// Tokens to generate at most. Default: no limit but the session's.
    pub max_new_tokens: usize,
    /// Tokens that end the text, none by default. The one that does is among the generated ids.
    pub eos_token_ids: &'a [u32],
    /// Looked at before each layer (on a device: before each block); true ends the generation, also while the prompt is
    /// being fed. May be set from another thread or a signal handler. `None` by default.
    pub cancel: Option<&'a AtomicBool>,
    /// Tokens that a GPU may choose before the host looks; 0 means 1. Where a generation is cut off by its caller, by
    /// `cancel` or by a stop string, the session may then hold up to this many tokens more than were given out: take more
    /// than 1, the default, only for a session that ends with the generation. Does nothing on the CPU.
    pub ahead: usize,
}

impl Default for Until<'_> {
    fn default() -> Self {
        Until { max_new_tokens: usize::MAX, eos_token_ids: &[], cancel: None, ahead: 1 }
    }
}

impl<'a> Until<'a> {
    /// Sets [`Until::max_new_tokens`].
    pub fn max_new_tokens(self, max_new_tokens: usize) -> Self {
        Until { max_new_tokens, ..self }
    }

    /// Sets [`Until::eos_token_ids`].
    pub fn eos_token_ids(self, eos_token_ids: &'a [u32]) -> Self {
        Until { eos_token_ids, ..self }
    }

    /// Sets [`Until::cancel`].
    pub fn cancel(self, cancel: &'a AtomicBool) -> Self {
        Until { cancel: Some(cancel), ..self }
    }

    /// Sets [`Until::ahead`].
    pub fn ahead(self, ahead: usize) -> Self {
        Until { ahead, ..self }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finish {
    /// One of [`Until::eos_token_ids`] was generated; it is the last id.
    Eos,
    /// A stop string was generated, or the special token that it names. The last ids hold it, the text does not.
    StopString,
    /// [`Until::max_new_tokens`] were generated.
    Length,
    /// The session has no room for another token.
    ContextFull,
    /// [`Until::cancel`] was set, or the caller's callback ended it.
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
#[non_exhaustive]
pub struct Timings {
    /// Tokens of the prompt that were fed (not those the session already held), all in one call.
    pub prefill_tokens: usize,
    /// Wall time of that call.
    pub prefill: Duration,
    /// Generated tokens that were fed back, one a call. The last one generated never is, and the first one comes from
    /// the prefill, so this is one less than the generated tokens.
    pub decode_tokens: usize,
    /// Wall time of those calls.
    pub decode: Duration,
    /// Choosing tokens from logits.
    pub sampling: Duration,
    /// Making text of tokens and looking for stop strings.
    pub detokenising: Duration,
}
