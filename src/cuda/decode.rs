//! The river of a single token, with the bits of `forward.rs` in fewer launches: a decode step of a small model is bound by how
//! many of them follow each other. A projection norms its input, and adds its result to the stream; what lies between q, k, v
//! and attention's output is one launch. A dense layer is five.

use super::{
    attention_input::{Heads, MaskScore, Rotation},
    buffer::{Buffer, Rows},
    decode_attention::{MaskValues, Token},
    forward::{projection, Forward},
    input::Input,
    kept::Kept,
    linear::{Norm, Projection, NORM_COLS_MAX},
    program::Program,
    scratch::Scratch,
    weights::{DeviceExperts, DeviceLayer},
};
use crate::Result;

impl Forward<'_> {
    /// Runs the token in `s.ids` through all layers. Leaves its logits in `s.logits`; nobody looks on.
    pub fn token(&self, program: Option<&Program>, layers: &mut [Kept], s: &mut Scratch) -> Result<()> {
        let (gpu, w, eps) = (self.device, self.weights, self.config.rms_norm_eps);
        gpu.embed(&mut s.x, &w.embed_tokens, &s.next.ids, 1)?; //                               [1, H]
        if let Some(program) = program {
            return gpu.run_program(program); //                                                 [1, V]
        }
        for (layer, kept) in w.layers.iter().zip(layers) {
            let (q_proj, k_proj, v_proj) = (&layer.q_proj, &layer.k_proj, &layer.v_proj);
            let qkv = [projection(&mut s.q, q_proj), projection(&mut s.k, k_proj), projection(&mut s.v, v_proj)];
            self.of_normed(qkv, &mut s.x, &layer.input_layernorm, &mut s.h)?; //                [1, nq | nkv, d]
            self.token_attention(layer, kept, s)?; //                                           [1, nq, d]
            let o = projection(&mut s.branch, &layer.o_proj);
            gpu.linear_to_stream(o, &s.attn.exact, &mut s.x, &layer.input_residual)?; //        [1, H]
            match &layer.experts {
                None => self.token_mlp(layer, s)?,
                Some(experts) => self.token_experts(layer, experts, s)?,
            }
        }
        gpu.rms_norm(&mut s.h, &mut s.x, None, &w.norm, eps, 1)?;
        self.logits(&mut s.logits, &s.h.exact) //                                               [1, V]
    }

    /// From `s.q`, `s.k`, `s.v` to `s.attn` (spec 4.2 to 4.4).
    fn token_attention(&self, layer: &DeviceLayer, kept: &mut Kept, s: &mut Scratch) -> Result<()> {
        let (gpu, c) = (self.device, self.config);
        let score = MaskScore { dt_weight: &layer.dt_weight, bias: layer.dt_bias.as_ref(), a: &layer.a };
        let mut q = Heads { rows: &mut s.q, heads: c.num_attention_heads, norm: layer.q_norm.as_ref() };
        let mut k = Heads { rows: &mut s.k, heads: c.num_key_value_heads, norm: layer.k_norm.as_ref() };
        let rotation = Rotation { cos: &s.cos, sin: &s.sin, at: &s.next.at, head_dim: c.head_dim, eps: c.rms_norm_eps };
        let values = if kept.shape().sliding_window.is_none() {
            MaskValues::Score(score)
        } else {
            gpu.attention_input(&mut s.mask, &score, q.reborrow(), k.reborrow(), &s.v, &rotation, kept, &mut s.lists, 1)?;
            MaskValues::Given
        };
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let token = Token { out: &mut s.attn.exact, mask: &mut s.mask, values, q, k, v: &s.v };
        gpu.decode_attention(token, &rotation, kept, &mut s.lists, &mut s.room, scale)
    }

    /// The dense MLP (spec 4.5), into the stream.
    fn token_mlp(&self, layer: &DeviceLayer, s: &mut Scratch) -> Result<()> {
        let (gate, up) = (&layer.gate_proj, &layer.up_proj);
        let (norm, act) = (&layer.post_attention_layernorm, self.config.hidden_act);
        if gate.weight.dtype() == up.weight.dtype() && s.x.cols() <= NORM_COLS_MAX {
            let mut both = [projection(&mut s.gate.exact, gate), projection(&mut s.up, up)];
            let norm = Norm { weight: norm, eps: self.config.rms_norm_eps };
            self.device.linear_gated_of_normed(&mut both, &s.x, norm, act)?; //                 [1, I]
        } else {
            let both = [projection(&mut s.gate.exact, gate), projection(&mut s.up, up)];
            self.of_normed(both, &mut s.x, norm, &mut s.h)?;
            self.device.gated_activation(&mut s.gate.exact, &s.up, act, 1)?;
        }
        let down = projection(&mut s.branch, &layer.down_proj);
        let residual = &layer.post_attention_residual;
        self.device.linear_to_stream(down, &s.gate.exact, &mut s.x, residual) //                [1, H]
    }

    /// The dense MLP and the routed experts (spec 4.5, 4.6), into the stream.
    fn token_experts(&self, layer: &DeviceLayer, experts: &DeviceExperts, s: &mut Scratch) -> Result<()> {
        self.device.rms_norm(&mut s.h, &mut s.x, None, &layer.post_attention_layernorm, self.config.rms_norm_eps, 1)?;
        self.dense(layer, 1, false, s)?;
        self.routed(experts, 1, Some(&layer.post_attention_residual), s) //                     [1, H]
    }

    /// Projections of the normed stream; those of several formats go one by one, and a long stream is normed by itself.
    fn of_normed<const N: usize>(
        &self,
        mut projections: [Projection<'_>; N],
        x: &mut Rows,
        weight: &Buffer<f32>,
        h: &mut Input,
    ) -> Result<()> {
        let norm = Norm { weight, eps: self.config.rms_norm_eps };
        if x.cols() > NORM_COLS_MAX {
            self.device.rms_norm(h, x, None, weight, norm.eps, 1)?;
            return self.linear(projections, h, 1, false);
        }
        let dtype = projections[0].weight.dtype();
        if projections.iter().any(|p| p.weight.dtype() != dtype) {
            return projections.into_iter().try_for_each(|p| self.device.linear_of_normed(&mut [p], x, norm));
        }
        self.device.linear_of_normed(&mut projections, x, norm)
    }

    /// One whole decode step: the token fed to the next one, the likeliest or one that is drawn, all on the device.
    pub fn decode_step(&self, draws: bool, program: Option<&Program>, layers: &mut [Kept], s: &mut Scratch) -> Result<()> {
        self.token(program, layers, s)?; // where it stands, the device knows
        if draws {
            self.device.sample(&s.logits, &mut s.next)
        } else {
            self.device.argmax(&s.logits, &mut s.next)
        }
    }
}
