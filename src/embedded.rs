//! The checkpoint inside the program: `models/doge-bard`, which writes like Shakespeare seen from across the room.

use crate::{
    mapped::Mapped,
    model::{Checkpoint, LoadOptions},
    GenerationConfig, Result,
};

/// What it is called.
pub const NAME: &str = "doge-bard";

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../models/doge-bard/", $name))
    };
}

/// `include_bytes!` promises no alignment, and the weights are used where they lie: give them the cache lines that a
/// mapped file would have.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static WEIGHTS: &Aligned<[u8]> = &Aligned(*file!("model.safetensors"));

/// The text of one of its small files.
macro_rules! text {
    ($name:literal) => {
        include_str!(concat!("../models/doge-bard/", $name))
    };
}

const CONFIG: &str = text!("config.json");
const GENERATION_CONFIG: &str = text!("generation_config.json");

/// Loads the weights; they are used where they lie in the program, unless `options` asks for another format.
///
/// # Errors
/// None that a build of the repository could show; the type is that of every load.
pub fn checkpoint(options: &LoadOptions) -> Result<Checkpoint> {
    Checkpoint::from_bytes(CONFIG, Mapped::from_static(&WEIGHTS.0), options)
}

/// Its token ids and sampling defaults.
///
/// # Errors
/// As [`checkpoint`].
pub fn generation_config() -> Result<GenerationConfig> {
    GenerationConfig::from_json(Some(CONFIG), Some(GENERATION_CONFIG))
}

/// Its tokenizer.
///
/// # Errors
/// As [`checkpoint`].
#[cfg(feature = "text")]
pub fn tokenizer() -> Result<crate::Tokenizer> {
    crate::Tokenizer::from_bytes(file!("tokenizer.json"))
}

/// Its chat template, or `template` with its special tokens.
///
/// # Errors
/// [`crate::Error::ChatTemplate`] if `template` does not compile.
#[cfg(feature = "text")]
pub fn chat_template(template: Option<&str>) -> Result<crate::ChatTemplate> {
    crate::ChatTemplate::from_files(crate::ChatFiles {
        chat_template: Some(template.unwrap_or(text!("chat_template.jinja"))),
        tokenizer_config: Some(text!("tokenizer_config.json")),
        special_tokens_map: None,
    })
}
