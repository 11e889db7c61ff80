use super::{expect_len, kernel, rows_of, Cpu, SharedMut};
use crate::Result;

impl Cpu {
    /// `out[r][m] = exp(a[m] · softplus(dt_weight[m] · v[r] + bias[m]))`: the mask value of each key and mask head
    /// (spec 4.4). `dt_weight` is `[a.len(), n]`, `v` is `[rows, n]`, `out` is `[rows, a.len()]`.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::Cpu;
    ///
    /// let mut out = [0.0; 2]; // one key, two mask heads; softplus(0) = ln 2
    /// Cpu::detect()?.mask_score(&mut out, &[1.0, 1.0], None, &[0.0, -1.0], &[0.0])?;
    /// assert!(out[0] == 1.0 && (out[1] - 0.5).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length.
    pub fn mask_score(&self, out: &mut [f32], dt_weight: &[f32], bias: Option<&[f32]>, a: &[f32], v: &[f32]) -> Result<()> {
        let heads = a.len();
        let n = rows_of("mask_score: dt_weight", dt_weight.len(), heads)?;
        // `rows_of` gives rows of `heads` elements; dt_weight is [heads, n], so that count is n.
        let rows = rows_of("mask_score: v", v.len(), n)?;
        expect_len("mask_score: out", out.len(), rows * heads)?;
        if let Some(bias) = bias {
            expect_len("mask_score: bias", bias.len(), heads)?;
        }
        let bias = bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
        let bias = SharedMut(bias.cast_mut());
        let (mask_score, out) = (kernel!(self.mask_score), SharedMut::new(out));
        self.over_rows(rows, heads * n, |begin, end| {
            for r in begin..end {
                // SAFETY: dt_weight is [heads, n], a and bias (or NULL) have heads floats, row r of v has n and of out
                // heads (checked); pieces are disjoint rows; bias is only read.
                unsafe {
                    let (out, v) = (out.ptr().add(r * heads), v.as_ptr().add(r * n));
                    mask_score(out, dt_weight.as_ptr(), bias.ptr(), a.as_ptr(), v, heads, n)
                }
            }
        });
        Ok(())
    }
}
