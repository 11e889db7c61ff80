//! What a session remembers of the tokens it has seen: the kept keys of each mask head, and their K and V rows.
//!
//! The row of a key is its slot, so that attention runs through memory in order. A newcomer that takes the slot of another
//! key stands in a spare row behind the slots as long as its block is the last one: earlier queries of the block still see
//! the other key, and the block may be taken back. In V2 each K/V head has one mask head. In V1 the `g` attention heads of a
//! K/V head each keep their own set; until the first key is dropped all keep the same ones, and share their rows; from then
//! on each has rows of its own. With `sliding_window` dropped keys may come back, so all keys of the window are kept and
//! each query selects anew.

mod copy;
mod saved;

use super::{
    kept_set::KeptSet,
    key_list::{Key, KeyList, NEVER, TILE},
    kv_rows::{KvRows, Side},
};
use crate::{dtype::Float, ops::AttentionHead, Error, Result};

/// The sizes that shape a state.
#[derive(Clone, Copy, Debug)]
pub struct StateShape {
    pub num_key_value_heads: usize,
    /// M: one set each; a multiple of `num_key_value_heads`.
    pub mask_heads: usize,
    pub head_dim: usize,
    /// Of the K and V rows.
    pub kv_dtype: Float,
    pub keep_window_size: usize,
    pub sliding_window: Option<usize>,
    /// Tokens of a block at most.
    pub block: usize,
}

impl StateShape {
    /// Attention heads of V1 that share a K/V head, each with a set of its own; 1 in V2.
    fn sharing(&self) -> usize {
        self.mask_heads / self.num_key_value_heads
    }

    /// Has each mask head rows of its own after `tokens` tokens?
    fn is_split(&self, tokens: usize) -> bool {
        self.sliding_window.is_none() && tokens > self.keep_window_size
    }

    /// The mask heads whose arenas hold rows after `tokens` tokens.
    fn owners(&self, tokens: usize) -> std::iter::StepBy<std::ops::Range<usize>> {
        (0..self.mask_heads).step_by(if self.is_split(tokens) { 1 } else { self.sharing() })
    }

    /// Rows of an arena after `tokens` tokens.
    fn rows(&self, tokens: usize) -> usize {
        match self.sliding_window {
            // A key's row is its place, modulo these rows once there are all of them.
            Some(window) => window.saturating_add(self.block).min(tokens),
            None if self.is_split(tokens) => self.keep_window_size.saturating_add(self.block),
            None => tokens,
        }
    }

    /// Bytes of the K and V rows of one layer after `tokens` tokens.
    pub fn bytes(&self, tokens: usize) -> u128 {
        let row = 2 * self.kv_dtype.size() as u128 * self.head_dim as u128;
        self.owners(tokens).len() as u128 * self.rows(tokens) as u128 * row
    }
}

/// What one layer remembers.
#[derive(Debug)]
pub struct LayerState {
    shape: StateShape,
    /// An arena for each mask head that has rows of its own, or will have once keys are dropped.
    kv: KvRows,
    /// [mask_heads]; without sliding_window.
    sets: Vec<KeptSet>,
    /// With sliding_window: [mask_heads][rows] mask values; the row of place p is p % rows.
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
    list: KeyList,
}

impl LayerState {
    pub fn new(shape: StateShape) -> Self {
        let sliding = shape.sliding_window.is_some();
        let (sets, rings) = if sliding { (0, shape.mask_heads) } else { (shape.mask_heads, 0) };
        LayerState {
            shape,
            kv: KvRows::new(shape.head_dim, shape.kv_dtype),
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
    /// [`Error::OutOfMemory`]; nothing has changed then.
    pub fn set_block(&mut self, block: usize, tokens: usize) -> Result<()> {
        let shape = StateShape { block, ..self.shape };
        let Some(window) = shape.sliding_window.filter(|_| tokens > 0) else {
            self.shape = shape;
            return Ok(());
        };
        let mut anew = LayerState::new(shape);
        anew.reserve(tokens)?;
        anew.tokens = self.tokens;
        let (rows, old_rows) = (shape.rows(tokens), self.shape.rows(tokens));
        for place in tokens.saturating_sub(window)..tokens {
            let (to, from) = (place % rows, place % old_rows);
            (0..self.kv.arenas()).for_each(|arena| anew.kv.copy_row(arena, to, &self.kv, arena, from));
            anew.ring.iter_mut().zip(&self.ring).for_each(|(ring, was)| ring[to] = was[from]);
        }
        *self = anew;
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
        for (ring, chosen) in self.ring.iter_mut().zip(&mut self.chosen) {
            ring.try_reserve_exact(rows.saturating_sub(ring.len())).map_err(no_room)?;
            ring.resize(rows.max(ring.len()), 0.0);
            chosen.keys.try_reserve(rows).map_err(no_room)?;
            chosen.list.reserve(rows).map_err(no_room)?;
        }
        self.sets.iter_mut().try_for_each(|set| set.reserve(tokens, shape.block)).map_err(no_room)?;
        self.kv.grow(shape.owners(tokens).len(), rows)
    }

    /// Bytes that the query after `tokens` tokens reads of this state.
    pub fn bytes_per_token(&self, tokens: usize) -> usize {
        let row = 2 * self.shape.head_dim * self.shape.kv_dtype.size();
        let key = size_of::<u32>() + size_of::<f32>(); // row number and mask value
        let arenas = self.shape.owners(tokens).len();
        if let Some(window) = self.shape.sliding_window {
            let (seen, kept) = (tokens.min(window), tokens.min(window).min(self.shape.keep_window_size));
            return self.ring.len() * seen * size_of::<f32>() + arenas * kept * row;
        }
        let kept = tokens.min(self.shape.keep_window_size);
        kept * (arenas * row + self.sets.len() * key)
    }

    /// Takes in a block of tokens whose first stands at `place0`. `k` (rotated) and `v` are
    /// `[n, num_key_value_heads · head_dim]`, `mask` is `[n, mask_heads]`. Room for them was reserved.
    pub fn add_block(&mut self, place0: u32, k: &[f32], v: &[f32], mask: &[f32]) {
        let shape = self.shape;
        let StateShape { num_key_value_heads: nkv, mask_heads, head_dim: d, .. } = shape;
        let (n, before) = (mask.len() / mask_heads, place0 as usize);
        self.settle();
        if shape.is_split(before + n) && !shape.is_split(before) {
            self.split(before);
        }
        self.tokens = place0 + n as u32;
        let rows = shape.rows(self.tokens as usize);
        for (ring, m) in self.ring.iter_mut().zip(0..) {
            (0..n).for_each(|t| ring[(before + t) % rows] = mask[t * mask_heads + m]);
        }
        for m in 0..mask_heads {
            let (owner, arena) = (self.owner(m) == m, self.arena(m));
            for t in 0..n {
                let row = match self.sets.get_mut(m) {
                    Some(set) => set.offer(place0 + t as u32, mask[t * mask_heads + m]).map(|row| row as usize),
                    None => Some((before + t) % rows),
                };
                if let Some(row) = row.filter(|_| owner) {
                    let at = (t * nkv + m / shape.sharing()) * d;
                    self.kv.put(arena, Side::K, row, &k[at..at + d]);
                    self.kv.put(arena, Side::V, row, &v[at..at + d]);
                }
            }
            if let Some(set) = self.sets.get_mut(m) {
                set.end_offers(n);
            }
        }
    }

    /// The arena in which the rows of mask head `m` are.
    fn arena(&self, m: usize) -> usize {
        self.owner(m) * self.kv.arenas() / self.shape.mask_heads
    }

    /// The mask head whose rows are those of `m`.
    fn owner(&self, m: usize) -> usize {
        if self.shape.is_split(self.tokens as usize) {
            m
        } else {
            m - m % self.shape.sharing()
        }
    }

    /// Moves the newcomers of the last block from their spare rows to their slots'.
    fn settle(&mut self) {
        for m in 0..self.sets.len() {
            let arena = self.arena(m);
            self.sets[m].begin_block(|from, to| self.kv.move_row(arena, from as usize, to as usize));
        }
    }

    /// Gives each mask head that shared rows until now, `rows` of them, its own copy. There is an arena for each already.
    fn split(&mut self, rows: usize) {
        let sharing = self.shape.sharing();
        for m in (0..self.shape.mask_heads).filter(|m| m % sharing != 0) {
            self.kv.copy_arena(m - m % sharing, m, rows);
        }
    }

    /// Does one list of keys serve the queries of a block that ends before place `end`? Not where a sliding window acts, which
    /// selects anew for each of them.
    pub fn serves_blocks(&self, end: usize) -> bool {
        self.shape.sliding_window.is_none_or(|window| end <= window.min(self.shape.keep_window_size))
    }

    /// With sliding_window: selects the keys that the query at `place` sees. Its block was added.
    pub fn choose(&mut self, place: u32) {
        let Some(window) = self.shape.sliding_window else { return };
        let first = (place as usize + 1).saturating_sub(window) as u32;
        let rows = self.shape.rows(self.tokens as usize);
        for (ring, chosen) in self.ring.iter().zip(&mut self.chosen) {
            let row = |place: u32| (place as usize % rows) as u32;
            chosen.keys.clear();
            chosen.keys.extend((first..=place).map(|p| Key { place: p, row: row(p), mask: ring[row(p) as usize] }));
            if chosen.keys.len() > self.shape.keep_window_size {
                let best_first = |a: &Key, b: &Key| b.mask.total_cmp(&a.mask).then(a.place.cmp(&b.place));
                chosen.keys.select_nth_unstable_by(self.shape.keep_window_size, best_first);
                chosen.keys.truncate(self.shape.keep_window_size);
                chosen.keys.sort_unstable_by_key(|key| key.place);
            }
            let list = &mut chosen.list;
            list.clear();
            chosen.keys.iter().for_each(|key| list.push(*key, NEVER));
            list.tile_begin.extend((0..chosen.keys.len()).step_by(TILE).map(|t| t as u32));
            list.tile_begin.push(chosen.keys.len() as u32);
        }
    }

    /// The keys of mask head `m` for the attention of the block of `n_queries` just added (or of the query just chosen
    /// for).
    pub fn head(&self, m: usize, n_queries: usize) -> AttentionHead<'_> {
        let arena = self.arena(m);
        let list = self.sets.get(m).map_or_else(|| &self.chosen[m].list, KeptSet::list);
        AttentionHead {
            k: self.kv.matrix(arena, Side::K),
            v: self.kv.matrix(arena, Side::V),
            row: &list.row,
            mask: &list.mask,
            seen: (n_queries > 1).then_some((&list.seen_from[..], &list.seen_until[..])),
            tile_begin: &list.tile_begin,
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
            None => self.chosen[m].keys.iter().map(|key| key.place).filter(|&of_key| of_key <= place).collect(),
        }
    }
}
