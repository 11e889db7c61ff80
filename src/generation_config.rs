//! What a checkpoint says about generating: its special token ids, and how it wants to be sampled.

use std::path::Path;

use serde_json::{Map, Value};

use crate::model::Config;
use crate::sampler::SamplingSettings;
use crate::text_file::{parse_json, read_text, MAX_CONFIG_BYTES};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Settings that change what transformers generates and that this engine does not have, each with the value at which
/// it does nothing. `null`, `false` and what is empty do nothing either. See [`GenerationConfig::unsupported`].
const UNSUPPORTED: [(&str, f64); 22] = [
    ("num_beams", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
    ("penalty_alpha", 0.0),
    ("top_h", f64::NAN),
    ("bad_words_ids", f64::NAN),
    ("sequence_bias", f64::NAN),
    ("suppress_tokens", f64::NAN),
    ("begin_suppress_tokens", f64::NAN),
    ("forced_bos_token_id", f64::NAN),
    ("forced_eos_token_id", f64::NAN),
    ("exponential_decay_length_penalty", f64::NAN),
    ("stop_strings", f64::NAN),
    ("max_time", f64::NAN),
    ("watermarking_config", f64::NAN),
    ("token_healing", f64::NAN),
];

/// `generation_config.json` over `config.json`.
///
/// The token ids are looked up in `generation_config.json` first and in `config.json` second, each for itself. The
/// sampling settings come from `generation_config.json`, or from `config.json` if the former does not exist (as older
/// checkpoints have it). `null` means the same as absent. A published Doge has nothing but token ids there, so it
/// decodes greedily unless the user asks for more.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Every token that ends a text; empty if the checkpoint names none. The file has one id or a list.
    pub eos_token_ids: Vec<u32>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<u32>,
    /// How to choose a token; what the checkpoint leaves out has [`SamplingSettings::default`]'s value.
    pub sampling: SamplingSettings,
    /// How many tokens to generate at most, without the prompt.
    pub max_new_tokens: Option<usize>,
    /// How many tokens to hold at most, prompt included. [`GenerationConfig::new_token_limit`] weighs the two.
    pub max_length: Option<usize>,
    /// Names of settings in the file that would change what transformers generates and have no effect here.
    pub unsupported: Vec<String>,
}

impl GenerationConfig {
    /// The ids of a text to be continued, beginning with the checkpoint's begin-of-text token: put in front where the tokenizer
    /// has not written it. A token that also ends texts is none to begin with.
    ///
    /// ```
    /// # #[cfg(feature = "embedded-model")]
    /// assert_eq!(doge_engine::embedded::generation_config()?.with_bos(vec![597]), [0, 597]);
    /// # Ok::<(), doge_engine::Error>(())
    /// ```
    pub fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let bos = self.bos_token_id.filter(|id| !self.eos_token_ids.contains(id));
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Reads both files of a checkpoint folder; either may be missing.
    ///
    /// # Errors
    /// [`Error::BadConfig`] if a file is not a JSON object or a value has the wrong type or is out of range,
    /// [`Error::BadFile`] and [`Error::Io`] if it cannot be read.
    pub fn from_folder(folder: &Path) -> Result<GenerationConfig> {
        let (config_path, generation_path) = (folder.join(CONFIG), folder.join(GENERATION_CONFIG));
        let config = read_text(&config_path, MAX_CONFIG_BYTES)?;
        let generation = read_text(&generation_path, MAX_CONFIG_BYTES)?;
        GenerationConfig::from_sources(
            config.as_deref().map(|text| (config_path.as_path(), text)),
            generation.as_deref().map(|text| (generation_path.as_path(), text)),
        )
    }

    /// The same from the text of both files.
    ///
    /// # Errors
    /// [`Error::BadConfig`] as in [`GenerationConfig::from_folder`], with the bare file name as path.
    pub fn from_json(config: Option<&str>, generation_config: Option<&str>) -> Result<GenerationConfig> {
        GenerationConfig::from_sources(
            config.map(|text| (Path::new(CONFIG), text)),
            generation_config.map(|text| (Path::new(GENERATION_CONFIG), text)),
        )
    }

    /// With the token ids of a loaded checkpoint's `config` where the files name none: those that V1's config class has by
    /// default, which only the weights tell of (see [`crate::model::Variant`]).
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{model::Config, GenerationConfig};
    ///
    /// let mut v1 = Config::default();
    /// (v1.bos_token_id, v1.eos_token_id) = (Some(0), vec![1]);
    /// let config = GenerationConfig::from_json(None, Some(r#"{"bos_token_id": 5}"#))?.with_ids_of(&v1);
    /// assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(5), vec![1]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_ids_of(mut self, config: &Config) -> GenerationConfig {
        self.bos_token_id = self.bos_token_id.or(config.bos_token_id);
        if self.eos_token_ids.is_empty() {
            self.eos_token_ids.clone_from(&config.eos_token_id);
        }
        self.pad_token_id = self.pad_token_id.or(config.pad_token_id);
        self
    }

    fn from_sources(config: Option<(&Path, &str)>, generation: Option<(&Path, &str)>) -> Result<GenerationConfig> {
        let config = config.map(|(path, text)| JsonFile::parse(path, text)).transpose()?;
        let generation = generation.map(|(path, text)| JsonFile::parse(path, text)).transpose()?;
        let files: Vec<&JsonFile> = generation.iter().chain(config.iter()).collect();
        let id = |key| files.iter().find_map(|file| file.id(key).transpose()).transpose();

        let mut made = GenerationConfig {
            bos_token_id: id("bos_token_id")?,
            eos_token_ids: files.iter().find_map(|f| f.ids("eos_token_id").transpose()).transpose()?.unwrap_or_default(),
            pad_token_id: files.iter().find_map(|file| file.pad_token_id().transpose()).transpose()?,
            ..GenerationConfig::default()
        };
        if let Some(file) = files.first() {
            let sampling = &mut made.sampling;
            file.set("do_sample", &mut sampling.do_sample, "true or false", Value::as_bool)?;
            file.set("temperature", &mut sampling.temperature, "a number", as_f32)?;
            file.set("top_k", &mut sampling.top_k, "a whole number from 0 up", as_usize)?;
            file.set("top_p", &mut sampling.top_p, "a number", as_f32)?;
            file.set("min_p", &mut sampling.min_p, "a number", as_f32)?;
            file.set("typical_p", &mut sampling.typical_p, "a number", as_f32)?;
            file.set("repetition_penalty", &mut sampling.repetition_penalty, "a number", as_f32)?;
            sampling.validate().map_err(|error| match error {
                Error::BadArgument { what, why } => Error::BadConfig { path: file.path.to_owned(), why: format!("{what} {why}") },
                other => other,
            })?;
            made.max_new_tokens = file.get("max_new_tokens", "a whole number from 0 up", as_usize)?;
            made.max_length = file.get("max_length", "a whole number from 0 up", as_usize)?;
            made.unsupported = file.unsupported();
        }
        Ok(made)
    }

    /// How many tokens the checkpoint lets follow a prompt of `prompt_tokens`: `max_new_tokens` if it is given, as in
    /// transformers, else what `max_length` leaves. `None` if the checkpoint sets no limit.
    pub fn new_token_limit(&self, prompt_tokens: usize) -> Option<usize> {
        self.max_new_tokens.or_else(|| self.max_length.map(|length| length.saturating_sub(prompt_tokens)))
    }
}

fn as_f32(value: &Value) -> Option<f32> {
    value.as_f64().map(|x| x as f32)
}

fn as_usize(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|x| usize::try_from(x).ok())
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|x| u32::try_from(x).ok())
}

struct JsonFile<'a> {
    path: &'a Path,
    object: Map<String, Value>,
}

impl<'a> JsonFile<'a> {
    fn parse(path: &'a Path, text: &str) -> Result<JsonFile<'a>> {
        match parse_json(text.as_bytes()) {
            Ok(object) => Ok(JsonFile { path, object }),
            Err(e) => Err(Error::BadConfig { path: path.to_owned(), why: format!("not a JSON object: {e}") }),
        }
    }

    /// The value of `key`, `None` if it is absent or null.
    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => {
                    Err(Error::BadConfig { path: self.path.to_owned(), why: format!("{key} must be {expected}, is {value}") })
                }
            },
        }
    }

    fn set<T>(&self, key: &str, place: &mut T, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<()> {
        if let Some(value) = self.get(key, expected, read)? {
            *place = value;
        }
        Ok(())
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "a token id", as_id)
    }

    /// Old files have -1 for none.
    fn pad_token_id(&self) -> Result<Option<u32>> {
        let key = "pad_token_id";
        match self.object.get(key).and_then(Value::as_i64) {
            Some(-1) => Ok(None),
            _ => self.id(key),
        }
    }

    fn ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.get(key, "a token id or a list of token ids", |value| match value {
            Value::Array(ids) => ids.iter().map(as_id).collect(),
            id => as_id(id).map(|id| vec![id]),
        })
    }

    fn unsupported(&self) -> Vec<String> {
        let active = |key: &str, neutral: f64| match self.object.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(value) => value.as_f64() != Some(neutral),
        };
        UNSUPPORTED.iter().filter(|(key, neutral)| active(key, *neutral)).map(|(key, _)| key.to_string()).collect()
    }
}
