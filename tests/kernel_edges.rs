//! The safe doors to the kernels with sizes that no tensor has: a named error, or nothing to do. Never a panic, never an endless loop.

use std::sync::Arc;

use doge_engine::{
    ops::{Activations, AttentionHead, AttentionShape, Cpu, Routing},
    pool::Pool,
    Activation, Dtype, Error, Kernels, Matrix, Result,
};

const HUGE: [usize; 7] = [0, 1, 2, 3, 1 << 32, 1 << 63, usize::MAX];

fn cpu() -> Cpu {
    Cpu::new(Kernels::detect().unwrap(), Arc::new(Pool::new(2).unwrap()))
}

fn named(result: Result<()>) {
    if let Err(error) = result {
        assert!(matches!(error, Error::BadArgument { .. } | Error::TokenOutOfRange { .. }), "{error}");
    }
}

/// Each pair of sizes, with slices of a few lengths.
fn sizes(mut check: impl FnMut(usize, usize, usize)) {
    for a in HUGE {
        for b in HUGE {
            (0..4).for_each(|len| check(a, b, len));
        }
    }
}

#[test]
fn rope_takes_no_size_on_trust() {
    let cpu = cpu();
    sizes(|heads, dim, len| named(cpu.rope(&mut vec![1.0; len], &vec![1.0; len / 2], &vec![0.0; len / 2], heads, dim)));
}

#[test]
fn attention_takes_no_size_on_trust() {
    let cpu = cpu();
    let (rows, mask, tiles) = ([0], [0.5], [0, 1]);
    sizes(|heads, dim, len| {
        for (n_queries, mask_heads) in [(1, heads), (heads, 1), (heads, heads), (0, heads)] {
            let shape =
                AttentionShape { n_queries, place0: u32::MAX, mask_heads, heads_per_mask: heads, head_dim: dim, scale: 1.0 };
            let kv = vec![0; 4 * len];
            let Some(kv) = Matrix::new(Dtype::F32, len / dim.max(1), dim, &kv[..len / dim.max(1) * dim * 4]) else { continue };
            let head = |_| AttentionHead { k: kv, v: kv, row: &rows, mask: &mask, seen: None, tile_begin: &tiles };
            named(cpu.dynamic_mask_attention(&mut vec![0.0; len], &vec![1.0; len], head, shape, &mut vec![0.0; 4096]));
            cpu.attention_scratch(heads, dim);
        }
    });
}

#[test]
fn matrices_of_nothing_are_nothing() {
    let cpu = cpu();
    sizes(|rows, cols, len| {
        for dtype in Dtype::ALL {
            let Some(matrix) = Matrix::new(dtype, rows, cols, &[]) else { continue };
            let (x, mut out) = (vec![1.0; len], vec![0.0; len]);
            named(cpu.linear(&mut out, matrix, &x, None));
            named(cpu.linear(&mut out, matrix, &x, Some(&x)));
            named(cpu.embed(&mut out, matrix, &vec![u32::MAX; len]));
            named(cpu.expert_mix(&mut out, &x, matrix, matrix, &vec![7; len], &x, &mut vec![0.0; len], Activation::Silu));
            named(cpu.prepare(&mut vec![0; len], &x, [matrix, matrix]).map(drop));
        }
    });
}

#[test]
fn lengths_that_do_not_match_are_named() {
    let cpu = cpu();
    sizes(|_, keys, len| {
        let (mut expert, mut weight, logits) = (vec![0; len], vec![0.0; len], vec![1.0; 2 * len]);
        for top in HUGE {
            let keys = keys.min(1 << 20);
            if keys <= 3 && top <= 9 {
                let mut scratch = vec![0; cpu.router_scratch(keys, top)];
                let route = cpu.product_key_router(&mut expert, &mut weight, &logits, Routing::PerToken, keys, top, &mut scratch);
                named(route);
            }
            named(cpu.product_key_router(&mut expert, &mut weight, &logits, Routing::Reference, keys, top, &mut []));
        }
    });
    for a in 0..4 {
        for b in 0..4 {
            let (mut x, y) = (vec![1.0; a], vec![1.0; b]);
            named(cpu.rms_norm(&mut x, &y, &y, 1e-6));
            named(cpu.qk_norm(&mut x, &y, 1e-6));
            named(cpu.residual_rms_norm(&mut x.clone(), &mut x, &y, &y, &y, 1e-6));
            named(cpu.gated_activation(&mut x, &y, Activation::Silu));
            named(cpu.mask_score(&mut x.clone(), &y, Some(&y), &x, &y));
            named(cpu.argmax(&y).map(drop));
        }
    }
}

/// A level that has no kernels for an input in parts says so.
#[test]
fn an_input_of_another_level_is_refused_or_right() {
    let pool = Arc::new(Pool::new(2).unwrap());
    let (one, x) = (half::bf16::ONE.to_le_bytes(), [0.5; 2 * 40]);
    let bytes = one.repeat(3 * 40);
    let weight = Matrix::new(Dtype::Bf16, 3, 40, &bytes).unwrap();
    for from in Kernels::available() {
        for to in Kernels::available() {
            let [from, to] = [from, to].map(|kernels| Cpu::new(kernels, pool.clone()));
            let mut scratch = vec![0; from.prepared_words(2, 40)];
            let input = from.prepare(&mut scratch, &x, [weight]).unwrap();
            let mut out = [0.0; 2 * 3];
            let result = to.linear(&mut out, weight, input, None);
            assert_eq!(result.is_ok(), to.splits(Dtype::Bf16) || !from.splits(Dtype::Bf16));
            assert!(result.is_err() || out == [20.0; 6], "{out:?}");
            named(result);
        }
    }
}

/// Of two keys the sum is -0, which adding 0 for a third one, that the query does not see, would turn into 0.
#[test]
fn an_unseen_key_leaves_negative_zero() {
    let bytes = |x: [f32; 3]| x.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect::<Vec<u8>>();
    let (k, v) = (bytes([0.0; 3]), bytes([1.0, -f32::MIN_POSITIVE, -0.0]));
    let rows = |bytes| Matrix::new(Dtype::Bf16, 3, 1, bytes).unwrap();
    for cpu in Kernels::available().map(|kernels| Cpu::new(kernels, Arc::new(Pool::new(1).unwrap()))) {
        for activations in [Activations::F32, Activations::Bf16] {
            let cpu = cpu.clone().with_activations(activations);
            let of_keys = |begin: usize| {
                let (row, mask, from) = (&[0, 1, 2][begin..], &[0.0, -40.0, 0.0][begin..], &[9, 0, 0][begin..]);
                let seen = Some((from, &[u32::MAX; 3][begin..]));
                let tile_begin = &[0, 3 - begin as u32];
                let head = |_| AttentionHead { k: rows(&k), v: rows(&v), row, mask, seen, tile_begin };
                let shape = AttentionShape { n_queries: 1, place0: 0, mask_heads: 1, heads_per_mask: 1, head_dim: 1, scale: 1.0 };
                let (mut out, mut scratch) = ([f32::NAN], vec![0.0; cpu.attention_scratch(3, 1)]);
                cpu.dynamic_mask_attention(&mut out, &[1.0], head, shape, &mut scratch).unwrap();
                out[0].to_bits()
            };
            assert_eq!(of_keys(0), of_keys(1), "{} {activations:?}", cpu.kernels().isa());
        }
    }
}
