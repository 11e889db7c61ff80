//! What linear layers read.

use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    made::Made,
};
use crate::{ffi, Result};

/// Rows that linear layers read: exact and, for layers that run on tensor cores, rounded to bf16 beside that. Who writes the
/// one says whether it writes the other.
#[derive(Debug)]
pub struct Input {
    /// `[n, cols]`
    pub exact: Rows,
    /// With the padding of `exact`; or nothing, where no layer wants it.
    pub rounded: Buffer<u16>,
}

impl Input {
    /// `exact`, and room for it rounded if it `rounds`.
    ///
    /// # Errors
    /// As [`Buffer::zeros`].
    pub fn new(exact: Rows, rounds: bool) -> Result<Self> {
        let len = if rounds { exact.buffer.len() } else { 0 };
        let rounded = Buffer::zeros(exact.buffer.device(), len)?;
        Ok(Input { exact, rounded })
    }

    /// Copies the `n` rows of `from` that begin at row `first`; both are of one shape, and round or do not.
    pub(super) fn copy(&mut self, from: &Input, first: usize, n: usize) -> Result<()> {
        let stride = from.exact.stride();
        self.exact.buffer.copy(0, &from.exact.buffer, first * stride, n * stride)?;
        if self.rounded.is_empty() {
            return Ok(());
        }
        self.rounded.copy(0, &from.rounded, first * stride, n * stride)
    }
}

impl Made for Input {
    /// Rows and columns, and whether they are rounded.
    type Size = ([usize; 2], bool);
    fn make(device: &Device, (size, rounds): Self::Size) -> Result<Self> {
        Input::new(Rows::make(device, size)?, rounds)
    }
    fn bytes_of((size, rounds): Self::Size) -> u128 {
        let exact = Rows::bytes_of(size);
        exact + if rounds { exact / 2 } else { 0 }
    }
}

impl Device {
    /// Rounds the first `n_rows` rows to bf16.
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for shapes that do not fit, [`crate::Error::Device`].
    pub fn round(&self, x: &mut Input, n_rows: usize) -> Result<()> {
        let n = n_rows * x.exact.stride();
        expect_len("round: x", &x.exact.buffer, n)?;
        expect_len("round: rounded", &x.rounded, n)?;
        let args = ffi::DogeCudaRoundArgs { out: x.rounded.ptr_mut(), x: x.exact.buffer.ptr(), n };
        let threads = ffi::DOGE_CUDA_THREADS as usize;
        // SAFETY: both hold n numbers.
        unsafe { self.launch(&self.table().round_bf16, [n.div_ceil(8 * threads), 1, 1], &args) }
    }
}
