//! quantize_row, gemv_int (one row of x) and gemm_int (more).

use doge_engine::{
    ops::Cpu,
    reference::quantized::{linear_int, quantize_row as reference, QuantizedRow},
    Dtype, Matrix,
};

use super::{
    super::{
        cases::{lengths, linear_layout, stored, Case, Fill, Random},
        close::{exactly, Worst, EPS},
        guarded::{Guarded, Painted},
    },
    accepted, intact,
    linear::{call, held},
};

/// `n` columns, `rows` rows.
pub fn quantize_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().chain([31, 32, 33, 63, 65, 95, 96, 97, 2048]).enumerate() {
        for fill in Fill::ALL {
            out.push(Case { n, rows: 1 + i % 3, out: 1, fill, offset: 0, seed: i as u64 });
        }
    }
    out
}

/// A weight of this many columns, for `Cpu::prepare` to see.
fn weight_bytes(n: usize) -> Vec<u8> {
    stored(Dtype::Int8, linear_layout(Dtype::Int8), [1, n], &vec![0.0; n])
}

pub fn quantize_row(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n, rows, seed, .. } = *case;
    let random = &mut Random::new(seed);
    let mut x = random.fill(case.fill, rows * n, f32::MAX);
    // Halves, which round to even, and every seventh row something that is no number.
    for (i, x) in x.iter_mut().enumerate().filter(|(i, _)| case.fill == Fill::Ties && i % 5 == 0) {
        *x = [127.0, 0.5, 1.5, -2.5, 126.5, -0.5][i / 5 % 6];
    }
    if seed % 7 == 6 && n > 0 {
        x[random.below(rows * n)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
    }
    let (x, bytes) = (Guarded::new(&x), weight_bytes(n));
    let weight = Matrix::with_layout(Dtype::Int8, linear_layout(Dtype::Int8), 1, n, &bytes).expect("the bytes of a matrix");
    let mut out = Painted::<u32>::new(if n == 0 { 0 } else { cpu.prepared_words(rows, n) });
    let answer = accepted(cpu.prepare(out.get_mut(), x.get(), [weight]).map(drop));
    let mut worst = answer.max(intact("out", &out));
    let row_words = 20 * n.div_ceil(64).max(1); // there may be more of them, for another form of x
    for (x, got) in x.get().chunks_exact(n.max(1)).zip(out.get().chunks_exact(row_words)) {
        worst = worst.max(same_row(x, got));
    }
    worst
}

/// A quantised row in memory, against the reference's.
fn same_row(x: &[f32], got: &[u32]) -> Worst {
    let QuantizedRow { q, scale, offset } = reference(x);
    let (got_q, got) = got.split_at(q.len() / 4);
    let (got_scale, got_offset) = got.split_at(scale.len());
    let got_q: &[i8] = bytemuck::cast_slice(got_q);
    let bits = |scale: f32| if scale.is_nan() { f32::NAN.to_bits() } else { scale.to_bits() };
    let scales = exactly(
        "scale",
        &got_scale.iter().map(|&bits_of| bits(f32::from_bits(bits_of))).collect::<Vec<_>>(),
        &scale.iter().map(|&scale| bits(scale)).collect::<Vec<_>>(),
    );
    // Where the scale is not finite, the numbers mean nothing.
    let finite = |g: usize| scale[g].is_finite();
    let only_finite = |q: &[i8]| q.iter().enumerate().map(|(i, &q)| if finite(i / 32) { q } else { 0 }).collect::<Vec<_>>();
    let offsets = |all: &[i32]| all.iter().enumerate().map(|(g, &o)| if finite(g) { o } else { 0 }).collect::<Vec<_>>();
    scales.max(exactly("q", &only_finite(got_q), &only_finite(&q))).max(exactly(
        "offset",
        &offsets(bytemuck::cast_slice(got_offset)),
        &offsets(&offset),
    ))
}

pub fn linear(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    let of_quantized = |weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>| {
        let of_rows = x.chunks_exact(weight.cols().max(1)).map(|x| linear_int(weight, &reference(x), bias));
        let (want, terms): (Vec<Vec<f64>>, Vec<Vec<f64>>) = of_rows.unzip();
        (want.concat(), terms.concat())
    };
    // The integers are exact. Of each group the product of the scales and (without a fused multiply-add) that with the integer
    // are rounded, then the sum over the groups, one after another; then the bias.
    let c = (case.n.div_ceil(32) + 4) as f64;
    held(cpu, call, dtype, case, of_quantized, |terms| c * EPS * terms)
}
