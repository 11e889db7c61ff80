use super::{expect_layout, expect_len, kernel, rows_of, Cpu, SharedMut};
use crate::{Activation, Error, Layout, Matrix, Result};

/// Experts that a kernel takes at a time, and columns of a group of integer weights: pieces of work are multiples.
const EXPERTS: usize = 8;
const COLUMNS: usize = 32;

impl Cpu {
    /// The routed experts (spec 4.6): `y[t] += Σ_e weight[t][e] · act(down_embed[expert[t][e]] · x[t]) · up_embed[expert[t][e]]`.
    /// `x` and `y` are `[tokens, hidden]`; `expert`, `weight` and `hit` (scratch) `[tokens, n_top]`.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ops::Cpu, Activation, Dtype, Matrix};
    ///
    /// let bytes = |x: [f32; 4]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    /// let (down, up) = (bytes([1.0, 0.0, 0.0, 1.0]), bytes([1.0, 1.0, 2.0, 4.0])); // two experts, two channels
    /// let table = |bytes| Matrix::new(Dtype::F32, 2, 2, bytes).unwrap();
    /// let (x, mut y, mut hit) = ([3.0, 2.0], [1.0, 1.0], [0.0]);
    /// // Expert 1 finds 2 in x, and has a weight of one half.
    /// Cpu::detect()?.expert_mix(&mut y, &x, table(&down), table(&up), &[1], &[0.5], &mut hit, Activation::Relu)?;
    /// assert_eq!(y, [3.0, 5.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a wrong length, tables that are not in [`Layout::Rows`] or an expert id beyond them.
    #[allow(clippy::too_many_arguments, reason = "the formula has these many letters")]
    pub fn expert_mix(
        &self,
        y: &mut [f32],
        x: &[f32],
        down_embed: Matrix<'_>,
        up_embed: Matrix<'_>,
        expert: &[u32],
        weight: &[f32],
        hit: &mut [f32],
        act: Activation,
    ) -> Result<()> {
        let cols = down_embed.cols();
        let tokens = rows_of("expert_mix: x", x.len(), cols)?;
        let n_top = expert.len().checked_div(tokens).unwrap_or(0);
        expect_len("expert_mix: y", y.len(), x.len())?;
        expect_len("expert_mix: up_embed columns", up_embed.cols(), cols)?;
        expect_len("expert_mix: expert", expert.len(), tokens * n_top)?;
        expect_len("expert_mix: weight", weight.len(), expert.len())?;
        expect_len("expert_mix: hit", hit.len(), expert.len())?;
        expect_layout("expert_mix: down_embed", &down_embed, Layout::Rows)?;
        expect_layout("expert_mix: up_embed", &up_embed, Layout::Rows)?;
        let experts = down_embed.rows().min(up_embed.rows());
        if let Some(id) = expert.iter().find(|&&id| id as usize >= experts) {
            return Err(Error::BadArgument { what: "expert_mix: expert", why: format!("id {id} of {experts}") });
        }
        let (down, up) = (kernel!(self.expert_down[down_embed.dtype()]), kernel!(self.expert_up[up_embed.dtype()]));
        let (down_embed, up_embed) = (down_embed.bytes(), up_embed.bytes());
        let (y, hit) = (SharedMut::new(y), SharedMut::new(hit));
        // A prompt is shared out by tokens; a single token by experts, then by columns, a piece for each thread: what smaller ones
        // would even out is less than what it costs to read less at a time.
        let threads = if tokens == 1 { self.threads() } else { 1 };
        let step = |n: usize, unit: usize| n.div_ceil(unit).div_ceil(threads).max(1).saturating_mul(unit);
        let (experts_step, columns_step) = (step(n_top, EXPERTS), step(cols, COLUMNS));
        self.over_tokens(tokens, n_top.div_ceil(experts_step), move |t, piece, _| {
            let begin = piece * experts_step;
            let (ids, end) = (&expert[t * n_top..][..n_top], (begin + experts_step).min(n_top));
            // SAFETY: every id is a row of down_embed, x[t] has cols floats, hit[t] and weight[t] n_top (checked);
            // pieces are disjoint places of hit.
            unsafe {
                let (hit, weight, x) = (hit.ptr().add(t * n_top), weight.as_ptr().add(t * n_top), x.as_ptr().add(t * cols));
                down(hit, down_embed.as_ptr().cast(), ids.as_ptr(), weight, x, cols, begin, end, act as u32)
            }
        });
        self.over_tokens(tokens, cols.div_ceil(columns_step), move |t, piece, _| {
            let begin = piece * columns_step;
            let (ids, end) = (&expert[t * n_top..][..n_top], (begin + columns_step).min(cols));
            // SAFETY: every id is a row of up_embed, y[t] has cols floats, hit[t] n_top (checked); pieces are disjoint
            // places of y; hit is only read, and the run above has ended.
            unsafe {
                let (y, hit) = (y.ptr().add(t * cols), hit.ptr().add(t * n_top));
                up(y, up_embed.as_ptr().cast(), ids.as_ptr(), hit, n_top, cols, begin, end)
            }
        });
        Ok(())
    }
}
