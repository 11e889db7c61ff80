//! The bed in which a block's activations flow on a device: every buffer, made once for the longest block.

use super::{
    buffer::{Buffer, Rows},
    decode_attention::{DecodeRoom, DecodeSizes},
    experts::{ExpertRoom, ExpertSizes},
    input::Input,
    kept::KeptShape,
    key_lists::{KeyLists, ListSizes},
    made::made,
    next_token::{Next, NextSizes, STEPS_MAX},
};
use crate::{
    ffi,
    model::{Checkpoint, Config},
};

/// Tokens that attention takes at once.
pub(super) const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;

/// What shapes a scratch: the letters of the spec in words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Tokens of the longest block.
    pub rows: usize,
    hidden: usize,
    intermediate: usize,
    q: usize,
    kv: usize,
    heads: usize,
    head_dim: usize,
    vocab: usize,
    /// 2K
    router: usize,
    top: usize,
    /// Inputs of linear layers are rounded to bf16 beside the exact ones.
    rounds: bool,
    kept: KeptShape,
}

impl Sizes {
    pub fn new(checkpoint: &Checkpoint, rows: usize, rounds: bool, kept: KeptShape) -> Self {
        let c: &Config = &checkpoint.config;
        let (router, top) = if c.is_moe { (2 * c.num_keys(), c.num_experts_per_tok) } else { (0, 0) };
        Sizes {
            rows,
            hidden: c.hidden_size,
            intermediate: c.intermediate_size,
            q: c.q_rows(),
            kv: c.kv_rows(),
            heads: c.num_attention_heads,
            head_dim: c.head_dim,
            vocab: c.vocab_size,
            router,
            top,
            rounds,
            kept,
        }
    }

    /// Of a part of the block, if attention cannot take it whole.
    fn part(&self) -> Option<Sizes> {
        (self.rows > BLOCK).then_some(Sizes { rows: BLOCK, ..*self })
    }

    /// Floats of a rotation table: of a block, and of a run.
    fn table(&self) -> usize {
        self.rows.max(STEPS_MAX) * self.head_dim / 2
    }
}

made! {
    /// Activations of a block. H, I, V, d, nq, nkv, M, K, k as in the spec.
    pub(super) struct Scratch(z: Sizes) {
        pub next: Next = NextSizes { rows: z.rows, vocab: z.vocab },
        pub x: Rows = [z.rows, z.hidden],               // [rows, H]
        pub h: Input = ([z.rows, z.hidden], z.rounds),  // [rows, H]
        pub branch: Rows = [z.rows, z.hidden],          // [rows, H]
        pub q: Rows = [z.rows, z.q],                    // [rows, nq · d]
        pub k: Rows = [z.rows, z.kv],                   // [rows, nkv · d]
        pub v: Rows = [z.rows, z.kv],                   // [rows, nkv · d]
        pub mask: Buffer<f32> = z.rows * z.kept.mask_heads, // [rows, M]
        pub attn: Input = ([z.rows, z.q], z.rounds),    // [rows, nq · d]
        pub cos: Buffer<f32> = z.table(),               // [max(rows, STEPS_MAX), d/2]
        pub sin: Buffer<f32> = z.table(),               // [max(rows, STEPS_MAX), d/2]
        pub gate: Input = ([z.rows, z.intermediate], z.rounds), // [rows, I]
        pub up: Rows = [z.rows, z.intermediate],        // [rows, I]
        pub router: Rows = [z.rows, z.router],          // [rows, 2K]
        pub expert: Buffer<u32> = z.rows * z.top,       // [rows, k]
        pub weight: Buffer<f32> = z.rows * z.top,       // [rows, k]
        pub experts: ExpertRoom = ExpertSizes { rows: z.rows, cols: z.hidden, num_keys: z.router / 2, top: z.top },
        pub logits: Rows = [1, z.vocab],                // [1, V]
        pub last: Rows = [1, z.hidden],                 // [1, H]
        pub part: Option<Box<Scratch>> = z.part(),
        // What depends on the number of slots.
        pub lists: KeyLists = ListSizes { kept: z.kept, rows: z.rows },
        pub room: DecodeRoom = DecodeSizes { q_heads: z.heads, kept: z.kept },
    }
}
