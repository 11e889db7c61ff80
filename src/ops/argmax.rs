use super::{kernel, Cpu};
use crate::{Error, Result};

impl Cpu {
    /// Index of the largest element, the lowest one on ties. NaN is never the largest.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::Cpu;
    ///
    /// assert_eq!(Cpu::detect()?.argmax(&[1.0, 5.0, f32::NAN, 5.0])?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] if `x` is empty.
    pub fn argmax(&self, x: &[f32]) -> Result<usize> {
        if x.is_empty() {
            return Err(Error::BadArgument { what: "argmax: x", why: "is empty".into() });
        }
        // SAFETY: x holds x.len() >= 1 floats.
        Ok(unsafe { kernel!(self.argmax)(x.as_ptr(), x.len()) })
    }
}
