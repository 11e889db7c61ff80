//! A layer's state as bytes, little-endian:
//!
//! - for each K/V head: how many rows (u32), their K, their V, then for each of its mask heads how many keys (u32), their
//!   places, rows and mask values, slot by slot;
//! - with `sliding_window`, for the last places in order: the K and V rows of each K/V head, then for each mask head the
//!   mask values.
//!
//! Rows are numbered anew, by their first use: what is saved does not depend on what the session went through.

use super::{Key, LayerState, StateShape};
use crate::{
    model::session::saved::{Reader, Writer},
    Result,
};

impl StateShape {
    /// Bytes that a saved layer has at least.
    pub fn saved_bytes(&self, tokens: usize) -> u128 {
        let StateShape { num_key_value_heads: nkv, mask_heads, head_dim, .. } = *self;
        let row = nkv as u128 * 8 * head_dim as u128;
        match self.sliding_window {
            Some(window) => tokens.min(window) as u128 * (row + 4 * mask_heads as u128),
            None => {
                let keys = tokens.min(self.keep_window_size) as u128;
                keys * (row + 12 * mask_heads as u128) + 4 * (nkv + mask_heads) as u128
            }
        }
    }
}

impl LayerState {
    /// The places whose keys a sliding window may still see.
    fn last_places(&self, window: usize) -> std::ops::Range<usize> {
        let tokens = self.tokens as usize;
        tokens.saturating_sub(window)..tokens
    }

    pub fn save(&self, out: &mut Writer) {
        let StateShape { num_key_value_heads, mask_heads, head_dim: d, sliding_window, .. } = self.shape;
        if let Some(window) = sliding_window {
            let places = self.last_places(window);
            for arena in &self.arenas {
                for side in [&arena.k, &arena.v] {
                    places.clone().map(|place| place % arena.users.len() * d).for_each(|at| out.floats(&side[at..at + d]));
                }
            }
            for ring in &self.ring {
                places.clone().for_each(|place| out.floats(&[ring[place % ring.len()]]));
            }
            return;
        }
        for (arena, sets) in self.arenas.iter().zip(self.sets.chunks(mask_heads / num_key_value_heads)) {
            let mut number = vec![u32::MAX; arena.users.len()];
            let mut rows = Vec::new();
            for row in sets.iter().flat_map(|set| set.keys()).map(|key| key.row) {
                if number[row as usize] == u32::MAX {
                    number[row as usize] = rows.len() as u32;
                    rows.push(row as usize);
                }
            }
            out.u32(rows.len() as u32);
            for side in [&arena.k, &arena.v] {
                rows.iter().for_each(|row| out.floats(&side[row * d..(row + 1) * d]));
            }
            for set in sets {
                out.u32(set.keys().count() as u32);
                set.keys().for_each(|key| out.u32(key.place));
                set.keys().for_each(|key| out.u32(number[key.row as usize]));
                set.keys().for_each(|key| out.floats(&[key.mask]));
            }
        }
    }

    /// Fills a fresh state with what was saved after `tokens` tokens, for which room was reserved.
    ///
    /// # Errors
    /// [`crate::Error::BadSession`].
    pub fn load(&mut self, tokens: u32, from: &mut Reader<'_>) -> Result<()> {
        let StateShape { num_key_value_heads, mask_heads, head_dim: d, keep_window_size, sliding_window, .. } = self.shape;
        self.tokens = tokens;
        if let Some(window) = sliding_window {
            let places = self.last_places(window);
            for arena in &mut self.arenas {
                let rows = arena.users.len();
                for side in [&mut arena.k, &mut arena.v] {
                    places.clone().map(|place| place % rows * d).try_for_each(|at| from.floats(&mut side[at..at + d]))?;
                }
            }
            for ring in &mut self.ring {
                let rows = ring.len();
                places.clone().try_for_each(|place| from.floats(std::slice::from_mut(&mut ring[place % rows])))?;
            }
            return Ok(());
        }
        let keys = keep_window_size.min(tokens as usize);
        for (arena, sets) in self.arenas.iter_mut().zip(self.sets.chunks_mut(mask_heads / num_key_value_heads)) {
            // A set names each of its rows once; the sets of a K/V head may share rows, or not.
            let rows = from.count("rows", keys, keys.saturating_mul(sets.len()).min(arena.users.len()))?;
            from.floats(&mut arena.k[..rows * d])?;
            from.floats(&mut arena.v[..rows * d])?;
            for set in sets {
                let keys = from.count("keys", keys, keys)?;
                let [places, numbers, masks] = [from.words(keys)?, from.words(keys)?, from.words(keys)?];
                let saved =
                    places.zip(numbers).zip(masks).map(|((place, row), mask)| Key { place, row, mask: f32::from_bits(mask) });
                if saved.clone().any(|key| key.place >= tokens || key.row as usize >= rows || key.mask.is_nan()) {
                    return Err(from.bad("a key is outside of its sequence"));
                }
                set.fill(saved);
                set.keys().for_each(|key| arena.users[key.row as usize] += 1);
            }
            arena.find_free();
        }
        Ok(())
    }
}
