//! A model's weights on a device, by the checkpoint's own names.

use super::{
    attention::HEAD_DIM_MAX,
    buffer::{padded, Buffer, Rows},
    device::Device,
    experts::check_router,
    matrix::DeviceMatrix,
};
use crate::{
    model::{Checkpoint, LayerWeights, Linear, Weights},
    Error, Result,
};

/// `y = weight x + bias`
#[derive(Debug)]
pub(super) struct DeviceLinear {
    pub weight: DeviceMatrix,
    pub bias: Option<Buffer<f32>>,
}

/// The routed experts of one layer.
#[derive(Debug)]
pub(super) struct DeviceExperts {
    pub router_gate: DeviceMatrix,
    pub down_embed: DeviceMatrix,
    pub up_embed: DeviceMatrix,
}

/// One decoder layer; shapes as in [`LayerWeights`].
#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub input_layernorm: Buffer<f32>,
    pub post_attention_layernorm: Buffer<f32>,
    pub input_residual: Buffer<f32>,
    pub post_attention_residual: Buffer<f32>,
    pub q_proj: DeviceLinear,
    pub k_proj: DeviceLinear,
    pub v_proj: DeviceLinear,
    pub o_proj: DeviceLinear,
    pub dt_weight: Rows,
    pub dt_bias: Option<Buffer<f32>>,
    pub a: Buffer<f32>,
    pub q_norm: Option<Buffer<f32>>,
    pub k_norm: Option<Buffer<f32>>,
    pub gate_proj: DeviceLinear,
    pub up_proj: DeviceLinear,
    pub down_proj: DeviceLinear,
    pub experts: Option<DeviceExperts>,
}

/// A model's weights in a device's memory.
#[derive(Debug)]
pub struct DeviceWeights {
    device: Device,
    pub(super) embed_tokens: DeviceMatrix,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) norm: Buffer<f32>,
    lm_head: Option<DeviceMatrix>,
}

impl Device {
    /// Copies the weights of a checkpoint to the device. `progress` sees the bytes copied so far, and all.
    ///
    /// # Errors
    /// [`Error::UnsupportedOnDevice`] for what only the CPU runs, [`Error::OutOfMemory`] before anything is copied,
    /// [`Error::Device`].
    pub fn upload(&self, checkpoint: &Checkpoint, mut progress: impl FnMut(u128, u128)) -> Result<DeviceWeights> {
        check_supported(checkpoint)?;
        let weights = &checkpoint.weights;
        let all = weights_bytes(weights);
        self.expect_room(all, "the weights on the GPU")?;
        let global = bytes_of(&weights.embed_tokens) + weights.lm_head.as_ref().map_or(0, bytes_of);
        let embed_tokens = self.matrix(&weights.embed_tokens)?;
        let lm_head = weights.lm_head.as_ref().map(|head| self.matrix(head)).transpose()?;
        let norm = self.vector(&weights.norm)?;
        let (mut layers, mut done) = (Vec::with_capacity(weights.layers.len()), global);
        for layer in &weights.layers {
            layers.push(self.layer(layer)?);
            done += layer_bytes(layer);
            progress(done, all);
        }
        self.synchronize()?;
        Ok(DeviceWeights { device: self.clone(), embed_tokens, layers, norm, lm_head })
    }

    fn matrix(&self, tensor: &crate::Tensor) -> Result<DeviceMatrix> {
        DeviceMatrix::upload(self, tensor.matrix())
    }

    /// With the padding of a row.
    fn vector(&self, values: &[f32]) -> Result<Buffer<f32>> {
        let mut padded_values = values.to_vec();
        padded_values.resize(padded(values.len()), 0.0);
        Buffer::from_slice(self, &padded_values)
    }

    fn linear_of(&self, linear: &Linear) -> Result<DeviceLinear> {
        let bias = linear.bias.as_deref().map(|bias| self.vector(bias)).transpose()?;
        Ok(DeviceLinear { weight: self.matrix(&linear.weight)?, bias })
    }

    fn layer(&self, layer: &LayerWeights) -> Result<DeviceLayer> {
        let optional = |values: &Option<Vec<f32>>| values.as_deref().map(|values| self.vector(values)).transpose();
        let experts = layer.experts.as_ref().map(|e| {
            Ok::<_, Error>(DeviceExperts {
                router_gate: self.matrix(&e.router_gate)?,
                down_embed: self.matrix(&e.down_embed)?,
                up_embed: self.matrix(&e.up_embed)?,
            })
        });
        Ok(DeviceLayer {
            input_layernorm: self.vector(&layer.input_layernorm)?,
            post_attention_layernorm: self.vector(&layer.post_attention_layernorm)?,
            input_residual: self.vector(&layer.input_residual)?,
            post_attention_residual: self.vector(&layer.post_attention_residual)?,
            q_proj: self.linear_of(&layer.q_proj)?,
            k_proj: self.linear_of(&layer.k_proj)?,
            v_proj: self.linear_of(&layer.v_proj)?,
            o_proj: self.linear_of(&layer.o_proj)?,
            dt_weight: Rows::from_slice(self, layer.v_proj.weight.rows(), &layer.dt_proj.weight)?,
            dt_bias: optional(&layer.dt_proj.bias)?,
            a: self.vector(&layer.a)?,
            q_norm: optional(&layer.q_norm)?,
            k_norm: optional(&layer.k_norm)?,
            gate_proj: self.linear_of(&layer.gate_proj)?,
            up_proj: self.linear_of(&layer.up_proj)?,
            down_proj: self.linear_of(&layer.down_proj)?,
            experts: experts.transpose()?,
        })
    }
}

impl DeviceWeights {
    /// Where they lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The matrix that makes logits.
    pub(super) fn head(&self) -> &DeviceMatrix {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }
}

/// Refuses what the kernels do not do.
fn check_supported(checkpoint: &Checkpoint) -> Result<()> {
    let config = &checkpoint.config;
    let refuse =
        |what: &str, why: &str| Err(Error::UnsupportedOnDevice { what: what.into(), why: format!("{why}; use --device cpu") });
    if config.head_dim > HEAD_DIM_MAX {
        return refuse(&format!("head_dim {}", config.head_dim), "attention has room for 256 channels a head");
    }
    if config.is_moe {
        check_router(config.num_keys(), config.num_experts_per_tok)?;
    }
    Ok(())
}

fn bytes_of(tensor: &crate::Tensor) -> u128 {
    DeviceMatrix::bytes(&tensor.matrix())
}

fn layer_bytes(layer: &LayerWeights) -> u128 {
    let linears =
        [&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.gate_proj, &layer.up_proj, &layer.down_proj];
    let tables = layer.experts.iter().flat_map(|e| [&e.router_gate, &e.down_embed, &e.up_embed]);
    linears.iter().map(|linear| bytes_of(&linear.weight)).chain(tables.map(bytes_of)).sum()
}

/// Bytes that the matrices take; the vectors are nothing beside them.
fn weights_bytes(weights: &Weights) -> u128 {
    let global = bytes_of(&weights.embed_tokens) + weights.lm_head.as_ref().map_or(0, bytes_of);
    global + weights.layers.iter().map(layer_bytes).sum::<u128>()
}
