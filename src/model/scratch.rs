//! The bed in which activations flow: every buffer of a block, made once.

use super::{config::Config, key_list::TILE, Checkpoint};
use crate::{
    ops::{Activations, Cpu},
    Error, Result,
};

/// Activations of a block of `rows` tokens. H, I, V, d, nq, nkv, M, K, k as in the spec.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The residual stream.
    pub x: Vec<f32>, // [rows, H]
    /// The normed stream, input of a projection.
    pub h: Vec<f32>, // [rows, H]
    /// What attention or MLP adds to the stream.
    pub branch: Vec<f32>, // [rows, H]
    pub q: Vec<f32>,         // [rows, nq, d]
    pub k: Vec<f32>,         // [rows, nkv, d]
    pub v: Vec<f32>,         // [rows, nkv, d]
    pub mask: Vec<f32>,      // [rows, M]
    pub attn: Vec<f32>,      // [rows, nq, d]
    pub cos: Vec<f32>,       // [rows, d/2]
    pub sin: Vec<f32>,       // [rows, d/2]
    pub gate: Vec<f32>,      // [rows, I]
    pub up: Vec<f32>,        // [rows, I]
    pub router: Vec<f32>,    // [rows, 2K]
    pub expert: Vec<u32>,    // [rows, k]
    pub weight: Vec<f32>,    // [rows, k]
    pub hit: Vec<f32>,       // [rows, k]
    pub logits: Vec<f32>,    // [rows of logits, V]
    pub attention: Vec<f32>, // as Cpu::attention_scratch says
    pub routing: Vec<u64>,   // as Cpu::router_scratch says
    pub prepared: Vec<u32>,  // as Cpu::prepared_words says
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
            grow(buffer, rows.saturating_mul(row))?;
        }
        grow(&mut self.expert, rows.saturating_mul(top))?;
        grow(&mut self.logits, logits.saturating_mul(config.vocab_size))?;
        // Some buffers have a part for each thread, and a block may run on more or on fewer threads than a token.
        for cpu in [cpu.for_rows(1), cpu.for_rows(rows)] {
            // A slot may have had a key more for every token of the block.
            grow(&mut self.attention, cpu.attention_scratch(TILE + rows, head_dim))?;
            if config.is_moe {
                grow(&mut self.routing, cpu.router_scratch(keys, top))?;
            }
        }
        let widest = match cpu.activations() {
            Activations::F32 => checkpoint.weights.widest_int_input,
            Activations::Bf16 => hidden_size.max(intermediate_size).max(config.q_rows()),
        };
        grow(&mut self.prepared, cpu.prepared_words(rows, widest))
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> Result<()> {
    let more = len.saturating_sub(buffer.len());
    let bytes = len as u128 * size_of::<T>() as u128;
    buffer.try_reserve_exact(more).map_err(|_| Error::OutOfMemory { bytes, what: "the activations of a session" })?;
    if more > 0 {
        buffer.resize(len, T::default());
    }
    Ok(())
}
