//! rms_norm, residual_rms_norm, qk_norm.

use doge_engine::{ops::Cpu, reference::rms_norm as reference, Dtype};

use super::{
    super::{
        cases::{lengths, Case, Fill, Random},
        close::{chain, within, Worst, EPS},
        guarded::{Guarded, Painted},
    },
    accepted, f64s, intact,
};

const RMS_EPS: f32 = 1e-6;

/// `n` elements a row, `rows` rows.
pub fn cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().chain([2048]).enumerate() {
        for fill in Fill::ALL {
            out.push(Case { n, rows: 1 + i % 3, out: 1, fill, offset: 0, seed: i as u64 });
        }
    }
    out
}

/// The largest magnitude whose `n` squares can be summed in f32.
fn largest(n: usize) -> f32 {
    (f32::MAX / n.max(1) as f32).sqrt() / 4.0
}

/// The mean square is a sum of positive terms: relative error chain · EPS, halved by the square root. Then the division by
/// n, eps, root, reciprocal, and two products: six roundings.
fn budget(y: f64, n: usize, lanes: usize) -> f64 {
    y.abs() * EPS * (chain(n, lanes) / 2.0 + 6.0)
}

/// The reference's rms_norm of each row.
fn norms(x: &[f32], weight: &[f32]) -> Vec<f64> {
    x.chunks_exact(weight.len().max(1)).flat_map(|x| reference::rms_norm(&f64s(x), weight, f64::from(RMS_EPS))).collect()
}

pub fn rms_norm(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n, rows, .. } = *case;
    let random = &mut Random::new(case.seed);
    let x = Guarded::new(&random.fill(case.fill, rows * n, largest(n)));
    let weight = Guarded::new(&random.fill(Fill::Uniform, n, 1.0));
    let mut out = Painted::<f32>::new(rows * n);
    let answer = accepted(cpu.rms_norm(out.get_mut(), x.get(), weight.get(), RMS_EPS));
    let want = norms(x.get(), weight.get());
    answer.max(intact("out", &out)).max(within("out", out.get(), &want, |i| budget(want[i], n, cpu.kernels().lanes())))
}

pub fn residual_rms_norm(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n, rows, .. } = *case;
    let random = &mut Random::new(case.seed);
    let before = random.fill(case.fill, rows * n, largest(n));
    let branch = Guarded::new(&random.fill(case.fill, rows * n, largest(n)));
    let gate = Guarded::new(&random.fill(Fill::Uniform, n, 1.0));
    let weight = Guarded::new(&random.fill(Fill::Uniform, n, 1.0));
    let mut x = Painted::holding(&before);
    let mut out = Painted::<f32>::new(rows * n);
    let call = cpu.residual_rms_norm(out.get_mut(), x.get_mut(), gate.get(), branch.get(), weight.get(), RMS_EPS);

    let row = n.max(1);
    let sums: Vec<f64> = before
        .chunks_exact(row)
        .zip(branch.get().chunks_exact(row))
        .flat_map(|(x, branch)| reference::residual(&f64s(x), gate.get(), &f64s(branch)))
        .collect();
    // A product and a sum, two roundings of at most EPS of |gate · x| + |branch|.
    let terms = |i: usize| f64::from((gate.get()[i % row] * before[i]).abs()) + f64::from(branch.get()[i].abs());
    let sum = within("x", x.get(), &sums, |i| 2.0 * EPS * terms(i));
    // The norm is judged on the x the kernel left, which has its own budget above.
    let want = norms(x.get(), weight.get());
    let norm = within("out", out.get(), &want, |i| budget(want[i], n, cpu.kernels().lanes()));
    accepted(call).max(intact("x", &x)).max(intact("out", &out)).max(sum).max(norm)
}

pub fn qk_norm(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n, rows, .. } = *case;
    let random = &mut Random::new(case.seed);
    let before = random.fill(case.fill, rows * n, largest(n));
    let weight = Guarded::new(&random.fill(Fill::Uniform, n, 1.0));
    let mut x = Painted::holding(&before);
    let answer = accepted(cpu.qk_norm(x.get_mut(), weight.get(), RMS_EPS));
    let want = norms(&before, weight.get());
    answer.max(intact("x", &x)).max(within("x", x.get(), &want, |i| budget(want[i], n, cpu.kernels().lanes())))
}
