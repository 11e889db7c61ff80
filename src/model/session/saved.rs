//! A session as bytes, to go on later or elsewhere.
//!
//! Little-endian: the magic, the version (u32), the fingerprint of the model (u64), tokens (u64), what RoPE remembers
//! (u64), how many logits follow (u64: none or the vocabulary), the logits, the layers (`kv_state/saved.rs`), and XXH3 over
//! all of it (u64).

use bytemuck::{cast_slice, cast_slice_mut};
use xxhash_rust::xxh3::xxh3_64;

use super::{Session, SessionOptions};
use crate::{model::Model, ops::Cpu, Error, Result};

const MAGIC: &[u8; 8] = b"DogeSess";
/// Of the format. A change of it is a new number, and the old ones are refused.
const VERSION: u32 = 1;
const CHECKSUM: usize = size_of::<u64>();
/// Magic to logits.
const HEADER: usize = MAGIC.len() + 4 + 4 * 8;

impl Session {
    /// The session as bytes: its state, and the logits after its last token. They are good for this model in this weight
    /// format, on any machine; at most about [`Session::state_bytes`] and the vocabulary, however long the text was.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::UnsupportedOnDevice`] where the model is on a device. Never panics.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
    /// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    /// let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    /// session.feed(&[0, 597, 49, 41])?;
    /// let saved = session.save()?;
    ///
    /// let mut other = Session::load(&model, &cpu, SessionOptions::default(), &saved)?;
    /// assert_eq!(other.logits(), session.logits());
    /// assert_eq!(other.feed(&[51])?, session.feed(&[51])?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn save(&self) -> Result<Vec<u8>> {
        self.model.expect_on_cpu("saving a session")?;
        let logits = self.logits().unwrap_or_default();
        let layer = self.shape.saved_bytes(self.tokens) as usize;
        let bytes = HEADER + 4 * logits.len() + self.layers.len().saturating_mul(layer) + CHECKSUM;
        let mut out = Writer(Vec::new());
        let no_room = |_| Error::OutOfMemory { bytes: bytes as u128, what: "a saved session" };
        out.0.try_reserve(bytes).map_err(no_room)?;
        out.0.extend(MAGIC);
        out.u32(VERSION);
        for number in [self.model.fingerprint(), self.tokens as u64, self.rope.longest() as u64, logits.len() as u64] {
            out.0.extend(number.to_le_bytes());
        }
        out.floats(logits);
        self.layers.iter().for_each(|layer| layer.save(&mut out));
        let sum = xxh3_64(&out.0);
        out.0.extend(sum.to_le_bytes());
        Ok(out.0)
    }

    /// The session that was saved, with options of its own. What it takes of memory is bounded by the length of `saved`.
    ///
    /// # Errors
    /// [`Error::BadSession`] if the bytes are damaged, of another version, or of another model;
    /// [`Error::ContextFull`] if `options` has no room for its tokens; [`Error::UnsupportedOnDevice`] where the
    /// model is on a device; those of [`Session::new`]. Never panics.
    pub fn load(model: &Model, cpu: &Cpu, options: SessionOptions, saved: &[u8]) -> Result<Self> {
        model.expect_on_cpu("a saved session")?;
        let mut session = Session::new(model, cpu, options)?;
        let Some((bytes, sum)) = saved.split_last_chunk::<CHECKSUM>().filter(|(bytes, _)| bytes.len() >= HEADER) else {
            return Err(bad("is too short".into()));
        };
        let mut from = Reader(bytes);
        if from.take(MAGIC.len())? != MAGIC {
            return Err(bad("does not begin as one".into()));
        }
        let version = from.u32()?;
        if version != VERSION {
            return Err(bad(format!("is of version {version}; this build reads {VERSION}")));
        }
        if xxh3_64(bytes) != u64::from_le_bytes(*sum) {
            return Err(bad("its checksum is wrong: it is damaged".into()));
        }
        if from.u64()? != model.fingerprint() {
            return Err(bad("was saved from another model, or from the same in another weight format".into()));
        }
        let [tokens, longest, logits] = [from.u64()?, from.u64()?, from.u64()?];
        let tokens = usize::try_from(tokens).ok().filter(|&tokens| tokens <= session.options.ctx_size);
        let tokens = tokens.ok_or(Error::ContextFull { limit: session.options.ctx_size })?;
        let vocab_size = model.config().vocab_size;
        if logits != 0 && (logits != vocab_size as u64 || tokens == 0) {
            return Err(bad(format!("has {logits} logits where the vocabulary has {vocab_size}")));
        }
        let longest = u32::try_from(longest).map_err(|_| bad("remembers a call longer than any".into()))?;
        // Before anything is made room for: is as much there as these tokens leave behind?
        let bytes = session.shape.saved_bytes(tokens) * session.layers.len() as u128 + 4 * u128::from(logits);
        if (from.0.len() as u128) < bytes {
            return Err(bad(format!("is too short for {tokens} tokens")));
        }
        session.reserve(tokens)?;
        if logits != 0 {
            session.scratch.reserve(0, 1, model.checkpoint(), cpu)?;
            from.floats(session.scratch.logits.get_mut(..vocab_size).unwrap_or_default())?;
            session.has_logits = true;
        }
        for layer in &mut session.layers {
            layer.load(tokens as u32, &mut from)?;
        }
        if !from.0.is_empty() {
            return Err(bad(format!("{} bytes too long", from.0.len())));
        }
        session.rope.recall(longest as usize);
        session.tokens = tokens;
        Ok(session)
    }
}

fn bad(why: String) -> Error {
    Error::BadSession { why }
}

pub(in crate::model) struct Writer(Vec<u8>);

impl Writer {
    pub fn u32(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    pub fn floats(&mut self, x: &[f32]) {
        self.0.extend_from_slice(cast_slice(x)); // the crate is for little-endian machines
    }
}

/// What is left to read.
pub(in crate::model) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn bad(&self, why: &str) -> Error {
        bad(why.into())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(n).ok_or_else(|| bad("ends too early".into()))?;
        self.0 = left;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn u64(&mut self) -> Result<u64> {
        let low = u64::from(self.u32()?);
        Ok(low | u64::from(self.u32()?) << 32)
    }

    pub fn words(&mut self, n: usize) -> Result<impl Iterator<Item = u32> + Clone + 'a> {
        let bytes = self.take(n.saturating_mul(4))?;
        Ok(bytes.chunks_exact(4).filter_map(|word| word.first_chunk()).map(|&word| u32::from_le_bytes(word)))
    }

    pub fn floats(&mut self, out: &mut [f32]) -> Result<()> {
        let bytes = self.take(size_of_val(out))?;
        cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes);
        Ok(())
    }
}
