//! A state once more, and a state as it was before its last block.

use super::{Arena, KeptSet, LayerState};
use crate::Result;

impl Arena {
    /// Lists the rows that nobody uses, so that the lowest is taken first.
    pub(super) fn find_free(&mut self) {
        self.retired.clear();
        self.free.clear();
        self.free.extend((0..self.users.len() as u32).rev().filter(|&row| self.users[row as usize] == 0));
    }

    /// Makes a fresh arena a copy of `other`, with all the rows it has if those are more.
    fn copy_from(&mut self, other: &Arena, head_dim: usize) -> Result<()> {
        let rows = other.users.len();
        self.grow(rows, head_dim)?;
        self.k[..other.k.len()].copy_from_slice(&other.k);
        self.v[..other.v.len()].copy_from_slice(&other.v);
        self.users[..rows].copy_from_slice(&other.users);
        self.find_free();
        Ok(())
    }
}

impl LayerState {
    /// A copy with room for a sequence of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn fork(&self, tokens: usize) -> Result<Self> {
        let mut fork = LayerState::new(self.shape);
        fork.reserve(tokens)?;
        for (fork, arena) in fork.arenas.iter_mut().zip(&self.arenas) {
            fork.copy_from(arena, self.shape.head_dim)?;
        }
        for (fork, set) in fork.sets.iter_mut().zip(&self.sets) {
            fork.fill(set.keys());
        }
        for (fork, ring) in fork.ring.iter_mut().zip(&self.ring) {
            fork[..ring.len()].copy_from_slice(ring);
        }
        fork.tokens = self.tokens;
        Ok(fork)
    }

    /// Takes the last block back, if it began at `place0` (a call may fail before it comes to this layer). Its rows stand
    /// beside those of the keys it dropped until the next block comes, so nothing is lost.
    pub fn take_back(&mut self, place0: u32) {
        if self.tokens <= place0 {
            return;
        }
        self.tokens = place0;
        let per_arena = self.shape.mask_heads / self.shape.num_key_value_heads;
        self.sets.iter_mut().for_each(|set| set.take_back(place0));
        for (arena, sets) in self.arenas.iter_mut().zip(self.sets.chunks(per_arena)) {
            arena.users.fill(0);
            sets.iter().flat_map(KeptSet::keys).for_each(|key| arena.users[key.row as usize] += 1);
            arena.find_free();
        }
    }
}
