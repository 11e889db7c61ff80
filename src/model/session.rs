//! A loaded model, and one sequence that runs through it.

#[cfg(feature = "cuda")]
mod on_device;

use std::sync::Arc;

use super::{
    forward::Forward,
    kv_state::{LayerState, StateShape},
    observer::{Observer, Unobserved},
    rope::Rope,
    scratch::Scratch,
    Checkpoint, Config, Variant,
};
use crate::{
    ops::{Cpu, Routing},
    Error, Result,
};

/// A loaded checkpoint: immutable, shared, cheap to clone.
#[derive(Clone, Debug)]
pub struct Model {
    checkpoint: Arc<Checkpoint>,
    /// The weights again, where sessions run.
    #[cfg(feature = "cuda")]
    device: Option<Arc<crate::cuda::DeviceWeights>>,
}

impl Model {
    /// A model whose sessions run on the CPU.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Model {
            checkpoint: Arc::new(checkpoint),
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    pub fn variant(&self) -> &Variant {
        &self.checkpoint.variant
    }
}

/// How a session runs. [`SessionOptions::default`] is what most people want.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Tokens the sequence may have. The state is bounded by `keep_window_size` however long it gets; this is a limit for
    /// those who want one. Default: none but the 2³² places of a sequence.
    pub ctx_size: usize,
    /// Tokens of a prompt that go through the layers together. The results do not depend on it. Default: 256.
    pub block: usize,
    /// Default: [`Routing::PerToken`].
    pub routing: Routing,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { ctx_size: MAX_TOKENS, block: 256, routing: Routing::PerToken }
    }
}

/// Places are 32 bits wide, and the last one means "never".
const MAX_TOKENS: usize = u32::MAX as usize - 1;

/// Rows of logits made together where all are wanted: enough to read the head's weights once for many, few enough for a
/// vocabulary of 128256.
const HEAD_ROWS: usize = 16;

/// Which logits a call computes.
#[derive(Clone, Copy, PartialEq)]
enum Logits {
    Last,
    All,
}

/// One sequence: its state and its scratch. Independent of other sessions of the same model; may be sent to another thread.
pub struct Session {
    model: Model,
    cpu: Cpu,
    options: SessionOptions,
    rope: Rope,
    shape: StateShape,
    layers: Vec<LayerState>,
    scratch: Scratch,
    /// Tokens taken in so far.
    tokens: usize,
    /// Tokens for which the state has room.
    room: usize,
    /// Where the model is on a device: the state, instead of `layers`.
    #[cfg(feature = "cuda")]
    sequence: Option<crate::cuda::Sequence>,
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a block of 0 tokens, [`Error::OutOfMemory`], [`Error::Device`].
    pub fn new(model: &Model, cpu: &Cpu, options: SessionOptions) -> Result<Self> {
        if options.block == 0 {
            return Err(Error::BadArgument { what: "block", why: "a block holds at least one token".into() });
        }
        let config = model.config();
        let shape = StateShape {
            num_key_value_heads: config.num_key_value_heads,
            mask_heads: model.variant().mask_heads,
            head_dim: config.head_dim,
            keep_window_size: config.keep_window_size,
            sliding_window: config.sliding_window,
            block: options.block,
        };
        let options = SessionOptions { ctx_size: options.ctx_size.min(MAX_TOKENS), ..options };
        Ok(Session {
            rope: Rope::new(config),
            layers: vec![LayerState::new(shape); config.num_hidden_layers],
            scratch: Scratch::default(),
            tokens: 0,
            room: 0,
            #[cfg(feature = "cuda")]
            sequence: on_device::sequence(model, cpu, options)?,
            model: model.clone(),
            cpu: cpu.clone(),
            options,
            shape,
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Where it runs.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Tokens the sequence may have.
    pub fn ctx_size(&self) -> usize {
        self.options.ctx_size
    }

    /// Tokens taken in so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes that the state takes after `tokens` tokens: constant from the point where every set is full.
    pub fn state_bytes(&self, tokens: usize) -> u128 {
        #[cfg(feature = "cuda")]
        if let Some(sequence) = &self.sequence {
            return sequence.state_bytes(tokens);
        }
        self.shape.bytes(tokens) * self.layers.len() as u128
    }

    /// Bytes of the state that the next token reads: the K and V rows that any mask head keeps, each once, and the mask
    /// value and row number of every key on a head's list.
    pub fn bytes_per_token(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(sequence) = &self.sequence {
            return sequence.state_bytes(self.tokens).min(usize::MAX as u128) as usize;
        }
        self.layers.iter().map(|layer| layer.bytes_per_token(self.tokens)).sum()
    }

    /// A sequence of its own that goes on where this one stands.
    ///
    /// # Errors
    /// On a device: [`Error::OutOfMemory`], [`Error::Device`].
    pub fn fork(&self) -> Result<Session> {
        Ok(Session {
            #[cfg(feature = "cuda")]
            sequence: self.sequence.as_ref().map(crate::cuda::Sequence::fork).transpose()?,
            model: self.model.clone(),
            cpu: self.cpu.clone(),
            options: self.options,
            rope: self.rope.clone(),
            shape: self.shape,
            layers: self.layers.clone(),
            scratch: Scratch::default(),
            tokens: self.tokens,
            room: 0, // a clone has not the capacity that was reserved
        })
    }

    /// Makes room for `more` tokens beyond those taken in: until then no call allocates. Called with what a generation
    /// will need; without it a session grows by itself, by doubling.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        let wanted = self.tokens.saturating_add(more).min(self.options.ctx_size);
        #[cfg(feature = "cuda")]
        if let Some(sequence) = &mut self.sequence {
            sequence.reserve(wanted)?;
            self.room = self.room.max(wanted);
            return Ok(());
        }
        if wanted > self.room {
            self.layers.iter_mut().try_for_each(|layer| layer.reserve(wanted))?;
            self.room = wanted;
        }
        Ok(())
    }

    /// Takes in tokens as one call, and gives the logits `[vocab_size]` after the last one. A prompt is best fed in one
    /// call; one token is a decode step. Feeding in pieces gives the same bits, unless the checkpoint's RoPE depends on
    /// the length of a call (`dynamic` and `longrope` beyond their limit) or [`Routing::Reference`] is chosen.
    ///
    /// # Errors
    /// Before anything is changed: [`Error::TokenOutOfRange`], [`Error::ContextFull`], [`Error::OutOfMemory`],
    /// [`Error::BadArgument`] if `ids` is empty. Afterwards: [`Error::NonFinite`] if the logits are not finite.
    pub fn feed(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.call(ids, Logits::Last, &mut Unobserved)?;
        Ok(self.logits())
    }

    /// As [`Session::feed`], and shows `observer` everything on the way, the logits of every token among it.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_observed(&mut self, ids: &[u32], observer: &mut dyn Observer) -> Result<&[f32]> {
        self.call(ids, Logits::All, observer)?;
        Ok(self.logits())
    }

    /// The logits of the last token of the last call.
    fn logits(&self) -> &[f32] {
        &self.scratch.logits[..self.model.config().vocab_size]
    }

    fn call(&mut self, ids: &[u32], wanted: Logits, observer: &mut dyn Observer) -> Result<()> {
        let after = self.check(ids)?;
        #[cfg(feature = "cuda")]
        if self.sequence.is_some() {
            return self.call_on_device(ids, (wanted == Logits::All).then_some(observer));
        }
        self.admit(ids.len(), after, wanted)?;
        let model = self.model.clone();
        let Checkpoint { config, variant, weights, .. } = model.checkpoint();
        let forward = Forward { cpu: &self.cpu, config, variant, weights, routing: self.options.routing };
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        self.rope.begin_call(self.tokens + ids.len());
        let mut left = ids;
        while !left.is_empty() {
            let (block, rest) = left.split_at(self.block_of(ids.len()).min(left.len()));
            let (n, place, s) = (block.len(), self.tokens, &mut self.scratch);
            let table = n * config.head_dim / 2;
            self.rope.tables(place, &mut s.cos[..table], &mut s.sin[..table]);
            forward.block(block, place, &mut self.layers, s, observer)?;
            self.tokens += n;
            let first = match wanted {
                Logits::All => 0,
                Logits::Last if rest.is_empty() => n - 1,
                Logits::Last => n,
            };
            for row in (first..n).step_by(HEAD_ROWS) {
                let end = n.min(row + HEAD_ROWS);
                let logits = &mut s.logits[..(end - row) * vocab]; // [end - row, V]
                forward.head(logits, &s.h[row * hidden..end * hidden], &mut s.prepared)?;
                logits.chunks_exact(vocab).enumerate().for_each(|(i, logits)| observer.logits(place + row + i, logits));
                logits.copy_within((end - row - 1) * vocab.., 0); // the last row is what `feed` returns
            }
            left = rest;
        }
        self.expect_finite()
    }

    fn expect_finite(&self) -> Result<()> {
        // Not `all`: without an early exit the compiler checks many at once.
        if !self.logits().iter().fold(true, |finite, x| finite & x.is_finite()) {
            return Err(Error::NonFinite { place: format!("the logits of token {}", self.tokens - 1) });
        }
        Ok(())
    }

    /// Tokens that go through the layers together in a call of `tokens` tokens.
    fn block_of(&self, tokens: usize) -> usize {
        match self.options.routing {
            Routing::PerToken => self.options.block,
            // Every token of the call needs the router logits of the others, layer by layer.
            Routing::Reference => tokens,
        }
    }

    /// Checks a call; the tokens after it.
    fn check(&self, ids: &[u32]) -> Result<usize> {
        let (config, limit) = (self.model.config(), self.options.ctx_size);
        if ids.is_empty() {
            return Err(Error::BadArgument { what: "ids", why: "a call needs at least one token".into() });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size: config.vocab_size });
        }
        self.tokens.checked_add(ids.len()).filter(|&after| after <= limit).ok_or(Error::ContextFull { limit })
    }

    /// Makes room for a call of `n` tokens.
    fn admit(&mut self, n: usize, after: usize, wanted: Logits) -> Result<()> {
        let model = self.model.clone();
        let rows = self.block_of(n).min(n);
        if rows > self.shape.block {
            self.shape.block = rows;
            self.layers.iter_mut().try_for_each(|layer| layer.set_block(rows, self.tokens))?;
            self.room = 0;
        }
        let logits = if wanted == Logits::All { rows.min(HEAD_ROWS) } else { 1 };
        self.scratch.reserve(rows, logits, model.checkpoint(), &self.cpu)?;
        if after > self.room {
            self.reserve(n.max(self.tokens))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} tokens)", self.tokens)
    }
}
