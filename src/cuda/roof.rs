//! What a device can do at best: copies of its memory, reads of its L2 cache, its two ways to multiply.

use super::{buffer::Buffer, device::Device, device::Kernel};
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

/// One launch of a loop.
struct Loop<'a> {
    kernel: &'a Kernel,
    out: Buffer<u32>,
    words: &'a Buffer<u32>,
    blocks: usize,
}

impl Loop<'_> {
    fn run(&mut self, device: &Device, rounds: u32) -> Result<f64> {
        let args = ffi::DogeCudaRoofArgs {
            out: self.out.ptr_mut(),
            words: self.words.ptr(),
            n_words: self.words.len() / 4 * 4,
            n_blocks: self.blocks as u32,
            rounds,
        };
        // SAFETY: `out` has a word for each thread of the grid, `words` what `n_words` says, two at least.
        device.seconds(|| unsafe { device.launch(self.kernel, [self.blocks, 1, 1], &args) })
    }

    /// Seconds of a round.
    fn seconds(&mut self, device: &Device) -> Result<f64> {
        let mut rounds = 1;
        loop {
            let seconds = self.run(device, rounds)?;
            if seconds >= SECONDS || rounds > u32::MAX / 2 {
                return Ok(seconds / f64::from(rounds));
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

    /// Bytes a second that all multiprocessors together read of `words`, over and over.
    ///
    /// # Errors
    /// As [`Device::copy_bandwidth`]; [`Error::BadArgument`] for fewer than 4 words.
    pub fn read_bandwidth(&self, words: &Buffer<u32>) -> Result<f64> {
        let bytes = words.len() / 4 * 16;
        Ok(bytes as f64 / self.roof(&self.table().roof_read, words)?.seconds(self)?.max(1e-12))
    }

    /// Operations a second of the kernels' best instruction; a product and its sum are two. The kernels widen whole numbers to
    /// f32, so that is their peak too.
    ///
    /// # Errors
    /// As [`Device::copy_bandwidth`].
    pub fn peak(&self, kind: PeakKind) -> Result<f64> {
        let words = Buffer::from_slice(self, &[0, 0, 0, 0])?;
        let (kernel, of_a_block) = match kind {
            PeakKind::Bf16 => (&self.table().roof_mma, MMA * THREADS / 32),
            PeakKind::F32 | PeakKind::Int8 => (&self.table().roof_fma, FMA * THREADS),
        };
        let mut roof = self.roof(kernel, &words)?;
        Ok((of_a_block * roof.blocks) as f64 / roof.seconds(self)?.max(1e-12))
    }

    /// What [`Device::peak`] measures.
    pub fn peak_instruction(kind: PeakKind) -> &'static str {
        match kind {
            PeakKind::Bf16 => "mma.m16n8k16.bf16",
            PeakKind::F32 | PeakKind::Int8 => "fma.f32",
        }
    }

    fn roof<'a>(&self, kernel: &'a Kernel, words: &'a Buffer<u32>) -> Result<Loop<'a>> {
        if words.len() < 4 {
            return Err(Error::BadArgument { what: "roof: words", why: format!("are {}; 4 are the fewest", words.len()) });
        }
        let blocks = BLOCKS * self.multiprocessors()?;
        Ok(Loop { kernel, out: Buffer::zeros(self, blocks * THREADS)?, words, blocks })
    }
}
