//! The kept keys of one layer on a device (spec 8): what `model/kept_set.rs` and `model/kv_state.rs` are on the CPU.
//!
//! Slots are overwritten in place and a key stays in its slot; K and V rows live in an arena per K/V head that the mask
//! heads of that K/V head share. A block's own keys are read where the projections left them, until attention is done.

use super::{
    buffer::{expect_len, padded, Buffer, Rows},
    device::Device,
    ops::Place,
};
use crate::{ffi, Error, Result};

const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;
const TILE: usize = ffi::DOGE_CUDA_TILE as usize;

/// The sizes that shape a layer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptShape {
    /// M; a multiple of `kv_heads`.
    pub mask_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// keep_window_size, or fewer where the sequence will not have so many tokens.
    pub slots: usize,
}

impl KeptShape {
    /// Rows of a K/V head's arena: no two mask heads need name the same key.
    fn arena_rows(&self) -> usize {
        self.slots.saturating_mul(self.mask_heads / self.kv_heads.max(1))
    }

    /// Bytes of a layer's state.
    pub(super) fn bytes(&self) -> u128 {
        let (slots, rows) = (self.slots as u128 * self.mask_heads as u128, self.arena_rows() as u128 * self.kv_heads as u128);
        12 * slots + 8 * rows * padded(self.head_dim) as u128
    }
}

/// The kept keys of one layer.
#[derive(Debug)]
pub struct Kept {
    shape: KeptShape,
    row: Buffer<u32>,
    place: Buffer<u32>,
    mask: Buffer<f32>,
    count: Buffer<u32>,
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
        let (slots, floats) = (shape.mask_heads * shape.slots, shape.kv_heads * shape.arena_rows() * padded(shape.head_dim));
        Ok(Kept {
            shape,
            row: Buffer::zeros(device, slots)?,
            place: Buffer::zeros(device, slots)?,
            mask: Buffer::zeros(device, slots)?,
            count: Buffer::zeros(device, shape.mask_heads)?,
            k: Buffer::zeros(device, floats)?,
            v: Buffer::zeros(device, floats)?,
        })
    }

    pub fn shape(&self) -> KeptShape {
        self.shape
    }

    /// The same keys with room for `slots` of them. More slots only while nothing was dropped: row = slot then.
    pub(super) fn with_slots(&self, device: &Device, slots: usize) -> Result<Self> {
        let mut new = Kept::new(device, KeptShape { slots, ..self.shape })?;
        let both = slots.min(self.shape.slots);
        new.count.copy(0, &self.count, 0, self.shape.mask_heads)?;
        for m in 0..self.shape.mask_heads {
            let (to, from) = (m * slots, m * self.shape.slots);
            new.row.copy(to, &self.row, from, both)?;
            new.place.copy(to, &self.place, from, both)?;
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
            k: self.k.ptr_mut(),
            v: self.v.ptr_mut(),
            n_slots: self.shape.slots as u32,
            n_arena: self.shape.arena_rows() as u32,
            kv_row: padded(self.shape.head_dim) as u32,
            mask_heads: self.shape.mask_heads as u32,
            kv_heads: self.shape.kv_heads as u32,
        }
    }

    /// The places in the sets now, by mask head, by slot.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn places(&self) -> Result<Vec<Vec<u32>>> {
        let (count, place) = (self.count.to_vec()?, self.place.to_vec()?);
        let set = |(m, &n): (usize, &u32)| place[m * self.shape.slots..][..n as usize].to_vec();
        Ok(count.iter().enumerate().map(set).collect())
    }
}

/// The key lists of a block, and the room that moving its keys into the arena takes. One serves all layers.
#[derive(Debug)]
pub struct KeyLists {
    shape: KeptShape,
    row: Buffer<u32>,
    seen_from: Buffer<u32>,
    seen_until: Buffer<u32>,
    mask: Buffer<f32>,
    tile_begin: Buffer<u32>,
    left: [Buffer<u32>; 4],
    left_mask: Buffer<f32>,
    n_left: Buffer<u32>,
    mark: Buffer<u32>,
}

impl KeyLists {
    pub fn new(device: &Device, shape: KeptShape) -> Result<Self> {
        let (entries, left) = (shape.mask_heads * (shape.slots + BLOCK), shape.mask_heads * BLOCK);
        let of_left = || Buffer::zeros(device, left);
        Ok(KeyLists {
            shape,
            row: Buffer::zeros(device, entries)?,
            seen_from: Buffer::zeros(device, entries)?,
            seen_until: Buffer::zeros(device, entries)?,
            mask: Buffer::zeros(device, entries)?,
            tile_begin: Buffer::zeros(device, shape.mask_heads * tiles_room(shape.slots))?,
            left: [of_left()?, of_left()?, of_left()?, of_left()?],
            left_mask: Buffer::zeros(device, left)?,
            n_left: Buffer::zeros(device, shape.mask_heads)?,
            mark: Buffer::zeros(device, shape.kv_heads * shape.arena_rows())?,
        })
    }

    /// Bytes of it.
    pub fn bytes(shape: KeptShape) -> u128 {
        let entries = shape.slots as u128 + BLOCK as u128;
        (16 * entries + 20 * BLOCK as u128 + 4 * tiles_room(shape.slots) as u128) * shape.mask_heads as u128
            + 4 * (shape.kv_heads * shape.arena_rows()) as u128
    }

    pub(super) fn args(&mut self) -> ffi::DogeCudaKeyList {
        let [slot, row, from, until] = &mut self.left;
        ffi::DogeCudaKeyList {
            row: self.row.ptr_mut(),
            seen_from: self.seen_from.ptr_mut(),
            seen_until: self.seen_until.ptr_mut(),
            mask: self.mask.ptr_mut(),
            tile_begin: self.tile_begin.ptr_mut(),
            left_slot: slot.ptr_mut(),
            left_row: row.ptr_mut(),
            left_from: from.ptr_mut(),
            left_until: until.ptr_mut(),
            left_mask: self.left_mask.ptr_mut(),
            n_left: self.n_left.ptr_mut(),
            room: (self.shape.slots + BLOCK) as u32,
            tiles_room: tiles_room(self.shape.slots) as u32,
        }
    }

    pub(super) fn expect(&self, kept: &Kept) -> Result<()> {
        if self.shape == kept.shape {
            return Ok(());
        }
        Err(Error::BadArgument { what: "key lists", why: format!("are for {:?}, not {:?}", self.shape, kept.shape) })
    }

    /// The places that each query of the block of `n_rows` at `place0` sees, by mask head.
    pub fn seen(&self, kept: &Kept, place0: u32, n_rows: usize) -> Result<Vec<Vec<Vec<u32>>>> {
        if n_rows == 1 {
            return Ok(kept.places()?.into_iter().map(|places| vec![places]).collect());
        }
        let (from, until, tiles) = (self.seen_from.to_vec()?, self.seen_until.to_vec()?, self.tile_begin.to_vec()?);
        let (from, until, count) = (&from, &until, kept.count.to_vec()?);
        let of_head = |(m, &count): (usize, &u32)| {
            let n = tiles[m * tiles_room(self.shape.slots) + (count as usize).div_ceil(TILE)] as usize;
            let base = m * (self.shape.slots + BLOCK);
            let sees = |query: u32| (base..base + n).filter(move |&t| from[t] <= query && query < until[t]);
            (0..n_rows as u32).map(|r| sees(place0 + r).map(|t| from[t]).collect()).collect()
        };
        Ok(count.iter().enumerate().map(of_head).collect())
    }
}

fn tiles_room(slots: usize) -> usize {
    slots / TILE + 2
}

impl Device {
    /// Offers a block's keys to the sets: `mask` is `[n_rows, M]`. Afterwards `lists` is what the block's queries see.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub(super) fn kept_offer(
        &self,
        kept: &mut Kept,
        lists: &mut KeyLists,
        mask: &Buffer<f32>,
        at: &Place,
        n_rows: usize,
    ) -> Result<()> {
        check_block(kept, lists, n_rows)?;
        let heads = kept.shape.mask_heads;
        expect_len("kept_offer: mask", mask, n_rows * heads)?;
        let args = ffi::DogeCudaOfferArgs {
            kept: kept.args(),
            list: lists.args(),
            mask: mask.ptr(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
        };
        // SAFETY: state and lists have one shape, mask a value for every offer.
        unsafe { self.launch(&self.table().kept_offer, [heads, 1, 1], &args) }
    }

    /// Moves the block's keys that stayed into the arena, after its attention.
    ///
    /// # Errors
    /// As [`Device::kept_offer`].
    pub(super) fn kept_commit(
        &self,
        kept: &mut Kept,
        lists: &mut KeyLists,
        k: &Rows,
        v: &Rows,
        at: &Place,
        n_rows: usize,
    ) -> Result<()> {
        check_block(kept, lists, n_rows)?;
        let (heads, head_dim) = (kept.shape.kv_heads, kept.shape.head_dim);
        k.expect("kept_commit: k", n_rows, heads * head_dim)?;
        v.expect("kept_commit: v", n_rows, heads * head_dim)?;
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
        unsafe { self.launch(&self.table().kept_commit, [heads, 1, 1], &args) }
    }
}

fn check_block(kept: &Kept, lists: &KeyLists, n_rows: usize) -> Result<()> {
    lists.expect(kept)?;
    if n_rows > BLOCK {
        return Err(Error::BadArgument { what: "block", why: format!("{n_rows} rows where {BLOCK} are the most") });
    }
    Ok(())
}
