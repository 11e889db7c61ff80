//! The kept keys of one layer on a device (spec 8): what `model/kept_set.rs` and `model/kv_state.rs` are on the CPU.
//!
//! Slots are overwritten in place and a key stays in its slot; K and V rows live in an arena per K/V head that the mask
//! heads of that K/V head share. A block's own keys are read where the projections left them, until attention is done.
//!
//! With `sliding_window` keys expire and dropped ones return: then it is a ring of all keys of the window (`window.rs`).

use super::{
    buffer::{expect_len, padded, Buffer, Rows},
    device::Device,
    key_lists::KeyLists,
    ops::Place,
};
use crate::{ffi, Error, Result};

const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;
const TILE: usize = ffi::DOGE_CUDA_TILE as usize;
/// Words of [`ffi::DogeCudaWeakest`].
const WEAKEST_WORDS: usize = size_of::<ffi::DogeCudaWeakest>() / 4;

/// The sizes that shape a layer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptShape {
    /// M; a multiple of `kv_heads`.
    pub mask_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// keep_window_size, or fewer where the sequence will not have so many tokens. With a sliding window: rows of the ring.
    pub slots: usize,
    pub keep_window_size: usize,
    pub sliding_window: Option<usize>,
}

impl KeptShape {
    /// Rows of a K/V head's arena: no two mask heads need name the same key.
    pub(super) fn arena_rows(&self) -> usize {
        match self.sliding_window {
            Some(_) => self.slots,
            None => self.slots.saturating_mul(self.mask_heads / self.kv_heads.max(1)),
        }
    }

    /// Slots that are named by row and place; the rows of a ring are found by place.
    pub(super) fn named(&self) -> usize {
        if self.sliding_window.is_some() {
            0
        } else {
            self.slots
        }
    }

    /// Tiles of a head's slots.
    pub(super) fn tiles(&self) -> usize {
        self.slots.div_ceil(TILE)
    }

    /// Bytes of a layer's state.
    pub(super) fn bytes(&self) -> u128 {
        let (slots, rows) = (self.slots as u128 * self.mask_heads as u128, self.arena_rows() as u128 * self.kv_heads as u128);
        12 * slots + WEAKEST_WORDS as u128 * 4 * self.mask_heads as u128 + 8 * rows * padded(self.head_dim) as u128
    }
}

/// The kept keys of one layer.
#[derive(Debug)]
pub struct Kept {
    shape: KeptShape,
    row: Buffer<u32>,
    place: Buffer<u32>,
    mask: Buffer<f32>,
    pub(super) count: Buffer<u32>,
    /// [`ffi::DogeCudaWeakest`] of each mask head.
    weakest: Buffer<u32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
}

impl Kept {
    /// Empty sets.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn new(device: &Device, shape: KeptShape) -> Result<Self> {
        if u32::try_from(shape.arena_rows()).map_or(true, |rows| rows >= ffi::DOGE_CUDA_NEW) {
            return Err(Error::OutOfMemory { bytes: shape.bytes(), what: "the kept keys of a layer on the GPU" });
        }
        let (named, floats) = (shape.mask_heads * shape.named(), shape.kv_heads * shape.arena_rows() * padded(shape.head_dim));
        Ok(Kept {
            shape,
            row: Buffer::zeros(device, named)?,
            place: Buffer::zeros(device, named)?,
            mask: Buffer::zeros(device, shape.mask_heads * shape.slots)?,
            count: Buffer::zeros(device, shape.mask_heads)?,
            weakest: Buffer::zeros(device, shape.mask_heads * WEAKEST_WORDS)?,
            k: Buffer::zeros(device, floats)?,
            v: Buffer::zeros(device, floats)?,
        })
    }

    pub fn shape(&self) -> KeptShape {
        self.shape
    }

    /// The same keys with room for `slots` of them. More slots only while nothing was dropped, row = slot then; of a ring only
    /// while it has none.
    pub(super) fn with_slots(&self, device: &Device, slots: usize) -> Result<Self> {
        let mut new = Kept::new(device, KeptShape { slots, ..self.shape })?;
        let (both, named, new_named) = (slots.min(self.shape.slots), self.shape.named(), new.shape.named());
        new.count.copy(0, &self.count, 0, self.shape.mask_heads)?;
        new.weakest.copy(0, &self.weakest, 0, self.shape.mask_heads * WEAKEST_WORDS)?;
        for m in 0..self.shape.mask_heads {
            let (to, from) = (m * slots, m * self.shape.slots);
            new.row.copy(m * new_named, &self.row, m * named, new_named.min(named))?;
            new.place.copy(m * new_named, &self.place, m * named, new_named.min(named))?;
            new.mask.copy(to, &self.mask, from, both)?;
        }
        let (new_rows, rows, row) = (new.shape.arena_rows(), self.shape.arena_rows(), padded(self.shape.head_dim));
        for kv_head in 0..self.shape.kv_heads {
            let (to, from, len) = (kv_head * new_rows * row, kv_head * rows * row, new_rows.min(rows) * row);
            new.k.copy(to, &self.k, from, len)?;
            new.v.copy(to, &self.v, from, len)?;
        }
        Ok(new)
    }

    pub(super) fn args(&mut self) -> ffi::DogeCudaKept {
        ffi::DogeCudaKept {
            row: self.row.ptr_mut(),
            place: self.place.ptr_mut(),
            mask: self.mask.ptr_mut(),
            count: self.count.ptr_mut(),
            weakest: self.weakest.ptr_mut().cast(),
            k: self.k.ptr_mut(),
            v: self.v.ptr_mut(),
            n_slots: self.shape.slots as u32,
            n_arena: self.shape.arena_rows() as u32,
            kv_row: padded(self.shape.head_dim) as u32,
            mask_heads: self.shape.mask_heads as u32,
            kv_heads: self.shape.kv_heads as u32,
        }
    }
}

impl Device {
    /// Offers a block's keys to the sets: `k` and `v` are `[n_rows, nkv · d]`, `mask` is `[n_rows, M]`. Afterwards `lists` is what
    /// the block's queries see.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub(super) fn kept_offer(
        &self,
        kept: &mut Kept,
        lists: &mut KeyLists,
        (k, v): (&Rows, &Rows),
        mask: &Buffer<f32>,
        at: &Place,
        n_rows: usize,
    ) -> Result<()> {
        let KeptShape { mask_heads, sliding_window, .. } = kept.shape;
        check_block(kept, lists, n_rows)?;
        expect_len("kept_offer: mask", mask, n_rows * mask_heads)?;
        if let Some(window) = sliding_window {
            self.window_add(kept, (k, v), mask, at, n_rows)?;
            return self.window_choose(kept, lists, at, window, n_rows);
        }
        let args = ffi::DogeCudaOfferArgs {
            kept: kept.args(),
            list: lists.args(),
            mask: mask.ptr(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
        };
        // SAFETY: state and lists have one shape, mask a value for every offer.
        unsafe { self.launch(&self.table().kept_offer, [mask_heads, 1, 1], &args) }
    }

    /// Moves the block's keys that stayed, `[n_rows, nkv · d]` each of k and v, into the arena, after its attention. Those of a ring
    /// are in it.
    ///
    /// # Errors
    /// As [`Device::kept_offer`].
    pub(super) fn kept_commit(
        &self,
        kept: &mut Kept,
        lists: &mut KeyLists,
        (k, v): (&Rows, &Rows),
        at: &Place,
        n_rows: usize,
    ) -> Result<()> {
        let KeptShape { kv_heads, head_dim, sliding_window, .. } = kept.shape;
        if sliding_window.is_some() {
            return Ok(());
        }
        check_block(kept, lists, n_rows)?;
        k.expect("kept_commit: k", n_rows, kv_heads * head_dim)?;
        v.expect("kept_commit: v", n_rows, kv_heads * head_dim)?;
        let args = ffi::DogeCudaCommitArgs {
            kept: kept.args(),
            list: lists.args(),
            mark: lists.mark.ptr_mut(),
            k: k.buffer.ptr(),
            v: v.buffer.ptr(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
            head_dim: head_dim as u32,
            kv_stride: k.stride() as u32,
        };
        // SAFETY: as in `kept_offer`; k and v hold every row of the block.
        unsafe { self.launch(&self.table().kept_commit, [kv_heads, 1, 1], &args) }
    }
}

fn check_block(kept: &Kept, lists: &KeyLists, n_rows: usize) -> Result<()> {
    lists.expect(kept)?;
    if n_rows > BLOCK {
        return Err(Error::BadArgument { what: "block", why: format!("{n_rows} rows where {BLOCK} are the most") });
    }
    Ok(())
}
