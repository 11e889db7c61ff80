//! What can go wrong, by name. Every message says where and what to do; nothing in this crate panics on data.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or mapped.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// A word that is none of a fixed set (ISA, dtype, activation …).
    #[error("unknown {what} '{word}'; expected one of: {expected}")]
    UnknownWord { what: &'static str, word: String, expected: String },

    /// This ISA level is not compiled in, or the CPU (or the OS) does not offer it.
    #[error("ISA level {isa} cannot run here: {why}")]
    IsaUnavailable { isa: &'static str, why: String },

    /// An argument outside what the function accepts.
    #[error("{what}: {why}")]
    BadArgument { what: &'static str, why: String },

    /// No checkpoint where one was looked for.
    #[error("no checkpoint at '{name}': {why}")]
    ModelNotFound { name: String, why: String },

    /// config.json (or generation_config.json) is not usable.
    #[error("{}: {why}", path.display())]
    BadConfig { path: PathBuf, why: String },

    /// A safetensors file or its index is malformed.
    #[error("{}: {why}", path.display())]
    BadFile { path: PathBuf, why: String },

    /// A checkpoint of a kind that is recognised and not supported.
    #[error("unsupported checkpoint: {what}. {why}")]
    UnsupportedModel { what: String, why: String },

    /// A tensor is missing.
    #[error("tensor '{name}' is missing ({why})")]
    MissingTensor { name: String, why: String },

    /// A tensor does not have the shape or type that the config asks for.
    #[error("tensor '{name}': {why}")]
    BadTensor { name: String, why: String },

    /// NaN or infinity appeared.
    #[error("non-finite value in {place}")]
    NonFinite { place: String },

    /// tokenizer.json is missing or not usable.
    #[error("tokenizer: {why}")]
    Tokenizer { why: String },

    /// The chat template is missing, malformed, or raised an error.
    #[error("chat template: {why}")]
    ChatTemplate { why: String },

    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { id: u32, vocab_size: usize },

    /// The session's context length is used up.
    #[error("context length of {limit} tokens is used up; start a new session or raise -c/--ctx-size")]
    ContextFull { limit: usize },

    /// A buffer could not be allocated, or its size is beyond reason.
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory { bytes: u128, what: &'static str },

    /// A GPU cannot be used here: none, no driver, no kernels for it.
    #[error("{device} cannot be used: {why}")]
    DeviceUnavailable { device: String, why: String },

    /// The model, or the way it shall run, is one that only the CPU has.
    #[error("{what} does not run on the GPU: {why}")]
    UnsupportedOnDevice { what: String, why: String },

    /// The GPU or its driver failed.
    #[error("the GPU failed at {what}: {why}")]
    Device { what: &'static str, why: String },

    /// Download was asked for and failed, or this build has no network code.
    #[error("download: {why}")]
    Download { why: String },
}

impl Error {
    /// Is the checkpoint to blame (missing, malformed or unsupported), rather than the run? `doge` exits with 3 then.
    pub fn is_model_error(&self) -> bool {
        matches!(
            self,
            Error::ModelNotFound { .. }
                | Error::BadConfig { .. }
                | Error::BadFile { .. }
                | Error::UnsupportedModel { .. }
                | Error::MissingTensor { .. }
                | Error::BadTensor { .. }
                | Error::Tokenizer { .. }
                | Error::ChatTemplate { .. }
        )
    }
}
