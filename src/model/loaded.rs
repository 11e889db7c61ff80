//! A loaded model, shared by all its sessions.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use xxhash_rust::xxh3::Xxh3;

use super::{Checkpoint, Config, LayerWeights, LoadOptions, Variant};
use crate::{Error, Result, Tensor};

/// A loaded checkpoint: immutable, `Send + Sync`, cheap to clone; clones share the weights.
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// use doge_engine::model::{LoadOptions, Model};
///
/// let model = Model::load("models/doge-bard".as_ref(), &LoadOptions::default())?;
/// assert_eq!(model.config().vocab_size, 4096);
/// let same = model.clone();
/// std::thread::spawn(move || same.config().hidden_size).join().unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) fingerprint: Arc<OnceLock<u64>>,
    /// The weights again, where sessions run.
    #[cfg(feature = "cuda")]
    pub(super) device: Option<Arc<crate::cuda::DeviceWeights>>,
}

impl Model {
    /// A model whose sessions run on the CPU. Never panics.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Model {
            checkpoint: Arc::new(checkpoint),
            fingerprint: Arc::default(),
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// [`Checkpoint::load`], ready to run.
    ///
    /// # Errors
    /// As [`Checkpoint::load`]. Never panics.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        Checkpoint::load(path, options).map(Model::new)
    }

    /// What was loaded, tensor by tensor.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its config.json.
    pub fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    /// Which of Doge's generations it is.
    pub fn variant(&self) -> &Variant {
        &self.checkpoint.variant
    }

    /// Do its sessions run on a device, not on the CPU?
    pub fn is_on_device(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.device.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Do both share one set of weights?
    pub(super) fn is(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.checkpoint, &other.checkpoint)
    }

    /// [`Error::UnsupportedOnDevice`] for what only sessions on the CPU have.
    ///
    /// # Errors
    /// It, where the model is on a device.
    pub(super) fn expect_on_cpu(&self, what: &str) -> Result<()> {
        if self.is_on_device() {
            let why = "only sessions on the CPU have it; use the model as it was before it was placed on the GPU".into();
            return Err(Error::UnsupportedOnDevice { what: what.into(), why });
        }
        Ok(())
    }

    /// A number that tells models apart, and the formats that one is held in: over the config, every small tensor, and
    /// samples of the large ones. Not proof against malice.
    pub(super) fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| fingerprint(&self.checkpoint))
    }
}

/// Bytes of a large tensor that are looked at, in pieces from its beginning to its end.
const SAMPLE: usize = 64;
const SAMPLES: usize = 64;

fn fingerprint(checkpoint: &Checkpoint) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(format!("{:?}{:?}", checkpoint.config, checkpoint.variant).as_bytes());
    let weights = &checkpoint.weights;
    sample(&mut hash, &weights.embed_tokens);
    sample(&mut hash, weights.head());
    floats(&mut hash, &weights.norm);
    for layer in &weights.layers {
        let LayerWeights { input_layernorm, post_attention_layernorm, input_residual, post_attention_residual, .. } = layer;
        for vector in [input_layernorm, post_attention_layernorm, input_residual, post_attention_residual, &layer.a] {
            floats(&mut hash, vector);
        }
        floats(&mut hash, &layer.dt_proj.weight);
        for vector in [&layer.dt_proj.bias, &layer.q_norm, &layer.k_norm] {
            floats(&mut hash, vector.as_deref().unwrap_or_default());
        }
        for linear in layer.linears() {
            sample(&mut hash, &linear.weight);
            floats(&mut hash, linear.bias.as_deref().unwrap_or_default());
        }
        if let Some(experts) = &layer.experts {
            for tensor in [&experts.router_gate, &experts.down_embed, &experts.up_embed] {
                sample(&mut hash, tensor);
            }
        }
    }
    hash.digest()
}

fn floats(hash: &mut Xxh3, x: &[f32]) {
    hash.update(bytemuck::cast_slice(x));
}

fn sample(hash: &mut Xxh3, tensor: &Tensor) {
    let bytes = tensor.matrix().bytes();
    hash.update(format!("{:?}{:?}{}", tensor.dtype(), tensor.layout(), bytes.len()).as_bytes());
    let step = (bytes.len() / SAMPLES).max(SAMPLE);
    bytes.chunks(step).for_each(|piece| hash.update(piece.get(..SAMPLE).unwrap_or(piece)));
}
