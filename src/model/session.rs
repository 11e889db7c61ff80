//! One sequence that runs through a model.

mod batch;
mod feed;
#[cfg(feature = "cuda")]
mod on_device;
pub(super) mod saved;

pub use batch::Batch;

use super::{
    kv_state::{LayerState, StateShape},
    options::{SessionOptions, MAX_TOKENS},
    rope::Rope,
    scratch::Scratch,
    Model,
};
use crate::{ops::Cpu, Error, Result};

/// Rows of logits made together where all are wanted: enough to read the head's weights once for many, few enough for a
/// vocabulary of 128256.
const HEAD_ROWS: usize = 16;

/// One sequence: its state and its scratch. `Send`, and independent of other sessions of the same model: each may run on a
/// thread of its own; those that share a [`Cpu`] take turns with its threads.
///
/// Ids in, logits out:
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
///
/// let model = Model::new(embedded::checkpoint(&LoadOptions::default())?);
/// let cpu = Cpu::detect()?;
/// let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
/// let logits = session.feed(&[0, 597, 49, 41, 51, 18])?; // [vocab_size], after the last token
/// let next = cpu.argmax(logits)? as u32;
/// session.feed(&[next])?;
/// assert_eq!(session.tokens(), 7);
/// # Ok(())
/// # }
/// ```
pub struct Session {
    model: Model,
    cpu: Cpu,
    options: SessionOptions,
    rope: Rope,
    shape: StateShape,
    pub(super) layers: Vec<LayerState>,
    scratch: Scratch,
    /// Tokens taken in so far.
    tokens: usize,
    /// Tokens for which the state has room.
    room: usize,
    /// Are the first `vocab_size` of `scratch.logits` those of the last token?
    has_logits: bool,
    /// Where the model is on a device: the state, instead of `layers`.
    #[cfg(feature = "cuda")]
    sequence: Option<crate::cuda::Sequence>,
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a block of 0 tokens, or a checkpoint that was changed until it contradicts itself; on a
    /// device [`Error::OutOfMemory`], [`Error::Device`], and [`Error::UnsupportedOnDevice`] for K and V in 16 bits. Never
    /// panics.
    pub fn new(model: &Model, cpu: &Cpu, options: SessionOptions) -> Result<Self> {
        if options.block == Some(0) {
            return Err(Error::BadArgument { what: "block", why: "a block holds at least one token".into() });
        }
        model.checkpoint().check()?;
        let config = model.config();
        let shape = StateShape {
            num_key_value_heads: config.num_key_value_heads,
            mask_heads: model.variant().mask_heads,
            head_dim: config.head_dim,
            kv_dtype: options.kv_dtype,
            keep_window_size: config.keep_window_size,
            sliding_window: config.sliding_window,
            block: options.block_on_cpu(),
        };
        let options = SessionOptions { ctx_size: options.ctx_size.min(MAX_TOKENS), ..options };
        Ok(Session {
            rope: Rope::new(config),
            layers: empty_layers(shape, config.num_hidden_layers),
            scratch: Scratch::default(),
            tokens: 0,
            room: 0,
            has_logits: false,
            #[cfg(feature = "cuda")]
            sequence: on_device::sequence(model, cpu, options)?,
            model: model.clone(),
            cpu: cpu.clone(),
            options,
            shape,
        })
    }

    /// What it runs through.
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

    /// Tokens of a prompt that go through the layers together; with [`Routing::Reference`](crate::ops::Routing) all may.
    pub fn block(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(sequence) = &self.sequence {
            return sequence.block();
        }
        self.options.block_on_cpu()
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

    /// Bytes of the state that the token after `tokens` tokens reads: the K and V rows that any mask head keeps, each once, and
    /// the mask value and row number of every key on a head's list.
    pub fn bytes_per_token(&self, tokens: usize) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(sequence) = &self.sequence {
            return sequence.state_bytes(tokens).min(usize::MAX as u128) as usize;
        }
        self.layers.iter().map(|layer| layer.bytes_per_token(tokens)).sum()
    }

    /// A sequence of its own that goes on where this one stands, with room for as much, and the same [`Session::logits`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; on a device [`Error::Device`]. Never panics.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
    /// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    /// let mut prompt = Session::new(&model, &cpu, SessionOptions::default())?;
    /// prompt.feed(&[0, 597, 49])?;
    /// let mut other = prompt.fork()?; // the prompt need not be fed again
    /// assert_eq!(prompt.feed(&[41])?, other.feed(&[41])?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork(&self) -> Result<Session> {
        let room = self.room.max(self.tokens);
        let mut scratch = Scratch::default();
        if let Some(logits) = self.logits() {
            scratch.reserve(0, 1, self.model.checkpoint(), &self.cpu)?;
            scratch.logits[..logits.len()].copy_from_slice(logits);
        }
        let layers: Vec<LayerState> = match self.model.is_on_device() {
            true => empty_layers(self.shape, self.layers.len()),
            false => self.layers.iter().map(|layer| layer.fork(room)).collect::<Result<_>>()?,
        };
        Ok(Session {
            #[cfg(feature = "cuda")]
            sequence: self.sequence.as_ref().map(crate::cuda::Sequence::fork).transpose()?,
            model: self.model.clone(),
            cpu: self.cpu.clone(),
            options: self.options,
            rope: self.rope.clone(),
            shape: self.shape,
            layers,
            scratch,
            tokens: self.tokens,
            room,
            has_logits: self.has_logits,
        })
    }

    /// Makes room for `more` tokens beyond those taken in: until then no call allocates. Called with what a generation
    /// will need; without it a session grows by itself, by doubling.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; on a device [`Error::Device`]. Never panics.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        let wanted = self.tokens.saturating_add(more).min(self.options.ctx_size);
        #[cfg(feature = "cuda")]
        if self.sequence.is_some() {
            return self.reserve_on_device(wanted);
        }
        if wanted > self.room {
            self.layers.iter_mut().try_for_each(|layer| layer.reserve(wanted))?;
            self.room = wanted;
        }
        Ok(())
    }

    /// The logits `[vocab_size]` after the last token; `None` for an empty sequence, after a call that failed on the way, and
    /// after a run of steps on a device.
    pub fn logits(&self) -> Option<&[f32]> {
        self.has_logits.then(|| &self.scratch.logits[..self.model.config().vocab_size])
    }

    /// Room for `more` tokens, by doubling.
    fn make_room(&mut self, more: usize) -> Result<()> {
        if self.tokens + more > self.room {
            self.reserve(more.max(self.tokens))?;
        }
        Ok(())
    }
}

/// The layers of an empty sequence.
fn empty_layers(shape: StateShape, n: usize) -> Vec<LayerState> {
    (0..n).map(|_| LayerState::new(shape)).collect()
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} tokens)", self.tokens)
    }
}
