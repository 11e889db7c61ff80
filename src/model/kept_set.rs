//! Which keys a mask head keeps (spec 4.4, 8), one comparison a token.
//!
//! s_m(j) depends on key j alone, so a key that falls out of the best `keep_window_size` never comes back. The set is
//! therefore a fixed number of slots, overwritten in place: a newcomer takes a free slot, or the slot of the weakest key
//! if it is strictly better, or none. The slot of a key is its place in every sum over keys, whether the sequence is fed
//! token by token or in blocks; that is what makes both agree bit for bit.

use std::collections::TryReserveError;

use super::key_list::{Key, KeyList, NEVER, TILE};

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

    /// Begins a block: forgets whom the last one dropped. `move_row(from, to)` is called for each key that moves from a spare
    /// row to its slot's.
    pub fn begin_block(&mut self, mut move_row: impl FnMut(u32, u32)) {
        for (slot, ..) in self.left.drain(..) {
            let row = &mut self.slots.row[slot as usize];
            if *row != slot {
                move_row(*row, slot);
                *row = slot;
            }
        }
    }

    /// Offers the next key of the sequence, and gives the row it is to stand in: that of a free slot; a spare one, the first
    /// of a block being `keep_window_size`, if it takes the slot of another key; or none, if it is weaker than all keys of
    /// the set: even its own query does not see it. Places ascend from offer to offer.
    pub fn offer(&mut self, place: u32, mask: f32) -> Option<u32> {
        if self.slots.row.len() < self.keep {
            return Some(self.push(place, mask));
        }
        let slot = *self.heap.first()?;
        let weakest = self.slots.get(slot as usize);
        let key = Key { place, row: (self.keep + self.left.len()) as u32, mask };
        if !weakest.weaker(&key) {
            return None;
        }
        self.left.push((slot, weakest, place));
        self.slots.set(slot as usize, key);
        self.sift_down(0);
        Some(key.row)
    }

    /// Puts a key into the next free slot.
    fn push(&mut self, place: u32, mask: f32) -> u32 {
        let n = self.slots.row.len();
        self.slots.push(Key { place, row: n as u32, mask }, NEVER);
        match self.slots.tile_begin.last_mut() {
            Some(end) if (n + 1) % TILE != 1 => *end = n as u32 + 1,
            _ => self.slots.tile_begin.push(n as u32 + 1),
        }
        if n + 1 == self.keep {
            self.make_heap();
        }
        n as u32
    }

    /// Makes the heap of a full set.
    fn make_heap(&mut self) {
        self.heap.clear();
        self.heap.extend(0..self.keep as u32);
        (0..self.keep / 2).rev().for_each(|at| self.sift_down(at));
    }

    /// Fills an empty set with (place, mask value) of each slot. Room for them was reserved.
    pub fn fill(&mut self, keys: impl Iterator<Item = (u32, f32)>) {
        keys.take(self.keep).for_each(|(place, mask)| _ = self.push(place, mask));
    }

    /// Takes the block at hand back, whose first token stands at `place0`: the set is as it was before.
    pub fn take_back(&mut self, place0: u32) {
        for (slot, key, _) in self.left.drain(..).filter(|(_, key, _)| key.place < place0) {
            self.slots.set(slot as usize, key); // of all that were in it, the one from before the block
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

    /// The slot in which the key of a place is now.
    fn slot_at(set: &KeptSet, place: u32) -> Option<usize> {
        set.keys().position(|key| key.place == place)
    }

    /// A set with its storage, whose rows hold the places of their keys.
    struct Stored {
        set: KeptSet,
        rows: Vec<u32>,
    }

    impl Stored {
        fn new(keep: usize) -> Self {
            Stored { set: KeptSet::new(keep), rows: vec![NEVER; keep + 300] }
        }

        /// A block; every key on its list stands in its row.
        fn feed(&mut self, places: std::ops::Range<u32>, mask: impl Fn(u32) -> f32) {
            let Stored { set, rows } = self;
            set.begin_block(|from, to| rows[to as usize] = rows[from as usize]);
            for place in places.clone() {
                if let Some(row) = set.offer(place, mask(place)) {
                    rows[row as usize] = place;
                }
            }
            set.end_offers(places.len());
            let list = set.list();
            assert!(list.row.iter().zip(&list.seen_from).all(|(&row, &place)| rows[row as usize] == place));
        }
    }

    /// What is taken back leaves no trace: the same slots, and the same ones next.
    #[test]
    fn a_block_taken_back_was_never_there() {
        let mask = |j: u32| (j.wrapping_mul(2_654_435_761) >> 20) as f32 % 50.0;
        for keep in [1, 3, 128, 129, 200, 400] {
            for first in [0, 1, 127, 128, 129, 250] {
                let (mut straight, mut detour) = (Stored::new(keep), Stored::new(keep));
                straight.feed(0..first, mask);
                detour.feed(0..first, mask);
                detour.feed(first..first + 140, |j| 2.0 * mask(j));
                detour.set.take_back(first);
                for places in [first..first + 1, first + 1..first + 90] {
                    straight.feed(places.clone(), mask);
                    detour.feed(places, mask);
                    let (straight, detour) = (&straight.set, &detour.set);
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
            let mut stored = Stored::new(keep);
            let mut slot_of = vec![None; mask.len()];
            for block in [0..1, 1..2, 2..60, 60..61, 61..300] {
                stored.feed(block.start as u32..block.end as u32, |j| mask[j as usize]);
                let (set, list) = (&stored.set, stored.set.list());
                let all_tiles_hold_whole_slots = list.tile_begin.windows(2).enumerate().all(|(i, w)| {
                    (w[0]..w[1]).all(|t| slot_at(set, list.seen_from[t as usize]).is_none_or(|slot| slot / TILE == i))
                });
                assert!(all_tiles_hold_whole_slots);
                assert_eq!(*list.tile_begin.last().unwrap() as usize, list.row.len());
                for q in block {
                    let seen: Vec<u32> = (0..list.row.len())
                        .filter(|&t| list.seen_from[t] as usize <= q && q < list.seen_until[t] as usize)
                        .map(|t| list.seen_from[t])
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
