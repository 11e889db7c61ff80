//! What can go wrong, by name. Every message says where and what to do; nothing in this crate panics on data.

use std::path::PathBuf;

/// What can go wrong here, by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, by name. Messages say where, and what to do.
///
/// ```
/// use doge_engine::{model::{LoadOptions, Model}, Error};
///
/// let error = Model::load("no/such/folder".as_ref(), &LoadOptions::default()).unwrap_err();
/// assert!(matches!(error, Error::ModelNotFound { .. }) && error.is_model_error());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a field is a hole in the message above it")]
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

    /// NaN or infinity among weights, or among logits given to a sampler.
    #[error("non-finite value in {place}")]
    NonFiniteValue { place: String },

    /// NaN or infinity came out of layer `layer` (`None`: of the head) for the token at place `step` of the sequence.
    #[error(
        "non-finite value out of {} for token {step}: the weights make numbers too large for f32, or for K and V in f16; \
         compare the checkpoint with the one it was copied from",
        out_of(*layer)
    )]
    NonFinite { layer: Option<usize>, step: usize },

    /// The caller cancelled a call. The session holds the first `tokens` tokens of its sequence and can go on from there.
    #[error("cancelled; the session holds {tokens} tokens")]
    Cancelled { tokens: usize },

    /// A saved session is damaged, of another version, or of another model.
    #[error("saved session: {why}")]
    BadSession { why: String },

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

fn out_of(layer: Option<usize>) -> String {
    layer.map_or("the head".into(), |layer| format!("layer {layer}"))
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
