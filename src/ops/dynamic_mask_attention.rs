use std::sync::{Mutex, PoisonError};

use super::{expect_len, kernel, product, rows_of, Cpu, SharedMut};
use crate::{ffi, Error, Result};

/// The keys of one mask head and where their K and V rows are.
#[derive(Clone, Copy, Debug)]
pub struct AttentionHead<'a> {
    /// Rows of `head_dim` floats.
    pub k: &'a [f32],
    /// As `k`.
    pub v: &'a [f32],
    /// `[n]`: the row of each key in `k` and `v`.
    pub row: &'a [u32],
    /// `[n]`: the mask value of each key.
    pub mask: &'a [f32],
    /// `[n]` each: the query at place p sees key t if `seen.0[t] <= p < seen.1[t]`. `None`: every query sees every key.
    pub seen: Option<(&'a [u32], &'a [u32])>,
    /// `[tiles + 1]`: keys `tile_begin[i]..tile_begin[i + 1]` are summed together; it ends with n.
    pub tile_begin: &'a [u32],
}

/// Sizes of an attention call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Queries of the block; the first stands at place `place0` of the sequence.
    pub n_queries: usize,
    pub place0: u32,
    /// M: how many [`AttentionHead`]s there are.
    pub mask_heads: usize,
    /// Attention heads that share one mask head; attention head h belongs to mask head `h / heads_per_mask`.
    pub heads_per_mask: usize,
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
        // A block of queries is shared out in groups that fill one pass; a single query by attention heads.
        let queries_step = (ROWS / heads_per_mask.max(1)).max(1).min(n_queries.max(1));
        let heads_step = if n_queries == 1 { 1 } else { heads_per_mask };
        let (query_groups, head_groups) = (n_queries.div_ceil(queries_step), heads_per_mask.div_ceil(heads_step.max(1)));
        let attention = kernel!(self.dynamic_mask_attention);
        let (out, scratch) = (SharedMut::new(out), SharedMut::new(scratch));
        let refused = Mutex::new(None);
        self.pool.run(mask_heads * head_groups * query_groups, |chunk, thread| {
            let (group, m) = (chunk / mask_heads, chunk % mask_heads);
            let (first_query, first_head) = (group / head_groups * queries_step, group % head_groups * heads_step);
            let keys = head(m);
            if let Err(error) = check(&keys, head_dim, scratch_of_one) {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
            let at = first_query * row + (m * heads_per_mask + first_head) * head_dim;
            let (seen_from, seen_until) =
                keys.seen.map_or((std::ptr::null(), std::ptr::null()), |(a, b)| (a.as_ptr(), b.as_ptr()));
            // SAFETY: the key list is consistent, its rows lie in k and v and its longest tile fits the scratch (`check`);
            // the queries and heads of this chunk lie in q and out (checked), and no other chunk has them; each thread
            // has scratch_of_one floats of its own.
            unsafe {
                attention(&ffi::DogeAttentionArgs {
                    out: out.ptr().add(at), // [n_queries][row], heads first_head.. of mask head m
                    q: q.as_ptr().add(at),
                    k: keys.k.as_ptr(),
                    v: keys.v.as_ptr(),
                    row: keys.row.as_ptr(),
                    mask: keys.mask.as_ptr(),
                    seen_from,
                    seen_until,
                    tile_begin: keys.tile_begin.as_ptr(),
                    scratch: scratch.ptr().add(thread * scratch_of_one),
                    n_tiles: keys.tile_begin.len() - 1,
                    n_queries: queries_step.min(n_queries - first_query),
                    n_heads: heads_step.min(heads_per_mask - first_head),
                    head_dim,
                    q_stride: row,
                    out_stride: row,
                    kv_stride: head_dim,
                    place0: shape.place0.saturating_add(first_query as u32),
                    scale: shape.scale,
                })
            }
        });
        refused.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// DOGE_ATTENTION_SCRATCH of the contract: a macro with arguments is the one thing bindgen leaves out.
const fn attention_scratch(tile: usize, head_dim: usize) -> usize {
    ROWS.saturating_mul(tile.saturating_add(head_dim.saturating_mul(2)).saturating_add(4))
}

/// Everything the kernel takes for granted of a key list.
fn check(head: &AttentionHead<'_>, head_dim: usize, scratch: usize) -> Result<()> {
    let n = head.row.len();
    expect_len("attention: mask", head.mask.len(), n)?;
    if let Some((from, until)) = head.seen {
        expect_len("attention: seen_from", from.len(), n)?;
        expect_len("attention: seen_until", until.len(), n)?;
    }
    let rows = rows_of("attention: k", head.k.len(), head_dim)?.min(rows_of("attention: v", head.v.len(), head_dim)?);
    let largest = head.row.iter().fold(0, |largest, &row| largest.max(row));
    if n > 0 && largest as usize >= rows {
        return Err(Error::BadArgument { what: "attention: row", why: format!("key row {largest} of {rows}") });
    }
    let ascending = head.tile_begin.first() == Some(&0) && head.tile_begin.windows(2).all(|w| w[0] <= w[1]);
    if !ascending || head.tile_begin.last() != Some(&(n as u32)) {
        return Err(Error::BadArgument { what: "attention: tile_begin", why: format!("does not ascend from 0 to {n}") });
    }
    let tile = head.tile_begin.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
    if scratch < attention_scratch(tile, head_dim) {
        return Err(Error::BadArgument { what: "attention: scratch", why: format!("too short for tiles of {tile} keys") });
    }
    Ok(())
}
