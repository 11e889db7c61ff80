//! The weights of a model, by the checkpoint's own names, and the one walk that fills them from any source.

use super::{
    schema::{self, Row},
    Config, Variant,
};
use crate::{Result, Tensor};

/// `y = weight x + bias`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Linear {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Vec<f32>>,
}

/// The projection that scores keys for the dynamic mask, from v of all K/V heads.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DtProj {
    /// `[M, num_key_value_heads · head_dim]`
    pub weight: Vec<f32>,
    /// `[M]`
    pub bias: Option<Vec<f32>>,
}

/// The routed experts of one layer: one neuron each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Experts {
    /// f32 `[2 · num_keys, H]`
    pub router_gate: Tensor,
    /// `[num_experts, H]`
    pub down_embed: Tensor,
    /// `[num_experts, H]`
    pub up_embed: Tensor,
}

/// One decoder layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerWeights {
    /// `[H]`
    pub input_layernorm: Vec<f32>,
    /// `[H]`
    pub post_attention_layernorm: Vec<f32>,
    /// `[H]`
    pub input_residual: Vec<f32>,
    /// `[H]`
    pub post_attention_residual: Vec<f32>,
    /// `[num_attention_heads · head_dim, H]`
    pub q_proj: Linear,
    /// `[num_key_value_heads · head_dim, H]`
    pub k_proj: Linear,
    /// `[num_key_value_heads · head_dim, H]`
    pub v_proj: Linear,
    /// `[H, num_attention_heads · head_dim]`
    pub o_proj: Linear,
    /// M outputs.
    pub dt_proj: DtProj,
    /// The checkpoint's `A`. `[M]`
    pub a: Vec<f32>,
    /// `[head_dim]`
    pub q_norm: Option<Vec<f32>>,
    /// `[head_dim]`
    pub k_norm: Option<Vec<f32>>,
    /// `[I, H]`
    pub gate_proj: Linear,
    /// `[I, H]`
    pub up_proj: Linear,
    /// `[H, I]`
    pub down_proj: Linear,
    /// Beside the MLP, in a model with experts.
    pub experts: Option<Experts>,
}

impl LayerWeights {
    /// The layer's linear layers, but for those whose weights are always f32.
    pub(super) fn linears(&self) -> [&Linear; 7] {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj, &self.gate_proj, &self.up_proj, &self.down_proj]
    }

    /// The same to change; and the matrices of its experts.
    fn matrices(&mut self) -> ([&mut Tensor; 7], impl Iterator<Item = &mut Tensor>) {
        let linears = [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
            &mut self.gate_proj,
            &mut self.up_proj,
            &mut self.down_proj,
        ];
        let experts = self.experts.iter_mut().flat_map(|e| [&mut e.router_gate, &mut e.down_embed, &mut e.up_embed]);
        (linears.map(|l| &mut l.weight), experts)
    }
}

/// All weights of a model. Cheap to move: matrices share their bytes with the mapped file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Weights {
    /// `[V, H]`
    pub embed_tokens: Tensor,
    /// `[num_hidden_layers]`
    pub layers: Vec<LayerWeights>,
    /// `[H]`
    pub norm: Vec<f32>,
    /// `[V, H]`; None: tied, the head is embed_tokens
    pub lm_head: Option<Tensor>,
    /// `in_features` of the widest linear layer whose weights are of an integer format; 0 if there is none.
    pub widest_int_input: usize,
}

/// Matrices that were converted or made are gathered in pieces of memory of at least this size: many huge pages, and little
/// that is held twice meanwhile.
const GATHERED_BYTES: usize = 64 << 20;

/// Where tensors come from: a checkpoint, or a generator.
pub(crate) trait Source {
    /// A tensor of `shape` ([rows, cols]), in the format of the row's [`schema::Hold`].
    fn matrix(&self, row: &Row, name: &str, shape: [usize; 2]) -> Result<Tensor>;

    /// A tensor of `shape` as f32.
    fn vector(&self, row: &Row, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
}

/// The walk over the table for one place (a layer, or outside of the layers).
struct Place<'a, S> {
    source: &'a S,
    config: &'a Config,
    variant: &'a Variant,
    layer: Option<usize>,
}

impl<S: Source> Place<'_, S> {
    fn vector(&self, row: &Row) -> Result<Vec<f32>> {
        let name = row.full_name(self.variant.names, self.layer);
        self.source.vector(row, &name, &row.shape(self.config, self.variant))
    }

    /// `None` if this variant does not have the tensor.
    fn optional(&self, row: &Row) -> Result<Option<Vec<f32>>> {
        (row.present)(self.variant).then(|| self.vector(row)).transpose()
    }

    fn matrix(&self, row: &Row) -> Result<Tensor> {
        let name = row.full_name(self.variant.names, self.layer);
        let size = |i: usize| row.sides.get(i).map_or(1, |side| side.size(self.config, self.variant));
        self.source.matrix(row, &name, [size(0), size(1)])
    }

    fn linear(&self, weight: &Row, bias: &Row) -> Result<Linear> {
        Ok(Linear { weight: self.matrix(weight)?, bias: self.optional(bias)? })
    }

    fn experts(&self) -> Result<Option<Experts>> {
        if !self.variant.is_moe {
            return Ok(None);
        }
        Ok(Some(Experts {
            router_gate: self.matrix(&schema::ROUTER_GATE)?,
            down_embed: self.matrix(&schema::DOWN_EMBED)?,
            up_embed: self.matrix(&schema::UP_EMBED)?,
        }))
    }

    fn layer(&self) -> Result<LayerWeights> {
        Ok(LayerWeights {
            input_layernorm: self.vector(&schema::INPUT_LAYERNORM)?,
            post_attention_layernorm: self.vector(&schema::POST_ATTENTION_LAYERNORM)?,
            input_residual: self.vector(&schema::INPUT_RESIDUAL)?,
            post_attention_residual: self.vector(&schema::POST_ATTENTION_RESIDUAL)?,
            q_proj: self.linear(&schema::Q_PROJ, &schema::Q_PROJ_BIAS)?,
            k_proj: self.linear(&schema::K_PROJ, &schema::K_PROJ_BIAS)?,
            v_proj: self.linear(&schema::V_PROJ, &schema::V_PROJ_BIAS)?,
            o_proj: self.linear(&schema::O_PROJ, &schema::O_PROJ_BIAS)?,
            dt_proj: DtProj { weight: self.vector(&schema::DT_PROJ)?, bias: self.optional(&schema::DT_PROJ_BIAS)? },
            a: self.vector(&schema::A)?,
            q_norm: self.optional(&schema::Q_NORM)?,
            k_norm: self.optional(&schema::K_NORM)?,
            gate_proj: self.linear(&schema::GATE_PROJ, &schema::GATE_PROJ_BIAS)?,
            up_proj: self.linear(&schema::UP_PROJ, &schema::UP_PROJ_BIAS)?,
            down_proj: self.linear(&schema::DOWN_PROJ, &schema::DOWN_PROJ_BIAS)?,
            experts: self.experts()?,
        })
    }
}

impl Weights {
    /// Takes every tensor of the table from `source`.
    pub(crate) fn build(config: &Config, variant: &Variant, source: &impl Source) -> Result<Self> {
        let place = |layer| Place { source, config, variant, layer };
        let global = place(None);
        let mut weights = Weights {
            embed_tokens: global.matrix(&schema::EMBED_TOKENS)?,
            norm: global.vector(&schema::NORM)?,
            lm_head: (!variant.tied).then(|| global.matrix(&schema::LM_HEAD)).transpose()?,
            layers: Vec::new(),
            widest_int_input: 0,
        };
        Tensor::gather(&mut [&mut weights.embed_tokens].into_iter().chain(&mut weights.lm_head).collect::<Vec<_>>())?;
        let widest = |linears: &[&mut Tensor]| linears.iter().filter(|w| w.dtype().is_int()).map(|w| w.cols()).max().unwrap_or(0);
        weights.widest_int_input = widest(&[weights.lm_head.as_mut().unwrap_or(&mut weights.embed_tokens)]);
        let (mut gathered, mut owned) = (0, 0);
        // One by one: a config that claims more layers than there are fails before it costs memory.
        for i in 0..config.num_hidden_layers {
            let mut layer = place(Some(i)).layer()?;
            let (linears, experts) = layer.matrices();
            weights.widest_int_input = weights.widest_int_input.max(widest(&linears));
            owned += linears.into_iter().chain(experts).map(|m| m.owned_bytes()).sum::<usize>();
            weights.layers.push(layer);
            if owned >= GATHERED_BYTES || i + 1 == config.num_hidden_layers {
                let matrices = weights.layers.iter_mut().skip(gathered).map(LayerWeights::matrices);
                Tensor::gather(
                    &mut matrices.flat_map(|(linears, experts)| linears.into_iter().chain(experts)).collect::<Vec<_>>(),
                )?;
                (gathered, owned) = (i + 1, 0);
            }
        }
        Ok(weights)
    }

    /// The matrix that makes logits: `lm_head`, or the embedding table where they are one.
    pub fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }
}
