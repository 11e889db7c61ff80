//! `config.json` of a Doge checkpoint: every spelling, every default (spec §1).

use std::path::Path;

use super::{json::Object, RopeParameters};
use crate::{Activation, Error, Result};

/// What `config.json` says, under the key's own names, defaults filled in and checked: no product of sizes that the
/// engine forms overflows. Which variant of the model it is, the tensors tell (see [`super::Variant`]).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// V: tokens of the vocabulary.
    pub vocab_size: usize,
    /// H: numbers of a hidden state.
    pub hidden_size: usize,
    /// I: neurons of an MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Heads of q.
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Even; not necessarily `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Of the MLP and of the experts.
    pub hidden_act: Activation,
    /// Added to the mean of squares of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Only RoPE asks for it; it limits nothing.
    pub max_position_embeddings: usize,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
    /// How they are scaled.
    pub rope: RopeParameters,
    /// The head is the embedding table; what is stored decides (see [`super::Variant::tied`]).
    pub tie_word_embeddings: bool,
    /// Says that biases are expected; the tensors decide.
    pub attention_bias: bool,
    /// The same for the MLP.
    pub mlp_bias: bool,
    /// Keys that a query keeps, at least 1 (spec §4.4).
    pub keep_window_size: usize,
    /// Tokens back to which a query sees at all, itself included.
    pub sliding_window: Option<usize>,
    /// In a loaded [`super::Checkpoint`]: whether the tensors hold experts.
    pub is_moe: bool,
    /// Experts of a layer, a square number.
    pub num_experts: usize,
    /// Experts that a token is routed to.
    pub num_experts_per_tok: usize,
    /// The weights of these are divided by their sum.
    pub norm_topk_prob: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// `eos_token_id`: a number or a list in the file.
    pub eos_token_id: Vec<u32>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<u32>,
}

impl Default for Config {
    /// The defaults of transformers' config class: what an empty config.json means.
    fn default() -> Self {
        Config {
            vocab_size: 32768,
            hidden_size: 1024,
            intermediate_size: 2048,
            num_hidden_layers: 32,
            num_attention_heads: 8,
            num_key_value_heads: 8,
            head_dim: 128,
            hidden_act: Activation::Silu,
            rms_norm_eps: 1e-6,
            max_position_embeddings: 2048,
            rope_theta: 10_000.0,
            rope: RopeParameters::Default,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            keep_window_size: 2048,
            sliding_window: None,
            is_moe: false,
            num_experts: 16384,
            num_experts_per_tok: 64,
            norm_topk_prob: false,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
        }
    }
}

/// Widths beyond these are no model but a broken file. They keep each size in 32 bits, so that products fit 64.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 14;
/// Token ids, places in the sequence and expert ids are u32 (so `num_keys` stays within the router's 65535).
const MAX_COUNT: usize = u32::MAX as usize;
impl Config {
    /// Reads the text of a config.json; `path` is only for error messages. A key that is `null` counts as absent,
    /// unknown keys are ignored.
    ///
    /// # Errors
    /// [`Error::BadConfig`] naming the key and what was expected, [`Error::UnsupportedModel`] for what spec §2.3 lists.
    pub fn from_json(text: &[u8], path: &Path) -> Result<Self> {
        Self::from_object(&Object::parse(text, path)?)
    }

    pub(super) fn from_object(json: &Object) -> Result<Self> {
        let default = Config::default();

        let model_type = json.word("model_type")?.unwrap_or("doge");
        if !matches!(model_type, "doge" | "doge2") {
            return Err(unsupported(format!("model_type '{model_type}'"), "This engine runs Doge models: doge, doge2"));
        }
        let is_doge2 = model_type == "doge2";
        refuse_ancestors(json)?;

        let width = |key: &str, default: usize| Ok::<_, Error>(json.size(key, 1..=MAX_WIDTH)?.unwrap_or(default));
        let count = |key: &str, default: usize| Ok::<_, Error>(json.size(key, 1..=MAX_COUNT)?.unwrap_or(default));
        let flag = |key: &str| Ok::<_, Error>(json.flag(key)?.unwrap_or(false));

        let hidden_size = width("hidden_size", default.hidden_size)?;
        let num_attention_heads = width("num_attention_heads", default.num_attention_heads)?;
        let num_key_value_heads = width("num_key_value_heads", num_attention_heads)?;
        let head_dim = width("head_dim", hidden_size / num_attention_heads)?;
        let max_position_embeddings = count("max_position_embeddings", default.max_position_embeddings)?;
        let (rope, rope_theta) = RopeParameters::parse(json, head_dim, max_position_embeddings)?;

        let hidden_act = match json.word("hidden_act")? {
            None => default.hidden_act,
            Some(word) => word.parse().map_err(|error| json.bad("hidden_act", error))?,
        };
        let rms_norm_eps = json.number("rms_norm_eps")?.map_or(default.rms_norm_eps, |eps| eps as f32);
        // V1's one key for all biases.
        let hidden_bias = flag("hidden_bias")?;
        // The reference's name wins over the late-2025 kernel repository's.
        let window = json.size("keep_window_size", 1..=MAX_COUNT)?.or(json.size("window_size", 1..=MAX_COUNT)?);

        let config = Config {
            vocab_size: count("vocab_size", default.vocab_size)?,
            hidden_size,
            intermediate_size: width("intermediate_size", if is_doge2 { 4096 } else { default.intermediate_size })?,
            num_hidden_layers: json.size("num_hidden_layers", 1..=MAX_LAYERS)?.unwrap_or(default.num_hidden_layers),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            hidden_act,
            rms_norm_eps,
            max_position_embeddings,
            rope_theta,
            rope,
            tie_word_embeddings: flag("tie_word_embeddings")?,
            attention_bias: flag("attention_bias")? || hidden_bias,
            // doge2's config class has no such key: what stands there is dead.
            mlp_bias: (flag("mlp_bias")? && !is_doge2) || hidden_bias,
            keep_window_size: window.unwrap_or(default.keep_window_size),
            sliding_window: json.size("sliding_window", 1..=MAX_COUNT)?,
            is_moe: flag("is_moe")?,
            // Whether there are any, the tensors decide.
            num_experts: json.size("num_experts", 0..=MAX_COUNT)?.unwrap_or(if is_doge2 { 4096 } else { default.num_experts }),
            num_experts_per_tok: json.size("num_experts_per_tok", 0..=MAX_COUNT)?.unwrap_or(default.num_experts_per_tok),
            norm_topk_prob: flag("norm_topk_prob")?,
            bos_token_id: json.token_id("bos_token_id")?,
            eos_token_id: json.token_ids("eos_token_id")?,
            pad_token_id: json.pad_token_id()?,
        };
        config.check().map_err(|(key, why)| json.bad(key, why))?;
        Ok(config)
    }

    /// Sub-keys on each side of the product-key router: `floor(sqrt(num_experts))`.
    pub fn num_keys(&self) -> usize {
        self.num_experts.isqrt()
    }

    /// Attention heads that share one K/V head.
    pub fn group(&self) -> usize {
        self.num_attention_heads.checked_div(self.num_key_value_heads).unwrap_or(0)
    }

    /// Rows of `q_proj`: `num_attention_heads · head_dim`.
    pub fn q_rows(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.head_dim)
    }

    /// Rows of `k_proj` and `v_proj`: `num_key_value_heads · head_dim`.
    pub fn kv_rows(&self) -> usize {
        self.num_key_value_heads.saturating_mul(self.head_dim)
    }

    /// The key to blame and why, if the routed experts cannot be as the config says.
    pub(super) fn check_experts(&self) -> Result<(), (&'static str, String)> {
        let sizes = [("num_experts", self.num_experts), ("num_experts_per_tok", self.num_experts_per_tok)];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| !(1..=MAX_COUNT).contains(size)) {
            return Err((key, format!("expected 1 to {MAX_COUNT}, found {size}")));
        }
        let keys = self.num_keys();
        if self.num_experts_per_tok > keys * keys {
            let why = format!(
                "expected at most {} (reachable of {} experts), found {}",
                keys * keys,
                self.num_experts,
                self.num_experts_per_tok
            );
            return Err(("num_experts_per_tok", why));
        }
        Ok(())
    }

    /// The key to blame and why, if no model can be like this.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let (nq, nkv) = (self.num_attention_heads, self.num_key_value_heads);
        let widths = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_attention_heads", nq, MAX_WIDTH),
            ("num_key_value_heads", nkv, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("vocab_size", self.vocab_size, MAX_COUNT),
            ("max_position_embeddings", self.max_position_embeddings, MAX_COUNT),
            ("keep_window_size", self.keep_window_size, MAX_COUNT),
            ("sliding_window", self.sliding_window.unwrap_or(1), MAX_COUNT),
        ];
        if let Some((key, size, max)) = widths.into_iter().find(|(_, size, max)| !(1..=*max).contains(size)) {
            return Err((key, format!("expected 1 to {max}, found {size}")));
        }
        if nq % nkv != 0 {
            return Err(("num_key_value_heads", format!("expected a divisor of num_attention_heads ({nq}), found {nkv}")));
        }
        if self.head_dim % 2 != 0 {
            return Err(("head_dim", format!("expected an even number (RoPE rotates halves), found {}", self.head_dim)));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return Err(("rms_norm_eps", format!("expected 0 or more, found {}", self.rms_norm_eps)));
        }
        if let RopeParameters::Longrope { short_factor, long_factor, .. } = &self.rope {
            let (half, short, long) = (self.head_dim / 2, short_factor.len(), long_factor.len());
            if (short, long) != (half, half) {
                return Err(("rope_parameters", format!("expected {half} factors (head_dim / 2), found {short} and {long}")));
            }
        }
        self.check_products()?;
        if self.is_moe {
            self.check_experts()?;
        }
        Ok(())
    }

    /// The key to blame and why, if a tensor or the decode state would be beyond any address space.
    fn check_products(&self) -> Result<(), (&'static str, String)> {
        let q_rows = self.num_attention_heads as u128 * self.head_dim as u128;
        let (hidden, layers) = (self.hidden_size as u128, self.num_hidden_layers as u128);
        let slots = self.num_attention_heads as u128 * self.keep_window_size as u128 * (2 * self.head_dim as u128 + 2);
        let sizes = [
            ("vocab_size", self.vocab_size as u128 * hidden),
            ("intermediate_size", self.intermediate_size as u128 * hidden * layers),
            ("num_attention_heads", q_rows * hidden.max(self.num_attention_heads as u128) * layers),
            ("num_experts", self.num_experts as u128 * hidden * layers),
            ("keep_window_size", slots * layers),
        ];
        // Half the address space, in f32, with room for a factor of 4 in sums of such products.
        const LIMIT: u128 = isize::MAX as u128 / 16;
        match sizes.into_iter().find(|(_, size)| *size > LIMIT) {
            Some((key, size)) => Err((key, format!("the sizes multiply to {size} numbers: more than any memory holds"))),
            None => Ok(()),
        }
    }

    /// V1's config class has token ids where transformers' has none: they hold where the file does not name the key.
    pub(super) fn use_v1_token_ids(&mut self, json: &Object) {
        if !json.has("bos_token_id") {
            self.bos_token_id = Some(0);
        }
        if !json.has("eos_token_id") {
            self.eos_token_id = vec![1];
        }
        if !json.has("pad_token_id") {
            self.pad_token_id = Some(2);
        }
    }
}

fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::UnsupportedModel { what: what.into(), why: why.into() }
}

/// Keys of models that look like Doge and compute something else (spec §1, §2.3).
fn refuse_ancestors(json: &Object) -> Result<()> {
    for key in ["num_inner_values", "cross_domain_intermediate_size"] {
        if json.get(key).is_some() {
            return Err(unsupported(
                format!("config key '{key}'"),
                "It belongs to the 2024 ancestors of Doge, which have another attention",
            ));
        }
    }
    match json.number("dynamic_mask_ratio")? {
        Some(ratio) if ratio != 0.0 => {
            let why = "That code hid keys by a share of the whole length, future ones included; no published model uses it";
            return Err(unsupported(format!("dynamic_mask_ratio {ratio}"), why));
        }
        _ => {}
    }
    if json.flag("is_causal")? == Some(true) {
        return Err(unsupported("is_causal true", "That code left the mask term out: its A and dt_proj were never trained"));
    }
    Ok(())
}
