//! What a device needs to draw as the sampler does.

use super::{uniform, Sampler};
use crate::{ffi, Error, Result};

/// The rules and the random numbers of a run of draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    pub(crate) temperature: f32,
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    /// One a step, in [0, 1).
    pub(crate) uniform: Vec<f64>,
}

impl Sampler {
    /// Can a device draw by the sampler's rules? It knows temperature, a top-k of up to 512, top-p and min-p; the rest needs the
    /// host, and so does a draw from the whole vocabulary, whose probabilities are summed one after another.
    pub fn draws_on_device(&self) -> bool {
        let s = &self.settings;
        let top_k = 1..=ffi::DOGE_CUDA_TOP_K_MAX as usize;
        !s.is_greedy() && s.leaves_logits() && s.typical_p == 1.0 && top_k.contains(&s.top_k)
    }

    /// What the next `n` draws are made by; [`Sampler::drew`] says how many of them were made.
    ///
    /// # Errors
    /// [`Error::BadArgument`] unless [`Sampler::draws_on_device`].
    pub fn draws(&self, n: usize) -> Result<Draws> {
        if !self.draws_on_device() {
            let why = "have rules that a device does not know: penalties, a bias, typical-p, or no top-k from 1 to 512".into();
            return Err(Error::BadArgument { what: "sampling settings", why });
        }
        let (s, mut random) = (&self.settings, self.random.clone());
        Ok(Draws {
            temperature: s.temperature,
            top_k: s.top_k as u32,
            top_p: s.top_p,
            min_p: s.min_p,
            uniform: (0..n).map(|_| uniform(&mut random)).collect(),
        })
    }

    /// `n` draws were made elsewhere: the next one is the one after them.
    pub fn drew(&mut self, n: usize) {
        (0..n).for_each(|_| {
            uniform(&mut self.random);
        });
    }
}
