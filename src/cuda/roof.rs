//! What a device can do at best: copies of its memory, reads of its L2 cache, its two ways to multiply.

use super::{
    buffer::Buffer,
    device::{Device, Kernel},
};
use crate::{ffi, ops::PeakKind, Error, Result};

/// Copies between two looks at the clock: enough that a launch is nothing beside them.
const COPIES: usize = 16;
/// Bytes of one side of the copy: more than any cache of a GPU holds.
const BYTES: usize = 256 << 20;
/// A measurement of a loop takes at least this long.
const SECONDS: f64 = 2e-3;
/// Blocks of threads on each multiprocessor: as many as run at once, or nearly.
const BLOCKS: usize = 8;
const THREADS: usize = ffi::DOGE_CUDA_THREADS as usize;
/// Operations of a round: of a thread with eight chains of fma, of a warp with eight products of 16 x 16 by 16 x 8.
const FMA: usize = 8 * 2;
const MMA: usize = 8 * 2 * 16 * 16 * 8;

/// A loop that a kernel makes over `words`.
struct Loop<'a> {
    device: &'a Device,
    kernel: &'a Kernel,
    words: Buffer<u32>,
    out: Buffer<u32>,
    blocks: usize,
}

impl<'a> Loop<'a> {
    /// Runs one round, whose results `is_right` judges.
    fn new(device: &'a Device, kernel: &'a Kernel, words: &[u32], is_right: impl Fn(&[u32]) -> bool) -> Result<Self> {
        let (words, blocks) = (Buffer::from_slice(device, words)?, BLOCKS * device.multiprocessors()?);
        let mut new = Loop { device, kernel, words, out: Buffer::zeros(device, blocks * THREADS)?, blocks };
        new.run(1)?;
        if !is_right(&new.out.to_vec()?) {
            return Err(Error::Device { what: kernel.name, why: "its result is wrong".into() });
        }
        Ok(new)
    }

    /// Seconds of `rounds` rounds.
    fn run(&mut self, rounds: u32) -> Result<f64> {
        let (out, words, n_words) = (self.out.ptr_mut(), self.words.ptr(), self.words.len());
        let args = ffi::DogeCudaRoofArgs { out, words, n_words, n_blocks: self.blocks as u32, rounds };
        // SAFETY: `out` has a word for each thread of the grid; `words` are a multiple of 4, and not none.
        self.device.seconds(|| unsafe { self.device.launch(self.kernel, [self.blocks, 1, 1], &args) })
    }

    /// Seconds of a round, in a run that is long enough for the clock.
    fn seconds(&mut self) -> Result<f64> {
        let mut rounds = 1;
        loop {
            let seconds = self.run(rounds)?;
            if seconds >= SECONDS || rounds > u32::MAX / 2 {
                return Ok(seconds.max(1e-9) / f64::from(rounds));
            }
            rounds *= 2;
        }
    }
}

impl Device {
    /// Bytes a second that a copy on the device moves, read and written, of up to 256 MiB at a time.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Device`].
    pub fn copy_bandwidth(&self) -> Result<f64> {
        let (free, _) = self.memory()?;
        let bytes = BYTES.min(free / 4).max(1);
        let (from, mut to) = (Buffer::<u8>::zeros(self, bytes)?, Buffer::<u8>::zeros(self, bytes)?);
        to.copy(0, &from, 0, bytes)?;
        let seconds = self.seconds(|| (0..COPIES).try_for_each(|_| to.copy(0, &from, 0, bytes)))?;
        Ok((2 * bytes * COPIES) as f64 / seconds.max(1e-9))
    }

    /// Bytes a second that all multiprocessors together read of a buffer of `bytes`, over and over.
    ///
    /// # Errors
    /// As [`Device::copy_bandwidth`]; [`Error::Device`] also if they read something else.
    pub fn read_bandwidth(&self, bytes: usize) -> Result<f64> {
        let words: Vec<u32> = (0..bytes.div_ceil(16).max(1) as u32 * 4).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let all = |words: &[u32]| words.iter().fold(0, |all, word| all ^ word);
        let mut roof = Loop::new(self, &self.table().roof_read, &words, |out| all(out) == all(&words))?;
        Ok((4 * words.len()) as f64 / roof.seconds()?)
    }

    /// Operations a second of the kernels' best instruction; a product and its sum are two. Kernels of whole numbers widen them
    /// to f32, so that its peak is theirs.
    ///
    /// # Errors
    /// As [`Device::read_bandwidth`].
    pub fn peak(&self, kind: PeakKind) -> Result<f64> {
        // Ones everywhere: the sums of the first round are known.
        let one = 1.0f32.to_bits();
        let (kernel, word, sum, of_a_block) = match kind {
            PeakKind::Bf16 => (&self.table().roof_mma, one | one >> 16, 8.0 * 4.0 * 16.0, MMA * THREADS / 32),
            PeakKind::F32 | PeakKind::Int8 => (&self.table().roof_fma, one, 28.0 + 8.0, FMA * THREADS),
        };
        let mut roof = Loop::new(self, kernel, &[word; 4], |out| out.iter().all(|&bits| f32::from_bits(bits) == sum))?;
        Ok((of_a_block * roof.blocks) as f64 / roof.seconds()?)
    }

    /// What [`Device::peak`] measures.
    pub fn peak_instruction(kind: PeakKind) -> &'static str {
        match kind {
            PeakKind::Bf16 => "mma bf16",
            PeakKind::F32 | PeakKind::Int8 => "fma f32",
        }
    }
}
