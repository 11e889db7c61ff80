//! The river: one block of tokens from ids to the final norm, one line an operation, the shape in the margin.

use super::{
    config::Config,
    kv_state::LayerState,
    observer::Observer,
    scratch::Scratch,
    session::Session,
    variant::Variant,
    weights::{LayerWeights, Linear, Weights},
};
use crate::{
    ops::{AttentionShape, Cpu, Projection, Routing},
    Error, Result,
};

/// What a forward pass needs beside its state.
pub struct Forward<'a> {
    pub cpu: &'a Cpu,
    pub config: &'a Config,
    pub variant: &'a Variant,
    pub weights: &'a Weights,
    pub routing: Routing,
}

/// Whose tokens the rows of a block are: whose keys they see, and where they stand.
pub enum Rows<'a, 'b> {
    /// The next tokens of one sequence, the first at `place`.
    Sequence { place: usize, layers: &'a mut [LayerState] },
    /// The next token of each of several sequences.
    Batch(&'a mut [&'b mut Session]),
}

impl Rows<'_, '_> {
    /// The place in its sequence of row `r`.
    fn place(&self, r: usize) -> usize {
        match self {
            Rows::Sequence { place, .. } => place + r,
            Rows::Batch(sessions) => sessions.get(r).map_or(0, |session| session.tokens()),
        }
    }

    /// Takes back what the layers have taken in of the block.
    pub fn take_back(&mut self) {
        match self {
            Rows::Sequence { place, layers } => layers.iter_mut().for_each(|layer| layer.take_back(*place as u32)),
            Rows::Batch(sessions) => {
                for session in sessions.iter_mut() {
                    let place = session.tokens() as u32;
                    session.layers.iter_mut().for_each(|layer| layer.take_back(place));
                }
            }
        }
    }
}

/// The first row of `[rows, cols]` that holds NaN or infinity.
pub fn first_non_finite(x: &[f32], cols: usize) -> Option<usize> {
    // Not `all`: without an early exit the compiler checks many at once.
    if x.iter().fold(true, |finite, x| finite & x.is_finite()) {
        return None;
    }
    x.iter().position(|x| !x.is_finite()).map(|at| at / cols.max(1))
}

/// One linear layer among several of the same input.
fn projection<'a>(out: &'a mut [f32], linear: &'a Linear) -> Projection<'a> {
    Projection { out, weight: linear.weight.matrix(), bias: linear.bias.as_deref() }
}

impl Forward<'_> {
    /// Runs a block through all layers. `s.cos` and `s.sin` hold its rotation tables; room for it was reserved in `s` and
    /// in the layers of `rows`. Leaves the normed stream, ready for the head, in `s.h[..ids.len() · H]`.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], [`Error::NonFinite`], [`Error::Cancelled`]. Some layers may have taken the block in then:
    /// see [`Rows::take_back`].
    pub fn block(&self, ids: &[u32], rows: &mut Rows<'_, '_>, s: &mut Scratch, observer: &mut dyn Observer) -> Result<()> {
        let (w, eps, n, place) = (self.weights, self.config.rms_norm_eps, ids.len(), rows.place(0));
        let stream = n * self.config.hidden_size;

        self.cpu.embed(&mut s.x[..stream], w.embed_tokens.matrix(), ids)?; //        [n, H]
        let Some(first) = w.layers.first() else { return Ok(()) };
        self.cpu.rms_norm(&mut s.h[..stream], &s.x[..stream], &first.input_layernorm, eps)?; // [n, H]
        observer.hidden(0, place, &s.x[..stream]);

        for (i, layer) in w.layers.iter().enumerate() {
            if observer.cancels() {
                return Err(Error::Cancelled { tokens: place });
            }
            self.attention(i, layer, n, rows, s, observer)?; //                       h -> branch
            let (x, h, branch) = (&mut s.x[..stream], &mut s.h[..stream], &s.branch[..stream]);
            observer.attn_out(i, place, branch);
            self.cpu.residual_rms_norm(h, x, &layer.input_residual, branch, &layer.post_attention_layernorm, eps)?;

            self.mlp(i, layer, n, place, s, observer)?; //                            h -> branch
            let (x, h, branch) = (&mut s.x[..stream], &mut s.h[..stream], &s.branch[..stream]);
            observer.mlp_out(i, place, branch);
            let next_norm = w.layers.get(i + 1).map_or(&w.norm, |next| &next.input_layernorm);
            self.cpu.residual_rms_norm(h, x, &layer.post_attention_residual, branch, next_norm, eps)?;
            observer.hidden(i + 1, place, x);
            // What is no number among that which selects keys and experts need not come out: it may not be selected.
            let (mask_heads, sides) = (self.variant.mask_heads, layer.experts.as_ref().map_or(0, |_| 2 * self.config.num_keys()));
            let made = [(&s.mask, mask_heads), (&s.router, sides), (&s.x, self.config.hidden_size)];
            if let Some(r) = made.iter().find_map(|(x, cols)| first_non_finite(&x[..n * cols], *cols)) {
                return Err(Error::NonFinite { layer: Some(i), step: rows.place(r) });
            }
        }
        Ok(())
    }

    /// Dynamic mask attention and its output projection (spec 4.2 to 4.4): `s.h` to `s.branch`.
    fn attention(
        &self,
        i: usize,
        layer: &LayerWeights,
        n: usize,
        rows: &mut Rows<'_, '_>,
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
        observer.mask(i, rows.place(0), mask);

        match rows {
            Rows::Sequence { place, layers } => {
                self.attend(i, &mut layers[i], *place, (q, k, v, mask), attn, &mut s.attention, observer)?
            }
            Rows::Batch(sessions) => self.attend_each(i, sessions, (q, k, v, mask), attn, &mut s.attention)?,
        }
        let attn = cpu.prepare(&mut s.prepared, attn, [layer.o_proj.weight.matrix()])?;
        cpu.linear(branch, layer.o_proj.weight.matrix(), attn, layer.o_proj.bias.as_deref())
    }

    /// What one call of the attention kernel serves.
    fn shape(&self, n_queries: usize, place0: usize, mask_heads: usize) -> AttentionShape {
        let Config { num_attention_heads, head_dim, .. } = *self.config;
        AttentionShape {
            n_queries,
            place0: place0 as u32,
            mask_heads,
            heads_per_mask: num_attention_heads / self.variant.mask_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// Attention of the next tokens of one sequence, the first at `place`.
    #[allow(clippy::too_many_arguments, reason = "a straight line through one layer")]
    fn attend(
        &self,
        i: usize,
        state: &mut LayerState,
        place: usize,
        (q, k, v, mask): (&[f32], &[f32], &[f32], &[f32]),
        attn: &mut [f32],
        scratch: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mask_heads = self.variant.mask_heads;
        state.add_block(place as u32, k, v, mask);
        let n = mask.len() / mask_heads;
        let queries = if state.serves_blocks(place + n) { n } else { 1 };
        let chunk = queries * self.config.q_rows();
        for (t, (q, out)) in q.chunks_exact(chunk).zip(attn.chunks_exact_mut(chunk)).enumerate() {
            state.choose((place + t + queries - 1) as u32);
            let head = |m| state.head(m, queries);
            self.cpu.dynamic_mask_attention(out, q, head, self.shape(queries, place + t, mask_heads), scratch)?;
            if observer.wants_kept() {
                for (m, query) in (0..mask_heads).flat_map(|m| (0..queries).map(move |query| (m, place + t + query))) {
                    observer.kept(i, m, query, state.kept(m, query as u32));
                }
            }
        }
        Ok(())
    }

    /// Attention of the next token of each of several sequences. To the kernel they are mask heads of one query.
    fn attend_each(
        &self,
        i: usize,
        sessions: &mut [&mut Session],
        (q, k, v, mask): (&[f32], &[f32], &[f32], &[f32]),
        attn: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<()> {
        let (kv, mask_heads) = (self.config.kv_rows(), self.variant.mask_heads);
        for (t, session) in sessions.iter_mut().enumerate() {
            let (place, state) = (session.tokens() as u32, &mut session.layers[i]);
            let (k, v) = (&k[t * kv..(t + 1) * kv], &v[t * kv..(t + 1) * kv]);
            state.add_block(place, k, v, &mask[t * mask_heads..(t + 1) * mask_heads]);
            state.choose(place);
        }
        let (shape, all) = (self.shape(1, 0, sessions.len() * mask_heads), &*sessions);
        let head = |m: usize| all[m / mask_heads].layers[i].head(m % mask_heads, 1);
        self.cpu.dynamic_mask_attention(attn, q, head, shape, scratch)
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
