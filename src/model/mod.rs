//! The model: its config, its variant, its weights.

pub(crate) mod archive;
pub(crate) mod checkpoint;
mod config;
pub(crate) mod convert;
pub mod family;
mod forward;
mod json;
mod kept_set;
mod kv_state;
mod observer;
mod rope;
mod rope_parameters;
pub(crate) mod schema;
mod scratch;
mod session;
mod shard;
mod synthetic;
mod variant;
mod weights;

pub use checkpoint::{Checkpoint, LoadOptions, TensorInfo};
pub use config::Config;
pub use observer::Observer;
#[cfg(feature = "cuda")]
pub(crate) use rope::Rope;
pub use rope_parameters::RopeParameters;
pub use session::{Model, Session, SessionOptions};
pub use shard::FileInfo;
pub use variant::{Biases, Names, Variant};
pub use weights::{DtProj, Experts, LayerWeights, Linear, Weights};
