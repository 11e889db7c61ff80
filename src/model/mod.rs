//! The model: its config, its variant, its weights.

pub(crate) mod archive;
pub(crate) mod checkpoint;
mod config;
#[allow(clippy::indexing_slicing, reason = "blocks of a tensor whose length was checked")]
pub(crate) mod convert;
pub mod family;
#[allow(clippy::indexing_slicing, reason = "rows of a scratch that was made for the config")]
mod forward;
mod json;
#[allow(clippy::indexing_slicing, reason = "slots of its own, by numbers of its own")]
mod kept_set;
#[allow(clippy::indexing_slicing, reason = "entries of its own, by numbers of the set that holds it")]
mod key_list;
#[allow(clippy::indexing_slicing, reason = "arenas of its own, by numbers of its own")]
mod kv_rows;
#[allow(clippy::indexing_slicing, reason = "arenas of its own, by numbers of its own; a saved one is read through `Reader`")]
mod kv_state;
mod loaded;
mod observer;
mod options;
mod rope;
mod rope_parameters;
pub(crate) mod schema;
mod scratch;
#[allow(clippy::indexing_slicing, reason = "rows of a scratch that was made for the config")]
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
