use std::ops::Range;

use super::{expect_len, input::Form, kernel, rows_of, share, Cpu, Input, SharedMut};
use crate::{ffi, matrix_bytes, Dtype, Error, Isa, Layout, Matrix, Result};

/// One linear layer of several that read the same input.
pub struct Projection<'a> {
    /// `[rows, weight.rows()]`
    pub out: &'a mut [f32],
    /// `[out_features, in_features]`
    pub weight: Matrix<'a>,
    /// `[out_features]`
    pub bias: Option<&'a [f32]>,
}

/// Outputs of a chunk are a multiple of this: the rows of a tile, and of a cut that leaves no odd rows but at the end.
const UNIT: usize = crate::tensor::TILE;
/// Bytes of weights that are worth a chunk of their own: shorter streams would spend their time on starting up.
const CHUNK_BYTES: usize = 64 << 10;
/// The same of integer formats where many rows of x meet them: their arithmetic takes a quarter of the time.
const CHUNK_INT_BLOCK_BYTES: usize = 512 << 10;
/// And of bf16 where x is in bf16 too.
const CHUNK_BF16_BLOCK_BYTES: usize = 256 << 10;
/// Rows of a home for which weights are packed, as they are for bf16 on AMX. With one home of 256 rows for two threads instead of
/// two homes of 128, prompts of the 320M are 1.17 times as fast: packing is halved, and so is what is read of the weights.
const ROUNDED_HOME_ROWS: usize = 256;
/// Of rows in parts the kernel packs for fewer at a time.
const SPLIT_HOME_ROWS: usize = 128;

impl Cpu {
    /// `out[r] = weight · x[r] (+ bias)` for each row (spec 4.2). `x` is `[rows, in_features]`, `out` `[rows, out_features]`.
    /// A row's result has the same bits whatever the number of rows. Weights of an integer format want a prepared `x`
    /// ([`Cpu::prepare`]) and [`Layout::Tiles`].
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ops::Cpu, Dtype, Matrix};
    ///
    /// let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let weight = Matrix::new(Dtype::F32, 2, 2, &bytes).unwrap();
    /// let mut out = [0.0; 2];
    /// Cpu::detect()?.linear(&mut out, weight, &[1.0, 10.0][..], None)?;
    /// assert_eq!(out, [21.0, 43.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for a wrong length, layout or form of `x`.
    pub fn linear<'x>(&self, out: &mut [f32], weight: Matrix<'_>, x: impl Into<Input<'x>>, bias: Option<&[f32]>) -> Result<()> {
        self.projections(&mut [Projection { out, weight, bias }], x)
    }

    /// Several linear layers of the same input, as one piece of work for the threads.
    ///
    /// # Errors
    /// As [`Cpu::linear`].
    pub fn projections<'x, const N: usize>(&self, projections: &mut [Projection<'_>; N], x: impl Into<Input<'x>>) -> Result<()> {
        let x = x.into();
        let form = x.prepared.map(|prepared| prepared.form);
        if form == Some(Form::Split) && !self.kernels.splits() {
            let why = format!("was prepared for another level than {}", self.kernels.isa());
            return Err(Error::BadArgument { what: "linear: x", why });
        }
        let mut tasks = [const { None }; N];
        let (mut all_rows, mut units, mut chunk_units) = (0, 0, 1);
        for (task, p) in tasks.iter_mut().zip(projections) {
            let (outputs, cols) = (p.weight.rows(), p.weight.cols());
            let rows = rows_of("linear: x", x.x.len(), cols)?;
            expect_len("linear: out", p.out.len(), rows.saturating_mul(outputs))?;
            if let Some(bias) = p.bias {
                expect_len("linear: bias", bias.len(), outputs)?;
            }
            let (dtype, layout) = (p.weight.dtype(), p.weight.layout());
            if (layout == Layout::Tiles) != dtype.is_int() {
                let why = format!("{dtype} weights in {layout:?}");
                return Err(Error::BadArgument { what: "linear: weight", why });
            }
            let unit_bytes = matrix_bytes(dtype, layout, UNIT, cols).unwrap_or(usize::MAX).max(1);
            let form = form.filter(|form| form.is_for(dtype));
            let chunk_bytes = match rows {
                2.. if dtype.is_int() => CHUNK_INT_BLOCK_BYTES,
                2.. if form.is_some() => CHUNK_BF16_BLOCK_BYTES,
                _ => CHUNK_BYTES,
            };
            chunk_units = chunk_units.max(chunk_bytes / unit_bytes);
            let (x_rows, x_stride) = x.for_weight(&p.weight)?;
            *task = Some(Task {
                out: SharedMut::new(p.out),
                weight: p.weight,
                x: SharedMut(x_rows.cast_mut()),
                x_stride,
                form,
                bias: SharedMut(p.bias.map_or(std::ptr::null_mut(), |b| b.as_ptr().cast_mut())),
                rows,
                first_unit: units,
            });
            units += if rows == 0 { 0 } else { outputs.div_ceil(UNIT) };
            all_rows = all_rows.max(rows);
        }
        // Many rows are cut into homes, and only the outputs of each into chunks: a weight is read once for each home, but x
        // and out stay where they are.
        let homes = match form {
            Some(Form::Rounded) if self.kernels.isa() == Isa::Amx => self.homes_of(ROUNDED_HOME_ROWS, all_rows),
            Some(Form::Split) => self.homes_of(SPLIT_HOME_ROWS, all_rows),
            _ => self.homes(all_rows),
        };
        let cuts = Cuts { units, threads: self.threads() / homes, least: chunk_units };
        let chunks = cuts.count();
        self.pool.run_at_home(homes, chunks, move |home, chunk, _| {
            let cut = cuts.chunk(chunk);
            for task in tasks.iter().flatten() {
                let (first, outputs) = (task.first_unit, task.weight.rows());
                let (begin, end) = (cut.start.max(first) - first, cut.end.max(first) - first);
                if begin * UNIT < outputs && begin < end {
                    self.linear_chunk(task, share(0..task.rows, home, homes), begin * UNIT, (end * UNIT).min(outputs));
                }
            }
        });
        Ok(())
    }

    /// Outputs `begin..end` of some rows of one checked task.
    fn linear_chunk(&self, task: &Task<'_>, rows: Range<usize>, begin: usize, end: usize) {
        let (outputs, cols) = (task.weight.rows(), task.weight.cols());
        let (weight, bias) = (task.weight.bytes().as_ptr().cast(), task.bias.ptr().cast_const());
        let (out, x) = (task.out.ptr().wrapping_add(rows.start * outputs), task.x.ptr().wrapping_add(rows.start * task.x_stride));
        let int = match task.weight.dtype() {
            Dtype::F32 | Dtype::Bf16 | Dtype::F16 => None,
            Dtype::Int8 => Some(0),
            Dtype::Int4 => Some(1),
        };
        // SAFETY: weight is [outputs, cols] in the layout of its kernels, x [rows, cols] in the form they read, out [rows, outputs],
        // bias [outputs] or NULL (checked); these rows lie inside, begin..end inside outputs, and it begins at a tile; chunks are
        // disjoint outputs of disjoint rows.
        unsafe {
            match (int, rows.len()) {
                (None, 1) if task.form.is_some() => {
                    let gemv = if task.form == Some(Form::Split) { kernel!(self.gemv_split) } else { kernel!(self.gemv_bf16) };
                    gemv(out, weight, x.cast(), bias, cols, begin, end)
                }
                (None, n_rows) if task.form.is_some() => {
                    let (x, out_stride, x_stride) = (x.cast(), outputs, task.x_stride / size_of::<u16>());
                    let args = ffi::DogeGemmBf16Args { out, weight, x, bias, n_rows, cols, begin, end, out_stride, x_stride };
                    let gemm = if task.form == Some(Form::Split) { kernel!(self.gemm_split) } else { kernel!(self.gemm_bf16) };
                    gemm(&args)
                }
                (None, 1) => kernel!(self.gemv[task.weight.dtype()])(out, weight, x.cast(), bias, cols, begin, end),
                (None, n_rows) => {
                    let (x, out_stride, x_stride) = (x.cast(), outputs, cols);
                    let args = ffi::DogeGemmArgs { out, weight, x, bias, n_rows, cols, begin, end, out_stride, x_stride };
                    kernel!(self.gemm[task.weight.dtype()])(&args)
                }
                (Some(int), 1) => kernel!(self.gemv_int[int])(out, weight, x.cast(), bias, cols, begin, end),
                (Some(int), n_rows) => {
                    let (x, out_stride) = (x.cast(), outputs);
                    let args = ffi::DogeGemmIntArgs { out, weight, x, bias, n_rows, cols, begin, end, out_stride };
                    kernel!(self.gemm_int[int])(&args)
                }
            }
        }
    }
}

/// A projection whose shapes are checked, ready to be shared among threads.
struct Task<'a> {
    out: SharedMut<f32>,
    weight: Matrix<'a>,
    /// Only read: rows in the form of the weight's kernels, and the bytes from one to the next.
    x: SharedMut<u8>,
    x_stride: usize,
    /// Of x, if not f32.
    form: Option<Form>,
    /// Only read; NULL if there is none.
    bias: SharedMut<f32>,
    rows: usize,
    /// Where its outputs begin in the line of all tasks, in [`UNIT`]s.
    first_unit: usize,
}

/// A line of units cut into chunks, a round of one chunk for each thread after another: half of what is left, so that
/// streams are long, and the last rounds short, so that a slow core holds nobody up.
struct Cuts {
    units: usize,
    threads: usize,
    /// Units of the shortest chunk but the last.
    least: usize,
}

impl Cuts {
    /// The rounds: the place each begins at and the length of its chunks.
    fn rounds(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let length = move |begin: usize| {
            let share = (self.units - begin).div_ceil(self.threads);
            (begin, if share <= 2 * self.least { share } else { share / 2 })
        };
        let next = move |&(begin, length_of): &(usize, usize)| Some(begin + self.threads * length_of);
        std::iter::successors(Some(length(0)), move |round| next(round).filter(|&begin| begin < self.units).map(length))
    }

    fn count(&self) -> usize {
        self.rounds().map(|(begin, length)| (self.units - begin).div_ceil(length.max(1)).min(self.threads)).sum()
    }

    fn chunk(&self, i: usize) -> Range<usize> {
        let Some((begin, length)) = self.rounds().nth(i / self.threads) else { return 0..0 };
        let begin = begin + i % self.threads * length;
        begin.min(self.units)..(begin + length).min(self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::Cuts;

    /// Every unit in exactly one chunk, in order, none of them empty.
    #[test]
    fn cuts_cover_the_line() {
        for (threads, least) in [(1, 1), (2, 4), (3, 2), (8, 1), (16, 64)] {
            for units in 0..400 {
                let cuts = Cuts { units, threads, least };
                let mut end = 0;
                for i in 0..cuts.count() {
                    let cut = cuts.chunk(i);
                    assert!(cut.start == end && cut.end > cut.start, "{units} units, {threads} threads: chunk {i} is {cut:?}");
                    end = cut.end;
                }
                assert_eq!(end, units, "{threads} threads");
            }
        }
    }
}
