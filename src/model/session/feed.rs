//! Tokens in, logits out: a call, block by block.

use std::sync::atomic::AtomicBool;

use super::{Session, HEAD_ROWS};
use crate::{
    logprobs::{Scores, TokenLogprob},
    model::{
        forward::{first_non_finite, Forward, Rows},
        observer::{Cancel, Observer, Unobserved},
        Checkpoint,
    },
    ops::Routing,
    Error, Result,
};

/// Which logits a call computes.
#[derive(Clone, Copy, PartialEq)]
enum Logits {
    Last,
    All,
}

impl Session {
    /// Takes in tokens as one call, and gives the logits `[vocab_size]` after the last one. A prompt is best fed in one
    /// call; one token is a decode step. Feeding in pieces gives the same bits, unless the checkpoint's RoPE depends on
    /// the length of a call (`dynamic` and `longrope` beyond their limit) or [`Routing::Reference`] is chosen.
    ///
    /// # Errors
    /// Before anything is changed: [`Error::TokenOutOfRange`], [`Error::ContextFull`], [`Error::OutOfMemory`],
    /// [`Error::BadArgument`] if `ids` is empty. On the way: [`Error::NonFinite`]; the session holds the blocks before the
    /// one in which it happened, as if only they had been fed (rotated as in this call, where its length matters), and
    /// [`Session::logits`] has nothing. Never panics.
    ///
    /// On a device also [`Error::UnsupportedOnDevice`] and [`Error::Device`]; there only logits are looked at for
    /// [`Error::NonFinite`], and the session then holds the block in which it happened.
    pub fn feed(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.call(ids, Logits::Last, &mut Unobserved)
    }

    /// As [`Session::feed`], and looks at `cancel` before each layer: if it is set, from another thread or a signal
    /// handler, the call ends. The session holds the blocks that were through by then, as if only they had been fed (rotated as in
    /// this call, where its length matters); to go on, feed what comes after [`Session::tokens`]. On a device, `cancel` is looked at before each block.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`Session::feed`]. Never panics.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
    /// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    /// # let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    /// use doge_engine::Error;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// let cancel = AtomicBool::new(true);
    /// assert!(matches!(session.feed_until(&[0, 597], &cancel), Err(Error::Cancelled { tokens: 0 })));
    /// cancel.store(false, Ordering::Relaxed);
    /// session.feed_until(&[0, 597], &cancel)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn feed_until(&mut self, ids: &[u32], cancel: &AtomicBool) -> Result<&[f32]> {
        self.call(ids, Logits::Last, &mut Cancel(cancel))
    }

    /// As [`Session::feed`], and shows `observer` everything on the way: hidden states, mask values, experts, the logits of
    /// every token. What it saw of a block that failed or was cancelled is void.
    ///
    /// # Errors
    /// As [`Session::feed`]; [`Error::Cancelled`] if the observer [cancels](Observer::cancels). Never panics.
    pub fn feed_observed(&mut self, ids: &[u32], observer: &mut dyn Observer) -> Result<&[f32]> {
        self.call(ids, Logits::All, observer)
    }

    /// As [`Session::feed`], and tells how likely each of the tokens was, and what the `top` likeliest in its place were.
    /// One entry for each token; `None` for the first one of a sequence, which nothing predicts (and wherever
    /// [`Session::logits`] had nothing before).
    ///
    /// # Errors
    /// As [`Session::feed`]. Never panics.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
    /// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    /// let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    /// let scores = session.score(&[0, 597, 49], 2)?;
    /// assert!(scores[0].is_none());
    /// let second = scores[1].as_ref().expect("the first token predicts it");
    /// assert!(second.id == 597 && second.logprob < 0.0 && second.top[0].logprob >= second.logprob);
    /// # Ok(())
    /// # }
    /// ```
    pub fn score(&mut self, ids: &[u32], top: usize) -> Result<Vec<Option<TokenLogprob>>> {
        let mut scores = Scores::new(self.tokens, ids, top);
        if let Some(logits) = self.logits() {
            scores.of_first(logits);
        }
        self.call(ids, Logits::All, &mut scores)?;
        Ok(scores.finish())
    }

    fn call(&mut self, ids: &[u32], wanted: Logits, observer: &mut dyn Observer) -> Result<&[f32]> {
        self.check(ids)?;
        #[cfg(feature = "cuda")]
        if self.sequence.is_some() {
            self.call_on_device(ids, wanted == Logits::All, observer)?;
            return Ok(self.logits().unwrap_or_default());
        }
        self.admit(ids.len(), wanted)?;
        let (before, longest) = (self.tokens, self.rope.longest());
        self.has_logits = false;
        self.rope.begin_call(before + ids.len());
        let mut left = ids;
        while !left.is_empty() {
            let (block, rest) = left.split_at(self.block_of(ids.len()).min(left.len()));
            let first = match wanted {
                Logits::All => 0,
                Logits::Last if rest.is_empty() => block.len() - 1,
                Logits::Last => block.len(),
            };
            if let Err(error) = self.send(block, first, observer) {
                self.layers.iter_mut().for_each(|layer| layer.take_back(self.tokens as u32));
                if self.tokens == before {
                    self.rope.recall(longest);
                }
                return Err(error);
            }
            self.tokens += block.len();
            left = rest;
        }
        self.has_logits = true;
        Ok(&self.scratch.logits[..self.model.config().vocab_size])
    }

    /// Sends a block through the layers, and its rows from `first` on through the head. The logits of the last one stay.
    fn send(&mut self, ids: &[u32], first: usize, observer: &mut dyn Observer) -> Result<()> {
        let Checkpoint { config, variant, weights, .. } = self.model.checkpoint();
        let cpu = &self.cpu.for_rows(ids.len());
        let forward = Forward { cpu, config, variant, weights, routing: self.options.routing };
        let (n, place, s, hidden, vocab) = (ids.len(), self.tokens, &mut self.scratch, config.hidden_size, config.vocab_size);
        let table = n * config.head_dim / 2;
        self.rope.tables(place, &mut s.cos[..table], &mut s.sin[..table]);
        forward.block(ids, &mut Rows::Sequence { place, layers: &mut self.layers }, s, observer)?;
        for row in (first..n).step_by(HEAD_ROWS) {
            if observer.cancels() {
                return Err(Error::Cancelled { tokens: place });
            }
            let end = n.min(row + HEAD_ROWS);
            let logits = &mut s.logits[..(end - row) * vocab]; // [end - row, V]
            forward.head(logits, &s.h[row * hidden..end * hidden], &mut s.prepared)?;
            if let Some(r) = first_non_finite(logits, vocab) {
                return Err(Error::NonFinite { layer: None, step: place + row + r });
            }
            logits.chunks_exact(vocab).enumerate().for_each(|(i, logits)| observer.logits(place + row + i, logits));
            logits.copy_within((end - row - 1) * vocab.., 0); // the last row is what `feed` returns
        }
        Ok(())
    }

    /// Tokens that go through the layers together in a call of `tokens` tokens.
    fn block_of(&self, tokens: usize) -> usize {
        match self.options.routing {
            Routing::PerToken => self.block(),
            // Every token of the call needs the router logits of the others, layer by layer.
            Routing::Reference => tokens,
        }
    }

    /// An error if a call of these tokens cannot be.
    pub(super) fn check(&self, ids: &[u32]) -> Result<()> {
        let (config, limit) = (self.model.config(), self.options.ctx_size);
        if ids.is_empty() {
            return Err(Error::BadArgument { what: "ids", why: "a call needs at least one token".into() });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size: config.vocab_size });
        }
        match self.tokens.checked_add(ids.len()) {
            Some(after) if after <= limit => Ok(()),
            _ => Err(Error::ContextFull { limit }),
        }
    }

    /// Makes room for a call of `n` tokens.
    fn admit(&mut self, n: usize, wanted: Logits) -> Result<()> {
        let rows = self.block_of(n).min(n);
        if rows > self.shape.block {
            self.room = 0; // of a ring that is laid anew, even if the next one fails
            self.layers.iter_mut().try_for_each(|layer| layer.set_block(rows, self.tokens))?;
            self.shape.block = rows;
        }
        let logits = if wanted == Logits::All { rows.min(HEAD_ROWS) } else { 1 };
        self.scratch.reserve(rows, logits, self.model.checkpoint(), &self.cpu)?;
        self.make_room(n)
    }
}
