//! The whole model in f64, straight from the specification: spec 3 top to bottom.
//!
//! A [`Session`] keeps every key it has seen. Nothing is evicted, skipped, tiled or fused, so what the engine does with its
//! bounded state can be held against it.

use super::{
    dynamic_mask_attention::{dynamic_mask_attention, Key},
    embed::{embed, widen},
    expert_mix::expert_mix,
    gated_activation::gated_activation,
    linear::linear,
    mask_score::mask_score,
    product_key_router::{scores, top_experts, Routing},
    rms_norm::{qk_norm, residual, rms_norm},
    rope::rope,
    rope_tables::RopeTables,
    selection,
};
use crate::model::{Config, LayerWeights, Linear, Weights};

/// One sequence: the model, its keys and its RoPE state.
pub struct Session<'a> {
    config: &'a Config,
    norm: &'a [f32],
    embed_tokens: Vec<f32>,
    lm_head: Option<Vec<f32>>,
    layers: Vec<Layer<'a>>,
    rope: RopeTables,
    place: usize,
    /// Set it to have the following calls recorded.
    pub record: Option<Record>,
}

/// What happened inside, appended call by call. T tokens so far, hidden size H, M mask heads, K keys, k experts a token.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// `[layers + 1][T · H]`: the residual stream; 0 is the embeddings, i what layer i − 1 left.
    pub hidden: Vec<Vec<f64>>,
    /// `[layers][T · H]`: what attention adds to the stream.
    pub attn_out: Vec<Vec<f64>>,
    /// `[layers][T · H]`: what the MLP and the experts add.
    pub mlp_out: Vec<Vec<f64>>,
    /// `[layers][M][T]`: the mask value of each key.
    pub mask: Vec<Vec<Vec<f64>>>,
    /// `[layers][M][T]`: the keys each query keeps, ascending.
    pub kept: Vec<Vec<Vec<Vec<u32>>>>,
    /// `[layers][T · 2K]`: router_gate's output.
    pub router: Vec<Vec<f64>>,
    /// `[layers][T · k]`: experts, ascending in each token.
    pub experts: Vec<Vec<u32>>,
    /// `[layers][T · k]`: their weights.
    pub expert_weights: Vec<Vec<f64>>,
}

impl Record {
    fn new(layers: usize, masks: usize) -> Self {
        Record {
            hidden: vec![Vec::new(); layers + 1],
            attn_out: vec![Vec::new(); layers],
            mlp_out: vec![Vec::new(); layers],
            mask: vec![vec![Vec::new(); masks]; layers],
            kept: vec![vec![Vec::new(); masks]; layers],
            router: vec![Vec::new(); layers],
            experts: vec![Vec::new(); layers],
            expert_weights: vec![Vec::new(); layers],
        }
    }
}

impl<'a> Session<'a> {
    /// Before the first token.
    pub fn new(config: &'a Config, weights: &'a Weights) -> Self {
        Session {
            config,
            norm: &weights.norm,
            embed_tokens: widen(weights.embed_tokens.matrix()),
            lm_head: weights.lm_head.as_ref().map(|head| widen(head.matrix())),
            layers: weights.layers.iter().map(Layer::new).collect(),
            rope: RopeTables::new(config),
            place: 0,
            record: None,
        }
    }

    /// From now on every call is appended to `record`.
    pub fn start_recording(&mut self) {
        let masks = self.layers.first().map_or(0, |layer| layer.weights.a.len());
        self.record = Some(Record::new(self.layers.len(), masks));
    }

    /// The next `tokens` of the sequence as one call: the logits after each, `[tokens][vocab_size]`.
    pub fn forward(&mut self, tokens: &[u32], routing: Routing) -> Vec<Vec<f64>> {
        let config = self.config;
        let (hidden_size, eps) = (config.hidden_size, f64::from(config.rms_norm_eps));
        let positions: Vec<usize> = (self.place..self.place + tokens.len()).collect();
        let tables = self.rope.of_call(&positions);
        let mut x: Vec<Vec<f64>> = tokens.iter().map(|&id| embed(&self.embed_tokens, id as usize, hidden_size)).collect();
        let record = &mut self.record;
        note(record, |r| &mut r.hidden[0], &x);
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let w = layer.weights;
            let normed = each(&x, |x| rms_norm(x, &w.input_layernorm, eps));
            let a =
                layer.attention(config, &normed, &tables, self.place, record.as_mut().map(|r| (&mut r.mask[i], &mut r.kept[i])));
            x = both(&x, &a, |x, a| residual(x, &w.input_residual, a));
            let normed = each(&x, |x| rms_norm(x, &w.post_attention_layernorm, eps));
            let mut m = each(&normed, |x| layer.mlp(config, x));
            if layer.experts.is_some() {
                layer.add_experts(config, &normed, routing, &mut m, i, record);
            }
            x = both(&x, &m, |x, m| residual(x, &w.post_attention_residual, m));
            note(record, |r| &mut r.attn_out[i], &a);
            note(record, |r| &mut r.mlp_out[i], &m);
            note(record, |r| &mut r.hidden[i + 1], &x);
        }
        self.place += tokens.len();
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        each(&x, |x| linear(head, &rms_norm(x, self.norm, eps), None, config.vocab_size))
    }
}

/// One layer: its matrices widened, and every key of the sequence.
struct Layer<'a> {
    weights: &'a LayerWeights,
    q_proj: Widened<'a>,
    k_proj: Widened<'a>,
    v_proj: Widened<'a>,
    o_proj: Widened<'a>,
    gate_proj: Widened<'a>,
    up_proj: Widened<'a>,
    down_proj: Widened<'a>,
    experts: Option<Experts>,
    /// `[place][num_key_value_heads · head_dim]`, rotated.
    k: Vec<Vec<f64>>,
    /// `[place][num_key_value_heads · head_dim]`
    v: Vec<Vec<f64>>,
    /// `[M][place]`
    s: Vec<Vec<f64>>,
}

struct Experts {
    router_gate: Vec<f32>,
    down_embed: Vec<f32>,
    up_embed: Vec<f32>,
}

/// A linear layer in f32.
struct Widened<'a> {
    weight: Vec<f32>,
    bias: Option<&'a [f32]>,
    out: usize,
}

impl<'a> Widened<'a> {
    fn new(linear: &'a Linear) -> Self {
        Widened { weight: widen(linear.weight.matrix()), bias: linear.bias.as_deref(), out: linear.weight.rows() }
    }

    fn of(&self, x: &[f64]) -> Vec<f64> {
        linear(&self.weight, x, self.bias, self.out)
    }
}

impl<'a> Layer<'a> {
    fn new(weights: &'a LayerWeights) -> Self {
        Layer {
            q_proj: Widened::new(&weights.q_proj),
            k_proj: Widened::new(&weights.k_proj),
            v_proj: Widened::new(&weights.v_proj),
            o_proj: Widened::new(&weights.o_proj),
            gate_proj: Widened::new(&weights.gate_proj),
            up_proj: Widened::new(&weights.up_proj),
            down_proj: Widened::new(&weights.down_proj),
            experts: weights.experts.as_ref().map(|e| Experts {
                router_gate: widen(e.router_gate.matrix()),
                down_embed: widen(e.down_embed.matrix()),
                up_embed: widen(e.up_embed.matrix()),
            }),
            k: Vec::new(),
            v: Vec::new(),
            s: vec![Vec::new(); weights.a.len()],
            weights,
        }
    }

    /// Spec 4.2 to 4.4 for the tokens of one call, the first at `place`.
    #[allow(clippy::type_complexity, reason = "the two recorded fields of one layer")]
    fn attention(
        &mut self,
        config: &Config,
        x: &[Vec<f64>],
        tables: &[(Vec<f32>, Vec<f32>)],
        place: usize,
        record: Option<(&mut Vec<Vec<f64>>, &mut Vec<Vec<Vec<u32>>>)>,
    ) -> Vec<Vec<f64>> {
        let (d, w) = (config.head_dim, self.weights);
        let eps = f64::from(config.rms_norm_eps);
        let normed = |x: Vec<f64>, weight: &Option<Vec<f32>>| match weight {
            Some(weight) => qk_norm(&x, weight, eps),
            None => x,
        };
        let mut queries = Vec::new();
        for (x, (cos, sin)) in x.iter().zip(tables) {
            let mut q = normed(self.q_proj.of(x), &w.q_norm);
            let mut k = normed(self.k_proj.of(x), &w.k_norm);
            let v = self.v_proj.of(x);
            rope(&mut q, cos, sin);
            rope(&mut k, cos, sin);
            let s = mask_score(&w.dt_proj.weight, w.dt_proj.bias.as_deref(), &w.a, &v);
            self.s.iter_mut().zip(s).for_each(|(all, s)| all.push(s));
            self.k.push(k);
            self.v.push(v);
            queries.push(q);
        }
        // [query][M]: the kept keys
        let kept: Vec<Vec<Vec<u32>>> = (place..place + x.len())
            .map(|q| selection::visible(q, config.sliding_window))
            .map(|visible| self.s.iter().map(|s| selection::kept(s, visible.clone(), config.keep_window_size)).collect())
            .collect();
        let out = queries.iter().zip(&kept).map(|(q, kept)| {
            let (heads_per_kv, heads_per_mask) = (config.group(), config.num_attention_heads / kept.len());
            let scale = (d as f64).powf(-0.5);
            let head = |h: usize| {
                let (of_kv, m) = (h / heads_per_kv * d..(h / heads_per_kv + 1) * d, h / heads_per_mask);
                let key = |&j: &u32| {
                    let j = j as usize;
                    Key { k: &self.k[j][of_kv.clone()], v: &self.v[j][of_kv.clone()], s: self.s[m][j] }
                };
                dynamic_mask_attention(&q[h * d..(h + 1) * d], &kept[m].iter().map(key).collect::<Vec<_>>(), scale)
            };
            self.o_proj.of(&(0..config.num_attention_heads).flat_map(head).collect::<Vec<_>>())
        });
        let out = out.collect();
        if let Some((mask, all_kept)) = record {
            for m in 0..self.s.len() {
                mask[m].extend_from_slice(&self.s[m][place..]);
                all_kept[m].extend(kept.iter().map(|of_query| of_query[m].clone()));
            }
        }
        out
    }

    /// Spec 4.5.
    fn mlp(&self, config: &Config, x: &[f64]) -> Vec<f64> {
        self.down_proj.of(&gated_activation(&self.gate_proj.of(x), &self.up_proj.of(x), config.hidden_act))
    }

    /// Spec 4.6: adds the routed experts of each token of one call to `m`.
    fn add_experts(
        &self,
        config: &Config,
        x: &[Vec<f64>],
        routing: Routing,
        m: &mut [Vec<f64>],
        i: usize,
        record: &mut Option<Record>,
    ) {
        let Some(e) = &self.experts else { return };
        let gate = each(x, |x| linear(&e.router_gate, x, None, 2 * config.num_keys()));
        for (n, (x, m)) in x.iter().zip(m).enumerate() {
            let (lx, ly) = routing.logits(&gate, n);
            let (experts, weights) = top_experts(&scores(lx, ly), config.num_experts_per_tok);
            let y = expert_mix(x, &experts, &weights, &e.down_embed, &e.up_embed, config.hidden_act);
            m.iter_mut().zip(y).for_each(|(m, y)| *m += y);
            if let Some(record) = record {
                record.experts[i].extend(experts);
                record.expert_weights[i].extend(weights);
            }
        }
        note(record, |r| &mut r.router[i], &gate);
    }
}

/// `f` of each token's vector.
fn each(x: &[Vec<f64>], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
    x.iter().map(|x| f(x)).collect()
}

/// `f` of each token's two vectors.
fn both(x: &[Vec<f64>], y: &[Vec<f64>], f: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
    x.iter().zip(y).map(|(x, y)| f(x, y)).collect()
}

/// Appends the tokens' vectors to a recorded field, if there is a record.
fn note(record: &mut Option<Record>, field: impl Fn(&mut Record) -> &mut Vec<f64>, rows: &[Vec<f64>]) {
    if let Some(record) = record {
        let field = field(record);
        rows.iter().for_each(|row| field.extend_from_slice(row));
    }
}
