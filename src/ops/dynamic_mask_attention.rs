use std::sync::{Mutex, PoisonError};

use super::{expect_len, kernel, product, share, Activations, Cpu, SharedMut};
use crate::{ffi, Dtype, Error, Matrix, Result};

/// The keys of one mask head and where their K and V rows are.
#[derive(Clone, Copy, Debug)]
pub struct AttentionHead<'a> {
    /// `[rows, head_dim]`, in one of [`Dtype::FLOATS`](crate::Dtype::FLOATS).
    pub k: Matrix<'a>,
    /// As `k`, in the same format.
    pub v: Matrix<'a>,
    /// `[n]`: the row of each key in `k` and `v`.
    pub row: &'a [u32],
    /// `[n]`: the mask value of each key.
    pub mask: &'a [f32],
    /// `[n]` each: the query at place p sees key t if `seen.0[t] <= p < seen.1[t]`. `None`: every query sees every key.
    pub seen: Option<(&'a [u32], &'a [u32])>,
    /// `[tiles + 1]`: keys `tile_begin[i]..tile_begin[i + 1]` are summed together; it ends with n.
    pub tile_begin: &'a [u32],
}

impl AttentionHead<'_> {
    /// Are the keys the same ones, in the same order, whatever their mask values?
    fn has_keys_of(&self, other: &Self) -> bool {
        let same = |a: Matrix<'_>, b: Matrix<'_>| std::ptr::eq(a.bytes(), b.bytes()) && a.dtype() == b.dtype();
        same(self.k, other.k)
            && same(self.v, other.v)
            && self.mask.len() == other.mask.len()
            && self.seen.is_none()
            && other.seen.is_none()
            && self.row == other.row
            && self.tile_begin == other.tile_begin
    }
}

/// Sizes of an attention call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Queries of the block; the first stands at place `place0` of the sequence.
    pub n_queries: usize,
    /// Place of the first query.
    pub place0: u32,
    /// M: how many [`AttentionHead`]s there are.
    pub mask_heads: usize,
    /// Attention heads that share one mask head; attention head h belongs to mask head `h / heads_per_mask`.
    pub heads_per_mask: usize,
    /// Numbers of a row of q, K and V.
    pub head_dim: usize,
    /// Factor of q·k: head_dim^-0.5.
    pub scale: f32,
}

/// (query, head) pairs that one pass over the keys serves.
const ROWS: usize = ffi::DOGE_ATTENTION_ROWS as usize;

impl Cpu {
    /// Floats of scratch that [`Cpu::dynamic_mask_attention`] needs for tiles of at most `tile` keys.
    pub fn attention_scratch(&self, tile: usize, head_dim: usize) -> usize {
        self.threads().saturating_mul(attention_scratch(tile, head_dim))
    }

    /// Dynamic mask attention of a block of queries (spec 4.4): for each query and attention head,
    /// `out = Σ softmax(q·k · scale + mask) · v` over the keys it sees. `q` and `out` are
    /// `[n_queries, mask_heads · heads_per_mask · head_dim]`; `head(m)` gives the keys of mask head m; `scratch` holds
    /// [`Cpu::attention_scratch`] floats of the longest tile. A query that sees no key gets zeros.
    ///
    /// With [`Activations::Bf16`] and K and V in bf16, q and the softmax's terms are rounded to bf16 too.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ops::{AttentionHead, AttentionShape, Cpu}, Dtype, Matrix};
    ///
    /// let cpu = Cpu::detect()?;
    /// let bytes = |x: [f32; 4]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    /// let (k, v) = (bytes([1.0, 0.0, 1.0, 0.0]), bytes([2.0, 4.0, 6.0, 8.0])); // two keys of two channels, alike
    /// let rows = |bytes| Matrix::new(Dtype::F32, 2, 2, bytes).unwrap();
    /// let head = |_| AttentionHead { k: rows(&k), v: rows(&v), row: &[0, 1], mask: &[0.5, 0.5], seen: None, tile_begin: &[0, 2] };
    /// let shape = AttentionShape { n_queries: 1, place0: 0, mask_heads: 1, heads_per_mask: 1, head_dim: 2, scale: 0.7 };
    /// let (mut out, mut scratch) = ([0.0; 2], vec![0.0; cpu.attention_scratch(2, 2)]);
    /// cpu.dynamic_mask_attention(&mut out, &[1.0, 1.0], head, shape, &mut scratch)?;
    /// assert!((out[0] - 4.0).abs() < 1e-5 && (out[1] - 6.0).abs() < 1e-5); // the mean of both
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a wrong length, a row outside `k` or `v`, or tiles that do not ascend.
    pub fn dynamic_mask_attention<'a>(
        &self,
        out: &mut [f32],
        q: &[f32],
        head: impl Fn(usize) -> AttentionHead<'a> + Sync,
        shape: AttentionShape,
        scratch: &mut [f32],
    ) -> Result<()> {
        let AttentionShape { n_queries, mask_heads, heads_per_mask, head_dim, .. } = shape;
        let row = product("attention: q", &[mask_heads, heads_per_mask, head_dim])?;
        let all = product("attention: q", &[n_queries, row])?;
        expect_len("attention: q", q.len(), all)?;
        expect_len("attention: out", out.len(), all)?;
        if all == 0 {
            return Ok(()); // no query, no head, or heads of nothing
        }
        let scratch_of_one = scratch.len() / self.threads();
        // A block of queries is shared out in groups that fill one pass; a single query by the mask heads that share k and v,
        // together, or by attention heads if those are too few for the threads.
        let queries_step = (ROWS / heads_per_mask.max(1)).max(1).min(n_queries.max(1));
        let single = n_queries == 1;
        let shares_first = |m: &usize| single && head(*m).k.bytes().as_ptr() == head(0).k.bytes().as_ptr();
        let shared = (1..mask_heads).take_while(shares_first).count() + 1;
        let masks_step = if mask_heads / shared >= self.threads() { shared } else { 1 };
        let heads_step = if single && mask_heads < self.threads() { 1 } else { heads_per_mask.clamp(1, ROWS) };
        let (query_groups, head_groups) = (n_queries.div_ceil(queries_step), heads_per_mask.div_ceil(heads_step));
        // The queries of a home, and of them all that read the same k and v one after another: they find them in the caches.
        let homes = self.homes(n_queries);
        let (mask_groups, groups) = (mask_heads.div_ceil(masks_step), head_groups * query_groups.div_ceil(homes));
        let (out, scratch) = (SharedMut::new(out), SharedMut::new(scratch));
        let refusal = Mutex::new(None);
        let refused = &refusal;
        self.pool.run_at_home(homes, mask_groups * groups, move |home, piece, thread| {
            let (group, first) = (piece % groups, piece / groups * masks_step);
            let mine = share(0..query_groups, home, homes);
            let (query_group, first_head) = (mine.start + group / head_groups, group % head_groups * heads_step);
            if query_group >= mine.end {
                return; // not all homes have equally many
            }
            let first_query = query_group * queries_step;
            let end = (first + masks_step).min(mask_heads);
            let mut m = first;
            while m < end {
                let keys = head(m);
                if let Err(error) = check(&keys, head_dim, scratch_of_one) {
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
                // Heads of one mask head, or mask heads of one attention head each that have kept the same keys: until the
                // first key is dropped, all that share k and v have.
                let mut masks = [keys.mask.as_ptr(); ROWS];
                let mut n_heads = heads_step.min(heads_per_mask - first_head);
                let mut next = m + 1;
                while single && heads_per_mask == 1 && next < end && n_heads < ROWS {
                    let other = head(next);
                    if !keys.has_keys_of(&other) {
                        break;
                    }
                    masks[n_heads] = other.mask.as_ptr();
                    (n_heads, next) = (n_heads + 1, next + 1);
                }
                let at = first_query * row + (m * heads_per_mask + first_head) * head_dim;
                let (seen_from, seen_until) =
                    keys.seen.map_or((std::ptr::null(), std::ptr::null()), |(a, b)| (a.as_ptr(), b.as_ptr()));
                let attention = match keys.k.dtype() {
                    Dtype::Bf16 if self.activations() == Activations::Bf16 => kernel!(self.dynamic_mask_attention_bf16),
                    dtype => kernel!(self.dynamic_mask_attention[dtype]),
                };
                // SAFETY: the key list is consistent, its rows lie in k and v, of this format, and its longest tile fits the scratch (`check`),
                // and each of the n_heads masks is as long (`has_keys_of`); the queries and heads of this piece lie in q
                // and out (checked), and no other piece has them; each thread has scratch_of_one floats of its own.
                unsafe {
                    attention(&ffi::DogeAttentionArgs {
                        out: out.ptr().add(at), // [n_queries][row], heads first_head.. of mask head m
                        q: q.as_ptr().add(at),
                        k: keys.k.bytes().as_ptr().cast(),
                        v: keys.v.bytes().as_ptr().cast(),
                        row: keys.row.as_ptr(),
                        mask: masks.as_ptr(),
                        seen_from,
                        seen_until,
                        tile_begin: keys.tile_begin.as_ptr(),
                        scratch: scratch.ptr().add(thread * scratch_of_one),
                        n_tiles: keys.tile_begin.len() - 1,
                        n_queries: queries_step.min(n_queries - first_query),
                        n_heads,
                        head_dim,
                        q_stride: row,
                        out_stride: row,
                        kv_stride: head_dim,
                        place0: shape.place0.saturating_add(first_query as u32),
                        scale: shape.scale,
                    })
                }
                m = next;
            }
        });
        refusal.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// DOGE_ATTENTION_SCRATCH of the contract: a macro with arguments is the one thing bindgen leaves out.
const fn attention_scratch(tile: usize, head_dim: usize) -> usize {
    let of_rows = ROWS.saturating_mul(tile.saturating_add(head_dim.saturating_mul(3)).saturating_add(112));
    of_rows.saturating_add(tile.saturating_mul(2))
}

/// Everything the kernel takes for granted of a key list.
fn check(head: &AttentionHead<'_>, head_dim: usize, scratch: usize) -> Result<()> {
    let n = head.row.len();
    expect_len("attention: mask", head.mask.len(), n)?;
    if let Some((from, until)) = head.seen {
        expect_len("attention: seen_from", from.len(), n)?;
        expect_len("attention: seen_until", until.len(), n)?;
    }
    let bad = |what, why| Err(Error::BadArgument { what, why });
    let (k, v) = (head.k, head.v);
    if k.dtype().is_int() || k.dtype() != v.dtype() {
        return bad("attention: k", format!("is {} and v {}; both are to be of one float format", k.dtype(), v.dtype()));
    }
    if k.cols() != head_dim || v.cols() != head_dim {
        return bad("attention: k", format!("rows of {} and v's of {}, heads of {head_dim}", k.cols(), v.cols()));
    }
    let rows = k.rows().min(v.rows());
    let largest = head.row.iter().fold(0, |largest, &row| largest.max(row));
    if n > 0 && largest as usize >= rows {
        return bad("attention: row", format!("key row {largest} of {rows}"));
    }
    let ascending = head.tile_begin.first() == Some(&0) && head.tile_begin.windows(2).all(|w| w[0] <= w[1]);
    if !ascending || head.tile_begin.last() != Some(&(n as u32)) {
        return bad("attention: tile_begin", format!("does not ascend from 0 to {n}"));
    }
    let tile = head.tile_begin.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
    if scratch < attention_scratch(tile, head_dim) {
        return bad("attention: scratch", format!("too short for tiles of {tile} keys"));
    }
    Ok(())
}
