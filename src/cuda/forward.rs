//! The river on a device: one block of tokens from ids to the final norm, one line an operation, the shape in the margin.
//! Line for line the one of `model/forward.rs`.

use super::{
    attention::AttentionShape,
    attention_input::{Heads, MaskScore, Rotation},
    buffer::{Buffer, Rows},
    device::Device,
    experts::Experts,
    input::Input,
    kept::Kept,
    linear::Projection,
    matrix::DeviceMatrix,
    ops::Residual,
    scratch::{Scratch, BLOCK},
    weights::{DeviceExperts, DeviceLayer, DeviceLinear, DeviceWeights},
};
use crate::{
    model::{Config, Observer, Variant},
    ops::{Activations, Routing},
    Dtype, Error, Result,
};

/// What a forward pass needs beside its state.
pub(super) struct Forward<'a> {
    pub device: &'a Device,
    pub config: &'a Config,
    pub variant: &'a Variant,
    pub weights: &'a DeviceWeights,
    pub routing: Routing,
    /// In which form bf16 weights of a prompt meet their input, and its queries their keys.
    pub activations: Activations,
}

/// Somebody who looks at a block on its way, and where it stands. What is looked at comes from the device each time.
pub(super) struct Watch<'a> {
    pub observer: &'a mut dyn Observer,
    pub place: usize,
    pub rows: usize,
}

impl Watch<'_> {
    fn rows(&self, rows: &Rows) -> Result<Vec<f32>> {
        rows.read(self.rows)
    }
}

pub(super) fn projection<'a>(out: &'a mut Rows, linear: &'a DeviceLinear) -> Projection<'a> {
    Projection { out, weight: &linear.weight, bias: linear.bias.as_ref() }
}

impl Forward<'_> {
    /// Runs the block of `n` tokens in `s.ids`, which stands at `place` and where `s.at` says, through all layers. Leaves the
    /// normed stream in `s.h`. `is_prompt` lets bf16 weights and attention go to the tensor cores if the activations may be rounded.
    pub fn block(
        &self,
        (place, n): (usize, usize),
        is_prompt: bool,
        layers: &mut [Kept],
        s: &mut Scratch,
        watch: &mut Option<Watch<'_>>,
    ) -> Result<()> {
        let (gpu, w, eps) = (self.device, self.weights, self.config.rms_norm_eps);
        gpu.embed(&mut s.x, &w.embed_tokens, &s.next.ids, n)?; //                                    [n, H]
        let Some(first) = w.layers.first() else { return Ok(()) };
        gpu.rms_norm(&mut s.h, &mut s.x, None, &first.input_layernorm, eps, n)?; //             [n, H]
        if let Some(watch) = watch {
            watch.observer.hidden(0, watch.place, &watch.rows(&s.x)?);
        }
        for (i, (layer, kept)) in w.layers.iter().zip(layers).enumerate() {
            if n > BLOCK {
                self.attention_in_parts(i, layer, kept, (place, n), is_prompt, s, watch)?;
            } else {
                self.attention(i, layer, kept, n, is_prompt, s, watch)?; //                     h -> branch
            }
            if let Some(watch) = watch {
                watch.observer.attn_out(i, watch.place, &watch.rows(&s.branch)?);
            }
            let residual = Residual { gate: &layer.input_residual, branch: &s.branch };
            gpu.rms_norm(&mut s.h, &mut s.x, Some(residual), &layer.post_attention_layernorm, eps, n)?;

            self.mlp(i, layer, n, is_prompt, s, watch)?; //                                     h -> branch
            let next_norm = w.layers.get(i + 1).map_or(&w.norm, |next| &next.input_layernorm);
            let residual = Residual { gate: &layer.post_attention_residual, branch: &s.branch };
            gpu.rms_norm(&mut s.h, &mut s.x, Some(residual), next_norm, eps, n)?;
            if let Some(watch) = watch {
                watch.observer.mlp_out(i, watch.place, &watch.rows(&s.branch)?);
                watch.observer.hidden(i + 1, watch.place, &watch.rows(&s.x)?);
            }
        }
        Ok(())
    }

    /// Linear layers of one input: on tensor cores where that is wanted, else exactly. Layers of several formats go one by one.
    pub fn linear<const N: usize>(
        &self,
        mut projections: [Projection<'_>; N],
        x: &Input,
        n: usize,
        is_prompt: bool,
    ) -> Result<()> {
        let dtype = projections[0].weight.dtype();
        if projections.iter().any(|p| p.weight.dtype() != dtype) {
            return projections.into_iter().try_for_each(|p| self.linear([p], x, n, is_prompt));
        }
        if self.on_tensor_cores(&projections.each_ref().map(|p| p.weight), is_prompt) {
            self.device.gemm_bf16(&mut projections, x, n)
        } else {
            self.device.linear(&mut projections, &x.exact, n)
        }
    }

    /// Layers that want their input rounded; those that are fused go there together or not at all.
    fn on_tensor_cores(&self, weights: &[&DeviceMatrix], is_prompt: bool) -> bool {
        self.may_round(is_prompt) && weights.iter().all(|weight| weight.dtype() == Dtype::Bf16)
    }

    fn may_round(&self, is_prompt: bool) -> bool {
        is_prompt && self.activations == Activations::Bf16
    }

    /// Dynamic mask attention and its output projection (spec 4.2 to 4.4): `s.h` to `s.branch`.
    #[allow(clippy::too_many_arguments, reason = "a straight line through one layer")]
    fn attention(
        &self,
        i: usize,
        layer: &DeviceLayer,
        kept: &mut Kept,
        n: usize,
        is_prompt: bool,
        s: &mut Scratch,
        watch: &mut Option<Watch<'_>>,
    ) -> Result<()> {
        let (gpu, c) = (self.device, self.config);
        let (nq, nkv, d) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let (q_proj, k_proj, v_proj) = (&layer.q_proj, &layer.k_proj, &layer.v_proj);
        let qkv = [projection(&mut s.q, q_proj), projection(&mut s.k, k_proj), projection(&mut s.v, v_proj)];
        self.linear(qkv, &s.h, n, is_prompt)?; //                                               [n, nq | nkv, d]
        let score = MaskScore { dt_weight: &layer.dt_weight, bias: layer.dt_bias.as_ref(), a: &layer.a };
        let q = Heads { rows: &mut s.q, heads: nq, norm: layer.q_norm.as_ref() };
        let k = Heads { rows: &mut s.k, heads: nkv, norm: layer.k_norm.as_ref() };
        let rotation = Rotation { cos: &s.cos, sin: &s.sin, at: &s.next.at, head_dim: d, eps: c.rms_norm_eps };
        gpu.attention_input(&mut s.mask, &score, q, k, &s.v, &rotation, kept, &mut s.lists, n)?; // [n, M]

        let (scale, rounds) = (1.0 / (d as f32).sqrt(), self.may_round(is_prompt));
        let shape = AttentionShape { n_rows: n, q_heads: nq, scale, rounds };
        gpu.dynamic_mask_attention(&mut s.attn.exact, &s.q, (&s.k, &s.v), kept, &mut s.lists, &s.next.at, shape)?;
        if let Some(watch) = watch {
            let mut mask = vec![0.0; n * self.variant.mask_heads];
            s.mask.read(0, &mut mask)?;
            watch.observer.mask(i, watch.place, &mask);
            if watch.observer.wants_kept() {
                for (m, queries) in s.lists.seen(kept, watch.place as u32, n)?.into_iter().enumerate() {
                    for (r, keys) in queries.into_iter().enumerate() {
                        watch.observer.kept(i, m, watch.place + r, keys);
                    }
                }
            }
        }
        if self.on_tensor_cores(&[&layer.o_proj.weight], is_prompt) {
            gpu.round(&mut s.attn, n)?;
        }
        self.linear([projection(&mut s.branch, &layer.o_proj)], &s.attn, n, is_prompt)
        // [n, H]
    }

    /// Attention of a block that is too long for it, part by part in a scratch of its own: `s.h` to `s.branch`.
    #[allow(clippy::too_many_arguments, reason = "as attention")]
    fn attention_in_parts(
        &self,
        i: usize,
        layer: &DeviceLayer,
        kept: &mut Kept,
        (place, n): (usize, usize),
        is_prompt: bool,
        s: &mut Scratch,
        watch: &mut Option<Watch<'_>>,
    ) -> Result<()> {
        let none = || Error::BadArgument { what: "scratch", why: "has no room for a part".into() };
        let part = s.part.as_deref_mut().ok_or_else(none)?;
        let (stride, half) = (s.branch.stride(), self.config.head_dim / 2);
        for first in (0..n).step_by(BLOCK) {
            let rows = BLOCK.min(n - first);
            part.h.copy(&s.h, first, rows)?;
            part.cos.copy(0, &s.cos, first * half, rows * half)?;
            part.sin.copy(0, &s.sin, first * half, rows * half)?;
            part.next.stand_at(place + first)?;
            let mut watch = watch.as_mut().map(|w| Watch { observer: &mut *w.observer, place: place + first, rows });
            self.attention(i, layer, kept, rows, is_prompt, part, &mut watch)?;
            s.branch.buffer.copy(first * stride, &part.branch.buffer, 0, rows * stride)?;
        }
        Ok(())
    }

    /// The dense MLP and the routed experts (spec 4.5, 4.6): `s.h` to `s.branch`.
    fn mlp(
        &self,
        i: usize,
        layer: &DeviceLayer,
        n: usize,
        is_prompt: bool,
        s: &mut Scratch,
        watch: &mut Option<Watch<'_>>,
    ) -> Result<()> {
        self.dense(layer, n, is_prompt, s)?;
        let Some(experts) = &layer.experts else { return Ok(()) };
        self.routed(experts, n, None, s)?;
        if let Some(watch) = watch {
            let chosen = n * self.config.num_experts_per_tok;
            let (mut expert, mut weight) = (vec![0; chosen], vec![0.0; chosen]);
            s.expert.read(0, &mut expert)?;
            s.weight.read(0, &mut weight)?;
            watch.observer.router(i, watch.place, &watch.rows(&s.router)?);
            watch.observer.experts(i, watch.place, &expert, &weight);
        }
        Ok(())
    }

    /// The dense MLP (spec 4.5): `s.h` to `s.branch`.
    pub fn dense(&self, layer: &DeviceLayer, n: usize, is_prompt: bool, s: &mut Scratch) -> Result<()> {
        let (gpu, act) = (self.device, self.config.hidden_act);
        let (gate_proj, up_proj, down_proj) = (&layer.gate_proj, &layer.up_proj, &layer.down_proj);
        let mut both = [projection(&mut s.gate.exact, gate_proj), projection(&mut s.up, up_proj)];
        let down = projection(&mut s.branch, down_proj);
        if self.on_tensor_cores(&[&gate_proj.weight, &up_proj.weight, &down_proj.weight], is_prompt) {
            gpu.gemm_gated_bf16(&mut s.gate.rounded, &mut both, &s.h, n, act)?; //              [n, I]
            return gpu.gemm_bf16(&mut [down], &s.gate, n); //                                   [n, H]
        }
        if gate_proj.weight.dtype() == up_proj.weight.dtype() {
            gpu.linear_gated(&mut both, &s.h.exact, n, act)?;
        } else {
            self.linear(both, &s.h, n, is_prompt)?;
            gpu.gated_activation(&mut s.gate.exact, &s.up, act, n)?;
        }
        gpu.linear(&mut [down], &s.gate.exact, n)
    }

    /// The routed experts (spec 4.6): `s.h` to `s.branch`, beside what the dense MLP left there; or that, with a `residual`, to the
    /// stream.
    pub fn routed(&self, experts: &DeviceExperts, n: usize, residual: Option<&Buffer<f32>>, s: &mut Scratch) -> Result<()> {
        let (gpu, c) = (self.device, self.config);
        let router = Projection { out: &mut s.router, weight: &experts.router_gate, bias: None };
        gpu.linear(&mut [router], &s.h.exact, n)?; //                                           [n, 2K]
        let chosen = Experts {
            router: &s.router,
            down_embed: &experts.down_embed,
            up_embed: &experts.up_embed,
            routing: self.routing,
            act: c.hidden_act,
            expert: &mut s.expert, //                                                           [n, k]
            weight: &mut s.weight,
            stream: residual.map(|gate| (&mut s.x, gate)),
            room: &mut s.experts,
        };
        gpu.experts(&mut s.branch, &s.h.exact, chosen, n) //                                    [n, H]
    }

    /// The logits of row `row` of the normed stream, into `s.logits` (spec 3).
    pub fn head(&self, row: usize, s: &mut Scratch) -> Result<()> {
        let stride = s.h.exact.stride();
        s.last.buffer.copy(0, &s.h.exact.buffer, row * stride, stride)?;
        self.logits(&mut s.logits, &s.last)
    }

    /// The logits of the first row of `h`.
    pub fn logits(&self, out: &mut Rows, h: &Rows) -> Result<()> {
        let head = Projection { out, weight: self.weights.head(), bias: None };
        self.device.linear(&mut [head], h, 1) //                                                [1, V]
    }
}
