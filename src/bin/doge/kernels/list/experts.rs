//! product_key_router and expert_mix, which runs expert_down and expert_up.

use doge_engine::{
    matrix_bytes,
    ops::{Cpu, Routing},
    reference::{
        close::{activation_budget, activation_slope, chain, exactly, within, Worst, EPS, FUNCTION},
        embed::widen,
        gated_activation::activate,
        linear::linear,
        product_key_router as reference,
    },
    Activation, Dtype, Layout, Result,
};

use super::{
    f64s, magnitudes,
    store::{Copies, Store, Weights},
    Cost, Entry, Job, Shape,
};

pub fn entries(shape: &Shape, out: &mut Vec<Entry>) {
    let Shape { router_keys: keys, experts_per_token: top, hidden, .. } = *shape;
    if keys == 0 {
        return;
    }
    // The pairs of ranks a, b with a * b <= top hold the best; then a softmax: distance, exp, quotient.
    let pairs: usize = (1..=top.min(keys)).map(|a| (top / a).min(keys)).sum();
    let cost = Cost { bytes: 4 * (2 * keys + 2 * top), written: 8 * top, operations: pairs + 3 * top };
    let make = Box::new(move |store: &mut Store, cpu: &Cpu| Router::make(store, cpu, keys, top));
    let entry = Entry::new("product_key_router", Dtype::F32, format!("{keys}x{top}"), cost, make);
    out.push(Entry { alone: true, ..entry });
    for dtype in Dtype::ALL {
        let rows = matrix_bytes(dtype, Layout::Rows, 2 * top, hidden).unwrap_or(usize::MAX);
        // The chosen rows of both tables, x, y there and back, ids, weights and hits there and back.
        let cost = Cost { bytes: rows + 12 * hidden + 16 * top, written: 4 * (hidden + top), operations: top * (4 * hidden + 5) };
        let make = Box::new(move |store: &mut Store, _: &Cpu| Mix::make(store, dtype, top, hidden));
        out.push(Entry::new("expert_mix", dtype, format!("{top}x{hidden}"), cost, make));
    }
}

/// Tokens that a router chooses for in turn: of one and the same, the CPU would remember how each comparison ended.
const TURNS: usize = 16;

struct Router {
    expert: Copies<u32>,
    weight: Copies<f32>,
    /// `[TURNS][2 * keys]`
    logits: Copies<f32>,
    turn: usize,
    scratch: Vec<u64>,
    keys: usize,
    top: usize,
}

impl Router {
    fn make(store: &mut Store, cpu: &Cpu, keys: usize, top: usize) -> Result<Box<dyn Job>> {
        let (expert, weight) = (store.zeros(top)?, store.zeros(top)?);
        let (logits, scratch) = (store.floats(TURNS * 2 * keys, -2.0, 2.0)?, vec![0; cpu.router_scratch(keys, top)]);
        Ok(Box::new(Router { expert, weight, logits, turn: 0, scratch, keys, top }))
    }
}

impl Job for Router {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let (expert, weight) = (self.expert.get_mut(copy), self.weight.get_mut(copy));
        let logits = &self.logits.get(copy)[self.turn * 2 * self.keys..][..2 * self.keys];
        self.turn = (self.turn + 1) % TURNS;
        cpu.product_key_router(expert, weight, logits, Routing::PerToken, self.keys, self.top, &mut self.scratch)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.turn = 0;
        self.run(cpu, 0)?;
        let (x, y) = self.logits.get(0)[..2 * self.keys].split_at(self.keys);
        // A score is the f32 sum: ties are those of the rounded sums.
        let scores: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| f64::from(x + y))).collect();
        let (expert, weight) = reference::top_experts(&scores, self.top);
        let max = expert.iter().map(|&e| scores[e as usize]).fold(f64::NEG_INFINITY, f64::max);
        let distance: Vec<f64> = expert.iter().map(|&e| max - scores[e as usize]).collect();
        let mean: f64 = distance.iter().zip(&weight).map(|(distance, p)| distance * p).sum();
        let c = 2.0 * FUNCTION + chain(self.top, cpu.kernels().lanes()) + 2.0;
        let weights = within("weight", self.weight.get(0), &weight, |i| weight[i] * EPS * (distance[i] + mean + c));
        Ok(exactly("expert", self.expert.get(0), &expert).max(weights))
    }
}

struct Mix {
    y: Copies<f32>,
    x: Copies<f32>,
    down_embed: Weights,
    up_embed: Weights,
    expert: Copies<u32>,
    weight: Copies<f32>,
    hit: Copies<f32>,
}

impl Mix {
    fn make(store: &mut Store, dtype: Dtype, top: usize, hidden: usize) -> Result<Box<dyn Job>> {
        // Every other expert or so of as many again: gaps between the rows, as in a table of thousands.
        let expert: Vec<u32> = (0..top).map(|i| (2 * i + store.below(2)) as u32).collect();
        Ok(Box::new(Mix {
            y: store.zeros(hidden)?,
            x: store.floats(hidden, -1.0, 1.0)?,
            down_embed: store.weights(dtype, Layout::Rows, 2 * top, hidden)?,
            up_embed: store.weights(dtype, Layout::Rows, 2 * top, hidden)?,
            expert: store.of(&expert)?,
            weight: store.floats(top, 0.5 / top as f32, 1.5 / top as f32)?,
            hit: store.zeros(top)?,
        }))
    }
}

impl Job for Mix {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let Mix { y, x, down_embed, up_embed, expert, weight, hit } = self;
        let (down, up, expert, weight) = (down_embed.get(copy), up_embed.get(copy), expert.get(copy), weight.get(copy));
        cpu.expert_mix(y.get_mut(copy), x.get(copy), down, up, expert, weight, hit.get_mut(copy), Activation::Silu)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?; // y was zero
        let (x, n) = (self.x.get(0), self.x.get(0).len());
        let (down, up) = (widen(self.down_embed.get(0)), widen(self.up_embed.get(0)));
        let (expert, weight, hit) = (self.expert.get(0), self.weight.get(0), self.hit.get(0));
        let (mut hits, mut budget, mut y, mut terms) = (Vec::new(), Vec::new(), vec![0.0; n], vec![0.0; n]);
        for (e, &id) in expert.iter().enumerate() {
            let row = id as usize * n..(id as usize + 1) * n;
            let dot = linear(&down[row.clone()], &f64s(x), None, 1)[0];
            let magnitude = linear(&magnitudes(&down[row.clone()]), &f64s(&magnitudes(x)), None, 1)[0];
            // A reduction, through the activation's slope; the activation's own error; the product with the weight.
            let error = chain(n, cpu.kernels().lanes()) * EPS * magnitude;
            let after = activation_slope(Activation::Silu, dot.abs() + error) * error + activation_budget(Activation::Silu, dot);
            let (p, want) = (f64::from(weight[e]), f64::from(weight[e]) * activate(Activation::Silu, dot));
            hits.push(want);
            budget.push(p.abs() * after + 2.0 * EPS * want.abs());
            for ((y, terms), &up) in y.iter_mut().zip(&mut terms).zip(&up[row]) {
                let term = f64::from(hit[e]) * f64::from(up); // judged from the hits that the first half left
                *y += term;
                *terms += term.abs();
            }
        }
        let down = within("hit", hit, &hits, |i| budget[i]);
        Ok(down.max(within("y", self.y.get(0), &y, |i| 2.0 * expert.len() as f64 * EPS * terms[i])))
    }
}
