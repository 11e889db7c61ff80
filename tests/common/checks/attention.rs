//! dynamic_mask_attention, and the same with q and its weights rounded to bf16.

use doge_engine::{
    ops::{Activations, AttentionHead, AttentionShape, Cpu},
    reference::{
        dynamic_mask_attention::{dynamic_mask_attention, Key},
        embed::widen,
    },
    Dtype, Layout, Matrix,
};

use half::bf16;

use super::{
    super::{
        cases::{largest, not_clamped, stored, Case, Fill, Random},
        close::{attention_budget, rounded_attention_budget, within, Worst},
        guarded::{Guarded, GuardedBytes, Painted},
    },
    accepted, f64s, intact,
};

/// `n` keys in the list, `rows` queries, `out` channels a head. The seed draws the number of heads, the tiles and who sees what.
pub fn cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    let keys = [0, 1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 63, 64, 65, 150];
    let head_dims = [1, 2, lanes, lanes + 1, 3 * lanes + 2, 12, 64, 128];
    for (i, n) in keys.into_iter().enumerate() {
        for (j, head_dim) in head_dims.into_iter().enumerate() {
            let fill = Fill::ALL[(i + j) % Fill::ALL.len()];
            let rows = [1, 2, 3, 5, 16, 17, 40][(i + 2 * j) % 7];
            for seed in [0, 1] {
                out.push(Case { n, rows, out: head_dim, fill, offset: 0, seed: (8 * i + j) as u64 * 2 + seed });
            }
        }
    }
    for fill in Fill::ALL {
        out.push(Case { n: 33, rows: 20, out: 64, fill, offset: 0, seed: 3 });
        out.push(Case { n: 600, rows: 2, out: 32, fill, offset: 0, seed: 4 });
    }
    out
}

/// Inputs of one call.
pub struct Inputs {
    pub shape: AttentionShape,
    pub q: Guarded<f32>,
    /// One for each mask head.
    pub heads: Vec<Head>,
}

/// The keys of one mask head.
pub struct Head {
    /// `[rows, head_dim]` each
    pub k: GuardedBytes,
    pub v: GuardedBytes,
    pub shape: (Dtype, usize, usize),
    pub row: Guarded<u32>,
    pub mask: Guarded<f32>,
    pub seen: Option<(Guarded<u32>, Guarded<u32>)>,
    pub tile_begin: Guarded<u32>,
}

impl Inputs {
    pub fn new(dtype: Dtype, case: &Case) -> Self {
        let Case { n, rows: n_queries, out: head_dim, fill, .. } = *case;
        let random = &mut Random::new(case.seed);
        let shape = AttentionShape {
            n_queries,
            place0: random.below(100) as u32,
            mask_heads: 1 + random.below(2),
            heads_per_mask: 1 + random.below(5),
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
        };
        // Extreme: scores of ten thousand, values whose weighted sum is just inside f32.
        let (largest_qk, largest_v) = ((1e4 / head_dim as f32).sqrt(), largest(dtype).min(f32::MAX / (4 * n.max(1)) as f32));
        let q = random.fill(fill, n_queries * shape.mask_heads * shape.heads_per_mask * head_dim, largest_qk);
        let heads = (0..shape.mask_heads).map(|_| {
            // More rows than keys: one after another, as a session's mostly are, or in any order, some shared.
            let table_rows = n + 3;
            let all_seen = case.seed % 4 == 0;
            let in_order = random.below(2) == 0;
            let (place, end) = (shape.place0 as usize, shape.place0 as usize + n_queries);
            let from: Vec<u32> = (0..n).map(|_| random.below(end + 2) as u32).collect();
            let until = from.iter().map(|&from| match random.below(4) {
                0 => u32::MAX,                                 // never leaves
                1 => from,                                     // was never in
                2 => (place + random.below(n_queries)) as u32, // leaves within the block, or has left before it came
                _ => from + random.below(n_queries + 3) as u32,
            });
            let until: Vec<u32> = until.collect();
            let mut table = |largest| {
                let numbers = random.fill(fill, table_rows * head_dim, largest);
                GuardedBytes::new(&stored(dtype, Layout::Rows, [table_rows, head_dim], &numbers), 0)
            };
            Head {
                k: table(largest_qk),
                v: table(largest_v),
                shape: (dtype, table_rows, head_dim),
                row: Guarded::new(
                    &(0..n as u32)
                        .map(|i| match (in_order, i) {
                            (true, _) => i + 3,
                            (false, 0) => table_rows as u32 - 1,
                            (false, _) => random.below(table_rows) as u32,
                        })
                        .collect::<Vec<_>>(),
                ),
                mask: Guarded::new(&random.fill(Fill::Uniform, n, 1.0).iter().map(|s| (3.0 * s).exp()).collect::<Vec<_>>()),
                seen: (!all_seen).then(|| (Guarded::new(&from), Guarded::new(&until))),
                tile_begin: Guarded::new(&tiles(n, random)),
            }
        });
        let heads = heads.collect();
        Inputs { shape, q: Guarded::new(&q), heads }
    }

    /// Floats of a query, or of its output.
    pub fn row(&self) -> usize {
        self.shape.mask_heads * self.shape.heads_per_mask * self.shape.head_dim
    }

    /// As in a prompt: the last keys are those of the queries themselves, and each query sees what came before.
    pub fn in_sequence(&mut self) {
        let AttentionShape { n_queries, place0, .. } = self.shape;
        for head in &mut self.heads {
            let n = head.row.get().len();
            let from: Vec<u32> = (0..n).map(|t| (place0 as usize + t + n_queries).saturating_sub(n) as u32).collect();
            head.seen = Some((Guarded::new(&from), Guarded::new(&vec![u32::MAX; n])));
        }
    }

    /// Fills the rows of key `t` with what is no number, or infinite.
    pub fn spoil(&mut self, t: usize, with: f32) {
        for head in &mut self.heads {
            let (dtype, rows, head_dim) = head.shape;
            let (mut k, mut v) = (head.k.get().to_vec(), head.v.get().to_vec());
            let wrong = not_clamped(dtype, with).expect("a float format").repeat(head_dim);
            let at = head.row.get()[t] as usize * v.len() / rows;
            v[at..at + wrong.len()].copy_from_slice(&wrong);
            k[at..at + wrong.len()].copy_from_slice(&wrong);
            (head.k, head.v) = (GuardedBytes::new(&k, 0), GuardedBytes::new(&v, 0));
        }
    }

    /// One query of the block alone, at its own place; with `only_seen` the keys it does not see are taken out of the list.
    pub fn query(&self, query: usize, only_seen: bool) -> Inputs {
        let place = self.shape.place0 + query as u32;
        let shape = AttentionShape { n_queries: 1, place0: place, ..self.shape };
        let heads = self.heads.iter().map(|head| head.for_query(place, only_seen)).collect();
        Inputs { shape, q: Guarded::new(&self.q.get()[query * self.row()..][..self.row()]), heads }
    }

    pub fn call(&self, cpu: &Cpu, out: &mut [f32]) -> doge_engine::Result<()> {
        let tile = self.heads.iter().flat_map(|h| h.tile_begin.get().windows(2)).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let mut scratch = vec![f32::NAN; cpu.attention_scratch(tile as usize, self.shape.head_dim)];
        cpu.dynamic_mask_attention(out, self.q.get(), |m| self.heads[m].borrow(), self.shape, &mut scratch)
    }
}

impl Head {
    pub fn k(&self) -> Matrix<'_> {
        matrix(&self.k, self.shape)
    }

    pub fn v(&self) -> Matrix<'_> {
        matrix(&self.v, self.shape)
    }

    pub fn borrow(&self) -> AttentionHead<'_> {
        AttentionHead {
            k: self.k(),
            v: self.v(),
            row: self.row.get(),
            mask: self.mask.get(),
            seen: self.seen.as_ref().map(|(from, until)| (from.get(), until.get())),
            tile_begin: self.tile_begin.get(),
        }
    }

    fn for_query(&self, place: u32, only_seen: bool) -> Head {
        let stays: Vec<usize> = (0..self.row.get().len()).filter(|&t| !only_seen || self.sees(t, place)).collect();
        let pick = |x: &[u32]| Guarded::new(&stays.iter().map(|&t| x[t]).collect::<Vec<_>>());
        let seen = self.seen.as_ref().map(|(from, until)| (pick(from.get()), pick(until.get())));
        // Each entry stays in its tile.
        let cut = |&end: &u32| stays.iter().filter(|&&t| t < end as usize).count() as u32;
        Head {
            k: GuardedBytes::new(self.k.get(), 0),
            v: GuardedBytes::new(self.v.get(), 0),
            shape: self.shape,
            row: pick(self.row.get()),
            mask: Guarded::new(&stays.iter().map(|&t| self.mask.get()[t]).collect::<Vec<_>>()),
            seen: seen.filter(|_| !only_seen),
            tile_begin: Guarded::new(&self.tile_begin.get().iter().map(cut).collect::<Vec<_>>()),
        }
    }

    /// Does the query at `place` see entry `t`?
    pub fn sees(&self, t: usize, place: u32) -> bool {
        self.seen.as_ref().is_none_or(|(from, until)| from.get()[t] <= place && place < until.get()[t])
    }
}

fn matrix(bytes: &GuardedBytes, (dtype, rows, cols): (Dtype, usize, usize)) -> Matrix<'_> {
    Matrix::new(dtype, rows, cols, bytes.get()).expect("stored with this shape")
}

/// A cut of `n` keys into tiles, empty ones among them.
fn tiles(n: usize, random: &mut Random) -> Vec<u32> {
    let mut tiles: Vec<u32> = (0..random.below(6)).map(|_| random.below(n + 1) as u32).collect();
    tiles.extend([0, n as u32]);
    tiles.sort_unstable();
    tiles
}

pub fn run(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    held(cpu, dtype, case, |x| x, attention_budget)
}

pub fn run_rounded(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    let cpu = cpu.clone().with_activations(Activations::Bf16);
    held(&cpu, dtype, case, |x| bf16::from_f32(x).to_f32(), rounded_attention_budget)
}

type Budget = fn(&[f64], &[Key<'_>], f64, &[f64], usize) -> Vec<f64>;

fn held(cpu: &Cpu, dtype: Dtype, case: &Case, of_q: fn(f32) -> f32, budget_of: Budget) -> Worst {
    let inputs = Inputs::new(dtype, case);
    let AttentionShape { n_queries, place0, heads_per_mask, head_dim: d, scale, .. } = inputs.shape;
    let mut out = Painted::<f32>::new(n_queries * inputs.row());
    let answer = accepted(inputs.call(cpu, out.get_mut()));

    let wide = |matrix| f64s(&widen(matrix));
    let tables: Vec<(Vec<f64>, Vec<f64>)> = inputs.heads.iter().map(|head| (wide(head.k()), wide(head.v()))).collect();
    let (mut want, mut budget) = (Vec::new(), Vec::new());
    for (i, q) in inputs.q.get().chunks_exact(d).enumerate() {
        let (query, m) = (i / (inputs.shape.mask_heads * heads_per_mask), i / heads_per_mask % inputs.shape.mask_heads);
        let (head, (k, v)) = (&inputs.heads[m], &tables[m]);
        let kept: Vec<Key> = (0..case.n)
            .filter(|&t| head.sees(t, place0 + query as u32))
            .map(|t| (head.row.get()[t] as usize * d, f64::from(head.mask.get()[t])))
            .map(|(at, s)| Key { k: &k[at..at + d], v: &v[at..at + d], s })
            .collect();
        let q = f64s(&q.iter().map(|&q| of_q(q)).collect::<Vec<_>>());
        let out = dynamic_mask_attention(&q, &kept, f64::from(scale));
        budget.extend(budget_of(&q, &kept, f64::from(scale), &out, cpu.kernels().lanes()));
        want.extend(out);
    }
    answer.max(intact("out", &out)).max(within("out", out.get(), &want, |i| budget[i]))
}

/// One query of one head over all rows of `k` and `v`, without lists of who is seen.
pub fn all_of(cpu: &Cpu, q: &[f32], k: &[f32], v: &[f32], s: &[f32], scale: f32) -> doge_engine::Result<Vec<f32>> {
    let (head_dim, n) = (q.len(), s.len() as u32);
    let (row, tile_begin): (Vec<u32>, [u32; 2]) = ((0..n).collect(), [0, n]);
    let shape = AttentionShape { n_queries: 1, place0: 0, mask_heads: 1, heads_per_mask: 1, head_dim, scale };
    let matrix = |x| Matrix::new(Dtype::F32, n as usize, head_dim, bytemuck::cast_slice(x)).expect("rows of head_dim");
    let head = AttentionHead { k: matrix(k), v: matrix(v), row: &row, mask: s, seen: None, tile_begin: &tile_begin };
    let mut out = vec![0.0; head_dim];
    cpu.dynamic_mask_attention(&mut out, q, |_| head, shape, &mut vec![0.0; cpu.attention_scratch(n as usize, head_dim)])?;
    Ok(out)
}
