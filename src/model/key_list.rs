//! The keys of one mask head in the order in which attention sums them.

use std::collections::TryReserveError;

/// Keys of consecutive slots that attention sums together before it merges (the contract's tiles).
pub const TILE: usize = 128;
/// A place beyond any sequence.
pub const NEVER: u32 = u32::MAX;

/// A key on offer, and in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its place in the sequence.
    pub place: u32,
    /// Its row in the K and V storage: its slot, or a spare row behind all slots.
    pub row: u32,
    /// s: its mask value.
    pub mask: f32,
}

impl Key {
    /// Would the set rather lose `self` than `other`? Ties go to the lower place, so of two equals the later one is weaker.
    pub(super) fn weaker(&self, other: &Key) -> bool {
        self.mask < other.mask || (self.mask == other.mask && self.place > other.place)
    }
}

/// Keys by slot, as attention takes them (the contract's key list).
#[derive(Clone, Debug, Default)]
pub struct KeyList {
    pub row: Vec<u32>,
    pub mask: Vec<f32>,
    /// The key's place: its own query is the first that sees it.
    pub seen_from: Vec<u32>,
    pub seen_until: Vec<u32>,
    pub tile_begin: Vec<u32>,
}

impl KeyList {
    pub(super) fn clear(&mut self) {
        self.row.clear();
        self.mask.clear();
        self.seen_from.clear();
        self.seen_until.clear();
        self.tile_begin.clear();
    }

    pub(super) fn push(&mut self, key: Key, seen_until: u32) {
        self.row.push(key.row);
        self.mask.push(key.mask);
        self.seen_from.push(key.place);
        self.seen_until.push(seen_until);
    }

    pub(super) fn get(&self, at: usize) -> Key {
        Key { place: self.seen_from[at], row: self.row[at], mask: self.mask[at] }
    }

    pub(super) fn set(&mut self, at: usize, key: Key) {
        self.row[at] = key.row;
        self.mask[at] = key.mask;
        self.seen_from[at] = key.place;
    }

    /// Keeps the first `n` keys, whose tiles are whole.
    pub(super) fn truncate(&mut self, n: usize) {
        self.row.truncate(n);
        self.mask.truncate(n);
        self.seen_from.truncate(n);
        self.seen_until.truncate(n);
        self.tile_begin.truncate(n.div_ceil(TILE) + 1);
        if let Some(end) = self.tile_begin.last_mut() {
            *end = n as u32;
        }
    }

    /// Makes room for `n` keys, so that filling the list does not allocate.
    pub(super) fn reserve(&mut self, n: usize) -> Result<(), TryReserveError> {
        let more = n.saturating_sub(self.row.len());
        self.row.try_reserve(more)?;
        self.mask.try_reserve(more)?;
        self.seen_from.try_reserve(more)?;
        self.seen_until.try_reserve(more)?;
        self.tile_begin.try_reserve((n / TILE + 2).saturating_sub(self.tile_begin.len()))
    }
}
