//! The keys of a layer with `sliding_window` on a device: a ring of all of the window, of which each query selects its own.

use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    kept::{Kept, KeptShape},
    key_lists::KeyLists,
    ops::Place,
};
use crate::{ffi, Result};

const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;
const TILE: usize = ffi::DOGE_CUDA_TILE as usize;

/// Rows of the ring of a sequence of at most `ctx_size` tokens. A result does not depend on it: tiles are of places.
pub(super) fn ring_rows(window: usize, ctx_size: usize) -> usize {
    (window.min(ctx_size) + BLOCK).next_multiple_of(TILE)
}

impl KeyLists {
    /// The bits for attention, where there are any.
    pub(super) fn seen_bits(&self) -> *const u32 {
        self.sizes.kept.sliding_window.map_or(std::ptr::null(), |_| self.seen.ptr())
    }

    /// The places that each query of the block sees, by mask head.
    pub(super) fn seen_in_window(&self, window: usize, place0: u32, n_rows: usize) -> Result<Vec<Vec<Vec<u32>>>> {
        let KeptShape { mask_heads, .. } = self.sizes.kept;
        let (tiles, words) = (self.sizes.kept.tiles(), self.seen.to_vec()?);
        let of_query = |m: usize, r: usize| {
            let (words, last) = (&words[(r * mask_heads + m) * tiles..][..tiles], place0 as usize + r);
            let sees = |&place: &usize| words[place / TILE % tiles] >> (place % TILE) & 1 == 1;
            (((last + 1).saturating_sub(window))..=last).filter(sees).map(|place| place as u32).collect()
        };
        Ok((0..mask_heads).map(|m| (0..n_rows).map(|r| of_query(m, r)).collect()).collect())
    }
}

impl Device {
    /// Writes a block's keys into the ring. Shapes of `mask` and the block were compared.
    pub(super) fn window_add(
        &self,
        kept: &mut Kept,
        (k, v): (&Rows, &Rows),
        mask: &Buffer<f32>,
        at: &Place,
        n_rows: usize,
    ) -> Result<()> {
        let KeptShape { kv_heads, head_dim, .. } = kept.shape();
        k.expect("window_add: k", n_rows, kv_heads * head_dim)?;
        v.expect("window_add: v", n_rows, kv_heads * head_dim)?;
        let args = ffi::DogeCudaWindowAddArgs {
            kept: kept.args(),
            k: k.buffer.ptr(),
            v: v.buffer.ptr(),
            mask: mask.ptr(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
            head_dim: head_dim as u32,
            kv_stride: k.stride() as u32,
        };
        // SAFETY: k, v and mask hold every row of the block; a row of the ring is found modulo its length.
        unsafe { self.launch(&self.table().window_add, [n_rows, kv_heads, 1], &args) }
    }

    /// Selects what each query of the block sees.
    pub(super) fn window_choose(
        &self,
        kept: &mut Kept,
        lists: &mut KeyLists,
        at: &Place,
        window: usize,
        n_rows: usize,
    ) -> Result<()> {
        let KeptShape { mask_heads, keep_window_size, .. } = kept.shape();
        expect_len("window_choose: seen", &lists.seen, n_rows * mask_heads * kept.shape().tiles())?;
        let args = ffi::DogeCudaWindowChooseArgs {
            kept: kept.args(),
            seen: lists.seen.ptr_mut(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
            window: window as u32,
            n_keep: keep_window_size as u32,
        };
        // SAFETY: `seen` has a word for every tile of every query, as compared; state and lists have one shape.
        unsafe { self.launch(&self.table().window_choose, [n_rows, mask_heads, 1], &args) }
    }
}
