//! gemv (one row of x) and gemm (more) in every format, and the rows they want: round_row, quantize_row. And embed_row, which
//! reads the same matrices.

use doge_engine::{
    matrix_bytes,
    ops::{bf16_row, Activations, Cpu, MIN_FLOATS, SPLIT_PARTS},
    reference::{
        close::{chain, exactly, split_chain, within, Worst, EPS},
        embed::widen,
        linear::linear,
        quantized::{linear_int, quantize_row},
    },
    Dtype, Layout, Matrix, Result,
};
use half::bf16;

use super::{
    f64s, magnitudes,
    store::{strip, Copies, Store, Weights},
    Cost, Entry, Job, Shape, BLOCK, SOME,
};

/// Rows of a tile: outputs that are checked together.
const TILE: usize = 16;

fn layout(dtype: Dtype) -> Layout {
    if dtype.is_int() {
        Layout::Tiles
    } else {
        Layout::Rows
    }
}

/// Bytes of a matrix that will be made.
fn bytes(dtype: Dtype, rows: usize, cols: usize) -> usize {
    matrix_bytes(dtype, layout(dtype), rows, cols).unwrap_or(usize::MAX)
}

pub fn entries(shape: &Shape, out: &mut Vec<Entry>) {
    let Shape { hidden: h, intermediate: i, vocab, .. } = *shape;
    // up and gate, down, the head
    for (cols, outputs) in [(h, i), (i, h), (h, vocab)] {
        for dtype in Dtype::ALL {
            out.extend(products(dtype, 1, cols, outputs, (cols, outputs) != (i, h)));
        }
    }
    for (rows, cols, outputs) in [(32, h, i), (BLOCK, h, i), (BLOCK, i, h)] {
        for dtype in Dtype::ALL {
            out.extend(products(dtype, rows, cols, outputs, (rows, cols) == (BLOCK, h)));
        }
    }
    for rows in [1, SOME, BLOCK] {
        for (op, dtype, form) in [
            ("round_row", Dtype::Bf16, Form::Rounded),
            ("split_row", Dtype::Bf16, Form::Split),
            ("quantize_row", Dtype::Int8, Form::Quantized),
        ] {
            let cost = Cost { bytes: rows * (4 * h + form.bytes(h)), written: rows * form.bytes(h), operations: 2 * rows * h };
            let make = Box::new(move |store: &mut Store, cpu: &Cpu| Prepare::make(store, cpu, form, dtype, rows, h));
            let entry = form.of(Entry::new(op, Dtype::F32, format!("{rows}x{h}"), cost, make));
            out.push(Entry { alone: rows * h < MIN_FLOATS, main: rows == 1, ..entry });
        }
        for dtype in Dtype::ALL {
            let cost = Cost { bytes: rows * (bytes(dtype, TILE, h) / TILE + 4 * h), written: rows * 4 * h, operations: 0 };
            let make = Box::new(move |store: &mut Store, _: &Cpu| Embed::make(store, dtype, rows, h));
            let entry = Entry::new("embed_row", dtype, format!("{rows}x{h}"), cost, make);
            out.push(Entry { alone: rows * h < MIN_FLOATS, main: rows == 1, ..entry });
        }
    }
}

/// The entries of weights of this format: bf16 weights meet x in three forms.
fn products(dtype: Dtype, rows: usize, cols: usize, outputs: usize, main: bool) -> impl Iterator<Item = Entry> {
    let ops = match (dtype, rows) {
        (Dtype::Bf16, 1) => vec![("gemv", Form::F32), ("gemv_bf16", Form::Rounded), ("gemv_split", Form::Split)],
        (Dtype::Bf16, _) => vec![("gemm", Form::F32), ("gemm_bf16", Form::Rounded), ("gemm_split", Form::Split)],
        (Dtype::Int8 | Dtype::Int4, 1) => vec![("gemv_int", Form::Quantized)],
        (Dtype::Int8 | Dtype::Int4, _) => vec![("gemm_int", Form::Quantized)],
        (_, 1) => vec![("gemv", Form::F32)],
        _ => vec![("gemm", Form::F32)],
    };
    ops.into_iter().map(move |(op, form)| {
        let name = if rows == 1 { format!("{cols}x{outputs}") } else { format!("{rows}x{cols}x{outputs}") };
        let parts = if form == Form::Split { SPLIT_PARTS } else { 1 };
        let cost = Cost {
            bytes: bytes(dtype, outputs, cols) + rows * form.bytes(cols) + 4 * rows * outputs,
            written: 4 * rows * outputs,
            operations: 2 * parts * rows * cols * outputs,
        };
        let make = Box::new(move |store: &mut Store, cpu: &Cpu| Linear::make(store, cpu, form, dtype, [rows, cols, outputs]));
        Entry { main, ..form.of(Entry::new(op, dtype, name, cost, make)) }
    })
}

/// What kernels read of x.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    F32,
    Rounded,
    Split,
    Quantized,
}

impl Form {
    /// Bytes of a row.
    fn bytes(self, cols: usize) -> usize {
        match self {
            Form::F32 => 4 * cols,
            Form::Rounded => 2 * cols,
            Form::Split => 2 * SPLIT_PARTS * cols,
            Form::Quantized => cols.div_ceil(64) * 80, // quants, a scale and an offset for each 32
        }
    }

    /// The entry of a kernel that reads it.
    fn of(self, entry: Entry) -> Entry {
        let activations = if self == Form::Rounded { Activations::Bf16 } else { Activations::F32 };
        Entry { activations, splits: self == Form::Split, ..entry }
    }
}

struct Linear {
    weight: Weights,
    x: Copies<f32>,
    form: Form,
    /// x in this form, if it is not x.
    prepared: Copies<u32>,
    out: Copies<f32>,
}

impl Linear {
    fn make(store: &mut Store, cpu: &Cpu, form: Form, dtype: Dtype, [rows, cols, outputs]: [usize; 3]) -> Result<Box<dyn Job>> {
        let weight = store.weights(dtype, layout(dtype), outputs, cols)?;
        let words = if form == Form::F32 { 0 } else { cpu.prepared_words(rows, cols) };
        let (x, mut prepared) = (store.floats(rows * cols, -1.0, 1.0)?, store.zeros(words)?);
        for copy in (0..store.copies()).filter(|_| form != Form::F32) {
            cpu.prepare(prepared.get_mut(copy), x.get(copy), [weight.get(copy)])?;
        }
        Ok(Box::new(Linear { weight, x, form, prepared, out: store.zeros(rows * outputs)? }))
    }

    /// The reference of one row and some outputs, and what each may be off.
    fn reference(&self, cpu: &Cpu, weight: Matrix<'_>, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (cols, outputs, lanes) = (weight.cols(), weight.rows(), cpu.kernels().lanes());
        if weight.dtype().is_int() {
            let (want, terms) = linear_int(weight, &quantize_row(x), None);
            // The dot products are exact: a fold of the groups, and what multiplies the scales.
            let c = cols.div_ceil(32) as f64 + 4.0;
            return (want, terms.iter().map(|terms| c * EPS * terms).collect());
        }
        let rounds = self.form == Form::Rounded;
        let x: Vec<f32> = x.iter().map(|&x| if rounds { bf16::from_f32(x).to_f32() } else { x }).collect();
        let wide = widen(weight);
        let terms = linear(&magnitudes(&wide), &f64s(&magnitudes(&x)), None, outputs);
        // The dot instruction takes denormals for zero. Of a split row it adds three times for 32 columns.
        let (chain, flushed) = match self.form {
            Form::F32 | Form::Quantized => (chain(cols, lanes), 0.0),
            Form::Rounded => (chain(cols, lanes), 2.0),
            Form::Split => (split_chain(cols), 6.0),
        };
        let flushed = flushed * cols as f64 * f64::from(f32::MIN_POSITIVE);
        let budget = terms.iter().map(|terms| chain * EPS * terms + flushed).collect();
        (linear(&wide, &f64s(&x), None, outputs), budget)
    }
}

impl Job for Linear {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let weight = self.weight.get(copy);
        let x = match self.form {
            Form::F32 => self.x.get(copy).into(),
            _ => cpu.prepared(self.prepared.get(copy), self.x.get(copy), [weight])?,
        };
        cpu.linear(self.out.get_mut(copy), weight, x, None)
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?;
        let (weight, x, out) = (self.weight.get(0), self.x.get(0), self.out.get(0));
        let (cols, outputs) = (weight.cols(), weight.rows());
        let (rows, strips) = (x.len() / cols, outputs / TILE);
        let mut worst = Worst::default();
        for row in [0, rows / 2, rows - 1] {
            for begin in [0, strips / 2, strips - 1].map(|strip| strip * TILE) {
                let (want, budget) = self.reference(cpu, strip(&weight, begin, TILE), &x[row * cols..][..cols]);
                let got = &out[row * outputs + begin..][..TILE];
                worst = worst.max(within(&format!("out[{row}][{begin}..]"), got, &want, |i| budget[i]));
            }
        }
        Ok(worst)
    }
}

/// round_row, split_row or quantize_row, as `Cpu::prepare` asks for them.
struct Prepare {
    /// One row of weights for `Cpu::prepare` to see.
    weight: Weights,
    x: Copies<f32>,
    form: Form,
    prepared: Copies<u32>,
}

impl Prepare {
    fn make(store: &mut Store, cpu: &Cpu, form: Form, dtype: Dtype, rows: usize, cols: usize) -> Result<Box<dyn Job>> {
        let x = store.floats(rows * cols, -1.0, 1.0)?;
        let prepared = store.zeros(cpu.prepared_words(rows, cols))?;
        Ok(Box::new(Prepare { weight: store.weights(dtype, layout(dtype), 1, cols)?, x, form, prepared }))
    }
}

impl Job for Prepare {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        let x = cpu.prepare(self.prepared.get_mut(copy), self.x.get(copy), [self.weight.get(copy)])?;
        std::hint::black_box(&x);
        Ok(())
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?;
        let (cols, got) = (self.weight.get(0).cols(), self.prepared.get(0));
        let mut worst = Worst::default();
        for (r, x) in self.x.get(0).chunks_exact(cols).enumerate() {
            if self.form == Form::Split {
                let got: &[bf16] = &bytemuck::cast_slice(got)[r * bf16_row(cols, SPLIT_PARTS)..][..SPLIT_PARTS * cols];
                let sums: Vec<f32> = (0..cols).map(|c| got.iter().skip(c).step_by(cols).map(|x| x.to_f32()).sum()).collect();
                worst = worst.max(exactly("sums of a split row", &sums, x));
            } else if self.form == Form::Rounded {
                let want: Vec<u16> = x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
                let got: &[u16] = bytemuck::cast_slice(got);
                worst = worst.max(exactly("rounded row", &got[r * bf16_row(cols, 1)..][..cols], &want));
            } else {
                let (want, words) = (quantize_row(x), cols.div_ceil(64) * 20);
                let row = &got[r * words..][..words];
                let (quants, rest) = row.split_at(want.q.len() / 4);
                worst = worst
                    .max(exactly("quants", bytemuck::cast_slice::<_, i8>(quants), &want.q))
                    .max(exactly("scales", bytemuck::cast_slice::<_, f32>(&rest[..want.scale.len()]), &want.scale))
                    .max(exactly("offsets", bytemuck::cast_slice::<_, i32>(&rest[want.scale.len()..]), &want.offset));
            }
        }
        Ok(worst)
    }
}

struct Embed {
    table: Weights,
    ids: Copies<u32>,
    out: Copies<f32>,
}

impl Embed {
    fn make(store: &mut Store, dtype: Dtype, rows: usize, cols: usize) -> Result<Box<dyn Job>> {
        // As many rows as ids, or all copies together would be larger than what a call reads of them.
        let table_rows = if dtype.is_int() { rows.next_multiple_of(TILE) } else { rows };
        // In any order, and each once: a row that is read again costs nothing.
        let mut ids: Vec<u32> = (0..table_rows as u32).collect();
        (0..rows).for_each(|i| ids.swap(i, i + store.below(table_rows - i)));
        ids.truncate(rows);
        let (table, ids) = (store.weights(dtype, layout(dtype), table_rows, cols)?, store.of(&ids)?);
        Ok(Box::new(Embed { table, ids, out: store.zeros(rows * cols)? }))
    }
}

impl Job for Embed {
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()> {
        cpu.embed(self.out.get_mut(copy), self.table.get(copy), self.ids.get(copy))
    }

    fn check(&mut self, cpu: &Cpu) -> Result<Worst> {
        self.run(cpu, 0)?;
        let (wide, cols) = (widen(self.table.get(0)), self.table.get(0).cols());
        let want: Vec<f32> = self.ids.get(0).iter().flat_map(|&id| &wide[id as usize * cols..][..cols]).copied().collect();
        Ok(exactly("out", self.out.get(0), &want))
    }
}
