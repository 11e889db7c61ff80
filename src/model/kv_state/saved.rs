//! A layer's state as bytes, little-endian:
//!
//! - for each mask head that has K and V rows of its own, or shares them with those after it: the K rows, then the V rows,
//!   slot by slot; then for each mask head the places and the mask values of its keys;
//! - with `sliding_window`, for the last places in order: the K and V rows of each K/V head, then for each mask head the
//!   mask values.
//!
//! All numbers as f32, whatever the format of the rows. How many of each follows from the number of tokens; what is saved
//! does not depend on what the session went through.

use super::{LayerState, Side, StateShape};
use crate::{
    model::session::saved::{Reader, Writer},
    Result,
};

impl StateShape {
    /// Bytes of a saved layer.
    pub fn saved_bytes(&self, tokens: usize) -> u128 {
        let row = self.owners(tokens).len() as u128 * 8 * self.head_dim as u128;
        match self.sliding_window {
            Some(window) => tokens.min(window) as u128 * (row + 4 * self.mask_heads as u128),
            None => tokens.min(self.keep_window_size) as u128 * (row + 8 * self.mask_heads as u128),
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
        let StateShape { head_dim: d, sliding_window, .. } = self.shape;
        let (tokens, places) = (self.tokens as usize, sliding_window.map(|window| self.last_places(window)));
        let rows = self.shape.rows(tokens);
        let mut floats = vec![0.0; d];
        for m in self.shape.owners(tokens) {
            for side in Side::BOTH {
                let mut put = |row: usize| {
                    self.kv.get(self.arena(m), side, row, &mut floats);
                    out.floats(&floats);
                };
                match &places {
                    Some(places) => places.clone().for_each(|place| put(place % rows)),
                    None => self.sets[m].keys().for_each(|key| put(key.row as usize)),
                }
            }
        }
        for (ring, places) in self.ring.iter().zip(places.iter().cycle()) {
            places.clone().for_each(|place| out.floats(&[ring[place % rows]]));
        }
        for set in &self.sets {
            set.keys().for_each(|key| out.u32(key.place));
            set.keys().for_each(|key| out.floats(&[key.mask]));
        }
    }

    /// Fills a fresh state with what was saved after `tokens` tokens, for which room was reserved.
    ///
    /// # Errors
    /// [`crate::Error::BadSession`].
    pub fn load(&mut self, tokens: u32, from: &mut Reader<'_>) -> Result<()> {
        let StateShape { head_dim: d, keep_window_size, sliding_window, .. } = self.shape;
        self.tokens = tokens;
        let rows = self.shape.rows(tokens as usize);
        let keys = keep_window_size.min(tokens as usize);
        let places = match sliding_window {
            Some(window) => self.last_places(window),
            None => 0..keys, // the slots
        };
        let mut floats = vec![0.0; d];
        for m in self.shape.owners(tokens as usize) {
            let arena = self.arena(m);
            for side in Side::BOTH {
                for place in places.clone() {
                    from.floats(&mut floats)?;
                    self.kv.put(arena, side, place % rows, &floats);
                }
            }
        }
        for ring in &mut self.ring {
            places.clone().try_for_each(|place| from.floats(std::slice::from_mut(&mut ring[place % rows])))?;
        }
        for set in &mut self.sets {
            let saved = from.words(keys)?.zip(from.words(keys)?.map(f32::from_bits));
            if saved.clone().any(|(place, mask)| place >= tokens || mask.is_nan()) {
                return Err(from.bad("a key is outside of its sequence"));
            }
            set.fill(saved);
        }
        Ok(())
    }
}
