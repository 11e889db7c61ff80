//! round_row, gemv_bf16 (one row of x) and gemm_bf16 (more): bf16 weights and activations. split_row, gemv_split and gemm_split:
//! bf16 weights and f32 activations in bf16 parts, on the levels that have them; on the others the same calls lead to gemv and gemm.

use doge_engine::{
    ops::{bf16_row, Activations, Cpu, SPLIT_PARTS},
    Dtype, Matrix,
};
use half::bf16;

use super::{
    super::{
        cases::{lengths, Case, Fill, Random},
        close::{chain, exactly, split_chain, within, Worst, EPS},
        guarded::{Guarded, Painted},
    },
    accepted, intact,
    linear::{call, held, of_floats},
};

/// `n` columns, `rows` rows.
pub fn round_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().enumerate() {
        for fill in Fill::ALL {
            out.push(Case { n, rows: 1 + i % 3, out: 1, fill, offset: 0, seed: i as u64 });
        }
    }
    out
}

/// The numbers of a case; where it is one of ties, these bits.
fn rows_with(case: &Case, odd: &[u32]) -> Vec<f32> {
    let random = &mut Random::new(case.seed);
    let mut x = random.fill(case.fill, case.rows * case.n, f32::MAX);
    for x in x.iter_mut().filter(|_| case.fill == Fill::Ties) {
        *x = f32::from_bits(odd[random.below(odd.len())]);
    }
    x
}

fn rounding(cpu: &Cpu) -> Cpu {
    cpu.clone().with_activations(Activations::Bf16)
}

pub fn round_row(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let cpu = rounding(cpu);
    let Case { n, rows, .. } = *case;
    // Halfway between two bf16, just beside it, and what is no number.
    let odd =
        [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0xbf81_7fff, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0001, 0x7f80_0001, 0x0000_8000];
    let x = rows_with(case, &odd);
    let bytes = vec![0; 2 * n];
    let weight = Matrix::new(Dtype::Bf16, 1, n, &bytes).expect("the bytes of a matrix");
    let x = Guarded::new(&x);
    let mut out = Painted::<u32>::new(if n == 0 { 0 } else { cpu.prepared_words(rows, n) });
    let answer = accepted(cpu.prepare(out.get_mut(), x.get(), [weight]).map(drop));
    let got: &[u16] = bytemuck::cast_slice(out.get());
    let mut worst = answer.max(intact("out", &out));
    for (r, x) in x.get().chunks_exact(n.max(1)).enumerate() {
        let want: Vec<u16> = x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        worst = worst.max(exactly("out", &got[r * bf16_row(n, 1)..][..n], &want));
    }
    worst
}

pub fn linear(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    // The dot instruction takes denormals for zero: of each column its product, or the sum so far.
    let (c, flushed) = (chain(case.n, cpu.kernels().lanes()), 2.0 * case.n as f64 * f64::from(f32::MIN_POSITIVE));
    let of_rounded = |weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>| {
        let rounded: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        of_floats(weight, &rounded, bias)
    };
    held(&rounding(cpu), call, dtype, case, of_rounded, |terms| c * EPS * terms + flushed)
}

/// The parts add up to what there was, but below the least normal number; the first says whether it was finite.
pub fn split_row(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n, rows, .. } = *case;
    // All bits set, carries, next to denormals, denormals, and what is no number: some only in bits that a bf16 has not.
    let odd =
        [0x3fff_ffff, 0xbf80_0001, 0x3f80_ff7f, 0x7f7f_ffff, 0x0080_0001, 0x0000_8001, 0x8000_0000, 0x7f80_0000, 0x7f80_0001];
    let x = rows_with(case, &odd);
    let bytes = vec![0; 2 * n];
    let weight = Matrix::new(Dtype::Bf16, 1, n, &bytes).expect("the bytes of a matrix");
    let x = Guarded::new(&x);
    let splits = cpu.splits(Dtype::Bf16) && n > 0;
    let mut out = Painted::<u32>::new(if splits { cpu.prepared_words(rows, n) } else { 0 });
    let answer = accepted(cpu.prepare(out.get_mut(), x.get(), [weight]).map(drop));
    if !splits {
        return answer;
    }
    let parts: Vec<f64> = bytemuck::cast_slice::<_, bf16>(out.get()).iter().map(|part| part.to_f64()).collect();
    let part = |r: usize, p: usize, c: usize| parts[r * bf16_row(n, SPLIT_PARTS) + p * n + c];
    let mut worst = answer.max(intact("out", &out));
    for (r, x) in x.get().chunks_exact(n).enumerate() {
        let class = |x: f64| {
            if x.is_nan() {
                2.0
            } else if x.is_infinite() {
                x.signum()
            } else {
                0.0
            }
        };
        let got: Vec<f32> = (0..n).map(|c| class(part(r, 0, c)) as f32).collect();
        let want: Vec<f32> = x.iter().map(|&x| class(f64::from(x)) as f32).collect();
        worst = worst.max(exactly("whether it is finite", &got, &want));
        let sum = |c: usize| (0..SPLIT_PARTS).map(|p| part(r, p, c)).sum::<f64>();
        let rest = |c: usize| (1..SPLIT_PARTS).map(|p| part(r, p, c)).sum::<f64>();
        let got: Vec<f32> = (0..n).map(|c| if x[c].is_finite() { sum(c) } else { rest(c) } as f32).collect();
        let want: Vec<f64> = x.iter().map(|&x| if x.is_finite() { f64::from(x) } else { 0.0 }).collect();
        let denormal = |c: usize| if x[c].abs() < 1e-30 { f64::from(f32::MIN_POSITIVE) } else { 0.0 };
        worst = worst.max(within("sum of the parts", &got, &want, denormal));
    }
    worst
}

pub fn split_linear(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    // The instruction takes denormals for zero: of each column its products, or the sum so far, or a part of x.
    let (c, least) = (split_chain(case.n).max(chain(case.n, cpu.kernels().lanes())), f64::from(f32::MIN_POSITIVE));
    let flushed = 2.0 * (SPLIT_PARTS * case.n) as f64 * least;
    let of_parts = |weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>| {
        let more: Vec<f32> = x.iter().map(|x| x.abs() + (SPLIT_PARTS as f64 * least / EPS) as f32).collect();
        (of_floats(weight, x, bias).0, of_floats(weight, &more, bias).1)
    };
    held(cpu, call, dtype, case, of_parts, |terms| c * EPS * terms + flushed)
}
