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
//! `unsafe` lives in [`ops`] (one call each, after the checks), [`pool`], [`mapped`], [`Kernels`], `cuda` (launches) and `capi`,
//! nowhere else. Data never
//! makes anything here panic: whatever a file or a caller can get wrong is an [`Error`] with a name.
//!
//! # Words
//!
//! "Spec 4.4" in comments means section 4.4 of docs/model.md. Tensors have the checkpoint's own names; H, I, L, V, nq, nkv, d,
//! M, w and K are as in that page.

mod activation;
#[cfg(feature = "capi")]
pub mod capi;
#[cfg(feature = "text")]
mod chat;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod dtype;
#[cfg(feature = "embedded-model")]
pub mod embedded;
mod error;
mod ffi;
mod generate;
mod generation_config;
pub mod hub;
mod isa;
mod kernels;
mod logprobs;
pub mod mapped;
pub mod model;
pub mod ops;
pub mod perplexity;
pub mod pool;
pub mod quantize;
pub mod reference;
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
