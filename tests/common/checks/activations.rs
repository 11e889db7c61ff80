//! mask_score and gated_activation: where exp, log, tanh and erf are.

use doge_engine::{
    ops::Cpu,
    reference::{
        gated_activation as reference,
        linear::linear,
        mask_score::{mask_score as reference_mask_score, softplus},
    },
    Activation, Dtype,
};

use super::{
    super::{
        cases::{lengths, Case, Fill, Random},
        close::{activation_budget, chain, within, Worst, EPS, FUNCTION},
        guarded::{Guarded, Painted},
    },
    accepted, f64s, intact, magnitudes,
};

/// `n` numbers in v, `out` mask heads, `rows` keys.
pub fn mask_score_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().enumerate() {
        for fill in Fill::ALL {
            out.push(Case { n, rows: 1 + i % 3, out: 1 + i % 9, fill, offset: 0, seed: i as u64 });
        }
    }
    out
}

pub fn mask_score(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n, rows, out: heads, .. } = *case;
    let random = &mut Random::new(case.seed);
    let v = Guarded::new(&random.fill(case.fill, rows * n, 16.0));
    // dt between about -40 and 40 for every n, and |A| below 2: s stays inside f32.
    let scale = 2.5 / n.max(1) as f32;
    let scale = match case.fill {
        Fill::Extreme => scale,
        Fill::WideRange => scale.sqrt() * 2f32.powi(-12),
        Fill::OneHuge => scale.sqrt() * 1e-2,
        _ => scale.sqrt(),
    };
    let dt_weight = Guarded::new(&random.fill(Fill::Uniform, heads * n, 1.0).iter().map(|w| w * scale).collect::<Vec<_>>());
    let bias = (case.seed % 2 == 1).then(|| Guarded::new(&random.fill(Fill::Uniform, heads, 1.0)));
    let bias = bias.as_ref().map(Guarded::get);
    let a = Guarded::new(&random.fill(Fill::Uniform, heads, 1.0).iter().map(|a| a * 2.0).collect::<Vec<_>>());
    let mut out = Painted::<f32>::new(if n == 0 { 0 } else { rows * heads });
    let answer = accepted(cpu.mask_score(out.get_mut(), dt_weight.get(), bias, a.get(), v.get()));

    let (weight_magnitudes, bias_magnitudes) = (magnitudes(dt_weight.get()), bias.map(magnitudes));
    let (mut want, mut budget) = (Vec::new(), Vec::new());
    for v in v.get().chunks_exact(n.max(1)) {
        let s = reference_mask_score(dt_weight.get(), bias, a.get(), &f64s(v));
        let dt = linear(dt_weight.get(), &f64s(v), bias, heads);
        let terms = linear(&weight_magnitudes, &f64s(&magnitudes(v)), bias_magnitudes.as_deref(), heads);
        for m in 0..heads {
            let a = f64::from(a.get()[m]).abs();
            // dt: a reduction. softplus: slope below 1, and its own error, of at most FUNCTION of 1 or of its value. The
            // product: one rounding. exp turns an absolute error of its argument into a relative one, and adds its own.
            let softplus = softplus(dt[m]);
            let softplus_error = chain(n, cpu.kernels().lanes()) * EPS * terms[m] + FUNCTION * EPS * softplus.max(1.0);
            let argument_error = a * softplus_error + EPS * a * softplus;
            budget.push(s[m] * (argument_error.exp_m1() + FUNCTION * EPS));
            want.push(s[m]);
        }
    }
    answer.max(intact("out", &out)).max(within("out", out.get(), &want, |i| budget[i]))
}

/// `n` elements. All activations.
pub fn cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().chain([5000]).enumerate() {
        for fill in Fill::ALL {
            out.push(Case { n, rows: 1, out: 1, fill, offset: 0, seed: i as u64 });
        }
    }
    out
}

pub fn run(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let mut worst = Worst::default();
    for act in Activation::ALL {
        let random = &mut Random::new(case.seed);
        // relu2 squares.
        let most = if act == Activation::Relu2 { f32::MAX.sqrt() } else { f32::MAX };
        let mut before = random.fill(case.fill, case.n, most);
        if case.fill == Fill::Uniform {
            before.iter_mut().for_each(|x| *x *= 12.0);
        }
        let up = Guarded::new(&random.fill(Fill::Uniform, case.n, 1.0));
        let mut gate = Painted::holding(&before);
        let answer = accepted(cpu.gated_activation(gate.get_mut(), up.get(), act));
        let want = reference::gated_activation(&f64s(&before), &f64s(up.get()), act);
        let budget =
            |i: usize| f64::from(up.get()[i].abs()) * activation_budget(act, f64::from(before[i])) + 2.0 * EPS * want[i].abs();
        let name = format!("{act:?}({{gate}})");
        let values = within(&name, gate.get(), &want, budget);
        worst = worst.max(answer).max(intact(&name, &gate)).max(values);
    }
    worst
}
