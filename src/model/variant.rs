//! Which Doge it is: read off the tensors, never off `model_type`, dates or versions (spec §2).

use std::fmt;

use super::{
    schema::{self, Row, REFUSED},
    Config,
};
use crate::{Error, Result};

/// Tensor names before and since 2025-06-19.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Names {
    /// Since then.
    #[default]
    New,
    /// Before.
    Old,
}

/// Which projections have a bias, by their names in the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a field is a projection")]
pub struct Biases {
    pub q_proj: bool,
    pub k_proj: bool,
    pub v_proj: bool,
    pub dt_proj: bool,
    pub o_proj: bool,
    pub gate_proj: bool,
    pub up_proj: bool,
    pub down_proj: bool,
}

impl Biases {
    /// What a config announces.
    pub fn of_config(config: &Config) -> Self {
        let (attention, mlp) = (config.attention_bias, config.mlp_bias);
        Biases {
            q_proj: attention,
            k_proj: attention,
            v_proj: attention,
            dt_proj: attention,
            o_proj: attention,
            gate_proj: mlp,
            up_proj: mlp,
            down_proj: mlp,
        }
    }
}

/// The independent axes along which Doge checkpoints differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Variant {
    /// How the tensors are named.
    pub names: Names,
    /// M: heads of the dynamic mask, `num_key_value_heads` (V2) or `num_attention_heads` (V1).
    pub mask_heads: usize,
    /// RMSNorm of each head of q and k before RoPE (V2).
    pub qk_norm: bool,
    /// Router experts beside the MLP.
    pub is_moe: bool,
    /// Which projections have a bias.
    pub biases: Biases,
    /// The head is the embedding table.
    pub tied: bool,
}

impl Variant {
    /// Current names, one mask head per K/V head, q/k norm: what transformers writes. Dense or MoE, biases and head as
    /// the config says.
    pub fn v2(config: &Config) -> Self {
        Variant {
            names: Names::New,
            mask_heads: config.num_key_value_heads,
            qk_norm: true,
            is_moe: config.is_moe,
            biases: Biases::of_config(config),
            tied: config.tie_word_embeddings,
        }
    }

    /// The published Doge-60M to 320M and all -Instruct checkpoints: one mask head per attention head, no q/k norm.
    pub fn v1(config: &Config) -> Self {
        Variant { mask_heads: config.num_attention_heads, qk_norm: false, ..Variant::v2(config) }
    }

    /// Is it the combination that is called V1? (With as many K/V heads as attention heads only q/k norm tells.)
    pub fn is_v1(&self, config: &Config) -> bool {
        !self.qk_norm && self.mask_heads == config.num_attention_heads
    }

    /// The name of the combination, as spec §2.1 has it.
    pub fn generation(&self, config: &Config) -> &'static str {
        match (self.qk_norm, self.mask_heads == config.num_key_value_heads) {
            (true, true) => "V2",
            (true, false) => "doge2 early",
            (false, _) if self.is_v1(config) => "V1",
            (false, _) => "V1 with one mask head per K/V head",
        }
    }

    /// # Errors
    /// [`Error::BadArgument`] if no model can be like this: of a config or a variant that somebody wrote or changed, which no
    /// file has vouched for.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        config.check().map_err(|(what, why)| Error::BadArgument { what, why })?;
        let (nq, nkv, m) = (config.num_attention_heads, config.num_key_value_heads, self.mask_heads);
        if m != nq && m != nkv {
            let why = format!("expected num_key_value_heads ({nkv}) or num_attention_heads ({nq}), found {m}");
            return Err(Error::BadArgument { what: "mask_heads", why });
        }
        if self.is_moe != config.is_moe {
            return Err(Error::BadArgument { what: "is_moe", why: "config and variant differ".into() });
        }
        Ok(())
    }

    /// Numbers in a checkpoint of this variant.
    pub fn parameters(&self, config: &Config) -> usize {
        schema::tensors(config, *self).map(|(row, _)| row.len(config, self)).fold(0, usize::saturating_add)
    }

    /// Numbers that one decoded token reads (spec §9).
    pub fn parameters_per_token(&self, config: &Config) -> usize {
        schema::tensors(config, *self).map(|(row, _)| row.len_per_token(config, self)).fold(0, usize::saturating_add)
    }

    /// Reads the variant off a checkpoint's tensors.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] for what spec §2.3 lists, [`Error::MissingTensor`] and [`Error::BadTensor`] if the
    /// tensors that tell are not there or tell nothing.
    pub(crate) fn detect<'a, I>(config: &Config, names: I, shape_of: impl Fn(&str) -> Option<&'a [usize]>) -> Result<Self>
    where
        I: Iterator<Item = &'a str> + Clone,
    {
        refuse_others(names.clone())?;
        let has = |name: &str| shape_of(name).is_some();
        let style = if has(schema::EMBED_TOKENS.old_name) { Names::Old } else { Names::New };
        // One layer that has it means that every layer must: a half-present tensor is an error, not a variant.
        let any_layer = |row: &Row| (0..config.num_hidden_layers).any(|i| has(&row.full_name(style, Some(i))));

        let announced = Biases::of_config(config);
        let variant = Variant {
            names: style,
            mask_heads: mask_heads(config, style, &shape_of)?,
            qk_norm: any_layer(&schema::Q_NORM) || any_layer(&schema::K_NORM),
            is_moe: config.is_moe || [&schema::ROUTER_GATE, &schema::DOWN_EMBED, &schema::UP_EMBED].into_iter().any(any_layer),
            biases: Biases {
                q_proj: announced.q_proj || any_layer(&schema::Q_PROJ_BIAS),
                k_proj: announced.k_proj || any_layer(&schema::K_PROJ_BIAS),
                v_proj: announced.v_proj || any_layer(&schema::V_PROJ_BIAS),
                dt_proj: announced.dt_proj || any_layer(&schema::DT_PROJ_BIAS),
                o_proj: announced.o_proj || any_layer(&schema::O_PROJ_BIAS),
                gate_proj: announced.gate_proj || any_layer(&schema::GATE_PROJ_BIAS),
                up_proj: announced.up_proj || any_layer(&schema::UP_PROJ_BIAS),
                down_proj: announced.down_proj || any_layer(&schema::DOWN_PROJ_BIAS),
            },
            tied: !has(schema::LM_HEAD.name),
        };
        Ok(variant)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match self.names {
            Names::New => "new",
            Names::Old => "old",
        };
        let kind = if self.is_moe { "router MoE" } else { "dense" };
        let norm = if self.qk_norm { "q/k norm" } else { "no q/k norm" };
        let biases = if self.biases == Biases::default() { "no biases" } else { "biases" };
        let head = if self.tied { "tied head" } else { "own head" };
        write!(f, "{kind}, {names} names, {} mask heads, {norm}, {biases}, {head}", self.mask_heads)
    }
}

/// `len(layers.0.self_attn.A)`.
fn mask_heads<'a>(config: &Config, names: Names, shape_of: &impl Fn(&str) -> Option<&'a [usize]>) -> Result<usize> {
    let name = schema::A.full_name(names, Some(0));
    let Some(shape) = shape_of(&name) else {
        return Err(Error::MissingTensor { name, why: "it tells how many mask heads the checkpoint has".into() });
    };
    let (nkv, nq) = (config.num_key_value_heads, config.num_attention_heads);
    match shape {
        [m] if *m == nkv || *m == nq => Ok(*m),
        _ => Err(Error::BadTensor {
            name,
            why: format!("shape {shape:?}; expected [{nkv}] (num_key_value_heads) or [{nq}] (num_attention_heads)"),
        }),
    }
}

fn refuse_others<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    for name in names {
        for (parts, why) in REFUSED {
            if name.split('.').any(|part| parts.contains(&part)) {
                return Err(Error::UnsupportedModel { what: format!("tensor '{name}'"), why: why.to_string() });
            }
        }
    }
    Ok(())
}
