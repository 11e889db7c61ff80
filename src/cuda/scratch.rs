//! The bed in which a block's activations flow on a device: every buffer, made once for the longest block.

use super::{
    attention::partial_floats,
    buffer::{padded, Buffer, Rows},
    device::Device,
    kept::KeptShape,
    key_lists::KeyLists,
    ops::{Place, PLACE_WORDS},
};
use crate::{model::Checkpoint, Result};

/// Steps of a decode run between two looks of the host.
pub(super) const STEPS_MAX: usize = 256;

/// Activations of a block of `rows` tokens. H, I, V, d, nq, nkv, M, K, k as in the spec.
pub(super) struct Scratch {
    pub rows: usize,
    pub at: Place,
    pub ids: Buffer<u32>,    // [rows]
    pub x: Rows,             // [rows, H]
    pub h: Rows,             // [rows, H]
    pub branch: Rows,        // [rows, H]
    pub q: Rows,             // [rows, nq · d]
    pub k: Rows,             // [rows, nkv · d]
    pub v: Rows,             // [rows, nkv · d]
    pub mask: Buffer<f32>,   // [rows, M]
    pub attn: Rows,          // [rows, nq · d]
    pub cos: Buffer<f32>,    // [max(rows, STEPS_MAX), d/2]
    pub sin: Buffer<f32>,    // [max(rows, STEPS_MAX), d/2]
    pub gate: Rows,          // [rows, I]
    pub up: Rows,            // [rows, I]
    pub router: Rows,        // [rows, 2K]
    pub expert: Buffer<u32>, // [rows, k]
    pub weight: Buffer<f32>, // [rows, k]
    pub logits: Rows,        // [1, V]
    pub last: Rows,          // [1, H]
    pub rounded: Buffer<u16>,
    pub chosen: Buffer<u32>, // [STEPS_MAX]
    pub eos: Buffer<u32>,    // [EOS_MAX]
    /// What depends on the number of slots.
    pub lists: KeyLists,
    pub partial: Buffer<f32>,
}

/// End-of-text tokens that a run can watch for.
pub(super) const EOS_MAX: usize = 64;

impl Scratch {
    pub fn new(device: &Device, checkpoint: &Checkpoint, rows: usize, kept: KeptShape) -> Result<Self> {
        let (c, rows_of) = (&checkpoint.config, |cols| Rows::zeros(device, rows, cols));
        let (keys, top) = if c.is_moe { (c.num_keys(), c.num_experts_per_tok) } else { (0, 0) };
        let table = rows.max(STEPS_MAX) * c.head_dim / 2;
        let widest = c.hidden_size.max(c.intermediate_size).max(c.q_rows());
        Ok(Scratch {
            rows,
            at: Buffer::zeros(device, PLACE_WORDS)?,
            ids: Buffer::zeros(device, rows)?,
            x: rows_of(c.hidden_size)?,
            h: rows_of(c.hidden_size)?,
            branch: rows_of(c.hidden_size)?,
            q: rows_of(c.q_rows())?,
            k: rows_of(c.kv_rows())?,
            v: rows_of(c.kv_rows())?,
            mask: Buffer::zeros(device, rows * checkpoint.variant.mask_heads)?,
            attn: rows_of(c.q_rows())?,
            cos: Buffer::zeros(device, table)?,
            sin: Buffer::zeros(device, table)?,
            gate: rows_of(c.intermediate_size)?,
            up: rows_of(c.intermediate_size)?,
            router: rows_of(2 * keys)?,
            expert: Buffer::zeros(device, rows * top)?,
            weight: Buffer::zeros(device, rows * top)?,
            logits: Rows::zeros(device, 1, c.vocab_size)?,
            last: Rows::zeros(device, 1, c.hidden_size)?,
            rounded: Buffer::zeros(device, rows * padded(widest))?,
            chosen: Buffer::zeros(device, STEPS_MAX)?,
            eos: Buffer::zeros(device, EOS_MAX)?,
            lists: KeyLists::new(device, kept, rows)?,
            partial: Buffer::zeros(device, partial_floats(c.num_attention_heads, c.head_dim, kept.slots))?,
        })
    }

    /// Bytes of all of it.
    pub fn bytes(checkpoint: &Checkpoint, rows: usize, kept: KeptShape) -> u128 {
        let c = &checkpoint.config;
        let keys = if c.is_moe { c.num_keys() } else { 0 };
        let widest = c.hidden_size.max(c.intermediate_size).max(c.q_rows());
        let row = 3 * padded(c.hidden_size) + 2 * padded(c.q_rows()) + 2 * padded(c.kv_rows()) + 2 * padded(c.intermediate_size);
        let row = row + padded(2 * keys) + padded(widest) / 2 + checkpoint.variant.mask_heads + 2 * c.num_experts_per_tok;
        let tables = rows.max(STEPS_MAX) * c.head_dim + padded(c.vocab_size) + padded(c.hidden_size);
        let partial = partial_floats(c.num_attention_heads, c.head_dim, kept.slots);
        4 * (rows as u128 * row as u128 + tables as u128 + partial as u128) + KeyLists::bytes(kept, rows)
    }
}
