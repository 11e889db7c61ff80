//! product_key_router, expert_down, expert_up.

use doge_engine::{
    ops::{Cpu, Routing},
    reference::{embed::widen, gated_activation::activate, linear::linear, product_key_router as reference},
    Activation, Dtype, Layout, Matrix,
};

use super::{
    super::{
        cases::{lengths, stored, Case, Fill, Random},
        close::{activation_budget, activation_slope, chain, exactly, within, Worst, EPS, FUNCTION},
        guarded::{Guarded, GuardedBytes, Painted},
    },
    accepted, f64s, intact, magnitudes,
};

/// `n` keys a side, `out` experts wanted, `rows` tokens.
pub fn router_cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    let keys = [1, 2, 3, 4, 5, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 30, 64, 96];
    for (i, n) in keys.into_iter().filter(|&n| n > 0).enumerate() {
        let all = n * n;
        for top in [1, 2, 3, n, n + 1, 30, 64, all / 2, all - 1, all].into_iter().filter(|top| (1..=all.min(2000)).contains(top))
        {
            for fill in Fill::ALL {
                out.push(Case { n, rows: 1 + i % 2, out: top, fill, offset: 0, seed: (i + top) as u64 });
            }
        }
    }
    // The published models, and more keys or experts than are chosen by rank.
    for (n, top) in
        [(32, 8), (32, 16), (64, 16), (64, 32), (96, 24), (96, 48), (128, 32), (128, 64), (40 * lanes, 64), (40, 40 * lanes)]
    {
        for fill in [Fill::Uniform, Fill::Ties] {
            out.push(Case { n, rows: 3, out: top, fill, offset: 0, seed: 1 });
        }
    }
    out
}

pub fn router(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let Case { n: keys, rows: tokens, out: top, seed, .. } = *case;
    let random = &mut Random::new(seed);
    let logits = Guarded::new(&random.fill(case.fill, tokens * 2 * keys, f32::MAX / 4.0));
    let (mut expert, mut weight) = (Painted::<u32>::new(tokens * top), Painted::<f32>::new(tokens * top));
    let mut scratch = vec![0; cpu.router_scratch(keys, top)];
    let (routing, reference_routing) = match seed % 2 {
        0 => (Routing::PerToken, reference::Routing::PerToken),
        _ => (Routing::Reference, reference::Routing::Reference),
    };
    let call = cpu.product_key_router(expert.get_mut(), weight.get_mut(), logits.get(), routing, keys, top, &mut scratch);

    let gate: Vec<Vec<f64>> = logits.get().chunks_exact(2 * keys).map(f64s).collect();
    let (mut want_expert, mut want_weight, mut budget) = (Vec::new(), Vec::new(), Vec::new());
    for token in 0..tokens {
        let (x, y) = reference_routing.logits(&gate, token);
        // A score is the f32 sum: ties are those of the rounded sums.
        let scores: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| f64::from(*x as f32 + *y as f32))).collect();
        let (expert, weight) = reference::top_experts(&scores, top);
        let max = expert.iter().map(|&e| scores[e as usize]).fold(f64::NEG_INFINITY, f64::max);
        // score − max is rounded once, exp turns that into a relative error (beyond 128 the weight is 0 either way); the
        // denominator adds the weighted mean of the same, and its own sum.
        let distance: Vec<f64> = expert.iter().map(|&e| (max - scores[e as usize]).min(128.0)).collect();
        let mean: f64 = distance.iter().zip(&weight).map(|(distance, p)| distance * p).sum();
        let c = chain(top, cpu.kernels().lanes());
        budget.extend(weight.iter().zip(distance).map(|(p, distance)| p * EPS * (distance + mean + 2.0 * FUNCTION + c + 2.0)));
        want_expert.extend(expert);
        want_weight.extend(weight);
    }
    accepted(call)
        .max(intact("expert", &expert))
        .max(intact("weight", &weight))
        .max(exactly("expert", expert.get(), &want_expert))
        .max(within("weight", weight.get(), &want_weight, |i| budget[i]))
}

/// `n` channels, `out` experts chosen of 2 · out + 1, `rows` tokens.
pub fn cases(lanes: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for (i, n) in lengths(lanes).into_iter().enumerate() {
        for (j, fill) in [Fill::Uniform, Fill::Zeros, Fill::OneHuge, Fill::WideRange, Fill::Tiny].into_iter().enumerate() {
            let k = i + j;
            out.push(Case { n, rows: 1 + k % 3, out: [1, 2, 5, 16, 33][k % 5], fill, offset: k % 4, seed: k as u64 });
        }
    }
    // A token alone is shared out by experts and columns.
    out.push(Case { n: 1024, rows: 1, out: 64, fill: Fill::Uniform, offset: 0, seed: 7 });
    out
}

pub fn down(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    Mix::run(cpu, dtype, case).0
}

pub fn up(cpu: &Cpu, dtype: Dtype, case: &Case) -> Worst {
    Mix::run(cpu, dtype, case).1
}

/// One call of expert_mix. Its scratch `hit` is what lies between the two kernels: the first is judged by it, the second from it.
struct Mix;

impl Mix {
    fn run(cpu: &Cpu, dtype: Dtype, case: &Case) -> (Worst, Worst) {
        let Case { n, rows: tokens, out: top, .. } = *case;
        let random = &mut Random::new(case.seed);
        let act = Activation::ALL[case.seed as usize % Activation::ALL.len()];
        let table_rows = 2 * top + 1;
        let tables = [(); 2].map(|()| {
            let mut table = random.fill(case.fill, table_rows * n, 1.0);
            // dot products of a size at which the activation bends
            table.iter_mut().for_each(|w| *w /= (n.max(1) as f32).sqrt());
            GuardedBytes::new(&stored(dtype, Layout::Rows, [table_rows, n], &table), case.offset)
        });
        let [down_embed, up_embed] =
            tables.each_ref().map(|t| Matrix::new(dtype, table_rows, n, t.get()).expect("the bytes of a matrix"));
        let x = Guarded::new(&random.fill(case.fill, tokens * n, 1.0));
        let before = random.fill(Fill::Uniform, tokens * n, 1.0);
        // The table's last row is always among them: it ends at the unreadable page.
        let pick =
            |i: usize, random: &mut Random| if i % top == top - 1 { table_rows - 1 } else { random.below(table_rows) } as u32;
        let expert = Guarded::new(&(0..tokens * top).map(|i| pick(i, random)).collect::<Vec<_>>());
        let weight = Guarded::new(&random.fill(Fill::Uniform, tokens * top, 1.0));
        // A row of no elements cannot be told from no row.
        let calls = if n == 0 { 0 } else { tokens * top };
        let (mut y, mut hit) = (Painted::holding(&before), Painted::<f32>::new(calls));
        let (ids, p) = (&expert.get()[..calls], &weight.get()[..calls]);
        let call = cpu.expert_mix(y.get_mut(), x.get(), down_embed, up_embed, ids, p, hit.get_mut(), act);
        let accepted = accepted(call).max(intact("y", &y)).max(intact("hit", &hit));

        let (down, up) = (widen(down_embed), widen(up_embed));
        let (mut hits, mut hit_budget) = (Vec::new(), Vec::new());
        let (mut ys, mut y_terms) = (Vec::new(), Vec::new());
        for (t, x) in x.get().chunks_exact(n.max(1)).enumerate() {
            let mut sum = f64s(&before[t * n..][..n]);
            let mut terms: Vec<f64> = sum.iter().map(|y| y.abs()).collect();
            for e in t * top..(t + 1) * top {
                let row = ids[e] as usize * n..(ids[e] as usize + 1) * n;
                let dot = linear(&down[row.clone()], &f64s(x), None, 1)[0];
                let dot_terms = linear(&magnitudes(&down[row.clone()]), &f64s(&magnitudes(x)), None, 1)[0];
                let p = f64::from(p[e]);
                // A reduction, through the activation's slope; the activation's own error; the product with the weight.
                let dot_error = chain(n, cpu.kernels().lanes()) * EPS * dot_terms;
                let after = activation_slope(act, dot.abs() + dot_error) * dot_error + activation_budget(act, dot);
                let want = p * activate(act, dot);
                hits.push(want);
                hit_budget.push(p.abs() * after + 2.0 * EPS * want.abs());
                for ((sum, terms), &up) in sum.iter_mut().zip(&mut terms).zip(&up[row]) {
                    let term = f64::from(hit.get()[e]) * f64::from(up);
                    *sum += term;
                    *terms += term.abs();
                }
            }
            ys.extend(sum);
            y_terms.extend(terms);
        }
        let down = within(&format!("{act:?} hit"), hit.get(), &hits, |i| hit_budget[i]);
        // One product and one sum after another, for each expert.
        let up = within("y", y.get(), &ys, |i| 2.0 * top as f64 * EPS * y_terms[i]);
        (accepted.clone().max(down), accepted.max(up))
    }
}
