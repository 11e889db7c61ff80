//! Attention of a prompt's last block: the exact kernel, and the one on tensor cores, which rounds to bf16.

use super::*;
use doge_engine::{
    cuda::{FullSets, LayerShape, DOGE_CUDA_BLOCK},
    reference::{
        close::attention_budget,
        dynamic_mask_attention::{dynamic_mask_attention, Key},
        selection::{kept, visible},
    },
};

/// Half of the last of a bf16's eight bits.
const BF16: f64 = 1.0 / (1 << 8) as f64;
/// Lanes that share a dot product; of tensor cores, one.
const LANES: usize = 8;

/// One layer's inputs, and what its last queries see.
struct Layer {
    shape: LayerShape,
    queries: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Vec<f32>,
}

impl Layer {
    fn new(shape: LayerShape, [queries, keys]: [usize; 2], fill: Fill, random: &mut Random) -> Layer {
        let LayerShape { q_heads, mask_heads, kv_heads, head_dim, .. } = shape;
        let q = random.fill(fill, queries * q_heads * head_dim, 8.0);
        let [k, v] = [(); 2].map(|()| random.fill(fill, keys * kv_heads * head_dim, 8.0));
        // Not negative, as exp leaves them, with ties where numbers have some.
        let mask = random.fill(fill, keys * mask_heads, 8.0).into_iter().map(f32::abs).collect();
        Layer { shape, queries, q, k, v, mask }
    }

    fn run(&self, gpu: &Device, rounds: bool) -> Vec<f32> {
        let mut sets = FullSets::new(gpu, self.shape, rounds, &self.q, (&self.k, &self.v), &self.mask).unwrap();
        sets.run(gpu).unwrap();
        sets.out().read(self.queries).unwrap()
    }

    /// The reference's outputs and their budgets, of q, k and v as they are multiplied.
    fn expect(&self, rounds: bool) -> (Vec<f64>, Vec<f64>) {
        let LayerShape { q_heads, mask_heads, kv_heads, head_dim: d, keep_window_size, sliding_window } = self.shape;
        let as_multiplied = |x: &[f32]| -> Vec<f64> {
            x.iter().map(|&x| if rounds { half::bf16::from_f32(x).to_f64() } else { f64::from(x) }).collect()
        };
        let (q, k, v) = (as_multiplied(&self.q), as_multiplied(&self.k), as_multiplied(&self.v));
        let (keys, scale) = (self.mask.len() / mask_heads, f64::from((d as f32).powf(-0.5)));
        let (mut want, mut budget) = (Vec::new(), Vec::new());
        for query in 0..self.queries {
            let place = keys - self.queries + query;
            for (head, q) in q[query * q_heads * d..][..q_heads * d].chunks_exact(d).enumerate() {
                let m = head / (q_heads / mask_heads);
                let mask: Vec<f64> = self.mask.iter().skip(m).step_by(mask_heads).map(|&s| f64::from(s)).collect();
                let key = |place: u32| {
                    let at = (place as usize * kv_heads + m / (mask_heads / kv_heads)) * d;
                    Key { k: &k[at..][..d], v: &v[at..][..d], s: mask[place as usize] }
                };
                let seen: Vec<Key> = kept(&mask, visible(place, sliding_window), keep_window_size).into_iter().map(key).collect();
                let out = dynamic_mask_attention(q, &seen, scale);
                let of_tensor = if rounds { tensor_budget(q, &seen, scale, &out) } else { vec![0.0; d] };
                let exact = attention_budget(q, &seen, scale, &out, if rounds { 1 } else { LANES });
                budget.extend(exact.iter().zip(&of_tensor).map(|(a, b)| a + b));
                want.extend(out);
            }
        }
        (want, budget)
    }
}

/// What the tensor cores add to an exact kernel's budget. The weights p are rounded to bf16, p (1 + e), and so is their sum: the
/// quotient moves by Σ p e (v − out) / (1 + Σ p e), and with |e| ≤ 2^-8 / (1 + 2^-8) that is at most 2^-8 Σ p |v − out|. Products
/// of two bf16 are exact, but the hardware may cut off where we round, in the scores and in the sums of values: as much again
/// as f32 rounds there.
fn tensor_budget(q: &[f64], seen: &[Key], scale: f64, out: &[f64]) -> Vec<f64> {
    let p = reference::dynamic_mask_attention::weights(q, seen, scale);
    let twice = attention_budget(q, seen, scale, out, 1);
    let rounding = |c: usize| p.iter().zip(seen).map(|(p, key)| p * (key.v[c].abs() + out[c].abs())).sum::<f64>();
    (0..out.len()).map(|c| twice[c] + BF16 * rounding(c)).collect()
}

fn shape([q_heads, mask_heads, kv_heads, head_dim]: [usize; 4], keep: usize, sliding_window: Option<usize>) -> LayerShape {
    LayerShape { q_heads, mask_heads, kv_heads, head_dim, keep_window_size: keep, sliding_window }
}

/// One mask head for several heads, one for each, sets of their own over shared keys; every size of head; nothing dropped, keys
/// dropped in the block and before it, rings.
#[test]
fn attention_exactly_and_on_tensor_cores() {
    let gpu = emulator::device();
    let cases = [
        (shape([4, 2, 2, 20], 1000, None), [27, 27]),
        (shape([1, 1, 1, 2], 1000, None), [1, 1]),
        (shape([2, 1, 1, 16], 1000, None), [33, 97]),
        (shape([2, 2, 1, 12], 35, None), [70, 130]),
        (shape([4, 4, 2, 6], 33, None), [19, 84]),
        (shape([3, 1, 1, 128], 64, None), [50, 90]),
        (shape([2, 2, 2, 64], 31, None), [1, 64]),
        (shape([2, 1, 1, 130], 40, None), [17, 60]),
        (shape([1, 1, 1, 256], 1000, None), [40, 72]),
        (shape([2, 1, 1, 18], 9, Some(21)), [40, 140]),
        (shape([2, 2, 1, 8], 70, Some(90)), [256, 400]),
        // The longest block, which goes around a ring that has hardly more rows than it needs.
        (shape([1, 1, 1, 8], 70, Some(24)), [DOGE_CUDA_BLOCK as usize, DOGE_CUDA_BLOCK as usize + 76]),
        (shape([2, 2, 2, 34], 1000, Some(33)), [1, 50]),
    ];
    for (i, (shape, sizes)) in cases.into_iter().enumerate() {
        emulator::schedule(2 + i as u32);
        for (j, fill) in [Fill::Uniform, Fill::Ties, Fill::Extreme, Fill::Tiny].into_iter().enumerate() {
            let layer = Layer::new(shape, sizes, fill, &mut Random::new((4 * i + j) as u64));
            for rounds in [false, true] {
                let (want, budget) = layer.expect(rounds);
                let what = format!("{shape:?}, {sizes:?}, {fill:?}, rounded: {rounds}");
                assert_passed(&what, within("out", &layer.run(&gpu, rounds), &want, |i| budget[i]));
            }
        }
    }
}

/// What is not finite shows, where a query sees it and nowhere before.
#[test]
fn attention_loses_no_infinity() {
    let gpu = emulator::device();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for of_keys in [false, true] {
            let mut layer = Layer::new(shape([1, 1, 1, 16], 1000, None), [200, 200], Fill::Uniform, &mut Random::new(7));
            let at = 100 * 16 + 3;
            if of_keys {
                layer.k[at] = bad;
            } else {
                layer.v[at] = bad;
            }
            let out = layer.run(&gpu, true);
            let finite = |query: usize| out[query * 16..][..16].iter().all(|x| x.is_finite());
            // A key of -inf takes part with the opposite sign of q: it weighs nothing, or everything.
            let shows = |query: usize| if of_keys && bad.is_infinite() { layer.q[query * 16 + 3] * bad > 0.0 } else { true };
            assert!((0..64).all(finite), "{bad}, of keys {of_keys}: before its chunk");
            assert!((100..200).all(|query| finite(query) != shows(query)), "{bad}, of keys {of_keys}: after it");
        }
    }
}
