//! The bed in which activations flow: every buffer of a block, made once.

use std::ops::{Deref, DerefMut};

use super::{config::Config, key_list::TILE, Checkpoint};
use crate::{
    ops::{Activations, Cpu},
    Dtype, Error, Result,
};

/// Activations of a block of `rows` tokens. H, I, V, d, nq, nkv, M, K, k as in the spec.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The residual stream.
    pub x: Buffer<f32>, // [rows, H]
    /// The normed stream, input of a projection.
    pub h: Buffer<f32>, // [rows, H]
    /// What attention or MLP adds to the stream.
    pub branch: Buffer<f32>, // [rows, H]
    pub q: Buffer<f32>,         // [rows, nq, d]
    pub k: Buffer<f32>,         // [rows, nkv, d]
    pub v: Buffer<f32>,         // [rows, nkv, d]
    pub mask: Buffer<f32>,      // [rows, M]
    pub attn: Buffer<f32>,      // [rows, nq, d]
    pub cos: Buffer<f32>,       // [rows, d/2]
    pub sin: Buffer<f32>,       // [rows, d/2]
    pub gate: Buffer<f32>,      // [rows, I]
    pub up: Buffer<f32>,        // [rows, I]
    pub router: Buffer<f32>,    // [rows, 2K]
    pub expert: Buffer<u32>,    // [rows, k]
    pub weight: Buffer<f32>,    // [rows, k]
    pub hit: Buffer<f32>,       // [rows, k]
    pub logits: Buffer<f32>,    // [rows of logits, V]
    pub attention: Buffer<f32>, // as Cpu::attention_scratch says
    pub routing: Buffer<u64>,   // as Cpu::router_scratch says
    pub prepared: Buffer<u32>,  // as Cpu::prepared_words says
}

impl Scratch {
    /// Makes room for `rows` rows, and for `logits` rows of logits.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn reserve(&mut self, rows: usize, logits: usize, checkpoint: &Checkpoint, cpu: &Cpu) -> Result<()> {
        let Checkpoint { config, variant, .. } = checkpoint;
        let Config { hidden_size, intermediate_size, head_dim, .. } = *config;
        let (keys, top) = if config.is_moe { (config.num_keys(), config.num_experts_per_tok) } else { (0, 0) };
        let mask_heads = variant.mask_heads;
        for (buffer, row) in [
            (&mut self.x, hidden_size),
            (&mut self.h, hidden_size),
            (&mut self.branch, hidden_size),
            (&mut self.q, config.q_rows()),
            (&mut self.k, config.kv_rows()),
            (&mut self.v, config.kv_rows()),
            (&mut self.mask, mask_heads),
            (&mut self.attn, config.q_rows()),
            (&mut self.cos, head_dim / 2),
            (&mut self.sin, head_dim / 2),
            (&mut self.gate, intermediate_size),
            (&mut self.up, intermediate_size),
            (&mut self.router, 2 * keys),
            (&mut self.weight, top),
            (&mut self.hit, top),
        ] {
            buffer.grow(rows.saturating_mul(row))?;
        }
        self.expert.grow(rows.saturating_mul(top))?;
        self.logits.grow(logits.saturating_mul(config.vocab_size))?;
        // Some buffers have a part for each thread, and a block may run on more or on fewer threads than a token.
        for cpu in [cpu.for_rows(1), cpu.for_rows(rows)] {
            // A slot may have had a key more for every token of the block.
            self.attention.grow(cpu.attention_scratch(TILE + rows, head_dim))?;
            if config.is_moe {
                self.routing.grow(cpu.router_scratch(keys, top))?;
            }
        }
        let widths = match cpu.activations() {
            Activations::F32 if !cpu.splits(Dtype::Bf16) => [checkpoint.weights.widest_int_input, 0, 0],
            Activations::F32 | Activations::Bf16 => [hidden_size, intermediate_size, config.q_rows()],
        };
        // Not of the widest: rows of some lengths stand further apart than somewhat longer ones.
        self.prepared.grow(widths.map(|width| cpu.prepared_words(rows, width)).into_iter().max().unwrap_or(0))
    }
}

/// Zeroes, then what was written, from the begin of a cache line on. Rows of 64 bytes and multiples of it are then lines of their
/// own: where the allocator put them, in the middle of lines, each register that a kernel loads comes from two of them, and AMX's,
/// of 16 rows, from 32.
#[derive(Debug)]
pub struct Buffer<T> {
    memory: Vec<T>,
    begin: usize,
    len: usize,
}

const LINE: usize = 64;

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Buffer { memory: Vec::new(), begin: 0, len: 0 }
    }
}

#[expect(clippy::indexing_slicing, reason = "begin + len lies inside the memory")]
impl<T: Copy + Default> Buffer<T> {
    /// Makes room for at least `len`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; nothing has changed then.
    pub fn grow(&mut self, len: usize) -> Result<()> {
        if len <= self.len {
            return Ok(());
        }
        let slack = LINE / size_of::<T>() - 1;
        let bytes = len as u128 * size_of::<T>() as u128;
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(len.saturating_add(slack))
            .map_err(|_| Error::OutOfMemory { bytes, what: "the activations of a session" })?;
        memory.resize(len + slack, T::default());
        let begin = memory.as_ptr().align_offset(LINE).min(slack);
        memory[begin..begin + self.len].copy_from_slice(self);
        *self = Buffer { memory, begin, len };
        Ok(())
    }
}

#[expect(clippy::indexing_slicing, reason = "begin + len lies inside the memory")]
impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.begin..self.begin + self.len]
    }
}

#[expect(clippy::indexing_slicing, reason = "begin + len lies inside the memory")]
impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.begin..self.begin + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_line_and_keeps_what_it_held() {
        fn check<T: Copy + Default + PartialEq + std::fmt::Debug>(one: T) {
            let mut buffer = Buffer::<T>::default();
            for len in [1, 7, 16, 1000, 3, 70000] {
                let before = buffer.to_vec();
                buffer.grow(len).unwrap();
                assert!(buffer.len() >= len && buffer.as_ptr().addr() % LINE == 0, "{len} at {:?}", buffer.as_ptr());
                assert!(buffer.starts_with(&before) && buffer[before.len()..].iter().all(|&x| x == T::default()));
                buffer[len - 1] = one;
            }
        }
        check(1.0f32);
        check(1u64);
    }

    #[test]
    fn room_that_no_machine_has_is_an_error() {
        let mut buffer = Buffer::<f32>::default();
        buffer.grow(3).unwrap();
        for len in [usize::MAX, usize::MAX / 8] {
            assert!(matches!(buffer.grow(len), Err(Error::OutOfMemory { .. })));
        }
        assert_eq!(*buffer, [0.0; 3]);
    }
}
