//! What a session remembers of the tokens it has seen: the kept keys of each mask head, and their K and V rows.
//!
//! K and V rows live in an arena per K/V head; a mask head's set names rows of it. In V2 each K/V head has one mask head.
//! In V1 the `g` attention heads of a K/V head each keep their own set over shared rows, so a row goes when the last of
//! them has dropped it: the arena holds at most g · keep_window_size rows, and the rows of the block at hand. With
//! `sliding_window` dropped keys may come back, so all keys of the window are kept and each query selects anew.

mod copy;
mod saved;

use super::kept_set::{KeptSet, Key, Offer, TILE};
use crate::{ops::AttentionHead, Error, Result};

/// The sizes that shape a state.
#[derive(Clone, Copy, Debug)]
pub struct StateShape {
    pub num_key_value_heads: usize,
    /// M: one set each; a multiple of `num_key_value_heads`.
    pub mask_heads: usize,
    pub head_dim: usize,
    pub keep_window_size: usize,
    pub sliding_window: Option<usize>,
    /// Tokens of a block at most.
    pub block: usize,
}

impl StateShape {
    /// Rows of an arena after `tokens` tokens, at most.
    fn rows(&self, tokens: usize) -> usize {
        let bound = match self.sliding_window {
            Some(window) => window,
            None => self.keep_window_size.saturating_mul(self.mask_heads / self.num_key_value_heads),
        };
        bound.min(tokens).saturating_add(self.block)
    }

    /// Bytes of the K and V rows of one layer after `tokens` tokens.
    pub fn bytes(&self, tokens: usize) -> u128 {
        let floats = self.rows(tokens) as u128 * self.head_dim as u128 * self.num_key_value_heads as u128;
        2 * floats * size_of::<f32>() as u128
    }
}

/// K and V rows of one K/V head.
#[derive(Clone, Debug, Default)]
struct Arena {
    /// [rows][head_dim] each
    k: Vec<f32>,
    v: Vec<f32>,
    /// [rows]: how many sets name the row.
    users: Vec<u32>,
    /// Rows that no set names and no query of the block at hand sees.
    free: Vec<u32>,
    /// Rows that no set names any more; free after the block.
    retired: Vec<u32>,
}

impl Arena {
    /// Grows to `rows` rows.
    fn grow(&mut self, rows: usize, head_dim: usize) -> Result<()> {
        let old = self.users.len();
        if rows <= old {
            return Ok(());
        }
        let floats = rows.saturating_mul(head_dim);
        let no_room = |_| Error::OutOfMemory { bytes: 2 * floats as u128 * 4, what: "the K and V rows of a session" };
        for side in [&mut self.k, &mut self.v] {
            side.try_reserve_exact(floats.saturating_sub(side.len())).map_err(no_room)?;
            side.resize(floats, 0.0);
        }
        self.users.resize(rows, 0);
        self.free.reserve(rows);
        self.retired.reserve(rows);
        // The lowest row is taken first, so that a young session's rows lie side by side.
        self.free.splice(0..0, (old as u32..rows as u32).rev());
        Ok(())
    }
}

/// What one layer remembers.
#[derive(Clone, Debug)]
pub struct LayerState {
    shape: StateShape,
    /// [num_key_value_heads]
    arenas: Vec<Arena>,
    /// [mask_heads]; without sliding_window.
    sets: Vec<KeptSet>,
    /// With sliding_window: [mask_heads][rows] mask values; row of place p is p % rows.
    ring: Vec<Vec<f32>>,
    /// With sliding_window: the keys of the query at hand, [mask_heads].
    chosen: Vec<Chosen>,
    /// Tokens taken in.
    tokens: u32,
}

/// The keys that one query of a sliding window sees.
#[derive(Clone, Debug, Default)]
struct Chosen {
    /// Candidates, then the chosen ones by place.
    keys: Vec<Key>,
    row: Vec<u32>,
    mask: Vec<f32>,
    tile_begin: Vec<u32>,
}

impl LayerState {
    pub fn new(shape: StateShape) -> Self {
        let sliding = shape.sliding_window.is_some();
        let (sets, rings) = if sliding { (0, shape.mask_heads) } else { (shape.mask_heads, 0) };
        LayerState {
            shape,
            arenas: vec![Arena::default(); shape.num_key_value_heads],
            sets: vec![KeptSet::new(shape.keep_window_size); sets],
            ring: vec![Vec::new(); rings],
            chosen: vec![Chosen::default(); rings],
            tokens: 0,
        }
    }

    /// Blocks may have up to `block` tokens from now on; takes effect with the next [`LayerState::reserve`]. A ring, whose
    /// rows are found by place, is laid anew at once for a sequence of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn set_block(&mut self, block: usize, tokens: usize) -> Result<()> {
        let shape = StateShape { block, ..self.shape };
        let Some(window) = shape.sliding_window.filter(|_| tokens > 0) else {
            self.shape = shape;
            return Ok(());
        };
        let old = std::mem::replace(self, LayerState::new(shape));
        self.reserve(tokens)?;
        self.tokens = old.tokens;
        let d = shape.head_dim;
        for place in tokens.saturating_sub(window)..tokens {
            for (arena, was) in self.arenas.iter_mut().zip(&old.arenas) {
                let (to, from) = (place % arena.users.len() * d, place % was.users.len() * d);
                arena.k[to..to + d].copy_from_slice(&was.k[from..from + d]);
                arena.v[to..to + d].copy_from_slice(&was.v[from..from + d]);
            }
            for (ring, was) in self.ring.iter_mut().zip(&old.ring) {
                let at = place % ring.len();
                ring[at] = was[place % was.len()];
            }
        }
        Ok(())
    }

    /// Makes room for a sequence of `tokens` tokens: afterwards, adding up to that many does not allocate.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let shape = self.shape;
        let rows = shape.rows(tokens);
        let no_room = |_| Error::OutOfMemory { bytes: 16 * rows as u128, what: "the kept sets of a session" };
        if shape.sliding_window.is_some() && self.arenas.iter().any(|a| a.users.len() < rows) {
            // A ring's rows are found by place, so it takes its final size at once.
            let rows = shape.rows(usize::MAX);
            for (ring, chosen) in self.ring.iter_mut().zip(&mut self.chosen) {
                ring.try_reserve_exact(rows.saturating_sub(ring.len())).map_err(no_room)?;
                ring.resize(rows, 0.0);
                chosen.keys.try_reserve(rows).map_err(no_room)?;
                chosen.row.try_reserve(rows).map_err(no_room)?;
                chosen.mask.try_reserve(rows).map_err(no_room)?;
                chosen.tile_begin.try_reserve(rows / TILE + 2).map_err(no_room)?;
            }
            return self.arenas.iter_mut().try_for_each(|arena| arena.grow(rows, shape.head_dim));
        }
        self.sets.iter_mut().try_for_each(|set| set.reserve(tokens, shape.block)).map_err(no_room)?;
        self.arenas.iter_mut().try_for_each(|arena| arena.grow(rows, shape.head_dim))
    }

    /// Bytes that the query after `tokens` tokens reads of this state.
    pub fn bytes_per_token(&self, tokens: usize) -> usize {
        let row = 2 * self.shape.head_dim * size_of::<f32>();
        let key = size_of::<u32>() + size_of::<f32>(); // row number and mask value
        if let Some(window) = self.shape.sliding_window {
            let (seen, kept) = (tokens.min(window), tokens.min(window).min(self.shape.keep_window_size));
            return self.ring.len() * seen * size_of::<f32>() + self.arenas.len() * kept * row;
        }
        let rows: usize = self.arenas.iter().map(|arena| arena.users.len() - arena.free.len()).sum();
        let keys: usize = self.sets.iter().map(|set| set.keys().count()).sum();
        rows * row + keys * key
    }

    /// Takes in a block of tokens whose first stands at `place0`. `k` (rotated) and `v` are
    /// `[n, num_key_value_heads · head_dim]`, `mask` is `[n, mask_heads]`. Room for them was reserved.
    pub fn add_block(&mut self, place0: u32, k: &[f32], v: &[f32], mask: &[f32]) {
        let StateShape { num_key_value_heads: nkv, mask_heads, head_dim: d, .. } = self.shape;
        let (row_len, per_arena) = (nkv * d, mask_heads / nkv);
        for set in &mut self.sets {
            set.begin_block();
        }
        for (t, token_mask) in mask.chunks_exact(mask_heads).enumerate() {
            let place = place0 + t as u32;
            for (kv_head, arena) in self.arenas.iter_mut().enumerate() {
                let row = if self.sets.is_empty() {
                    (place as usize % arena.users.len()) as u32
                } else {
                    let row = arena.free.last().copied().expect("a row was reserved for every token of a block");
                    let heads = kv_head * per_arena..(kv_head + 1) * per_arena;
                    for (set, &mask) in self.sets[heads.clone()].iter_mut().zip(&token_mask[heads]) {
                        match set.offer(Key { place, row, mask }) {
                            Offer::Rejected => continue,
                            Offer::Kept => {}
                            Offer::Replaced { row: old } => {
                                arena.users[old as usize] -= 1;
                                if arena.users[old as usize] == 0 {
                                    arena.retired.push(old);
                                }
                            }
                        }
                        arena.users[row as usize] += 1;
                    }
                    if arena.users[row as usize] == 0 {
                        continue; // dropped on arrival by every head: nobody will read the row
                    }
                    arena.free.pop();
                    row
                };
                let (from, to) = (t * row_len + kv_head * d, row as usize * d);
                arena.k[to..to + d].copy_from_slice(&k[from..from + d]);
                arena.v[to..to + d].copy_from_slice(&v[from..from + d]);
            }
            for (ring, &value) in self.ring.iter_mut().zip(token_mask) {
                let at = place as usize % ring.len();
                ring[at] = value;
            }
        }
        for set in &mut self.sets {
            set.end_offers(mask.len() / mask_heads);
        }
        self.tokens = place0 + (mask.len() / mask_heads) as u32;
    }

    /// Ends a block: rows that only its queries could see become free.
    pub fn end_block(&mut self) {
        for arena in &mut self.arenas {
            arena.free.append(&mut arena.retired);
        }
    }

    /// With sliding_window: selects the keys that the query at `place` sees. Its block was added.
    pub fn choose(&mut self, place: u32) {
        let Some(window) = self.shape.sliding_window else { return };
        let first = (place as usize + 1).saturating_sub(window) as u32;
        for (ring, chosen) in self.ring.iter().zip(&mut self.chosen) {
            let row = |place: u32| (place as usize % ring.len()) as u32;
            chosen.keys.clear();
            chosen.keys.extend((first..=place).map(|p| Key { place: p, row: row(p), mask: ring[row(p) as usize] }));
            if chosen.keys.len() > self.shape.keep_window_size {
                let best_first = |a: &Key, b: &Key| b.mask.total_cmp(&a.mask).then(a.place.cmp(&b.place));
                chosen.keys.select_nth_unstable_by(self.shape.keep_window_size, best_first);
                chosen.keys.truncate(self.shape.keep_window_size);
                chosen.keys.sort_unstable_by_key(|key| key.place);
            }
            chosen.row.clear();
            chosen.row.extend(chosen.keys.iter().map(|key| key.row));
            chosen.mask.clear();
            chosen.mask.extend(chosen.keys.iter().map(|key| key.mask));
            chosen.tile_begin.clear();
            chosen.tile_begin.extend((0..chosen.keys.len()).step_by(TILE).map(|t| t as u32));
            chosen.tile_begin.push(chosen.keys.len() as u32);
        }
    }

    /// The keys of mask head `m` for the attention of the block of `n_queries` just added (or of the query just chosen
    /// for).
    pub fn head(&self, m: usize, n_queries: usize) -> AttentionHead<'_> {
        let arena = &self.arenas[m / (self.shape.mask_heads / self.shape.num_key_value_heads)];
        let (k, v) = (&arena.k[..], &arena.v[..]);
        match self.sets.get(m).map(KeptSet::list) {
            Some(list) => AttentionHead {
                k,
                v,
                row: &list.row,
                mask: &list.mask,
                seen: (n_queries > 1).then_some((&list.seen_from[..], &list.seen_until[..])),
                tile_begin: &list.tile_begin,
            },
            None => {
                let chosen = &self.chosen[m];
                AttentionHead { k, v, row: &chosen.row, mask: &chosen.mask, seen: None, tile_begin: &chosen.tile_begin }
            }
        }
    }

    /// The places that the query at `place` of the block just added (or just chosen for) sees, for mask head `m`, in no
    /// particular order.
    pub fn kept(&self, m: usize, place: u32) -> Vec<u32> {
        match self.sets.get(m) {
            Some(set) => {
                let stayed = set.keys().filter(|key| key.place <= place).map(|key| key.place);
                let left = set.left().filter(|(key, until)| key.place <= place && place < *until).map(|(key, _)| key.place);
                stayed.chain(left).collect()
            }
            None => self.chosen[m].keys.iter().map(|key| key.place).collect(),
        }
    }
}
