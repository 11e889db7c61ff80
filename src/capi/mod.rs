//! The C interface: `include/doge_engine.h` is made of this room by cbindgen and committed; tests/capi_header.rs holds both
//! together. What a C programmer needs to know stands in that header's preface (cbindgen.toml) and at each function.
//!
//! Every function catches what unwinds, checks its pointers for NULL, and leaves a message where the caller can read it.
//! What a pointer points to is the caller's promise; each `SAFETY:` line says which promise of the header it leans on:
//! "valid" is a handle made here and not yet freed, or memory of the stated type and length.

mod generate;
mod kernels;
mod model;
mod options;
mod session;
mod status;
mod tokenizer;

pub use generate::{doge_generate, DogeFinish, DogeGenerateOptions, DogeGenerated};
pub use kernels::{doge_abi_version, doge_kernels, doge_version, DOGE_ENGINE_ABI_VERSION};
pub use model::{
    doge_cpu_free, doge_cpu_isa, doge_cpu_new, doge_cpu_threads, doge_model_embedded, doge_model_free, doge_model_info,
    doge_model_load, DogeCpu, DogeCpuOptions, DogeLoadOptions, DogeLog, DogeModel, DogeModelInfo,
};
pub use session::{
    doge_batch_feed, doge_session_cancel, doge_session_error, doge_session_feed, doge_session_fork, doge_session_free,
    doge_session_load, doge_session_logits, doge_session_new, doge_session_save, doge_session_score, doge_session_tokens,
    DogeSession, DogeSessionOptions,
};
pub use status::{doge_last_error, doge_status_name, DogeStatus};
pub use tokenizer::{
    doge_tokenizer_decode, doge_tokenizer_embedded, doge_tokenizer_encode, doge_tokenizer_eos, doge_tokenizer_free,
    doge_tokenizer_load, DogeTokenizer,
};
