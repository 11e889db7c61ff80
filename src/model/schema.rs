//! The one table of tensors: name, old name, shape, how it is held in memory, when it is there (spec §2.2). Loading,
//! `inspect` and synthetic checkpoints walk it.

use super::{Config, Names, Variant};
use crate::{matrix_bytes, Dtype, Layout};

/// A side of a tensor, in the config's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Vocab,
    Hidden,
    Intermediate,
    /// `num_attention_heads · head_dim`
    QRows,
    /// `num_key_value_heads · head_dim`
    KvRows,
    HeadDim,
    MaskHeads,
    /// `2 · num_keys`
    RouterRows,
    Experts,
}

impl Side {
    pub fn size(self, config: &Config, variant: &Variant) -> usize {
        match self {
            Side::Vocab => config.vocab_size,
            Side::Hidden => config.hidden_size,
            Side::Intermediate => config.intermediate_size,
            Side::QRows => config.q_rows(),
            Side::KvRows => config.kv_rows(),
            Side::HeadDim => config.head_dim,
            Side::MaskHeads => variant.mask_heads,
            Side::RouterRows => 2 * config.num_keys(),
            Side::Experts => config.num_experts,
        }
    }

    /// The config's word for it, for error messages.
    pub fn name(self) -> &'static str {
        match self {
            Side::Vocab => "vocab_size",
            Side::Hidden => "hidden_size",
            Side::Intermediate => "intermediate_size",
            Side::QRows => "num_attention_heads·head_dim",
            Side::KvRows => "num_key_value_heads·head_dim",
            Side::HeadDim => "head_dim",
            Side::MaskHeads => "mask heads",
            Side::RouterRows => "2·floor(sqrt(num_experts))",
            Side::Experts => "num_experts",
        }
    }
}

/// How a tensor is held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// In its stored format, in place, or converted to the dtype that was asked for.
    Stored,
    /// Always f32: small, and its rounding would show (design §3).
    F32,
}

/// One row of the table.
pub(crate) struct Row {
    /// In the file, after `model.layers.{i}.` for a layer's tensor.
    pub name: &'static str,
    /// The same before 2025-06-19.
    pub old_name: &'static str,
    pub sides: &'static [Side],
    pub hold: Hold,
    /// Does a checkpoint of this variant have it?
    pub present: fn(&Variant) -> bool,
}

impl Row {
    pub fn shape(&self, config: &Config, variant: &Variant) -> Vec<usize> {
        self.sides.iter().map(|side| side.size(config, variant)).collect()
    }

    /// What its rows are.
    #[expect(clippy::indexing_slicing, reason = "every row of the table has a side")]
    fn rows_side(&self) -> Side {
        self.sides[0]
    }

    /// Numbers in the tensor.
    pub fn len(&self, config: &Config, variant: &Variant) -> usize {
        self.shape(config, variant).into_iter().fold(1, usize::saturating_mul)
    }

    /// The order of the weights in memory, held as `dtype`: experts are read row by row.
    pub fn layout(&self, dtype: Dtype) -> Layout {
        if dtype.is_int() && self.rows_side() != Side::Experts {
            Layout::Tiles
        } else {
            Layout::Rows
        }
    }

    /// Rows of the tensor that `tokens` tokens at once read: all, but of the experts at most those they are routed to, and
    /// of an embedding table that is not the head too, none (spec §9 leaves out the rows that are looked up).
    fn rows_per_block(&self, tokens: usize, config: &Config, variant: &Variant) -> usize {
        if self.name == EMBED_TOKENS.name && !variant.tied {
            0
        } else if self.rows_side() == Side::Experts {
            config.num_experts.min(tokens.saturating_mul(config.num_experts_per_tok))
        } else {
            self.rows_side().size(config, variant)
        }
    }

    fn cols(&self, config: &Config, variant: &Variant) -> usize {
        self.sides.get(1).map_or(1, |side| side.size(config, variant))
    }

    /// Numbers of the tensor that one decoded token reads.
    pub fn len_per_token(&self, config: &Config, variant: &Variant) -> usize {
        self.rows_per_block(1, config, variant).saturating_mul(self.cols(config, variant))
    }

    /// Bytes of the tensor that `tokens` tokens at once read, held as `dtype`; scales and padding of the integer formats
    /// included.
    pub fn bytes_per_block(&self, tokens: usize, config: &Config, variant: &Variant, dtype: Dtype) -> usize {
        let (rows, cols) = (self.rows_per_block(tokens, config, variant), self.cols(config, variant));
        matrix_bytes(dtype, self.layout(dtype), rows, cols).unwrap_or(usize::MAX)
    }

    /// The tensor's name in a file.
    pub fn full_name(&self, names: Names, layer: Option<usize>) -> String {
        let name = match names {
            Names::New => self.name,
            Names::Old => self.old_name,
        };
        match layer {
            None => name.to_string(),
            Some(i) => format!("model.layers.{i}.{name}"),
        }
    }
}

macro_rules! rows {
    ($table:ident: $($id:ident, $name:literal, $old:literal, [$($side:ident),*], $hold:ident, $present:expr;)*) => {
        $(pub(crate) const $id: Row = Row {
            name: $name, old_name: $old, sides: &[$(Side::$side),*], hold: Hold::$hold, present: $present,
        };)*
        pub(crate) const $table: &[Row] = &[$($id),*];
    };
}

rows! { GLOBAL:
    EMBED_TOKENS, "model.embed_tokens.weight", "model.word_embed.weight",      [Vocab, Hidden], Stored, |_| true;
    NORM,         "model.norm.weight",         "model.final_layernorm.weight", [Hidden],        F32,    |_| true;
    LM_HEAD,      "lm_head.weight",            "lm_head.weight",               [Vocab, Hidden], Stored, |v| !v.tied;
}

rows! { LAYER:
    INPUT_LAYERNORM,          "input_layernorm.weight",          "pre_layernorm.weight",            [Hidden],               F32,    |_| true;
    INPUT_RESIDUAL,           "input_residual",                  "pre_residual.weight",             [Hidden],               F32,    |_| true;
    Q_PROJ,                   "self_attn.q_proj.weight",         "self_attn.q_proj.weight",         [QRows, Hidden],        Stored, |_| true;
    Q_PROJ_BIAS,              "self_attn.q_proj.bias",           "self_attn.q_proj.bias",           [QRows],                F32,    |v| v.biases.q_proj;
    K_PROJ,                   "self_attn.k_proj.weight",         "self_attn.k_proj.weight",         [KvRows, Hidden],       Stored, |_| true;
    K_PROJ_BIAS,              "self_attn.k_proj.bias",           "self_attn.k_proj.bias",           [KvRows],               F32,    |v| v.biases.k_proj;
    V_PROJ,                   "self_attn.v_proj.weight",         "self_attn.v_proj.weight",         [KvRows, Hidden],       Stored, |_| true;
    V_PROJ_BIAS,              "self_attn.v_proj.bias",           "self_attn.v_proj.bias",           [KvRows],               F32,    |v| v.biases.v_proj;
    DT_PROJ,                  "self_attn.dt_proj.weight",        "self_attn.dt_proj.weight",        [MaskHeads, KvRows],    F32,    |_| true;
    DT_PROJ_BIAS,             "self_attn.dt_proj.bias",          "self_attn.dt_proj.bias",          [MaskHeads],            F32,    |v| v.biases.dt_proj;
    A,                        "self_attn.A",                     "self_attn.A",                     [MaskHeads],            F32,    |_| true;
    Q_NORM,                   "self_attn.q_norm.weight",         "self_attn.q_norm.weight",         [HeadDim],              F32,    |v| v.qk_norm;
    K_NORM,                   "self_attn.k_norm.weight",         "self_attn.k_norm.weight",         [HeadDim],              F32,    |v| v.qk_norm;
    O_PROJ,                   "self_attn.o_proj.weight",         "self_attn.o_proj.weight",         [Hidden, QRows],        Stored, |_| true;
    O_PROJ_BIAS,              "self_attn.o_proj.bias",           "self_attn.o_proj.bias",           [Hidden],               F32,    |v| v.biases.o_proj;
    POST_ATTENTION_LAYERNORM, "post_attention_layernorm.weight", "post_layernorm.weight",           [Hidden],               F32,    |_| true;
    POST_ATTENTION_RESIDUAL,  "post_attention_residual",         "post_residual.weight",            [Hidden],               F32,    |_| true;
    GATE_PROJ,                "mlp.gate_proj.weight",            "feed_forward.gate_proj.weight",   [Intermediate, Hidden], Stored, |_| true;
    GATE_PROJ_BIAS,           "mlp.gate_proj.bias",              "feed_forward.gate_proj.bias",     [Intermediate],         F32,    |v| v.biases.gate_proj;
    UP_PROJ,                  "mlp.up_proj.weight",              "feed_forward.up_proj.weight",     [Intermediate, Hidden], Stored, |_| true;
    UP_PROJ_BIAS,             "mlp.up_proj.bias",                "feed_forward.up_proj.bias",       [Intermediate],         F32,    |v| v.biases.up_proj;
    DOWN_PROJ,                "mlp.down_proj.weight",            "feed_forward.down_proj.weight",   [Hidden, Intermediate], Stored, |_| true;
    DOWN_PROJ_BIAS,           "mlp.down_proj.bias",              "feed_forward.down_proj.bias",     [Hidden],               F32,    |v| v.biases.down_proj;
    ROUTER_GATE,              "mlp.router_gate.weight",          "feed_forward.router_gate.weight", [RouterRows, Hidden],   F32,    |v| v.is_moe;
    DOWN_EMBED,               "mlp.down_embed.weight",           "feed_forward.down_embed.weight",  [Experts, Hidden],      Stored, |v| v.is_moe;
    UP_EMBED,                 "mlp.up_embed.weight",             "feed_forward.up_embed.weight",    [Experts, Hidden],      Stored, |v| v.is_moe;
}

/// Every tensor of a checkpoint of this shape, in file order: row, layer.
pub(crate) fn tensors(config: &Config, variant: Variant) -> impl Iterator<Item = (&'static Row, Option<usize>)> {
    let global = GLOBAL.iter().map(|row| (row, None));
    let layers = (0..config.num_hidden_layers).flat_map(|i| LAYER.iter().map(move |row| (row, Some(i))));
    global.chain(layers).filter(move |(row, _)| (row.present)(&variant))
}

/// Name parts of the tensors of models that are not this one (spec §2.3), and what those are.
pub(crate) const REFUSED: &[(&[&str], &str)] = &[
    (&["dynamic_mask", "v_embed", "v_keys", "v_queries"], "It is a 2024 ancestor of Doge, which has another attention"),
    (
        &["post_sequence_residual", "post_state_residual"],
        "It was made by the code of December 2024, where A was a boolean mask, not a bias",
    ),
    (
        &["queries", "queries_proj", "keys"],
        "It has the retrieval experts used before 2025-03-17; only router experts (router_gate) are supported",
    ),
    (&["mlp_scaling", "moe_scaling"], "It was made by the code of 2025-03-05 to 03-13, which scaled MLP and experts"),
];
