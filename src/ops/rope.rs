use super::{expect_len, kernel, product, rows_of, Cpu, SharedMut};
use crate::{Error, Result};

impl Cpu {
    /// Half rotation of each head, in place (spec 4.3). `x` is `[rows, n_heads · head_dim]`; `cos` and `sin` are
    /// `[rows, head_dim / 2]`, one row for each row of `x`.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::Cpu;
    ///
    /// let mut x = [1.0, 0.0]; // one head of two channels, turned by a quarter
    /// Cpu::detect()?.rope(&mut x, &[0.0], &[1.0], 1, 2)?;
    /// assert_eq!(x, [0.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a wrong length or an odd `head_dim`.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32], n_heads: usize, head_dim: usize) -> Result<()> {
        if head_dim % 2 != 0 {
            return Err(Error::BadArgument { what: "rope: head_dim", why: format!("{head_dim} is odd") });
        }
        let (row, half) = (product("rope: x", &[n_heads, head_dim])?, head_dim / 2);
        let rows = rows_of("rope: x", x.len(), row)?;
        expect_len("rope: cos", cos.len(), rows * half)?;
        expect_len("rope: sin", sin.len(), rows * half)?;
        let (rope, x) = (kernel!(self.rope), SharedMut::new(x));
        self.over_rows(rows, row, |begin, end| {
            for r in begin..end {
                // SAFETY: row r of x has n_heads * head_dim floats, of cos and sin head_dim / 2 (checked); pieces are disjoint rows.
                unsafe {
                    let (cos, sin) = (cos.as_ptr().add(r * half), sin.as_ptr().add(r * half));
                    rope(x.ptr().add(r * row), cos, sin, n_heads, head_dim)
                }
            }
        });
        Ok(())
    }
}
