//! Options that choose tokens, under llama.cpp's names and transformers'.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use clap::Args;
use doge_engine::{Error, Finish, GenerationConfig, Sampler, SamplingSettings, StopStrings};
use serde_json::{json, Value};

use crate::{
    failure::Failure,
    report::{self, decimal},
};

/// How tokens are chosen, and when to stop.
///
/// Without any of temperature, top-k, top-p, min-p, typical and seed, the checkpoint's generation_config decides; if it
/// does not say either, the likeliest token is taken.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingOptions {
    /// Tokens to generate at most, -1 for no limit [default: generation_config's, else 100; chat 512]
    #[arg(short, long, visible_alias = "max-new-tokens", value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub n_predict: Option<i64>,
    /// Divide the logits by this; 0 takes the likeliest token
    #[arg(long, visible_alias = "temperature", value_name = "X")]
    pub temp: Option<f32>,
    /// Draw from the K likeliest tokens; 0 from all [default: generation_config's, else 50]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Drop tokens below this fraction of the likeliest one's probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Keep the tokens of most typical surprise that together reach this probability
    #[arg(long, visible_alias = "typical-p", value_name = "P")]
    pub typical: Option<f32>,
    /// Divide the logits of tokens of prompt and text by this
    #[arg(long, visible_alias = "repetition-penalty", value_name = "X")]
    pub repeat_penalty: Option<f32>,
    /// Last tokens that --repeat-penalty looks at, -1 for all [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub repeat_last_n: Option<i64>,
    /// Subtract this from the logits of generated tokens
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtract this from the logit of a token for each time it was generated
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Add VALUE to the logit of token ID; -inf forbids it (repeatable)
    #[arg(long, value_name = "ID=VALUE", value_parser = logit_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws [default: another one each time]
    #[arg(short, long, value_name = "N")]
    pub seed: Option<u64>,
    /// Text at which to stop, not part of the output; the name of a special token stops at that token (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Forbid the tokens that end a text
    #[arg(long)]
    pub ignore_eos: bool,
}

fn logit_bias(word: &str) -> Result<(u32, f32), String> {
    let (id, value) = word.split_once('=').ok_or("expected ID=VALUE, such as 42=-1.5 or 42=-inf")?;
    let id = id.trim().parse().map_err(|e| format!("token id '{id}': {e}"))?;
    let value = value.trim().parse().map_err(|e| format!("value '{value}': {e}"))?;
    Ok((id, value))
}

impl SamplingOptions {
    /// Tokens to generate at most after a prompt of `prompt_tokens`.
    pub fn max_new_tokens(&self, config: &GenerationConfig, prompt_tokens: usize, default: usize) -> usize {
        match self.n_predict {
            None => config.new_token_limit(prompt_tokens).unwrap_or(default),
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
        }
    }

    /// A note of what ended the text too early, if anything did that can be changed. `ctx_size`: tokens of the context.
    pub fn note_early_end(&self, finish: Option<Finish>, config: &GenerationConfig, ctx_size: usize) {
        self.early_end(finish, config, ctx_size).into_iter().for_each(report::note);
    }

    fn early_end(&self, finish: Option<Finish>, config: &GenerationConfig, ctx_size: usize) -> Option<String> {
        let counts_new_tokens = self.n_predict.is_some() || config.max_new_tokens.is_some();
        match (finish?, config.max_length) {
            (Finish::ContextFull, _) => {
                Some(format!("the text ends early: the context of {ctx_size} tokens is full; -c/--ctx-size sets another"))
            }
            (Finish::Length, Some(max_length)) if !counts_new_tokens => Some(format!(
                "the text ends early: the checkpoint's max_length is {max_length} tokens, prompt included; -n sets another limit"
            )),
            _ => None,
        }
    }

    /// The sampler of a run, for a vocabulary of `vocab_size`; `eos`: the tokens that `--ignore-eos` forbids.
    pub fn sampler(&self, config: &GenerationConfig, eos: &[u32], vocab_size: usize) -> Result<Sampler, Failure> {
        let settings = self.settings(config, eos, vocab_size);
        match settings.logit_bias.iter().find(|(id, _)| *id as usize >= vocab_size) {
            Some(&(id, _)) => Err(Failure::Usage(format!("--logit-bias: {}", Error::TokenOutOfRange { id, vocab_size }))),
            None => Sampler::new(settings).map_err(|error| Failure::Usage(error.to_string())),
        }
    }

    pub fn stop_strings(&self) -> Result<StopStrings, Failure> {
        StopStrings::new(self.stop.clone()).map_err(|error| Failure::Usage(error.to_string()))
    }

    fn settings(&self, config: &GenerationConfig, eos: &[u32], vocab_size: usize) -> SamplingSettings {
        let base = &config.sampling;
        let given = [self.temp, self.top_p, self.min_p, self.typical].iter().any(Option::is_some);
        let asked = given || self.top_k.is_some() || self.seed.is_some();
        let mut logit_bias = self.logit_bias.clone();
        if self.ignore_eos {
            let known = eos.iter().filter(|&&id| (id as usize) < vocab_size); // a checkpoint may name others, which never come
            logit_bias.extend(known.map(|&id| (id, f32::NEG_INFINITY)));
        }
        SamplingSettings::default()
            .do_sample(base.do_sample || asked)
            .seed(self.seed.unwrap_or_else(any_seed))
            .logit_bias(logit_bias)
            .repetition_penalty(self.repeat_penalty.unwrap_or(base.repetition_penalty))
            .repetition_window(self.repeat_last_n.map_or(base.repetition_window, |n| usize::try_from(n).ok()))
            .presence_penalty(self.presence_penalty.unwrap_or(base.presence_penalty))
            .frequency_penalty(self.frequency_penalty.unwrap_or(base.frequency_penalty))
            .temperature(self.temp.unwrap_or(base.temperature))
            .top_k(self.top_k.unwrap_or(base.top_k))
            .top_p(self.top_p.unwrap_or(base.top_p))
            .min_p(self.min_p.unwrap_or(base.min_p))
            .typical_p(self.typical.unwrap_or(base.typical_p))
    }
}

/// Another number each time, short enough to be typed again.
fn any_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

/// The settings as they act, for `--json` and `-v`.
pub fn to_json(s: &SamplingSettings) -> Value {
    let bias: Vec<_> = s.logit_bias.iter().map(|(id, bias)| json!([id, bias.to_string()])).collect();
    let mut shown = json!({
        "greedy": s.is_greedy(),
        "logit_bias": bias,
        "repetition_penalty": decimal(s.repetition_penalty),
        "repetition_window": s.repetition_window,
        "presence_penalty": decimal(s.presence_penalty),
        "frequency_penalty": decimal(s.frequency_penalty),
    });
    if let (false, Some(shown)) = (s.is_greedy(), shown.as_object_mut()) {
        shown.insert("seed".into(), s.seed.into());
        let numbers = [("temperature", s.temperature), ("top_p", s.top_p), ("min_p", s.min_p), ("typical_p", s.typical_p)];
        shown.extend(numbers.map(|(name, x)| (name.to_string(), json!(decimal(x)))));
        shown.insert("top_k".into(), s.top_k.into());
    }
    shown
}
