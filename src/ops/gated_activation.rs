use super::{expect_len, kernel, Cpu, SharedMut};
use crate::{Activation, Result};

impl Cpu {
    /// `gate = act(gate) · up`, element by element, in place (spec 4.5).
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ops::Cpu, Activation};
    ///
    /// let mut gate = [-1.0, 2.0];
    /// Cpu::detect()?.gated_activation(&mut gate, &[3.0, 3.0], Activation::Relu)?;
    /// assert_eq!(gate, [0.0, 6.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length.
    pub fn gated_activation(&self, gate: &mut [f32], up: &[f32], act: Activation) -> Result<()> {
        expect_len("gated_activation: up", up.len(), gate.len())?;
        let (gated_activation, n, gate) = (kernel!(self.gated_activation), gate.len(), SharedMut::new(gate));
        self.over_rows(n, 1, |begin, end| {
            // SAFETY: begin..end lies inside both (checked); pieces are disjoint; out = gate is allowed.
            unsafe {
                let out = gate.ptr().add(begin);
                gated_activation(out, out, up.as_ptr().add(begin), end - begin, act as u32)
            }
        });
        Ok(())
    }
}
