//! The end of a decode step: the next token, and the sequence one place further.

use super::{
    buffer::{Buffer, Rows},
    device::Device,
    made::{made, Made},
    ops::{Place, PLACE_WORDS},
};
use crate::{ffi, sampler::Draws, Error, Result};

/// Steps of a decode run between two looks of the host.
pub const STEPS_MAX: usize = ffi::DOGE_CUDA_STEPS_MAX as usize;
/// End-of-text tokens that a run can watch for.
pub(super) const EOS_MAX: usize = 64;
const SAMPLING_WORDS: usize = size_of::<ffi::DogeCudaSampling>() / 4;

/// What shapes a [`Next`].
#[derive(Clone, Copy, Debug)]
pub struct NextSizes {
    /// Tokens of the longest block.
    pub rows: usize,
    /// V
    pub vocab: usize,
}

made! {
    /// What a run of decode steps chooses by, and what it chose.
    #[derive(Debug)]
    pub struct Next(z: NextSizes) {
        /// Where the sequence stands, a [`ffi::DogeCudaPlace`].
        pub(super) at: Place = PLACE_WORDS,
        /// The token to feed; of a block, its tokens.
        pub(super) ids: Buffer<u32> = z.rows,
        chosen: Buffer<u32> = STEPS_MAX,
        eos: Buffer<u32> = EOS_MAX,
        // For draws:
        sampling: Buffer<u32> = SAMPLING_WORDS,
        uniform: Buffer<f64> = STEPS_MAX,
        id: Buffer<u32> = z.vocab,
        sorted: Buffer<u32> = z.vocab,
        score: Buffer<f32> = z.vocab,
        weight: Buffer<f64> = z.vocab,
    }
}

/// What the host finds after a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The tokens chosen, one a step. The last one was not fed.
    pub ids: Vec<u32>,
    /// The place of the first token whose logits were not finite; the ids from there on mean nothing.
    pub non_finite: Option<usize>,
}

impl Next {
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn new(device: &Device, sizes: NextSizes) -> Result<Self> {
        Next::make(device, sizes)
    }

    /// What [`Next::at`] holds where a block or a run begins.
    pub(super) fn words_at(place: usize) -> [u32; PLACE_WORDS] {
        [place as u32, place as u32, 0, 0, 0]
    }

    /// Where a block or a run begins. What was written before, the device has afterwards.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn stand_at(&mut self, place: usize) -> Result<()> {
        let words = Self::words_at(place);
        self.at.write(0, &words)?;
        self.at.device().synchronize()
    }

    /// A run that feeds `first`, watches for `eos` and, unless it takes the likeliest, has what the sampler `draws` by.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for more `eos` or draws than there is room for, [`Error::Device`].
    pub fn begin_run(&mut self, first: u32, place: usize, eos: &[u32], draws: Option<&Draws>) -> Result<()> {
        let first = [first];
        let settings = draws.map(|Draws { temperature, top_k, top_p, min_p, .. }| {
            [temperature.to_bits(), *top_k, top_p.to_bits(), min_p.to_bits()]
        });
        self.ids.write(0, &first)?;
        // No token has the largest number of all: the rest of the list matches nothing.
        self.eos.write(0, &[u32::MAX; EOS_MAX])?;
        self.eos.write(0, eos)?;
        if let (Some(draws), Some(settings)) = (draws, &settings) {
            self.sampling.write(0, settings)?;
            self.uniform.write(0, &draws.uniform)?;
        }
        self.stand_at(place) // which waits for all of these to be copied; until then they live
    }

    /// What the run chose, when it is done.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn end_run(&self) -> Result<Run> {
        let mut now = [0; PLACE_WORDS];
        self.at.read(0, &mut now)?;
        let [_, _, made, non_finite, _] = now;
        let mut ids = vec![0; made as usize];
        self.chosen.read(0, &mut ids)?;
        Ok(Run { ids, non_finite: non_finite.checked_sub(1).map(|place| place as usize) })
    }

    /// What the last draw had before top-p and min-p, if those are `n`: exp of each score, ascending by id.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for more than the vocabulary, [`Error::Device`].
    pub fn weights(&self, n: usize) -> Result<Vec<f64>> {
        let mut weights = vec![0.0; n];
        self.weight.read(0, &mut weights)?;
        Ok(weights)
    }

    fn args(&mut self, logits: &Rows) -> Result<ffi::DogeCudaNextArgs> {
        logits.expect("next token: logits", 1, logits.cols())?;
        if logits.cols() > self.sizes.vocab {
            let why = format!("{} of them, where there is room for {}", logits.cols(), self.sizes.vocab);
            return Err(Error::BadArgument { what: "next token: logits", why });
        }
        Ok(ffi::DogeCudaNextArgs {
            logits: logits.buffer.ptr(),
            ids: self.ids.ptr_mut(),
            chosen: self.chosen.ptr_mut(),
            eos: self.eos.ptr(),
            at: self.at.ptr_mut().cast(),
            n: logits.cols() as u32,
            n_eos: EOS_MAX as u32,
        })
    }
}

impl Device {
    /// The likeliest token becomes the next one; see kernels/doge_cuda.h.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn argmax(&self, logits: &Rows, next: &mut Next) -> Result<()> {
        let args = next.args(logits)?;
        // SAFETY: shapes as compared above; the kernel takes no more steps than there is room for.
        unsafe { self.launch(&self.table().argmax, [1, 1, 1], &args) }
    }

    /// The next token is drawn, by what [`Next::begin_run`] was given.
    ///
    /// # Errors
    /// As [`Device::argmax`].
    pub fn sample(&self, logits: &Rows, next: &mut Next) -> Result<()> {
        let args = ffi::DogeCudaSampleArgs {
            next: next.args(logits)?,
            sampling: next.sampling.ptr().cast(),
            uniform: next.uniform.ptr(),
            id: next.id.ptr_mut(),
            sorted: next.sorted.ptr_mut(),
            score: next.score.ptr_mut(),
            weight: next.weight.ptr_mut(),
        };
        // SAFETY: as in `argmax`; the scratch has a place for each of the vocabulary, and the settings are in range, for
        // `Draws` come from a sampler.
        unsafe { self.launch(&self.table().sample, [1, 1, 1], &args) }
    }
}
