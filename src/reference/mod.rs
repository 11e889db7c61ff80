//! The model in plain Rust: what every kernel and the engine itself are held against.
//!
//! **Slow on purpose, for checking only.** Weights come as f32 (the 16-bit formats widen to it exactly), everything between
//! them is f64. Each function is a formula of the specification with its section beside it, written to be read against
//! that text; nothing here calls a kernel or a safe door, so nothing here can inherit what it judges.
//!
//! [`forward::Session`] is the whole model; the other modules are its operations, under the names the kernels have.
#![forbid(unsafe_code)]

pub mod argmax;
pub mod close;
pub mod dynamic_mask_attention;
pub mod embed;
pub mod expert_mix;
pub mod forward;
pub mod gated_activation;
pub mod linear;
pub mod mask_score;
pub mod product_key_router;
pub mod quantized;
pub mod rms_norm;
pub mod rope;
pub mod rope_tables;
pub mod selection;
