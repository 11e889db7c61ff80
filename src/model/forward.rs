//! The river: one block of tokens from ids to the final norm, one line an operation, the shape in the margin.

use super::{
    config::Config,
    kv_state::LayerState,
    observer::Observer,
    scratch::Scratch,
    variant::Variant,
    weights::{LayerWeights, Linear, Weights},
};
use crate::{
    ops::{AttentionShape, Cpu, Projection, Routing},
    Result,
};

/// What a forward pass needs beside its state.
pub struct Forward<'a> {
    pub cpu: &'a Cpu,
    pub config: &'a Config,
    pub variant: &'a Variant,
    pub weights: &'a Weights,
    pub routing: Routing,
}

/// One linear layer among several of the same input.
fn projection<'a>(out: &'a mut [f32], linear: &'a Linear) -> Projection<'a> {
    Projection { out, weight: linear.weight.matrix(), bias: linear.bias.as_deref() }
}

impl Forward<'_> {
    /// Runs a block through all layers. `s.cos` and `s.sin` hold its rotation tables; room for it was reserved in `s` and
    /// `layers`. Leaves the normed stream, ready for the head, in `s.h[..ids.len() · H]`.
    ///
    /// # Errors
    /// [`crate::Error::TokenOutOfRange`], before anything is changed.
    pub fn block(
        &self,
        ids: &[u32],
        place: usize,
        layers: &mut [LayerState],
        s: &mut Scratch,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (w, eps, n) = (self.weights, self.config.rms_norm_eps, ids.len());
        let stream = n * self.config.hidden_size;

        self.cpu.embed(&mut s.x[..stream], w.embed_tokens.matrix(), ids)?; //        [n, H]
        let Some(first) = w.layers.first() else { return Ok(()) };
        self.cpu.rms_norm(&mut s.h[..stream], &s.x[..stream], &first.input_layernorm, eps)?; // [n, H]
        observer.hidden(0, place, &s.x[..stream]);

        for (i, (layer, state)) in w.layers.iter().zip(layers).enumerate() {
            self.attention(i, layer, state, n, place, s, observer)?; //               h -> branch
            let (x, h, branch) = (&mut s.x[..stream], &mut s.h[..stream], &s.branch[..stream]);
            observer.attn_out(i, place, branch);
            self.cpu.residual_rms_norm(h, x, &layer.input_residual, branch, &layer.post_attention_layernorm, eps)?;

            self.mlp(i, layer, n, place, s, observer)?; //                            h -> branch
            let (x, h, branch) = (&mut s.x[..stream], &mut s.h[..stream], &s.branch[..stream]);
            observer.mlp_out(i, place, branch);
            let next_norm = w.layers.get(i + 1).map_or(&w.norm, |next| &next.input_layernorm);
            self.cpu.residual_rms_norm(h, x, &layer.post_attention_residual, branch, next_norm, eps)?;
            observer.hidden(i + 1, place, x);
        }
        Ok(())
    }

    /// Dynamic mask attention and its output projection (spec 4.2 to 4.4): `s.h` to `s.branch`.
    #[allow(clippy::too_many_arguments, reason = "a straight line through one layer")]
    fn attention(
        &self,
        i: usize,
        layer: &LayerWeights,
        state: &mut LayerState,
        n: usize,
        place: usize,
        s: &mut Scratch,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (cpu, c) = (self.cpu, self.config);
        let (nq, nkv, d, mask_heads) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim, self.variant.mask_heads);
        let (h, branch) = (&s.h[..n * c.hidden_size], &mut s.branch[..n * c.hidden_size]); //  [n, H]
        let (q, attn) = (&mut s.q[..n * nq * d], &mut s.attn[..n * nq * d]); //               [n, nq, d]
        let (k, v) = (&mut s.k[..n * nkv * d], &mut s.v[..n * nkv * d]); //                   [n, nkv, d]
        let mask = &mut s.mask[..n * mask_heads]; //                                          [n, M]
        let (cos, sin) = (&s.cos[..n * d / 2], &s.sin[..n * d / 2]); //                       [n, d/2]

        let (q_proj, k_proj, v_proj) = (&layer.q_proj, &layer.k_proj, &layer.v_proj);
        let h = cpu.prepare(&mut s.prepared, h, [q_proj.weight.matrix(), k_proj.weight.matrix(), v_proj.weight.matrix()])?;
        cpu.projections(&mut [projection(q, q_proj), projection(k, k_proj), projection(v, v_proj)], h)?;
        cpu.mask_score(mask, &layer.dt_proj.weight, layer.dt_proj.bias.as_deref(), &layer.a, v)?;
        if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
            cpu.qk_norm(q, q_norm, c.rms_norm_eps)?;
            cpu.qk_norm(k, k_norm, c.rms_norm_eps)?;
        }
        cpu.rope(q, cos, sin, nq, d)?;
        cpu.rope(k, cos, sin, nkv, d)?;
        observer.mask(i, place, mask);

        state.add_block(place as u32, k, v, mask);
        // A sliding window selects anew for each query; without it one key list serves the whole block.
        let queries = if c.sliding_window.is_some() { 1 } else { n };
        let shape = |place0: usize| AttentionShape {
            n_queries: queries,
            place0: place0 as u32,
            mask_heads,
            heads_per_mask: nq / mask_heads,
            head_dim: d,
            scale: 1.0 / (d as f32).sqrt(),
        };
        let chunk = queries * nq * d;
        for (t, (q, out)) in q.chunks_exact(chunk).zip(attn.chunks_exact_mut(chunk)).enumerate() {
            state.choose((place + t) as u32);
            let head = |m| state.head(m, queries);
            cpu.dynamic_mask_attention(out, q, head, shape(place + t), &mut s.attention)?;
            if observer.wants_kept() {
                for (m, query) in (0..mask_heads).flat_map(|m| (0..queries).map(move |query| (m, place + t + query))) {
                    observer.kept(i, m, query, state.kept(m, query as u32));
                }
            }
        }
        state.end_block();
        let attn = cpu.prepare(&mut s.prepared, attn, [layer.o_proj.weight.matrix()])?;
        cpu.linear(branch, layer.o_proj.weight.matrix(), attn, layer.o_proj.bias.as_deref())
    }

    /// The dense MLP and the routed experts (spec 4.5, 4.6): `s.h` to `s.branch`.
    fn mlp(
        &self,
        i: usize,
        layer: &LayerWeights,
        n: usize,
        place: usize,
        s: &mut Scratch,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (cpu, c) = (self.cpu, self.config);
        let (h, branch) = (&s.h[..n * c.hidden_size], &mut s.branch[..n * c.hidden_size]); //                  [n, H]
        let (gate, up) = (&mut s.gate[..n * c.intermediate_size], &mut s.up[..n * c.intermediate_size]); //    [n, I]

        let input = cpu.prepare(&mut s.prepared, h, [layer.gate_proj.weight.matrix(), layer.up_proj.weight.matrix()])?;
        cpu.projections(&mut [projection(gate, &layer.gate_proj), projection(up, &layer.up_proj)], input)?;
        cpu.gated_activation(gate, up, c.hidden_act)?;
        let gate = cpu.prepare(&mut s.prepared, gate, [layer.down_proj.weight.matrix()])?;
        cpu.linear(branch, layer.down_proj.weight.matrix(), gate, layer.down_proj.bias.as_deref())?;

        let Some(experts) = &layer.experts else { return Ok(()) };
        let (keys, top) = (c.num_keys(), c.num_experts_per_tok);
        let router = &mut s.router[..n * 2 * keys]; //                                                         [n, 2K]
        let (expert, weight, hit) = (&mut s.expert[..n * top], &mut s.weight[..n * top], &mut s.hit[..n * top]); // [n, k]
        cpu.linear(router, experts.router_gate.matrix(), h, None)?;
        let scratch = &mut s.routing[..cpu.router_scratch(keys, top)]; // there may be more, for other threads
        cpu.product_key_router(expert, weight, router, self.routing, keys, top, scratch)?;
        observer.router(i, place, router);
        observer.experts(i, place, expert, weight);
        let (down_embed, up_embed) = (experts.down_embed.matrix(), experts.up_embed.matrix());
        cpu.expert_mix(branch, h, down_embed, up_embed, expert, weight, hit, c.hidden_act)
    }

    /// The logits of rows of the normed stream (spec 3): `h` is `[n, H]`, `logits` `[n, V]`; `prepared` as in [`Scratch`].
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length.
    pub fn head(&self, logits: &mut [f32], h: &[f32], prepared: &mut [u32]) -> Result<()> {
        let head = self.weights.head().matrix();
        let h = self.cpu.prepare(prepared, h, [head])?;
        self.cpu.linear(logits, head, h, None)
    }
}
