//! gemv (one row of x) and gemm (more): the same door, the same budget.

use doge_engine::{ops::Cpu, reference, Dtype, Matrix};

use super::{
    super::{
        cases::{largest, lengths, linear_layout, stored, Case, Fill, Random},
        close::{chain, within, Worst, EPS},
        guarded::{Guarded, GuardedBytes, Painted},
    },
    accepted, f64s, intact, magnitudes,
};

/// Columns and outputs of rows that gemm takes in parts: of two parts and more, by f32 and by bf16.
pub const LONG: [(usize, usize); 4] = [(1025, 103), (2051, 97), (4111, 7), (2500, 18)];

/// `n` columns, `out` outputs, one row.
pub fn gemv_cases(lanes: usize) -> Vec<Case> {
    cases(lanes, &[1])
}

/// `n` columns, `out` outputs, `rows` rows.
pub fn gemm_cases(lanes: usize) -> Vec<Case> {
    let mut out = cases(lanes, &[2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33]);
    // Blocks of at most 512 rows (gemm_bf16 on AMX): three of them, and two that are full but for a row.
    for (rows, seed) in [(1050, 4), (1050, 5), (1023, 4), (1023, 5)] {
        out.push(Case { n: 40, rows, out: 17, fill: Fill::Uniform, offset: 0, seed });
    }
    out
}

fn cases(lanes: usize, rows: &[usize]) -> Vec<Case> {
    let outs = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33];
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().enumerate() {
        for (j, fill) in Fill::ALL.into_iter().enumerate() {
            let k = i + j;
            let case =
                Case { n, rows: rows[k % rows.len()], out: outs[(3 * k) % outs.len()], fill, offset: k % 4, seed: k as u64 };
            out.push(Case { offset: 0, ..case.clone() });
            out.push(case);
        }
    }
    // Every tile edge: each number of rows with each number of outputs.
    for &rows in rows {
        for (i, outs) in outs.into_iter().enumerate() {
            for n in [lanes + 1, 4 * lanes] {
                out.push(Case { n, rows, out: outs, fill: Fill::Uniform, offset: i % 4, seed: i as u64 });
            }
        }
    }
    // Projections of the 20M and 320M models.
    for (n, outs) in [(256, 512), (512, 256), (1024, 512), (2048, 256)] {
        out.push(Case { n, rows: rows[rows.len() - 1], out: outs, fill: Fill::Uniform, offset: 0, seed: 1 });
    }
    out.extend(LONG.map(|(n, outs)| Case { n, rows: rows[rows.len() / 2], out: outs, fill: Fill::Uniform, offset: 0, seed: 2 }));
    out
}

/// The inputs of a case: stored weights, x, and a bias for every other seed.
pub struct Inputs {
    pub weight: Vec<u8>,
    pub x: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

impl Inputs {
    pub fn new(dtype: Dtype, case: &Case) -> Self {
        let Case { n, rows, out, fill, seed, .. } = *case;
        let random = &mut Random::new(seed);
        // Extreme: the largest weights there are, and x so small that no partial sum leaves f32.
        let weight = stored(dtype, linear_layout(dtype), [out, n], &random.fill(fill, out * n, largest(dtype)));
        let x = random.fill(fill, rows * n, f32::MAX / largest(dtype) / (4 * n.max(1)) as f32);
        Inputs { weight, x, bias: (seed % 2 == 1).then(|| random.fill(Fill::Uniform, out, 1.0)) }
    }
}

/// The door for any weights: `x` is prepared where they want it.
pub fn call(cpu: &Cpu, out: &mut [f32], weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>) -> doge_engine::Result<()> {
    let rows = x.len() / weight.cols().max(1);
    let mut scratch = vec![0; cpu.prepared_words(rows, weight.cols())];
    let x = cpu.prepare(&mut scratch, x, [weight])?;
    cpu.linear(out, weight, x, bias)
}

/// The door for weights in a float format, to the kernels that read x as it is.
fn call_as_it_is(cpu: &Cpu, out: &mut [f32], weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>) -> doge_engine::Result<()> {
    cpu.linear(out, weight, x, bias)
}

pub type Door = fn(&Cpu, &mut [f32], Matrix<'_>, &[f32], Option<&[f32]>) -> doge_engine::Result<()>;

/// Runs a case through `door`. `reference(weight, x, bias)` gives every output, and the sum of the magnitudes of its terms; `budget` makes
/// of that sum the error an output may have.
pub fn held(
    cpu: &Cpu,
    door: Door,
    dtype: Dtype,
    case: &Case,
    reference: impl Fn(Matrix<'_>, &[f32], Option<&[f32]>) -> (Vec<f64>, Vec<f64>),
    budget: impl Fn(f64) -> f64,
) -> Worst {
    let Case { n, rows, out: outputs, .. } = *case;
    let Inputs { weight, x, bias } = Inputs::new(dtype, case);
    let weight = GuardedBytes::new(&weight, case.offset);
    let weight = Matrix::with_layout(dtype, linear_layout(dtype), outputs, n, weight.get()).expect("the bytes of a matrix");
    let (x, bias) = (Guarded::new(&x), bias.map(|bias| Guarded::new(&bias)));
    let bias = bias.as_ref().map(Guarded::get);
    // A row of no elements cannot be told from no row.
    let mut out = Painted::<f32>::new(if n == 0 { 0 } else { rows * outputs });
    let answer = accepted(door(cpu, out.get_mut(), weight, x.get(), bias));
    let (want, terms) = reference(weight, x.get(), bias);
    answer.max(intact("out", &out)).max(within("out", out.get(), &want, |i| budget(terms[i])))
}

/// The reference of weights in a float format.
pub fn of_floats(weight: Matrix<'_>, x: &[f32], bias: Option<&[f32]>) -> (Vec<f64>, Vec<f64>) {
    let wide = reference::embed::widen(weight);
    let (wide_magnitudes, bias_magnitudes) = (magnitudes(&wide), bias.map(magnitudes));
    let rows = || x.chunks_exact(weight.cols().max(1));
    let want = rows().flat_map(|x| reference::linear::linear(&wide, &f64s(x), bias, weight.rows()));
    let terms = rows().flat_map(|x| {
        reference::linear::linear(&wide_magnitudes, &f64s(&magnitudes(x)), bias_magnitudes.as_deref(), weight.rows())
    });
    (want.collect(), terms.collect())
}

pub fn linear(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    let c = chain(case.n, cpu.kernels().lanes());
    held(cpu, call_as_it_is, dtype, case, of_floats, |terms| c * EPS * terms)
}
