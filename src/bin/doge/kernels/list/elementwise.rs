//! rope, mask_score, gated_activation, argmax.

use doge_engine::{
    ops::{Cpu, MIN_FLOATS},
    reference::{
        self,
        close::{activation_budget, chain, exactly, within, Worst, EPS, FUNCTION},
        linear::linear,
        mask_score::softplus,
    },
    Activation, Dtype, Result,
};

use super::{
    f64s, magnitudes,
    store::{Copies, Store},
    Cost, Entry, Job, Shape, BLOCK,
};

pub fn entries(shape: &Shape, out: &mut Vec<Entry>) {
    let Shape { heads, kv_heads, mask_heads, head_dim: d, intermediate, vocab, .. } = *shape;
    let entry = |op, label, bytes, written, operations, make| {
        Entry::new(op, Dtype::F32, label, Cost { bytes, written, operations }, make)
    };
    for rows in [1, BLOCK] {
        let alone = |floats: usize| rows * floats < MIN_FLOATS;
        let main = rows == 1;

        let n = rows * heads * d;
        // x there and back, cos and sin; four products, two sums for a pair
        let make = Box::new(move |store: &mut Store, _: &Cpu| Rope::make(store, rows, heads, d));
        let rope = entry("rope", format!("{rows}x{heads}x{d}"), 4 * (2 * n + rows * d), 4 * n, 3 * n, make);
        out.push(Entry { alone: alone(heads * d), main, ..rope });

        let n = kv_heads * d;
        let make = Box::new(move |store: &mut Store, _: &Cpu| MaskScore::make(store, rows, n, mask_heads));
        let bytes = 4 * (rows * (n + mask_heads) + mask_heads * (n + 2));
        let (written, operations) = (4 * rows * mask_heads, rows * mask_heads * (2 * n + 5));
        let mask_score = entry("mask_score", format!("{rows}x{n}x{mask_heads}"), bytes, written, operations, make);
        out.push(Entry { alone: alone(mask_heads * n), main, ..mask_score });

        let n = rows * intermediate;
        let make = Box::new(move |store: &mut Store, _: &Cpu| Gated::make(store, n));
        // two in, one out; exp, sum, quotient, two products
        let gated = entry("gated_activation", format!("{rows}x{intermediate}"), 12 * n, 4 * n, 5 * n, make);
        out.push(Entry { alone: alone(intermediate), main, ..gated });
    }
    let argmax = entry("argmax", vocab.to_string(), 4 * vocab, 0, vocab, Box::new(move |store, _| Argmax::make(store, vocab)));
    out.push(Entry { alone: true, ..argmax });
}

struct Rope {
    x: Copies<f32>,
    cos: Copies<f32>,
    sin: Copies<f32>,
    heads: usize,
    head_dim: usize,
}

impl Rope {
    fn make(store: &mut Store, rows: usize, heads: usize, head_dim: usize) -> Result<Box<dyn Job>> {
        let x = store.floats(rows * heads * head_dim, -1.0, 1.0)?;
        // A rotation indeed, or x would grow or shrink, call after call.
        let angles = store.floats(rows * head_dim / 2, 0.0, 3.0)?;
        let table = |f: fn(f32) -> f32| angles.get(0).iter().map(|&angle| f(angle)).collect::<Vec<_>>();
        let (cos, sin) = (store.of(&table(f32::cos))?, store.of(&table(f32::sin))?);
        Ok(Box::new(Rope { x, cos, sin, heads, head_dim }))
    }
}

impl Job for Rope {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        cpu.rope(self.x.get_mut(copy), self.cos.get(copy), self.sin.get(copy), self.heads, self.head_dim)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        let before = self.x.get(0).to_vec();
        self.run(cpu, 0)?;
        let (row, half) = (self.heads * self.head_dim, self.head_dim / 2);
        let mut want = f64s(&before);
        for (r, x) in want.chunks_exact_mut(row).enumerate() {
            reference::rope::rope(x, &self.cos.get(0)[r * half..][..half], &self.sin.get(0)[r * half..][..half]);
        }
        // Two products and their sum; a rotation's terms are no larger than the pair.
        let pair = |i: usize| {
            let low = i / self.head_dim * self.head_dim + i % half;
            f64::from(before[low].abs() + before[low + half].abs())
        };
        Ok(within("x", self.x.get(0), &want, |i| 3.0 * EPS * pair(i)))
    }
}

struct MaskScore {
    out: Copies<f32>,
    weight: Copies<f32>,
    bias: Copies<f32>,
    a: Copies<f32>,
    v: Copies<f32>,
}

impl MaskScore {
    fn make(store: &mut Store, rows: usize, n: usize, heads: usize) -> Result<Box<dyn Job>> {
        let width = (3.0 / n as f32).sqrt();
        Ok(Box::new(MaskScore {
            out: store.zeros(rows * heads)?,
            weight: store.floats(heads * n, -width, width)?,
            bias: store.floats(heads, -1.0, 1.0)?,
            a: store.floats(heads, -0.3, 0.3)?,
            v: store.floats(rows * n, -1.0, 1.0)?,
        }))
    }
}

impl Job for MaskScore {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let MaskScore { out, weight, bias, a, v } = self;
        cpu.mask_score(out.get_mut(copy), weight.get(copy), Some(bias.get(copy)), a.get(copy), v.get(copy))
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?;
        let (weight, bias, a) = (self.weight.get(0), self.bias.get(0), self.a.get(0));
        let n = weight.len() / a.len();
        let (mut want, mut budget) = (Vec::new(), Vec::new());
        for v in self.v.get(0).chunks_exact(n) {
            let s = reference::mask_score::mask_score(weight, Some(bias), a, &f64s(v));
            let dt = linear(weight, &f64s(v), Some(bias), a.len());
            let terms = linear(&magnitudes(weight), &f64s(&magnitudes(v)), Some(&magnitudes(bias)), a.len());
            for m in 0..a.len() {
                // dt is a reduction, softplus bends it and errs itself, exp makes the argument's error a relative one.
                let (a, softplus) = (f64::from(a[m]).abs(), softplus(dt[m]));
                let error = chain(n, cpu.kernels().lanes()) * EPS * terms[m] + FUNCTION * EPS * softplus.max(1.0);
                budget.push(s[m] * ((a * error + EPS * a * softplus).exp_m1() + FUNCTION * EPS));
            }
            want.extend(s);
        }
        Ok(within("out", self.out.get(0), &want, |i| budget[i]))
    }
}

struct Gated {
    gate: Copies<f32>,
    up: Copies<f32>,
}

impl Gated {
    fn make(store: &mut Store, n: usize) -> Result<Box<dyn Job>> {
        // In place, call after call, x becomes silu(x) * up: of these x and up, it nears -ln(up - 1), and stays a number
        // with which the arithmetic takes as long as with any other.
        Ok(Box::new(Gated { gate: store.floats(n, -3.0, -0.1)?, up: store.floats(n, 2.5, 4.0)? }))
    }
}

impl Job for Gated {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        cpu.gated_activation(self.gate.get_mut(copy), self.up.get(copy), Activation::Silu)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        let before = self.gate.get(0).to_vec();
        self.run(cpu, 0)?;
        let up = self.up.get(0);
        let want = reference::gated_activation::gated_activation(&f64s(&before), &f64s(up), Activation::Silu);
        let budget = |i: usize| {
            f64::from(up[i].abs()) * activation_budget(Activation::Silu, f64::from(before[i])) + 2.0 * EPS * want[i].abs()
        };
        Ok(within("gate", self.gate.get(0), &want, budget))
    }
}

struct Argmax {
    x: Copies<f32>,
}

impl Argmax {
    fn make(store: &mut Store, n: usize) -> Result<Box<dyn Job>> {
        Ok(Box::new(Argmax { x: store.floats(n, -8.0, 8.0)? }))
    }
}

impl Job for Argmax {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        std::hint::black_box(cpu.argmax(self.x.get(copy))?);
        Ok(())
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        let x = self.x.get(0);
        Ok(exactly("argmax", &[cpu.argmax(x)?], &[reference::argmax::argmax(x)]))
    }
}
