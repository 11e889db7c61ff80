//! A hand-written compute-kernel engine for the Doge language models.
//!
//! # The house
//!
//! | room | what happens there | may not |
//! | --- | --- | --- |
//! | `kernels/` (C++) | the arithmetic, once per operation, compiled once per instruction set | allocate, know Rust |
//! | [`ops`] | safe doors to the kernels: slices, length checks, threads | do arithmetic of its own |
//! | [`Kernels`], [`Isa`] | which instruction set runs; owning a [`Kernels`] proves the CPU has it | know the model |
//! | [`pool`] | the threads | know what they do |
//! | `cuda` | the same operations and the same pass on a GPU | be needed where there is none |
//! | [`model`] | config, variants, weights, the state, the forward pass | use `unsafe`, know instruction sets |
//! | [`mod@reference`] | the model again, in plain loops with f64 inside | call what it judges |
//! | [`Tokenizer`], [`ChatTemplate`], [`Sampler`], [`Generation`] | text in and out | know how logits are made |
//! | `capi` | the C interface (feature `capi`): pointers and status codes at the edge | know how anything is done |
//! | [`verify`] | compares it all with recorded results | |
//!
//! # One token's journey
//!
//! A [`model::Checkpoint`] is a mapped file and a table of which tensor is what; a [`model::Model`] shares it. A
//! [`model::Session`] takes token ids: `feed` looks up their rows in `embed_tokens`, and sends them down
//! `model/forward.rs`, one line an operation. Each line is a method of [`ops::Cpu`], which checks the shapes, cuts the work
//! into chunks for the threads of a [`pool::Pool`], and goes through one pointer of a kernel table. Attention reads the
//! session's bounded state (`model/kept_set.rs` tells why it is exact). What comes out at the bottom are logits, for
//! [`ops::Cpu::argmax`] or a [`Sampler`].
//!
//! # Safety
//!
//! `unsafe` lives in [`ops`] (one call each, after the checks), [`pool`], [`mapped`], [`Kernels`] and what asks the CPU for it,
//! `cuda` (launches) and `capi`, nowhere else: `unsafe_code` is denied below but for these rooms, and each block must say why it is
//! sound. What looks for those that are not:
//!
//! - AddressSanitizer and LeakSanitizer over library and kernels together, with UndefinedBehaviorSanitizer for the C++: the unit
//!   tests, the kernel matrix, sessions, laws, the C interface, the fuzz corpus, and the CUDA kernels on their emulator
//!   (.ci/sanitize.sh).
//! - ThreadSanitizer over library and kernels: sessions that share a pool (tests/races, by the same script). loom takes the
//!   pool through every order of steps (tests/loom).
//! - Inputs of kernel tests end at an unreadable page, outputs lie between painted canaries.
//! - Not Miri: it cannot call kernels, map files or load a driver, and of the rooms above that leaves the pool.
//!
//! # Panics
//!
//! Never, by any input: whatever a file or a caller can get wrong is an [`Error`] with a name. How we know:
//!
//! - The compiler refuses `unwrap`, `expect`, `panic!` and their like in this crate, and indexing and slicing in every room that
//!   sees outside data. The few that cannot fail say why, each beside itself; the rooms of plain arithmetic on shapes that were
//!   checked at the door are listed below with that reason.
//! - What a file says is a size that was checked before anything was made of it; what a caller says is checked by the function that
//!   takes it, and [`model::Session::new`] looks once more at a checkpoint whose fields somebody has changed.
//! - Fuzzing (fuzz/README.md) with overflow checks and debug assertions: files of every kind, random calls of the C interface, and the
//!   safe doors and the sampler with sizes and numbers of every kind. `cargo test` replays its corpus.
//! - Foreign code that panics on bad files (the `tokenizers` crate) runs behind a barrier, and so does every function of `capi`.
//!
//! Not meant by it: a callback, hook or [`model::Observer`] of the caller's that panics (the panic is passed on); an allocator that
//! gives up (large requests are asked for with room to refuse; small ones are not); and [`mod@reference`], which judges: it asserts that
//! what it compares can be compared.
//!
//! # Words
//!
//! "Spec 4.4" in comments means section 4.4 of docs/model.md. Tensors have the checkpoint's own names; H, I, L, V, nq, nkv, d,
//! M, w and K are as in that page.

#![deny(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod activation;
#[cfg(feature = "capi")]
#[allow(unsafe_code, reason = "takes pointers from C")]
pub mod capi;
#[cfg(feature = "text")]
mod chat;
#[allow(unsafe_code, reason = "asks the CPU and the OS")]
mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, clippy::indexing_slicing, reason = "launches; arithmetic on shapes that were checked at the door")]
pub mod cuda;
mod device;
mod dtype;
#[cfg(feature = "embedded-model")]
pub mod embedded;
mod error;
#[allow(unsafe_code, clippy::indexing_slicing, reason = "written by bindgen: declarations, and asserts that run in the compiler")]
mod ffi;
mod generate;
mod generation_config;
pub mod hub;
mod isa;
#[allow(unsafe_code, reason = "reads the kernel tables")]
mod kernels;
mod logprobs;
#[allow(unsafe_code, reason = "maps files")]
pub mod mapped;
pub mod model;
#[allow(
    unsafe_code,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "calls kernels, after the checks; what a table may lack is asked for first"
)]
pub mod ops;
pub mod perplexity;
#[allow(unsafe_code, reason = "lends closures to threads")]
pub mod pool;
pub mod quantize;
#[allow(clippy::indexing_slicing, reason = "plain loops, to be read beside the specification")]
pub mod reference;
#[allow(clippy::indexing_slicing, reason = "a buffer of its own")]
pub mod roof;
mod sampler;
#[cfg(feature = "text")]
mod stop;
mod tensor;
mod text_file;
#[cfg(feature = "text")]
mod tokenizer;
pub mod verify;

pub use activation::Activation;
#[cfg(feature = "text")]
pub use chat::{ChatFiles, ChatInput, ChatTemplate};
pub use device::{Device, DeviceWord};
pub use dtype::{Dtype, Float};
pub use error::{Error, Result};
#[cfg(feature = "text")]
pub use generate::TextGeneration;
pub use generate::{Finish, Generation, Timings, Until};
pub use generation_config::GenerationConfig;
pub use isa::Isa;
pub use kernels::Kernels;
pub use logprobs::{Logprob, TokenLogprob};
pub use sampler::{Sampler, SamplingSettings};
#[cfg(feature = "text")]
pub use stop::{StopStrings, Stopped};
pub use tensor::{matrix_bytes, stride_bytes, Layout, Matrix, Tensor};
#[cfg(feature = "text")]
pub use tokenizer::{TextStream, Tokenizer};
