//! round_row, gemv_bf16 (one row of x) and gemm_bf16 (more): bf16 weights and activations.

use doge_engine::{
    ops::{Activations, Cpu},
    reference, Dtype, Matrix,
};
use half::bf16;

use super::{
    super::{
        cases::{lengths, Case, Fill, Random},
        close::{chain, exactly, within, Worst, EPS},
        guarded::{Guarded, GuardedBytes, Painted},
    },
    accepted, f64s, intact,
    linear::Inputs,
    magnitudes,
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
    let cpu = rounding(cpu);
    let Case { n, rows, out: outputs, .. } = *case;
    let Inputs { weight, x, bias } = Inputs::new(dtype, case);
    let weight = GuardedBytes::new(&weight, case.offset);
    let weight = Matrix::new(dtype, outputs, n, weight.get()).expect("the bytes of a matrix");
    let (x, bias) = (Guarded::new(&x), bias.map(|bias| Guarded::new(&bias)));
    let bias = bias.as_ref().map(Guarded::get);
    // A row of no elements cannot be told from no row.
    let mut out = Painted::<f32>::new(if n == 0 { 0 } else { rows * outputs });
    let mut scratch = vec![0; cpu.prepared_words(rows, n)];
    let answer = cpu.prepare(&mut scratch, x.get(), [weight]).and_then(|x| cpu.linear(out.get_mut(), weight, x, bias));

    let wide = reference::embed::widen(weight);
    let (wide_magnitudes, bias_magnitudes) = (magnitudes(&wide), bias.map(magnitudes));
    let rounded: Vec<f32> = x.get().iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    let x_rows = || rounded.chunks_exact(n.max(1));
    let want: Vec<f64> = x_rows().flat_map(|x| reference::linear::linear(&wide, &f64s(x), bias, outputs)).collect();
    let terms: Vec<f64> = x_rows()
        .flat_map(|x| reference::linear::linear(&wide_magnitudes, &f64s(&magnitudes(x)), bias_magnitudes.as_deref(), outputs))
        .collect();
    // The dot instruction takes denormals for zero: of each column its product, or the sum so far.
    let (c, flushed) = (chain(n, cpu.kernels().lanes()), 2.0 * n as f64 * f64::from(f32::MIN_POSITIVE));
    accepted(answer).max(intact("out", &out)).max(within("out", out.get(), &want, |i| c * EPS * terms[i] + flushed))
}
