use super::{expect_layout, expect_len, kernel, product, Cpu, SharedMut};
use crate::{Error, Layout, Matrix, Result};

impl Cpu {
    /// `out[t] = table[ids[t]]`, widened to f32. `out` is `[ids.len(), table.cols()]`.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ops::Cpu, Dtype, Matrix};
    ///
    /// let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let table = Matrix::new(Dtype::F32, 2, 2, &bytes).unwrap();
    /// let mut out = [0.0; 4];
    /// Cpu::detect()?.embed(&mut out, table, &[1, 0])?;
    /// assert_eq!(out, [3.0, 4.0, 1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] for an id that is no row of the table, [`Error::BadArgument`] for a wrong length or an integer
    /// format that is not in [`Layout::Tiles`].
    pub fn embed(&self, out: &mut [f32], table: Matrix<'_>, ids: &[u32]) -> Result<()> {
        let n = table.cols();
        expect_len("embed: out", out.len(), product("embed: out", &[ids.len(), n])?)?;
        expect_layout("embed: table", &table, Layout::Tiles)?;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
            return Err(Error::TokenOutOfRange { id, vocab_size: table.rows() });
        }
        let (embed_row, out, bytes) = (kernel!(self.embed_row[table.dtype()]), SharedMut::new(out), table.bytes());
        self.over_rows(ids.len(), n, |begin, end| {
            for (t, &id) in ids.iter().enumerate().take(end).skip(begin) {
                // SAFETY: the id is a row of the table (checked), whose bytes a `Matrix` guarantees; row t of out has n floats.
                unsafe { embed_row(out.ptr().add(t * n), bytes.as_ptr().cast(), id as usize, n) }
            }
        });
        Ok(())
    }
}
