//! The kernels on shapes nobody thought of: proptest draws them and calls the checks of the matrix. And laws that hold
//! bit for bit between two calls of a kernel, whatever its rounding.

mod common;

use common::{
    cases::{linear_layout, Case, Fill, Random},
    checks::{attention, linear, Check, CHECKS},
    close::within,
};
use doge_engine::{
    ops::{Activations, Cpu, Routing},
    stride_bytes, Dtype, Matrix,
};
use proptest::prelude::*;

fn fills() -> impl Strategy<Value = Fill> {
    prop::sample::select(Fill::ALL.to_vec())
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    prop::sample::select(Dtype::ALL.to_vec())
}

fn shapes(n: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    (n, 1..24usize, 1..40usize, fills(), 0..4usize, any::<u64>()).prop_map(|(n, rows, out, fill, offset, seed)| Case {
        n,
        rows,
        out,
        fill,
        offset,
        seed,
    })
}

/// A case as the operation can take it.
fn legal(check: &Check, case: &Case) -> Case {
    let mut case = case.clone();
    match check.op {
        "argmax" => case.n += 1,
        "gemv" | "gemv_int" => case.rows = 1,
        "product_key_router" => {
            case.n = 1 + case.n % 40;
            case.out = 1 + case.seed as usize % (case.n * case.n).min(200);
        }
        _ => {}
    }
    case
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The same, but all NaN are one.
fn bits_of_numbers(x: &[f32]) -> Vec<u32> {
    x.iter().map(|&x| if x.is_nan() { f32::NAN } else { x }.to_bits()).collect()
}

/// Every level, alone and on three threads.
fn cpus() -> Vec<Cpu> {
    common::cpus(1).into_iter().chain(common::cpus(3)).collect()
}

/// Each of them with activations in f32, and in bf16.
fn cpus_of_each_form() -> impl Iterator<Item = Cpu> {
    cpus().into_iter().flat_map(|cpu| [Activations::F32, Activations::Bf16].map(|form| cpu.clone().with_activations(form)))
}

/// The rows of a GEMM with those of its GEMVs, and with the GEMM of the outputs between a and b.
fn rows_equal_gemv(dtype: Dtype, case: &Case, a: usize, b: usize) -> Result<(), TestCaseError> {
    let Case { n, rows, out: outputs, .. } = *case;
    let (begin, end) = (a.min(b), a.max(b));
    let linear::Inputs { weight, x, bias } = linear::Inputs::new(dtype, case);
    // A tile is 16 rows.
    let (layout, rows_of_stride) = (linear_layout(dtype), if dtype.is_int() { 16 } else { 1 });
    let begin = begin / rows_of_stride * rows_of_stride;
    let stride = stride_bytes(dtype, layout, n).unwrap();
    let cut_bytes = &weight[begin / rows_of_stride * stride..begin.max(end).div_ceil(rows_of_stride) * stride];
    let whole = Matrix::with_layout(dtype, layout, outputs, n, &weight).unwrap();
    let part = Matrix::with_layout(dtype, layout, end - begin, n, cut_bytes).unwrap();
    for cpu in cpus().into_iter().flat_map(|cpu| [cpu.clone(), cpu.with_activations(Activations::Bf16)]) {
        let (mut all, mut cut) = (vec![0.0; rows * outputs], vec![0.0; rows * (end - begin)]);
        linear::call(&cpu, &mut all, whole, &x, bias.as_deref()).unwrap();
        linear::call(&cpu, &mut cut, part, &x, bias.as_deref().map(|bias| &bias[begin..end])).unwrap();
        for r in 0..rows {
            let mut alone = vec![0.0; outputs];
            linear::call(&cpu, &mut alone, whole, &x[r * n..][..n], bias.as_deref()).unwrap();
            let (of_all, isa) = (&all[r * outputs..][..outputs], cpu.kernels().isa());
            prop_assert_eq!(bits(of_all), bits(&alone), "{} {} {} row {}", isa, dtype, case, r);
            let of_cut = &cut[r * (end - begin)..][..end - begin];
            prop_assert_eq!(bits(&of_all[begin..end]), bits(of_cut), "{} {} {} outputs {}..{}", isa, dtype, case, begin, end);
        }
    }
    Ok(())
}

#[test]
fn long_gemm_rows_equal_gemv() {
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        for (n, out) in linear::LONG {
            let case = Case { n, rows: 7 + i, out, fill: Fill::Uniform, offset: 0, seed: 1 };
            rows_equal_gemv(dtype, &case, out / 5, out).unwrap();
        }
    }
}

/// A row with an infinity has the bits it has alone, whichever instruction multiplied it.
#[test]
fn integer_rows_that_are_not_finite_equal_gemv() {
    let (rows, n, outputs) = (35, 70, 20);
    for dtype in [Dtype::Int8, Dtype::Int4] {
        let case = Case { n, rows, out: outputs, fill: Fill::Uniform, offset: 0, seed: 3 };
        let linear::Inputs { weight, mut x, .. } = linear::Inputs::new(dtype, &case);
        for (r, row) in x.chunks_exact_mut(n).enumerate().step_by(3) {
            row[r * 7 % n] = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN][r / 3 % 3];
        }
        let weight = Matrix::with_layout(dtype, linear_layout(dtype), outputs, n, &weight).unwrap();
        for cpu in cpus() {
            let mut all = vec![0.0; rows * outputs];
            linear::call(&cpu, &mut all, weight, &x, None).unwrap();
            for (x, of_all) in x.chunks_exact(n).zip(all.chunks_exact(outputs)) {
                let mut alone = vec![0.0; outputs];
                linear::call(&cpu, &mut alone, weight, x, None).unwrap();
                assert_eq!(bits_of_numbers(of_all), bits_of_numbers(&alone), "{} {dtype}", cpu.kernels().isa());
            }
        }
    }
}

/// A key that is not finite reaches the queries that see it, and no others.
#[test]
fn keys_that_are_not_finite_reach_those_alone_that_see_them() {
    for (dtype, seed) in Dtype::FLOATS.into_iter().flat_map(|dtype| (1..12).map(move |seed| (dtype, seed))) {
        let case = Case { n: 40 + seed as usize, rows: 18, out: 33, fill: Fill::Uniform, offset: 0, seed };
        let mut inputs = attention::Inputs::new(dtype, &case);
        if seed % 3 > 0 {
            inputs.in_sequence();
        }
        inputs.spoil(case.n - 9, [f32::INFINITY, f32::NEG_INFINITY, f32::NAN][seed as usize / 3 % 3]);
        let row = inputs.row();
        for cpu in cpus_of_each_form() {
            let mut block = vec![0.0; case.rows * row];
            inputs.call(&cpu, &mut block).unwrap();
            for (query, of_block) in block.chunks_exact(row).enumerate() {
                let mut out = vec![0.0; row];
                inputs.query(query, true).call(&cpu, &mut out).unwrap();
                let isa = cpu.kernels().isa();
                assert_eq!(bits_of_numbers(of_block), bits_of_numbers(&out), "{isa} {dtype} query {query} of seed {seed}");
            }
        }
    }
}

/// Inputs of a law. Under the sanitizers each takes ten times as long, and what they look for comes with any.
fn cases() -> u32 {
    if std::env::var_os("DOGE_SANITIZE").is_some() {
        12
    } else {
        48
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_is_close_to_the_reference_on_any_shape(case in shapes(0..300)) {
        for cpu in cpus() {
            for check in CHECKS {
                let case = legal(check, &case);
                for &dtype in check.dtypes {
                    let worst = (check.run)(&cpu, dtype, &case);
                    prop_assert!(worst.passed(), "{} {} {dtype}, {} threads, {case}: {}", cpu.kernels().isa(), check.op, cpu.threads(), worst.what);
                }
            }
        }
    }

    /// A row of a GEMM is the GEMV of that row; a cut of the outputs changes nothing; threads change nothing.
    #[test]
    fn gemm_rows_equal_gemv(case in shapes(1..200), dtype in dtypes(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        rows_equal_gemv(dtype, &case, a.index(case.out + 1), b.index(case.out + 1))?;
    }

    /// The integers are exact and the chain of an output runs over the groups: levels with a fused multiply-add agree.
    #[test]
    fn integer_weights_give_the_same_bits_on_every_level(case in shapes(1..300), int4 in any::<bool>()) {
        let dtype = if int4 { Dtype::Int4 } else { Dtype::Int8 };
        let linear::Inputs { weight, x, bias } = linear::Inputs::new(dtype, &case);
        let weight = Matrix::with_layout(dtype, linear_layout(dtype), case.out, case.n, &weight).unwrap();
        let fused = common::cpus(1).into_iter().filter(|cpu| cpu.kernels().lanes() > 1);
        let outs: Vec<Vec<u32>> = fused
            .map(|cpu| {
                let mut out = vec![0.0; case.rows * case.out];
                linear::call(&cpu, &mut out, weight, &x, bias.as_deref()).unwrap();
                bits(&out)
            })
            .collect();
        prop_assert!(outs.windows(2).all(|pair| pair[0] == pair[1]), "{dtype} {case}");
    }

    /// A query alone gets the bits it gets in a block, and entries it does not see leave no trace.
    #[test]
    fn attention_does_not_depend_on_the_block_or_on_unseen_keys(case in shapes(0..120), dtype in prop::sample::select(&Dtype::FLOATS)) {
        let inputs = attention::Inputs::new(dtype, &case);
        let row = inputs.row();
        for cpu in cpus_of_each_form() {
            let mut block = vec![0.0; case.rows * row];
            inputs.call(&cpu, &mut block).unwrap();
            for query in 0..case.rows {
                for only_seen in [false, true] {
                    let alone = inputs.query(query, only_seen);
                    let mut out = vec![0.0; row];
                    alone.call(&cpu, &mut out).unwrap();
                    prop_assert_eq!(bits(&block[query * row..][..row]), bits(&out), "{} query {} of {}", cpu.kernels().isa(), query, case);
                }
            }
        }
    }

    /// With a window no shorter than the sequence attention is dense: softmax of the scores with s as a bias, written out here
    /// once more, with nothing of the reference in it.
    #[test]
    fn attention_that_keeps_everything_is_dense(n in 1..60usize, head_dim in 1..40usize, seed in any::<u64>()) {
        let random = &mut Random::new(seed);
        let mut draw = |n| random.fill(Fill::Uniform, n, 1.0);
        let (q, k, v, s) = (draw(head_dim), draw(n * head_dim), draw(n * head_dim), draw(n));
        let scale = (head_dim as f32).powf(-0.5);
        let weight: Vec<f64> = (0..n)
            .map(|j| {
                let dot: f64 = (0..head_dim).map(|c| f64::from(q[c]) * f64::from(k[j * head_dim + c])).sum();
                (dot * f64::from(scale) + f64::from(s[j])).exp()
            })
            .collect();
        let sum: f64 = weight.iter().sum();
        let dense: Vec<f64> = (0..head_dim).map(|c| (0..n).map(|j| weight[j] / sum * f64::from(v[j * head_dim + c])).sum()).collect();
        for cpu in common::cpus(1) {
            let out = attention::all_of(&cpu, &q, &k, &v, &s, scale).unwrap();
            // |v| and |out| are below 1 and scores below 8: attention_budget with its largest factors.
            let chain = (n + head_dim + 64) as f64;
            let worst = within("out", &out, &dense, |_| 8.0 * chain * common::close::EPS);
            prop_assert!(worst.passed(), "{}: {}", cpu.kernels().isa(), worst.what);
        }
    }

    /// Renaming the keys of one side renames the experts and changes nothing else, where no scores are equal.
    #[test]
    fn permuted_keys_permute_the_experts(n in 1..30usize, top in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let top = 1 + top.index((n * n).min(64));
        let random = &mut Random::new(seed);
        let logits = random.fill(Fill::Uniform, 2 * n, 1.0);
        let mut scores: Vec<f32> = logits[..n].iter().flat_map(|x| logits[n..].iter().map(move |y| x + y)).collect();
        scores.sort_by(f32::total_cmp);
        prop_assume!(scores.windows(2).all(|w| w[0] != w[1]));
        let mut renamed: Vec<usize> = (0..n).collect();
        (1..n).for_each(|i| renamed.swap(i, random.below(i + 1)));
        let mut moved = logits.clone();
        (0..n).for_each(|i| moved[renamed[i]] = logits[i]);
        for cpu in common::cpus(1) {
            let route = |logits: &[f32]| {
                let (mut expert, mut weight, mut scratch) = (vec![0; top], vec![0.0; top], vec![0; cpu.router_scratch(n, top)]);
                cpu.product_key_router(&mut expert, &mut weight, logits, Routing::PerToken, n, top, &mut scratch).unwrap();
                expert
            };
            let mut want: Vec<u32> = route(&logits).iter().map(|&e| (renamed[e as usize / n] * n + e as usize % n) as u32).collect();
            want.sort_unstable();
            prop_assert_eq!(route(&moved), want, "{}", cpu.kernels().isa());
        }
    }
}

proptest! {
    // A wrong tie shows in few of the cases: many are drawn.
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Ties of both kinds: equal logits, and sums that are equal only after rounding.
    #[test]
    fn router_equals_brute_force(n in 2..24usize, top in any::<prop::sample::Index>(), equal in any::<bool>(), seed in any::<u64>()) {
        let router = CHECKS.iter().find(|check| check.op == "product_key_router").unwrap();
        let fill = if equal { Fill::Ties } else { Fill::OneHuge };
        let case = Case { n, rows: 2, out: 1 + top.index((n * n).min(64)), fill, offset: 0, seed };
        for cpu in common::cpus(1) {
            let worst = (router.run)(&cpu, Dtype::F32, &case);
            prop_assert!(worst.passed(), "{} {case}: {}", cpu.kernels().isa(), worst.what);
        }
    }
}
