//! Sessions of a model whose weights are on a device.

use std::sync::Arc;

use super::Session;
use crate::{
    cuda::{Device, Sequence},
    model::{Model, Observer, SessionOptions},
    ops::Cpu,
    Error, Float, Result, Sampler,
};

impl Model {
    /// The same model with its weights copied to a device, where its sessions then run. `progress` sees the bytes copied so far,
    /// and all.
    ///
    /// # Errors
    /// [`Error::UnsupportedOnDevice`], [`Error::OutOfMemory`] before anything is copied, [`Error::Device`].
    pub fn on(&self, device: &Device, progress: impl FnMut(u128, u128)) -> Result<Model> {
        let weights = device.upload(&self.checkpoint, progress)?;
        Ok(Model { device: Some(Arc::new(weights)), ..self.clone() })
    }

    /// The device on which its sessions run; `None`: the CPU.
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref().map(|weights| weights.device())
    }
}

/// The state of an empty session on the model's device, if it has one.
pub(super) fn sequence(model: &Model, cpu: &Cpu, options: SessionOptions) -> Result<Option<Sequence>> {
    if model.device.is_some() && options.kv_dtype != Float::F32 {
        return Err(Error::UnsupportedOnDevice {
            what: format!("K and V in {}", options.kv_dtype),
            why: "its kernels keep them in f32; leave --kv-dtype out, or use --device cpu".into(),
        });
    }
    let on = |weights| Sequence::new(weights, &model.checkpoint, options, cpu.activations());
    model.device.as_ref().map(on).transpose()
}

impl Session {
    /// A call that was checked. `watches`: the observer wants to see more than whether to cancel.
    pub(super) fn call_on_device(&mut self, ids: &[u32], watches: bool, observer: &mut dyn Observer) -> Result<()> {
        self.make_room(ids.len())?;
        let vocab_size = self.model.checkpoint.config.vocab_size;
        self.scratch.logits.grow(vocab_size)?;
        let (before, longest) = (self.tokens, self.rope.longest());
        self.has_logits = false;
        self.rope.begin_call(before + ids.len());
        let Some(sequence) = &mut self.sequence else { return Ok(()) };
        let logits = &mut self.scratch.logits[..vocab_size];
        let fed = sequence.feed(ids, &mut self.tokens, &self.rope, logits, watches, observer);
        if fed.is_err() && self.tokens == before {
            self.rope.recall(longest);
        }
        self.has_logits = fed.is_ok();
        fed
    }

    /// Feeds `first`, then whatever is likeliest, for up to `steps` tokens: the ids chosen, one for each token fed. Ends early
    /// with one of `eos_token_ids`, and at the end of the context. The last id was not fed. On a device the host looks only
    /// at the end, and [`Session::logits`] has nothing then; on the CPU this is a loop over [`Session::feed`].
    ///
    /// # Errors
    /// As [`Session::feed`]; [`Error::BadArgument`] for more `eos_token_ids` than a device can watch for. Never panics.
    pub fn decode(&mut self, first: u32, steps: usize, eos_token_ids: &[u32]) -> Result<Vec<u32>> {
        if let Some(ids) = self.decode_on_device(first, steps, eos_token_ids, None)? {
            return Ok(ids);
        }
        let steps = steps.min(self.options.ctx_size.saturating_sub(self.tokens));
        let (cpu, mut ids) = (self.cpu.clone(), Vec::new());
        while ids.len() < steps && ids.last().is_none_or(|id| !eos_token_ids.contains(id)) {
            ids.push(cpu.argmax(self.feed(&[ids.last().copied().unwrap_or(first)])?)? as u32);
        }
        Ok(ids)
    }

    /// As [`Session::decode`], but each token is drawn, as [`Sampler::sample`] draws it.
    ///
    /// # Errors
    /// As [`Session::decode`]; [`Error::BadArgument`] for a sampler whose rules a device does not know
    /// ([`Sampler::draws_on_device`]), and on the CPU.
    pub(crate) fn decode_drawn(&mut self, first: u32, steps: usize, eos: &[u32], sampler: &mut Sampler) -> Result<Vec<u32>> {
        let none = || Error::BadArgument { what: "decode_drawn", why: "the session is on no device".into() };
        self.decode_on_device(first, steps, eos, Some(sampler))?.ok_or_else(none)
    }

    /// `None` for a session that is on no device.
    fn decode_on_device(
        &mut self,
        first: u32,
        steps: usize,
        eos: &[u32],
        mut sampler: Option<&mut Sampler>,
    ) -> Result<Option<Vec<u32>>> {
        if self.sequence.is_none() {
            return Ok(None);
        }
        let steps = steps.min(self.options.ctx_size.saturating_sub(self.tokens));
        let mut ids: Vec<u32> = Vec::new();
        while ids.len() < steps && ids.last().is_none_or(|id| !eos.contains(id)) {
            let next = ids.last().copied().unwrap_or(first);
            self.check(&[next])?;
            self.make_room(steps - ids.len())?;
            let Some(sequence) = &mut self.sequence else { continue };
            self.has_logits = false;
            let run = sequence.decode(next, self.tokens, steps - ids.len(), eos, sampler.as_deref(), &mut self.rope)?;
            if run.ids.is_empty() {
                return Err(Error::Device { what: "decoding", why: "a run chose no token".into() });
            }
            self.tokens += run.ids.len();
            if let Some(sampler) = &mut sampler {
                sampler.drew(run.ids.len());
            }
            if let Some(step) = run.non_finite {
                return Err(Error::NonFinite { layer: None, step });
            }
            ids.extend(run.ids);
        }
        Ok(Some(ids))
    }

    /// Makes room for a sequence of `tokens` tokens.
    pub(super) fn reserve_on_device(&mut self, tokens: usize) -> Result<()> {
        let room = tokens.max(MIN_ROOM).min(self.options.ctx_size);
        if let Some(sequence) = self.sequence.as_mut().filter(|_| room > self.room) {
            sequence.reserve(room)?;
            self.room = room;
        }
        Ok(())
    }
}

/// Tokens for which a session has room from the start: little memory, and graphs that live long.
const MIN_ROOM: usize = 256;
