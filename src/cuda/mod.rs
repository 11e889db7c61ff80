//! The engine on an NVIDIA GPU: the same operations and the same river as on the CPU, over device memory.
//!
//! The driver's library is loaded when a [`Device`] is opened, not before: a binary with this room in it runs on machines
//! without a GPU, and says what is missing only to those who ask for one. The kernels (`kernels/cuda/`) are inside the
//! binary as machine code, put there by `build.rs` where it found nvcc.
//!
//! [`Device::upload`] copies a model's weights to the GPU; sessions of the model it returns run there, each in a stream of its
//! own. Everything a decode step does, up to the choice of the next token, is one CUDA graph, and a run of several steps needs
//! the host only at its end.

mod attention;
mod attention_input;
mod buffer;
mod decode;
mod decode_attention;
mod device;
mod experts;
mod forward;
mod full_sets;
mod images;
mod input;
mod kept;
mod key_lists;
mod linear;
mod made;
mod matrix;
mod next_token;
mod ops;
mod program;
mod recorded;
mod roof;
mod scratch;
mod sequence;
mod table;
mod weights;
mod window;

pub use attention_input::MaskScore;
pub use buffer::{Buffer, Rows};
pub use device::{Device, MISSING_KERNELS};
pub use experts::{ExpertRoom, ExpertSizes, Experts};
pub use full_sets::{FullSets, LayerShape};
pub use input::Input;
pub use linear::{Norm, Projection};
pub use matrix::DeviceMatrix;
pub use next_token::{Next, NextSizes, Run};
pub use ops::Residual;
pub use recorded::Recorded;
pub use sequence::Sequence;
pub use weights::DeviceWeights;

pub use crate::ffi::{DOGE_CUDA_BLOCK, DOGE_CUDA_PAD, DOGE_CUDA_TILE};
pub use crate::sampler::Draws;
