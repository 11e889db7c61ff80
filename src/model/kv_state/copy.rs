//! A state once more, and a state as it was before its last block.

use super::LayerState;
use crate::Result;

impl LayerState {
    /// A copy with room for a sequence of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn fork(&self, tokens: usize) -> Result<Self> {
        let mut fork = LayerState::new(self.shape);
        fork.reserve(tokens)?;
        fork.tokens = self.tokens;
        let (tokens_in, rows) = (self.tokens as usize, self.shape.rows(self.tokens as usize));
        for m in self.shape.owners(tokens_in) {
            let (to, from) = (fork.arena(m), self.arena(m));
            let mut copy = |row: usize, old: usize| fork.kv.copy_row(to, row, &self.kv, from, old);
            match self.sets.get(m) {
                Some(set) => set.keys().enumerate().for_each(|(slot, key)| copy(slot, key.row as usize)),
                None => (0..rows).for_each(|row| copy(row, row)),
            }
        }
        for (fork, set) in fork.sets.iter_mut().zip(&self.sets) {
            fork.fill(set.keys().map(|key| (key.place, key.mask)));
        }
        for (fork, ring) in fork.ring.iter_mut().zip(&self.ring) {
            fork[..rows].copy_from_slice(&ring[..rows]);
        }
        Ok(fork)
    }

    /// Takes the last block back, if it began at `place0` (a call may fail before it comes to this layer). The rows of the
    /// keys it dropped are as they were until the next block comes, so nothing is lost.
    pub fn take_back(&mut self, place0: u32) {
        if self.tokens > place0 {
            self.tokens = place0;
            self.sets.iter_mut().for_each(|set| set.take_back(place0));
        }
    }
}
