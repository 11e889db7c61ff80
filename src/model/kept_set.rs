//! Which keys a mask head keeps (spec 4.4, 8), one comparison a token.
//!
//! s_m(j) depends on key j alone, so a key that falls out of the best `keep_window_size` never comes back. The set is
//! therefore a fixed number of slots, overwritten in place: a newcomer takes a free slot, or the slot of the weakest key
//! if it is strictly better, or none. The slot of a key is its place in every sum over keys, whether the sequence is fed
//! token by token or in blocks; that is what makes both agree bit for bit.

use std::collections::TryReserveError;

/// Keys of consecutive slots that attention sums together before it merges (the contract's tiles).
pub const TILE: usize = 128;

/// A place beyond any sequence.
const NEVER: u32 = u32::MAX;

/// A key on offer, and in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its place in the sequence.
    pub place: u32,
    /// Its row in the K and V storage.
    pub row: u32,
    /// s: its mask value.
    pub mask: f32,
}

impl Key {
    /// Would the set rather lose `self` than `other`? Ties go to the lower place, so of two equals the later one is weaker.
    fn weaker(&self, other: &Key) -> bool {
        self.mask < other.mask || (self.mask == other.mask && self.place > other.place)
    }
}

/// What became of a key on offer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Offer {
    /// It took a free slot.
    Kept,
    /// It took the slot of the key whose row is given.
    Replaced { row: u32 },
    /// It is weaker than every key in the set: even its own query does not see it.
    Rejected,
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
    fn clear(&mut self) {
        self.row.clear();
        self.mask.clear();
        self.seen_from.clear();
        self.seen_until.clear();
        self.tile_begin.clear();
    }

    fn push(&mut self, key: Key, seen_until: u32) {
        self.row.push(key.row);
        self.mask.push(key.mask);
        self.seen_from.push(key.place);
        self.seen_until.push(seen_until);
    }

    fn get(&self, at: usize) -> Key {
        Key { place: self.seen_from[at], row: self.row[at], mask: self.mask[at] }
    }

    /// Keeps the first `n` keys, whose tiles are whole.
    fn truncate(&mut self, n: usize) {
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
    fn reserve(&mut self, n: usize) -> Result<(), TryReserveError> {
        let more = n.saturating_sub(self.row.len());
        self.row.try_reserve(more)?;
        self.mask.try_reserve(more)?;
        self.seen_from.try_reserve(more)?;
        self.seen_until.try_reserve(more)?;
        self.tile_begin.try_reserve((n / TILE + 2).saturating_sub(self.tile_begin.len()))
    }
}

/// The kept keys of one mask head of one layer.
#[derive(Clone, Debug, Default)]
pub struct KeptSet {
    /// keep_window_size
    keep: usize,
    /// Entry i is slot i; nobody's time is up, and the tiles are whole.
    slots: KeyList,
    /// The slots as a binary heap, the weakest key on top. Built when the set is full.
    heap: Vec<u32>,
    /// Keys that lost their slot in this block: (slot, key, place of the first query that does not see it).
    left: Vec<(u32, Key, u32)>,
    /// The key list of a block in which keys left.
    history: KeyList,
}

impl KeptSet {
    pub fn new(keep_window_size: usize) -> Self {
        let mut slots = KeyList::default();
        slots.tile_begin.push(0);
        KeptSet { keep: keep_window_size, slots, ..KeptSet::default() }
    }

    /// Makes room for `slots` slots and blocks of `block` tokens.
    pub fn reserve(&mut self, slots: usize, block: usize) -> Result<(), TryReserveError> {
        let all = slots.min(self.keep);
        self.slots.reserve(all)?;
        if slots >= self.keep {
            self.heap.try_reserve(all.saturating_sub(self.heap.len()))?;
        }
        if slots > self.keep {
            self.left.try_reserve(block)?;
            self.history.clear();
            self.history.reserve(all + block)?;
        }
        Ok(())
    }

    /// Begins a block: forgets whom the last one dropped.
    pub fn begin_block(&mut self) {
        self.left.clear();
    }

    /// Offers the next key of the sequence. Places ascend from offer to offer.
    pub fn offer(&mut self, key: Key) -> Offer {
        if self.slots.row.len() < self.keep {
            self.push(key);
            return Offer::Kept;
        }
        let Some(&slot) = self.heap.first() else { return Offer::Rejected };
        let weakest = self.slots.get(slot as usize);
        if !weakest.weaker(&key) {
            return Offer::Rejected;
        }
        self.left.push((slot, weakest, key.place));
        self.slots.row[slot as usize] = key.row;
        self.slots.mask[slot as usize] = key.mask;
        self.slots.seen_from[slot as usize] = key.place;
        self.sift_down(0);
        Offer::Replaced { row: weakest.row }
    }

    /// Puts a key into the next free slot.
    fn push(&mut self, key: Key) {
        let n = self.slots.row.len();
        self.slots.push(key, NEVER);
        match (n + 1) % TILE {
            1 => self.slots.tile_begin.push(n as u32 + 1),
            _ => *self.slots.tile_begin.last_mut().expect("never empty") = n as u32 + 1,
        }
        if n + 1 == self.keep {
            self.make_heap();
        }
    }

    /// Makes the heap of a full set.
    fn make_heap(&mut self) {
        self.heap.clear();
        self.heap.extend(0..self.keep as u32);
        (0..self.keep / 2).rev().for_each(|at| self.sift_down(at));
    }

    /// Fills an empty set with the keys of another one, slot by slot. Room for them was reserved.
    pub fn fill(&mut self, keys: impl Iterator<Item = Key>) {
        keys.take(self.keep).for_each(|key| self.push(key));
    }

    /// Takes the block at hand back, whose first token stands at `place0`: the set is as it was before.
    pub fn take_back(&mut self, place0: u32) {
        for (slot, key, _) in self.left.drain(..).filter(|(_, key, _)| key.place < place0) {
            let slot = slot as usize; // of all that were in it, the one from before the block
            self.slots.row[slot] = key.row;
            self.slots.mask[slot] = key.mask;
            self.slots.seen_from[slot] = key.place;
        }
        let before = self.slots.seen_from.iter().take_while(|&&place| place < place0).count();
        self.slots.truncate(before);
        self.history.clear();
        if before < self.keep {
            self.heap.clear();
        } else {
            self.make_heap();
        }
    }

    /// Restores the heap below `at`.
    fn sift_down(&mut self, mut at: usize) {
        let key = |slot: u32| self.slots.get(slot as usize);
        loop {
            let mut weakest = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && key(self.heap[child]).weaker(&key(self.heap[weakest])) {
                    weakest = child;
                }
            }
            if weakest == at {
                return;
            }
            self.heap.swap(at, weakest);
            at = weakest;
        }
    }

    /// The keys now in the set.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.slots.row.len()).map(|slot| self.slots.get(slot))
    }

    /// Keys that lost their slot in this block, and the place of the first query that does not see them.
    pub fn left(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        self.left.iter().map(|&(_, key, until)| (key, until))
    }

    /// Ends the offers of a block of `tokens` tokens: makes the key list that [`KeptSet::list`] gives.
    pub fn end_offers(&mut self, tokens: usize) {
        self.history.clear();
        if self.left.is_empty() || tokens == 1 {
            return; // the slots themselves are the list: a single query sees just what is in them now
        }
        self.left.sort_unstable_by_key(|&(slot, _, until)| (slot, until));
        let mut left = self.left.iter().peekable();
        for slot in 0..self.slots.row.len() {
            if slot % TILE == 0 {
                self.history.tile_begin.push(self.history.row.len() as u32);
            }
            while let Some((_, key, until)) = left.next_if(|(s, ..)| *s as usize == slot) {
                self.history.push(*key, *until);
            }
            self.history.push(self.slots.get(slot), NEVER);
        }
        self.history.tile_begin.push(self.history.row.len() as u32);
    }

    /// The keys that queries of the block see, by slot, in each slot one after another in time.
    pub fn list(&self) -> &KeyList {
        if self.history.row.is_empty() {
            &self.slots
        } else {
            &self.history
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kept keys of query `q` by sorting all keys up to it: s descending, place ascending.
    fn by_sorting(mask: &[f32], q: usize, keep: usize) -> Vec<u32> {
        let mut order: Vec<usize> = (0..=q).collect();
        order.sort_by(|&a, &b| mask[b].total_cmp(&mask[a]).then(a.cmp(&b)));
        order.truncate(keep);
        order.sort_unstable();
        order.into_iter().map(|j| j as u32).collect()
    }

    /// The slot in which a row is now.
    fn slot_at(set: &KeptSet, row: u32) -> Option<usize> {
        set.keys().position(|key| key.row == row)
    }

    /// What is taken back leaves no trace: the same slots, and the same ones next.
    #[test]
    fn a_block_taken_back_was_never_there() {
        let mask = |j: u32| (j.wrapping_mul(2_654_435_761) >> 20) as f32 % 50.0;
        let feed = |set: &mut KeptSet, places: std::ops::Range<u32>, scale: f32| {
            set.begin_block();
            places.clone().for_each(|j| _ = set.offer(Key { place: j, row: j, mask: scale * mask(j) }));
            set.end_offers(places.len());
        };
        for keep in [1, 3, 128, 129, 200, 400] {
            for first in [0, 1, 127, 128, 129, 250] {
                let (mut straight, mut detour) = (KeptSet::new(keep), KeptSet::new(keep));
                feed(&mut straight, 0..first, 1.0);
                feed(&mut detour, 0..first, 1.0);
                feed(&mut detour, first..first + 140, 2.0);
                detour.take_back(first);
                for places in [first..first + 1, first + 1..first + 90] {
                    feed(&mut straight, places.clone(), 1.0);
                    feed(&mut detour, places, 1.0);
                    assert!(straight.keys().eq(detour.keys()), "keep {keep}, block at {first}");
                    assert_eq!(straight.list().tile_begin, detour.list().tile_begin, "keep {keep}, block at {first}");
                    assert_eq!(straight.list().seen_until, detour.list().seen_until, "keep {keep}, block at {first}");
                }
            }
        }
    }

    #[test]
    fn a_block_list_shows_each_query_what_sorting_gives_it() {
        let mut seed = 1u32;
        for (keep, values) in [(1, 100), (5, 3), (7, 1000), (130, 50), (1000, 7), (4, 1)] {
            let mask: Vec<f32> = (0..300)
                .map(|_| {
                    seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                    (seed >> 16) as f32 % values as f32 // few values: many ties
                })
                .collect();
            let mut set = KeptSet::new(keep);
            let mut slot_of = vec![None; mask.len()];
            for block in [0..1, 1..2, 2..60, 60..61, 61..300] {
                set.begin_block();
                for j in block.clone() {
                    set.offer(Key { place: j as u32, row: j as u32, mask: mask[j] });
                }
                set.end_offers(block.len());
                let list = set.list();
                let all_tiles_hold_whole_slots =
                    list.tile_begin.windows(2).enumerate().all(|(i, w)| {
                        (w[0]..w[1]).all(|t| slot_at(&set, list.row[t as usize]).is_none_or(|slot| slot / TILE == i))
                    });
                assert!(all_tiles_hold_whole_slots);
                assert_eq!(*list.tile_begin.last().unwrap() as usize, list.row.len());
                for q in block {
                    let seen: Vec<u32> = (0..list.row.len())
                        .filter(|&t| list.seen_from[t] as usize <= q && q < list.seen_until[t] as usize)
                        .map(|t| list.row[t])
                        .collect();
                    let mut sorted = seen.clone();
                    sorted.sort_unstable();
                    assert_eq!(sorted, by_sorting(&mask, q, keep), "keep {keep}, query {q}");
                }
                for (slot, key) in set.keys().enumerate() {
                    assert!(*slot_of[key.place as usize].get_or_insert(slot) == slot, "a key never moves");
                }
            }
        }
    }
}
