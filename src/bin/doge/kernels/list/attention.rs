//! dynamic_mask_attention: one query over the keys it keeps, and a prompt over itself.

use doge_engine::{
    ops::{Activations, AttentionHead, AttentionShape, Cpu},
    reference::{
        close::{attention_budget, rounded_attention_budget, within, Worst},
        dynamic_mask_attention::{dynamic_mask_attention, Key},
        embed::widen,
    },
    Float, Layout, Matrix, Result,
};

use half::bf16;

use super::{
    f64s,
    store::{strip, Copies, Store, Weights},
    Cost, Entry, Job, Shape, BLOCK,
};

/// Keys of a tile, as a session cuts them.
const TILE: usize = 128;

pub fn entries(shape: &Shape, out: &mut Vec<Entry>) {
    let Shape { heads, kv_heads, mask_heads, head_dim, .. } = *shape;
    for (queries, keys, main) in [(1, 512, false), (1, 2048, true), (1, 8192, true), (BLOCK, BLOCK, true)] {
        let sizes = AttentionShape {
            n_queries: queries,
            place0: 0,
            mask_heads,
            heads_per_mask: heads / mask_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
        };
        // For each mask head a row number and a mask value of each key, and who sees it; K and V once.
        let lists = mask_heads * keys * if queries > 1 { 16 } else { 8 };
        // For each key seen: q·k, the mask, exp, and its part of the sum.
        let seen = if queries > 1 { queries * (queries + 1) / 2 } else { keys };
        let operations = heads * seen * (4 * head_dim + 3);
        let forms = Float::ALL.map(|kv| ("dynamic_mask_attention", kv, Activations::F32));
        for (op, kv, activations) in forms.into_iter().chain([("dynamic_mask_attention_bf16", Float::Bf16, Activations::Bf16)]) {
            let bytes = 2 * kv.size() * kv_heads * keys * head_dim + lists + 8 * queries * heads * head_dim;
            let make = Box::new(move |store: &mut Store, cpu: &Cpu| Attention::make(store, cpu, sizes, kv, kv_heads, keys));
            let cost = Cost { bytes, written: 4 * queries * heads * head_dim, operations };
            let entry = Entry::new(op, kv.into(), format!("{queries}x{keys}"), cost, make);
            out.push(Entry { activations, main, ..entry });
        }
    }
}

struct Attention {
    shape: AttentionShape,
    kv_heads: usize,
    keys: usize,
    out: Copies<f32>,
    q: Copies<f32>,
    /// `[kv_heads · keys, head_dim]`
    k: Weights,
    v: Weights,
    /// `[mask_heads][keys]`: until the first key is dropped, the rows in order.
    row: Copies<u32>,
    mask: Copies<f32>,
    /// Of a prompt, `[mask_heads][keys]`: query p sees the keys up to p.
    seen_from: Copies<u32>,
    seen_until: Copies<u32>,
    tile_begin: Copies<u32>,
    scratch: Vec<f32>,
}

impl Attention {
    fn make(
        store: &mut Store,
        cpu: &Cpu,
        shape: AttentionShape,
        kv: Float,
        kv_heads: usize,
        keys: usize,
    ) -> Result<Box<dyn Job>> {
        let AttentionShape { n_queries, mask_heads, heads_per_mask, head_dim, .. } = shape;
        let n = n_queries * mask_heads * heads_per_mask * head_dim;
        let lists = if n_queries > 1 { mask_heads * keys } else { 0 };
        let in_order: Vec<u32> = (0..mask_heads * keys).map(|i| (i % keys) as u32).collect();
        let tiles: Vec<u32> = (0..keys).step_by(TILE).chain([keys]).map(|key| key as u32).collect();
        Ok(Box::new(Attention {
            shape,
            kv_heads,
            keys,
            out: store.zeros(n)?,
            q: store.floats(n, -1.0, 1.0)?,
            k: store.weights(kv.into(), Layout::Rows, kv_heads * keys, head_dim)?,
            v: store.weights(kv.into(), Layout::Rows, kv_heads * keys, head_dim)?,
            row: store.of(&in_order)?,
            mask: store.floats(mask_heads * keys, 0.2, 2.0)?,
            seen_from: store.of(&in_order[..lists])?,
            seen_until: store.of(&vec![u32::MAX; lists])?,
            tile_begin: store.of(&tiles)?,
            scratch: vec![0.0; cpu.attention_scratch(TILE, head_dim)],
        }))
    }
}

/// The keys' rows of mask head `m` in `k` or `v`.
fn arena<'a>(shape: &AttentionShape, kv_heads: usize, keys: usize, all: &Matrix<'a>, m: usize) -> Matrix<'a> {
    strip(all, m / (shape.mask_heads / kv_heads) * keys, keys)
}

impl Job for Attention {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let Attention { shape, kv_heads, keys, out, q, k, v, row, mask, seen_from, seen_until, tile_begin, scratch } = self;
        let head = |m: usize| {
            let list = m * *keys..(m + 1) * *keys;
            let seen = (shape.n_queries > 1).then(|| (&seen_from.get(copy)[list.clone()], &seen_until.get(copy)[list.clone()]));
            AttentionHead {
                k: arena(shape, *kv_heads, *keys, &k.get(copy), m),
                v: arena(shape, *kv_heads, *keys, &v.get(copy), m),
                row: &row.get(copy)[list.clone()],
                mask: &mask.get(copy)[list],
                seen,
                tile_begin: tile_begin.get(copy),
            }
        };
        cpu.dynamic_mask_attention(out.get_mut(copy), q.get(copy), head, *shape, scratch)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?;
        let AttentionShape { n_queries, mask_heads, heads_per_mask, head_dim: d, scale, .. } = self.shape;
        let (heads, scale) = (mask_heads * heads_per_mask, f64::from(scale));
        let mut worst = Worst::default();
        for m in [0, mask_heads - 1] {
            let wide = |all| f64s(&widen(arena(&self.shape, self.kv_heads, self.keys, &all, m)));
            let (k, v) = (wide(self.k.get(0)), wide(self.v.get(0)));
            for query in [0, n_queries / 2, n_queries - 1] {
                let seen = if n_queries > 1 { query + 1 } else { self.keys };
                let key = |t: usize| {
                    let s = f64::from(self.mask.get(0)[m * self.keys + t]);
                    Key { k: &k[t * d..][..d], v: &v[t * d..][..d], s }
                };
                let kept: Vec<Key> = (0..seen).map(key).collect();
                let at = (query * heads + m * heads_per_mask) * d;
                let q = &self.q.get(0)[at..][..d];
                let rounded = cpu.activations() == Activations::Bf16;
                let q = if rounded { f64s(&q.iter().map(|&q| bf16::from_f32(q).to_f32()).collect::<Vec<_>>()) } else { f64s(q) };
                let want = dynamic_mask_attention(&q, &kept, scale);
                let budget_of = if rounded { rounded_attention_budget } else { attention_budget };
                let budget = budget_of(&q, &kept, scale, &want, cpu.kernels().lanes());
                let name = format!("out of query {query}, mask head {m}");
                worst = worst.max(within(&name, &self.out.get(0)[at..][..d], &want, |i| budget[i]));
            }
        }
        Ok(worst)
    }
}
