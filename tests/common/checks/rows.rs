//! embed_row, rope, argmax: no sums.

use doge_engine::{ops::Cpu, reference, Dtype, Matrix};

use super::{
    super::{
        cases::{lengths, linear_layout, not_clamped, stored, Case, Fill, Random},
        close::{exactly, within, Worst, EPS},
        guarded::{Guarded, GuardedBytes, Painted},
    },
    accepted, f64s, intact,
};

/// `n` elements a row, `rows` ids, `out` rows in the table.
pub fn embed_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().enumerate() {
        for (offset, fill) in [(0, Fill::WideRange), (1, Fill::Extreme), (2, Fill::Tiny), (3, Fill::Uniform)] {
            out.push(Case { n, rows: 3, out: 5, fill, offset, seed: i as u64 });
        }
    }
    out
}

pub fn embed(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    let Case { n, rows, out: table_rows, .. } = *case;
    let random = &mut Random::new(case.seed);
    let mut values = random.fill(case.fill, table_rows * n, f32::INFINITY);
    // Subnormal numbers of every format, and both zeros.
    for (value, special) in values.iter_mut().step_by(3).zip([f32::from_bits(1), -0.0, 6e-8, -1e-40, f32::MIN_POSITIVE]) {
        *value = special;
    }
    let mut bytes = stored(dtype, linear_layout(dtype), [table_rows, n], &values);
    if let (Fill::Extreme, Some(infinity), 1..) = (case.fill, not_clamped(dtype, f32::INFINITY), n) {
        bytes[..infinity.len()].copy_from_slice(&infinity);
    }
    let table = GuardedBytes::new(&bytes, case.offset);
    let table = Matrix::with_layout(dtype, linear_layout(dtype), table_rows, n, table.get()).expect("the bytes of a matrix");
    // The last row first: it ends at the unreadable page.
    let ids = Guarded::new(
        &(0..rows).map(|i| if i == 0 { table_rows - 1 } else { random.below(table_rows) } as u32).collect::<Vec<_>>(),
    );
    let mut out = Painted::<f32>::new(rows * n);
    let answer = accepted(cpu.embed(out.get_mut(), table, ids.get()));

    let wide = reference::embed::widen(table);
    let want: Vec<u32> = ids.get().iter().flat_map(|&id| &wide[id as usize * n..][..n]).map(|x| x.to_bits()).collect();
    let got: Vec<u32> = out.get().iter().map(|x| x.to_bits()).collect();
    answer.max(intact("out", &out)).max(exactly("bits of out", &got, &want))
}

/// `n` pairs a head (head_dim = 2n), `out` heads, `rows` tokens.
pub fn rope_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().filter(|&n| n <= 256).enumerate() {
        for fill in Fill::ALL {
            out.push(Case { n, rows: 1 + i % 3, out: 1 + i % 4, fill, offset: 0, seed: i as u64 });
        }
    }
    out
}

pub fn rope(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n: half, rows, out: heads, .. } = *case;
    let random = &mut Random::new(case.seed);
    let before = random.fill(case.fill, rows * heads * 2 * half, f32::MAX / 4.0);
    let cos = Guarded::new(&random.fill(Fill::Uniform, rows * half, 1.0));
    let sin = Guarded::new(&random.fill(Fill::Uniform, rows * half, 1.0));
    let mut x = Painted::holding(&before);
    let answer = accepted(cpu.rope(x.get_mut(), cos.get(), sin.get(), heads, 2 * half));

    let row = heads * 2 * half;
    let rotated = |values: Vec<f64>, sign: f32, magnitude: fn(f32) -> f32| -> Vec<f64> {
        let mut values = values;
        for (r, x) in values.chunks_exact_mut(row.max(1)).enumerate() {
            let table = |t: &[f32]| t[r * half..(r + 1) * half].iter().map(|&x| magnitude(x)).collect::<Vec<_>>();
            let sin: Vec<f32> = table(sin.get()).iter().map(|s| s * sign).collect();
            reference::rope::rope(x, &table(cos.get()), &sin);
        }
        values
    };
    let want = rotated(f64s(&before), 1.0, |x| x);
    // Σ|terms| of each element: the same rotation of magnitudes; the low half subtracts, the high half adds, so take both.
    let magnitudes = before.iter().map(|x| f64::from(x.abs())).collect::<Vec<_>>();
    let (plus, minus) = (rotated(magnitudes.clone(), 1.0, f32::abs), rotated(magnitudes, -1.0, f32::abs));
    // Two products and their sum: three roundings, each at most EPS of Σ|terms|.
    answer.max(intact("x", &x)).max(within("x", x.get(), &want, |i| 3.0 * EPS * plus[i].max(minus[i])))
}

/// `n` elements.
pub fn argmax_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for n in lengths(lanes).into_iter().chain([32768, 128256]).filter(|&n| n > 0) {
        for fill in Fill::ALL {
            for seed in 0..6 {
                out.push(Case { n, rows: 1, out: 1, fill, offset: 0, seed });
            }
        }
    }
    out
}

pub fn argmax(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let random = &mut Random::new(case.seed);
    let mut x = random.fill(case.fill, case.n, f32::MAX);
    // The seed says what else is in it.
    match case.seed {
        1 => x[random.below(case.n)] = f32::INFINITY,
        2 => (0..3).for_each(|_| x[random.below(case.n)] = f32::NAN),
        3 => x.fill(f32::NAN),
        4 => x.fill(f32::NEG_INFINITY),
        5 => {
            x.fill(f32::NAN);
            x[random.below(case.n)] = f32::NEG_INFINITY;
        }
        _ => {}
    }
    let x = Guarded::new(&x);
    match cpu.argmax(x.get()) {
        Ok(got) => exactly("argmax", &[got], &[reference::argmax::argmax(x.get())]),
        Err(error) => accepted(Err(error)),
    }
}
