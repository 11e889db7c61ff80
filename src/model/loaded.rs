//! A loaded model, shared by all its sessions.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use xxhash_rust::xxh3::Xxh3;

use super::{Checkpoint, Config, LayerWeights, LoadOptions, Variant};
use crate::{Result, Tensor};

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
pub struct Model(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    checkpoint: Checkpoint,
    fingerprint: OnceLock<u64>,
}

impl Model {
    /// Never panics.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Model(Arc::new(Shared { checkpoint, fingerprint: OnceLock::new() }))
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
        &self.0.checkpoint
    }

    /// Its config.json.
    pub fn config(&self) -> &Config {
        &self.0.checkpoint.config
    }

    /// Which of Doge's generations it is.
    pub fn variant(&self) -> &Variant {
        &self.0.checkpoint.variant
    }

    /// Do both share one set of weights?
    pub(super) fn is(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that tells models apart, and the formats that one is held in: over the config, every small tensor, and
    /// samples of the large ones. Not proof against malice.
    pub(super) fn fingerprint(&self) -> u64 {
        *self.0.fingerprint.get_or_init(|| fingerprint(&self.0.checkpoint))
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
        layer.linears().into_iter().for_each(|tensor| sample(&mut hash, tensor));
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
    bytes.chunks(step).for_each(|piece| hash.update(&piece[..piece.len().min(SAMPLE)]));
}
