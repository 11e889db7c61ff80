//! What the queries of a block see (the contract's key lists), on a device.

use super::{
    buffer::Buffer,
    kept::{Kept, KeptShape},
    made::made,
};
use crate::{ffi, Error, Result};

const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;
const TILE: usize = ffi::DOGE_CUDA_TILE as usize;

/// What shapes the key lists.
#[derive(Clone, Copy, Debug)]
pub struct ListSizes {
    pub kept: KeptShape,
    /// Tokens of the longest block.
    pub rows: usize,
}

impl ListSizes {
    /// Entries of the lists.
    fn entries(&self) -> usize {
        self.kept.mask_heads * (self.kept.named() + BLOCK)
    }

    /// Keys that can lose their slot in a block.
    fn left(&self) -> usize {
        self.kept.mask_heads * BLOCK
    }

    /// Words of the bits that say which keys of the ring the queries of a block see.
    fn seen_words(&self) -> usize {
        self.kept.sliding_window.map_or(0, |_| self.rows.saturating_mul(self.kept.mask_heads * self.kept.tiles()))
    }
}

made! {
    /// The key lists of a block, and the room that moving its keys into the arena takes. One serves all layers.
    #[derive(Debug)]
    pub struct KeyLists(z: ListSizes) {
        row: Buffer<u32> = z.entries(),
        seen_from: Buffer<u32> = z.entries(),
        seen_until: Buffer<u32> = z.entries(),
        mask: Buffer<f32> = z.entries(),
        tile_begin: Buffer<u32> = z.kept.mask_heads * tiles_room(z.kept.named()),
        tile_seen: Buffer<u32> = 4 * z.kept.mask_heads * tiles_room(z.kept.named()),
        left_slot: Buffer<u32> = z.left(),
        left_row: Buffer<u32> = z.left(),
        left_from: Buffer<u32> = z.left(),
        left_until: Buffer<u32> = z.left(),
        left_mask: Buffer<f32> = z.left(),
        n_left: Buffer<u32> = z.kept.mask_heads,
        pub(super) mark: Buffer<u32> = if z.kept.sliding_window.is_some() { 0 } else { z.kept.kv_heads * z.kept.arena_rows() },
        /// With a sliding window, instead: [rows][M][tiles] bits.
        pub(super) seen: Buffer<u32> = z.seen_words(),
    }
}

impl KeyLists {
    pub(super) fn args(&mut self) -> ffi::DogeCudaKeyList {
        ffi::DogeCudaKeyList {
            row: self.row.ptr_mut(),
            seen_from: self.seen_from.ptr_mut(),
            seen_until: self.seen_until.ptr_mut(),
            mask: self.mask.ptr_mut(),
            tile_begin: self.tile_begin.ptr_mut(),
            tile_seen: self.tile_seen.ptr_mut(),
            left_slot: self.left_slot.ptr_mut(),
            left_row: self.left_row.ptr_mut(),
            left_from: self.left_from.ptr_mut(),
            left_until: self.left_until.ptr_mut(),
            left_mask: self.left_mask.ptr_mut(),
            n_left: self.n_left.ptr_mut(),
            room: (self.sizes.kept.named() + BLOCK) as u32,
            tiles_room: tiles_room(self.sizes.kept.named()) as u32,
        }
    }

    pub(super) fn expect(&self, kept: &Kept) -> Result<()> {
        if self.sizes.kept == kept.shape() {
            return Ok(());
        }
        Err(Error::BadArgument { what: "key lists", why: format!("are for {:?}, not {:?}", self.sizes.kept, kept.shape()) })
    }

    /// The places that each query of the block of `n_rows` at `place0` sees, by mask head.
    pub fn seen(&self, kept: &Kept, place0: u32, n_rows: usize) -> Result<Vec<Vec<Vec<u32>>>> {
        if let Some(window) = self.sizes.kept.sliding_window {
            return self.seen_in_window(window, place0, n_rows);
        }
        let (from, until, tiles) = (self.seen_from.to_vec()?, self.seen_until.to_vec()?, self.tile_begin.to_vec()?);
        let (from, until, count) = (&from, &until, kept.count.to_vec()?);
        let of_head = |(m, &count): (usize, &u32)| {
            let n = tiles[m * tiles_room(self.sizes.kept.slots) + (count as usize).div_ceil(TILE)] as usize;
            let base = m * (self.sizes.kept.slots + BLOCK);
            let sees = |query: u32| (base..base + n).filter(move |&t| from[t] <= query && query < until[t]);
            (0..n_rows as u32).map(|r| sees(place0 + r).map(|t| from[t]).collect()).collect()
        };
        Ok(count.iter().enumerate().map(of_head).collect())
    }
}

fn tiles_room(slots: usize) -> usize {
    slots / TILE + 2
}
