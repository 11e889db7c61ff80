//! rms_norm, residual_rms_norm, qk_norm.

use doge_engine::{
    ops::{Cpu, MIN_FLOATS},
    reference::{
        close::{chain, within, Worst, EPS},
        rms_norm as reference,
    },
    Dtype, Result,
};

use super::{
    f64s,
    store::{Copies, Store},
    Cost, Entry, Job, Shape, BLOCK, SOME,
};

const RMS_EPS: f32 = 1e-6;

pub fn entries(shape: &Shape, out: &mut Vec<Entry>) {
    for rows in [1, SOME, BLOCK] {
        let n = shape.hidden;
        let one = |op, bytes, written, operations, make| {
            let cost = Cost { bytes, written, operations };
            let entry = Entry::new(op, Dtype::F32, format!("{rows}x{n}"), cost, make);
            Entry { alone: rows * n < MIN_FLOATS, main: rows != BLOCK, ..entry }
        };
        // x and out, and the weight; a square and a sum, two products
        let make = Box::new(move |store: &mut Store, _: &Cpu| Norm::make(store, rows, n));
        out.push(one("rms_norm", 4 * (2 * rows * n + n), 4 * rows * n, 4 * rows * n, make));
        // x, branch, x and out, and gate and weight
        let make = Box::new(move |store: &mut Store, _: &Cpu| Residual::make(store, rows, n));
        out.push(one("residual_rms_norm", 4 * (4 * rows * n + 2 * n), 8 * rows * n, 6 * rows * n, make));
    }
    for rows in [1, BLOCK] {
        let (heads, d) = (rows * shape.heads, shape.head_dim);
        let cost = Cost { bytes: 4 * (2 * heads * d + d), written: 4 * heads * d, operations: 4 * heads * d };
        let make = Box::new(move |store: &mut Store, _: &Cpu| QkNorm::make(store, heads, d));
        let entry = Entry::new("qk_norm", Dtype::F32, format!("{heads}x{d}"), cost, make);
        out.push(Entry { alone: heads * d < MIN_FLOATS, main: rows == 1, ..entry });
    }
}

/// As in the kernel matrix: half the chain of the sum of squares, and six roundings.
fn held(name: &str, got: &[f32], x: &[f64], weight: &[f32], cpu: &Cpu) -> Worst {
    let want = reference::qk_norm(x, weight, f64::from(RMS_EPS)); // each row by itself
    let c = chain(weight.len(), cpu.kernels().lanes()) / 2.0 + 6.0;
    within(name, got, &want, |i| c * EPS * want[i].abs())
}

struct Norm {
    out: Copies<f32>,
    x: Copies<f32>,
    weight: Copies<f32>,
}

impl Norm {
    fn make(store: &mut Store, rows: usize, n: usize) -> Result<Box<dyn Job>> {
        let (out, x, weight) = (store.zeros(rows * n)?, store.floats(rows * n, -1.0, 1.0)?, store.floats(n, 0.5, 1.5)?);
        Ok(Box::new(Norm { out, x, weight }))
    }
}

impl Job for Norm {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        cpu.rms_norm(self.out.get_mut(copy), self.x.get(copy), self.weight.get(copy), RMS_EPS)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?;
        Ok(held("out", self.out.get(0), &f64s(self.x.get(0)), self.weight.get(0), cpu))
    }
}

struct Residual {
    out: Copies<f32>,
    x: Copies<f32>,
    gate: Copies<f32>,
    branch: Copies<f32>,
    weight: Copies<f32>,
}

impl Residual {
    fn make(store: &mut Store, rows: usize, n: usize) -> Result<Box<dyn Job>> {
        Ok(Box::new(Residual {
            out: store.zeros(rows * n)?,
            x: store.floats(rows * n, -1.0, 1.0)?,
            gate: store.floats(n, 0.5, 0.95)?, // below 1: x stays finite, call after call
            branch: store.floats(rows * n, -1.0, 1.0)?,
            weight: store.floats(n, 0.5, 1.5)?,
        }))
    }
}

impl Job for Residual {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let Residual { out, x, gate, branch, weight } = self;
        cpu.residual_rms_norm(out.get_mut(copy), x.get_mut(copy), gate.get(copy), branch.get(copy), weight.get(copy), RMS_EPS)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        let before = self.x.get(0).to_vec();
        self.run(cpu, 0)?;
        let (gate, branch, weight) = (self.gate.get(0), self.branch.get(0), self.weight.get(0));
        let n = weight.len();
        let rows = before.chunks_exact(n).zip(branch.chunks_exact(n));
        let want: Vec<f64> = rows.flat_map(|(x, branch)| reference::residual(&f64s(x), gate, &f64s(branch))).collect();
        let terms = |i: usize| f64::from((gate[i % n] * before[i]).abs()) + f64::from(branch[i].abs());
        let sum = within("x", self.x.get(0), &want, |i| 2.0 * EPS * terms(i));
        // The norm is judged on the x that the kernel left.
        Ok(sum.max(held("out", self.out.get(0), &f64s(self.x.get(0)), weight, cpu)))
    }
}

struct QkNorm {
    x: Copies<f32>,
    weight: Copies<f32>,
}

impl QkNorm {
    fn make(store: &mut Store, heads: usize, d: usize) -> Result<Box<dyn Job>> {
        // In place, call after call: with weights of several sizes all but the largest column would end among the denormals.
        let (x, weight) = (store.floats(heads * d, -1.0, 1.0)?, store.of(&vec![1.0f32; d])?);
        Ok(Box::new(QkNorm { x, weight }))
    }
}

impl Job for QkNorm {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        cpu.qk_norm(self.x.get_mut(copy), self.weight.get(copy), RMS_EPS)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        let before = f64s(self.x.get(0));
        self.run(cpu, 0)?;
        Ok(held("x", self.x.get(0), &before, self.weight.get(0), cpu))
    }
}
