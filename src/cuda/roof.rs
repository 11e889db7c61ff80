//! What the device's memory can do at best.

use std::time::Instant;

use super::{buffer::Buffer, device::Device};
use crate::Result;

/// Copies between two looks at the clock: enough that a launch is nothing beside them.
const COPIES: usize = 16;
/// Bytes of one side of the copy: more than any cache of a GPU holds.
const BYTES: usize = 256 << 20;

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
        self.synchronize()?;
        let start = Instant::now();
        for _ in 0..COPIES {
            to.copy(0, &from, 0, bytes)?;
        }
        self.synchronize()?;
        Ok((2 * bytes * COPIES) as f64 / start.elapsed().as_secs_f64().max(1e-9))
    }
}
