//! round_row, gemv_bf16 (one row of x) and gemm_bf16 (more): bf16 weights and activations.

use doge_engine::{
    ops::{Activations, Cpu},
    Dtype, Matrix,
};
use half::bf16;

use super::{
    super::{
        cases::{lengths, Case, Fill, Random},
        close::{chain, exactly, Worst, EPS},
        guarded::{Guarded, Painted},
    },
    accepted, intact,
    linear::{held, of_floats},
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

fn rounding(cpu: &Cpu) -> Cpu {
    cpu.clone().with_activations(Activations::Bf16)
}

pub fn round_row(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let cpu = rounding(cpu);
    let Case { n, rows, seed, .. } = *case;
    let random = &mut Random::new(seed);
    let mut x = random.fill(case.fill, rows * n, f32::MAX);
    // Halfway between two bf16, just beside it, and what is no number.
    let odd =
        [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0xbf81_7fff, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0001, 0x7f80_0001, 0x0000_8000];
    for x in x.iter_mut().filter(|_| case.fill == Fill::Ties) {
        *x = f32::from_bits(odd[random.below(odd.len())]);
    }
    let bytes = vec![0; 2 * n];
    let weight = Matrix::new(Dtype::Bf16, 1, n, &bytes).expect("the bytes of a matrix");
    let x = Guarded::new(&x);
    let mut out = Painted::<u32>::new(if n == 0 { 0 } else { cpu.prepared_words(rows, n) });
    let answer = accepted(cpu.prepare(out.get_mut(), x.get(), [weight]).map(drop));
    let got: &[u16] = bytemuck::cast_slice(out.get());
    let want: Vec<u16> = x.get().iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
    answer.max(intact("out", &out)).max(exactly("out", &got[..want.len()], &want))
}

pub fn linear(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    // The dot instruction takes denormals for zero: of each column its product, or the sum so far.
    let (c, flushed) = (chain(case.n, cpu.kernels().lanes()), 2.0 * case.n as f64 * f64::from(f32::MIN_POSITIVE));
    let of_rounded = |weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>| {
        let rounded: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        of_floats(weight, &rounded, bias)
    };
    held(&rounding(cpu), dtype, case, of_rounded, |terms| c * EPS * terms + flushed)
}
