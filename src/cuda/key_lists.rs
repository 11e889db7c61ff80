//! What the queries of a block see (the contract's key lists), on a device.

use super::{
    buffer::Buffer,
    device::Device,
    kept::{Kept, KeptShape},
};
use crate::{ffi, Error, Result};

const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;
const TILE: usize = ffi::DOGE_CUDA_TILE as usize;

/// The key lists of a block, and the room that moving its keys into the arena takes. One serves all layers.
#[derive(Debug)]
pub struct KeyLists {
    pub(super) shape: KeptShape,
    row: Buffer<u32>,
    seen_from: Buffer<u32>,
    seen_until: Buffer<u32>,
    mask: Buffer<f32>,
    tile_begin: Buffer<u32>,
    left: [Buffer<u32>; 4],
    left_mask: Buffer<f32>,
    n_left: Buffer<u32>,
    pub(super) mark: Buffer<u32>,
    /// With a sliding window, instead: [rows][M][tiles] bits.
    pub(super) seen: Buffer<u32>,
}

impl KeyLists {
    /// For blocks of `rows` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn new(device: &Device, shape: KeptShape, rows: usize) -> Result<Self> {
        let (seen, lists) = (seen_words(shape, rows), KeptShape { slots: shape.named(), ..shape });
        let (entries, left) = (shape.mask_heads * (lists.slots + BLOCK), shape.mask_heads * BLOCK);
        let of_left = || Buffer::zeros(device, left);
        Ok(KeyLists {
            shape,
            seen: Buffer::zeros(device, seen)?,
            row: Buffer::zeros(device, entries)?,
            seen_from: Buffer::zeros(device, entries)?,
            seen_until: Buffer::zeros(device, entries)?,
            mask: Buffer::zeros(device, entries)?,
            tile_begin: Buffer::zeros(device, shape.mask_heads * tiles_room(lists.slots))?,
            left: [of_left()?, of_left()?, of_left()?, of_left()?],
            left_mask: Buffer::zeros(device, left)?,
            n_left: Buffer::zeros(device, shape.mask_heads)?,
            mark: Buffer::zeros(device, shape.kv_heads * lists.arena_rows())?,
        })
    }

    /// Bytes of it.
    pub fn bytes(shape: KeptShape, rows: usize) -> u128 {
        let lists = KeptShape { slots: shape.named(), ..shape };
        let entries = lists.slots as u128 + BLOCK as u128;
        (16 * entries + 20 * BLOCK as u128 + 4 * tiles_room(lists.slots) as u128) * shape.mask_heads as u128
            + 4 * (shape.kv_heads * lists.arena_rows() + seen_words(shape, rows)) as u128
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
            room: (self.shape.named() + BLOCK) as u32,
            tiles_room: tiles_room(self.shape.named()) as u32,
        }
    }

    pub(super) fn expect(&self, kept: &Kept) -> Result<()> {
        if self.shape == kept.shape() {
            return Ok(());
        }
        Err(Error::BadArgument { what: "key lists", why: format!("are for {:?}, not {:?}", self.shape, kept.shape()) })
    }

    /// The places that each query of the block of `n_rows` at `place0` sees, by mask head.
    pub fn seen(&self, kept: &Kept, place0: u32, n_rows: usize) -> Result<Vec<Vec<Vec<u32>>>> {
        if let Some(window) = self.shape.sliding_window {
            return self.seen_in_window(window, place0, n_rows);
        }
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

/// Words of the bits that say which keys of the ring the queries of a block see.
fn seen_words(shape: KeptShape, rows: usize) -> usize {
    shape.sliding_window.map_or(0, |_| rows.saturating_mul(shape.mask_heads * shape.tiles()))
}

fn tiles_room(slots: usize) -> usize {
    slots / TILE + 2
}
