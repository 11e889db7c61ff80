//! The safe doors by themselves: operations on slices whose lengths and sizes agree or do not, tensors, the sampler, scores.

use doge_engine::{
    matrix_bytes,
    ops::{Activations, AttentionHead, AttentionShape, Cpu, Projection, Routing},
    perplexity::{self, Windows},
    quantize, stride_bytes, Activation, Dtype, Float, Layout, Matrix, Sampler, SamplingSettings, Tensor, TokenLogprob,
};

use super::{CPU, MODEL};

/// More than this no slice has here: absurd sizes are only said, never made.
const MOST: usize = 1 << 12;

/// The fuzzer's bytes as sizes, numbers and slices. Zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// Small as a rule, beyond reason now and then.
    fn size(&mut self) -> usize {
        match self.byte() {
            small @ 0..=239 => usize::from(small % 20),
            240..=247 => 64,
            248 => usize::MAX,
            249 => usize::MAX / 2 + 1,
            250 => isize::MAX as usize,
            251 => 1 << 33,
            252 => 65536,
            _ => 128,
        }
    }

    /// `n`, or as often as one in eight a little more or less.
    fn about(&mut self, n: usize) -> usize {
        match self.byte() % 24 {
            0 => n.saturating_add(1),
            1 => n.saturating_sub(1),
            2 => 0,
            _ => n,
        }
        .min(MOST)
    }

    fn float(&mut self) -> f32 {
        match self.byte() {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => f32::MAX,
            4 => f32::MIN_POSITIVE / 2.0,
            5 => -1e30,
            byte => (f32::from(byte) - 128.0) / 16.0,
        }
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        let n = self.about(n);
        (0..n).map(|_| self.float()).collect()
    }

    fn ids(&mut self, n: usize) -> Vec<u32> {
        let n = self.about(n);
        (0..n).map(|_| if self.byte() == 255 { u32::MAX } else { u32::from(self.byte() % 24) }).collect()
    }
}

fn times(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size))
}

pub fn doors(data: &[u8]) {
    let mut input = Input(data);
    let cpu = CPU.clone().with_activations(input.of(&[Activations::F32, Activations::Bf16]));
    let rows = input.size().min(64);
    match input.byte() % 13 {
        0 => norms(&cpu, &mut input, rows),
        1 => linear(&cpu, &mut input, rows),
        2 => attention(&cpu, &mut input, rows),
        3 => {
            let (cols, dtype) = (input.size(), input.of(&Dtype::ALL));
            let bytes = vec![3; input.about(matrix_bytes(dtype, Layout::Rows, rows, cols).unwrap_or(0))];
            let Some(table) = Matrix::new(dtype, rows, cols, &bytes) else { return };
            let ids = input.ids(3);
            let _ = cpu.embed(&mut input.floats(times(&[ids.len(), cols])), table, &ids);
        }
        4 => {
            let (mut gate, up) = (input.floats(rows), input.floats(rows));
            let _ = cpu.gated_activation(&mut gate, &up, input.of(&Activation::ALL));
            let _ = cpu.argmax(&gate);
        }
        5 => {
            let (heads, n) = (input.size(), input.size());
            let (weight, a, v) = (input.floats(times(&[heads, n])), input.floats(heads), input.floats(times(&[rows, n])));
            let bias = input.flag().then(|| input.floats(heads));
            let _ = cpu.mask_score(&mut input.floats(times(&[rows, heads])), &weight, bias.as_deref(), &a, &v);
        }
        6 => {
            let (heads, dim) = (input.size(), input.size());
            let (cos, sin) = (input.floats(times(&[rows, dim / 2])), input.floats(times(&[rows, dim / 2])));
            let _ = cpu.rope(&mut input.floats(times(&[rows, heads, dim])), &cos, &sin, heads, dim);
        }
        7 => {
            let (keys, top, routing) = (input.size(), input.size(), input.of(&[Routing::PerToken, Routing::Reference]));
            let (mut expert, mut weight) = (input.ids(times(&[rows, top])), input.floats(times(&[rows, top])));
            let mut scratch = vec![0; input.about(cpu.router_scratch(keys, top))];
            let logits = input.floats(times(&[rows, 2, keys]));
            let _ = cpu.product_key_router(&mut expert, &mut weight, &logits, routing, keys, top, &mut scratch);
        }
        8 => experts(&cpu, &mut input, rows),
        9 => {
            let (cols, offset) = (input.size(), input.size());
            let (dtype, layout) = (input.of(&Dtype::ALL), input.of(&[Layout::Rows, Layout::Tiles]));
            let _ = stride_bytes(dtype, layout, cols);
            let size = input.about(matrix_bytes(dtype, layout, rows, cols).unwrap_or(0));
            let file = doge_engine::mapped::Mapped::from_vec(vec![1; size]);
            let in_place = Tensor::mapped(file.into(), offset, dtype, layout, rows, cols);
            let owned = Tensor::owned(dtype, layout, rows, cols, vec![1; size]);
            in_place.iter().chain(&owned).for_each(|tensor| assert!(tensor.matrix().bytes().len() <= size));
        }
        10 => {
            let (cols, from) = (input.size(), input.of(&[Float::F32, Float::Bf16, Float::F16]));
            let n = input.about(times(&[rows, cols, from.size()]));
            let bytes: Vec<u8> = (0..n).map(|_| input.byte()).collect();
            let (dtype, layout) = (input.of(&Dtype::ALL), input.of(&[Layout::Rows, Layout::Tiles]));
            let _ = quantize::matrix("w", from, &bytes, [rows, cols], dtype, layout);
        }
        11 => sampler(&mut input, rows),
        _ => {
            let windows = Windows::of(input.size()).stride(input.size()).count(input.size().min(4));
            let ids: Vec<u32> = input.ids(rows).into_iter().map(|id| id % 9).collect();
            let _ = perplexity::score(&MODEL, &cpu, &ids, windows, Default::default());
        }
    }
}

fn norms(cpu: &Cpu, input: &mut Input, rows: usize) {
    let n = input.size();
    let (mut x, weight, eps) = (input.floats(times(&[rows, n])), input.floats(n), input.float());
    let mut out = input.floats(x.len());
    let _ = cpu.rms_norm(&mut out, &x, &weight, eps);
    let (gate, branch) = (input.floats(n), input.floats(x.len()));
    let _ = cpu.residual_rms_norm(&mut out, &mut x, &gate, &branch, &weight, eps);
    let _ = cpu.qk_norm(&mut x, &weight, eps);
}

fn linear(cpu: &Cpu, input: &mut Input, rows: usize) {
    let (outputs, cols, dtype) = (input.size(), input.size(), input.of(&Dtype::ALL));
    let layout = if dtype.is_int() != (input.byte() == 0) { Layout::Tiles } else { Layout::Rows };
    let bytes = vec![1; input.about(matrix_bytes(dtype, layout, outputs, cols).unwrap_or(0))];
    let Some(weight) = Matrix::with_layout(dtype, layout, outputs, cols, &bytes) else { return };
    let (x, bias) = (input.floats(times(&[rows, cols])), input.flag().then(|| input.floats(outputs)));
    let (mut out, mut other) = (input.floats(times(&[rows, outputs])), input.floats(times(&[rows, outputs])));
    let _ = cpu.linear(&mut out, weight, &x, bias.as_deref());
    let _ = cpu.prepared_words(input.size(), input.size());
    let mut scratch = vec![0; input.about(cpu.prepared_words(rows, cols))];
    let Ok(x) = cpu.prepare(&mut scratch, &x, [weight]) else { return };
    let projections =
        &mut [Projection { out: &mut out, weight, bias: bias.as_deref() }, Projection { out: &mut other, weight, bias: None }];
    let _ = cpu.projections(projections, x);
}

fn attention(cpu: &Cpu, input: &mut Input, rows: usize) {
    let (masks, heads, dim, keys) = (input.size(), input.size(), input.size(), input.size().min(20));
    let place0 = if input.flag() { u32::MAX } else { 3 };
    let shape = AttentionShape { n_queries: rows, place0, mask_heads: masks, heads_per_mask: heads, head_dim: dim, scale: 0.5 };
    let kv: Vec<Dtype> = [(); 2].map(|()| input.of(&Dtype::ALL)).into(); // of one format, or not
    let bytes = kv.iter().map(|&dtype| vec![1; input.about(matrix_bytes(dtype, Layout::Rows, 20, dim).unwrap_or(0))]);
    let bytes: Vec<Vec<u8>> = bytes.collect();
    let (Some(k), Some(v)) = (Matrix::new(kv[0], 20, dim, &bytes[0]), Matrix::new(kv[1], 20, dim, &bytes[1])) else { return };
    let (row, mask, from, until) = (input.ids(keys), input.floats(keys), input.ids(keys), input.ids(keys));
    let mut tile_begin = input.ids(3);
    if input.flag() {
        tile_begin = vec![0, row.len() as u32 / 2, row.len() as u32];
    }
    let seen = input.flag().then_some((&from[..], &until[..]));
    let other = input.ids(keys);
    // Each mask head has keys of its own, or not.
    let head = |m: usize| {
        let row = if m % 3 == 2 { &other } else { &row };
        AttentionHead { k, v, row, mask: &mask, seen, tile_begin: &tile_begin }
    };
    let all = times(&[rows, masks, heads, dim]);
    let (q, mut out) = (input.floats(all), input.floats(all));
    let _ = cpu.attention_scratch(input.size(), input.size());
    let mut scratch = input.floats(cpu.attention_scratch(keys, dim));
    let _ = cpu.dynamic_mask_attention(&mut out, &q, head, shape, &mut scratch);
}

fn experts(cpu: &Cpu, input: &mut Input, rows: usize) {
    let (n, cols, top) = (input.size(), input.size(), input.size());
    let (down, up) = (input.of(&Dtype::ALL), input.of(&Dtype::ALL));
    let table = |input: &mut Input, dtype| vec![1; input.about(matrix_bytes(dtype, Layout::Rows, n, cols).unwrap_or(0))];
    let (down_bytes, up_bytes) = (table(input, down), table(input, up));
    let (Some(down), Some(up)) = (Matrix::new(down, n, cols, &down_bytes), Matrix::new(up, n, cols, &up_bytes)) else { return };
    let (x, mut y) = (input.floats(times(&[rows, cols])), input.floats(times(&[rows, cols])));
    let (expert, weight, mut hit) =
        (input.ids(times(&[rows, top])), input.floats(times(&[rows, top])), input.floats(times(&[rows, top])));
    let _ = cpu.expert_mix(&mut y, &x, down, up, &expert, &weight, &mut hit, input.of(&Activation::ALL));
}

fn sampler(input: &mut Input, vocab_size: usize) {
    let settings = SamplingSettings::default()
        .do_sample(input.flag())
        .temperature(input.float())
        .top_k(input.size())
        .top_p(input.float())
        .min_p(input.float())
        .typical_p(input.float())
        .repetition_penalty(input.float())
        .presence_penalty(input.float())
        .frequency_penalty(input.float())
        .repetition_window(input.flag().then(|| input.size()))
        .logit_bias(vec![(u32::from(input.byte()), input.float())]);
    // Most settings are out of range: those that are not matter more.
    let settings = if settings.validate().is_ok() {
        settings
    } else {
        SamplingSettings::default().do_sample(true).top_p(0.7).typical_p(0.8)
    };
    let Ok(mut sampler) = Sampler::new(settings) else { return };
    for _ in 0..2 {
        let (logits, prompt, generated) = (input.floats(vocab_size), input.ids(6), input.ids(6));
        if let Ok(id) = sampler.sample(&logits, &prompt, &generated) {
            assert!((id as usize) < logits.len());
        }
        let _ = sampler.probabilities(&logits, &prompt, &generated);
        let _ = TokenLogprob::new(&logits, input.byte().into(), input.size());
    }
}
