use super::{expect_len, kernel, rows_of, Cpu, SharedMut};
use crate::Result;

impl Cpu {
    /// `out = weight · x / sqrt(mean(x²) + eps)` for each row of `weight.len()` elements (spec 4.1).
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::Cpu;
    ///
    /// let mut out = [0.0; 4]; // two rows of two
    /// Cpu::detect()?.rms_norm(&mut out, &[3.0, -3.0, 0.5, 0.5], &[1.0, 2.0], 0.0)?;
    /// assert_eq!(out, [1.0, -2.0, 1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length.
    pub fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) -> Result<()> {
        let n = weight.len();
        let rows = rows_of("rms_norm: x", x.len(), n)?;
        expect_len("rms_norm: out", out.len(), x.len())?;
        let (rms_norm, out) = (kernel!(self.rms_norm), SharedMut::new(out));
        self.over_rows(rows, n, |begin, end| {
            let at = begin * n;
            // SAFETY: rows begin..end of out and of x have n floats each (checked), weight has n; pieces are disjoint rows.
            unsafe { rms_norm(out.ptr().add(at), x.as_ptr().add(at), weight.as_ptr(), end - begin, n, eps) }
        });
        Ok(())
    }

    /// The gated residual and the norm after it (spec 3): `x = gate · x + branch`, then `out = rms_norm(x)`, for each row.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::Cpu;
    ///
    /// let (mut x, branch, mut out) = ([1.0, -1.0], [2.0, -2.0], [0.0; 2]);
    /// Cpu::detect()?.residual_rms_norm(&mut out, &mut x, &[1.0, 1.0], &branch, &[1.0, 0.5], 0.0)?;
    /// assert_eq!((x, out), ([3.0, -3.0], [1.0, -0.5]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length.
    pub fn residual_rms_norm(
        &self,
        out: &mut [f32],
        x: &mut [f32],
        gate: &[f32],
        branch: &[f32],
        weight: &[f32],
        eps: f32,
    ) -> Result<()> {
        let n = weight.len();
        let rows = rows_of("residual_rms_norm: x", x.len(), n)?;
        expect_len("residual_rms_norm: out", out.len(), x.len())?;
        expect_len("residual_rms_norm: branch", branch.len(), x.len())?;
        expect_len("residual_rms_norm: gate", gate.len(), n)?;
        let (residual_rms_norm, out, x) = (kernel!(self.residual_rms_norm), SharedMut::new(out), SharedMut::new(x));
        self.over_rows(rows, n, |begin, end| {
            let at = begin * n;
            // SAFETY: each row of out, x and branch has n floats, gate and weight have n (checked); pieces are disjoint rows.
            unsafe {
                let (out, x, branch) = (out.ptr().add(at), x.ptr().add(at), branch.as_ptr().add(at));
                residual_rms_norm(out, x, gate.as_ptr(), branch, weight.as_ptr(), end - begin, n, eps)
            }
        });
        Ok(())
    }

    /// RMSNorm of each head's `weight.len()` channels, in place (spec 4.2). `x` is any number of heads.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::Cpu;
    ///
    /// let mut heads = [3.0, -3.0, 0.5, 0.5]; // two heads of two channels
    /// Cpu::detect()?.qk_norm(&mut heads, &[1.0, 2.0], 0.0)?;
    /// assert_eq!(heads, [1.0, -2.0, 1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length.
    pub fn qk_norm(&self, x: &mut [f32], weight: &[f32], eps: f32) -> Result<()> {
        let head_dim = weight.len();
        let heads = rows_of("qk_norm: x", x.len(), head_dim)?;
        let (qk_norm, x) = (kernel!(self.qk_norm), SharedMut::new(x));
        self.over_rows(heads, head_dim, |begin, end| {
            // SAFETY: heads begin..end of x have head_dim floats each (checked); pieces are disjoint heads.
            unsafe { qk_norm(x.ptr().add(begin * head_dim), weight.as_ptr(), end - begin, head_dim, eps) }
        });
        Ok(())
    }
}
