//! The model: its config, its variant, its weights.

pub(crate) mod archive;
pub(crate) mod checkpoint;
mod config;
pub(crate) mod convert;
pub mod family;
mod forward;
mod json;
mod kept_set;
mod kv_rows;
mod kv_state;
mod loaded;
mod observer;
mod options;
mod rope;
mod rope_parameters;
pub(crate) mod schema;
mod scratch;
mod session;
mod shard;
mod synthetic;
mod variant;
mod weights;

pub use checkpoint::{Checkpoint, TensorInfo};
pub use config::Config;
pub use loaded::Model;
pub use observer::Observer;
pub use options::{LoadOptions, SessionOptions};
pub use rope_parameters::RopeParameters;
pub use session::{Batch, Session};
pub use shard::FileInfo;
pub use variant::{Biases, Names, Variant};
pub use weights::{DtProj, Experts, LayerWeights, Linear, Weights};
#[cfg(feature = "cuda")]
pub(crate) use {forward::first_non_finite, rope::Rope};
