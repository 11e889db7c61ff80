use super::{expect_len, input::Prepared, kernel, rows_of, Cpu, Input, SharedMut};
use crate::{ffi, stride_bytes, Dtype, Error, Layout, Matrix, Result};

/// One linear layer of several that read the same input.
pub struct Projection<'a> {
    /// `[rows, weight.rows()]`
    pub out: &'a mut [f32],
    /// `[out_features, in_features]`
    pub weight: Matrix<'a>,
    /// `[out_features]`
    pub bias: Option<&'a [f32]>,
}

/// Bytes of weights that one chunk of work reads: enough to hide the claim of a chunk, few enough to share them evenly.
const CHUNK_BYTES: usize = 64 << 10;
/// The same of integer formats, whose tiles are read in several long streams.
const CHUNK_INT_BYTES: usize = 512 << 10;
/// Outputs of a chunk are a multiple of this, so that only the last chunk of a matrix has an odd tile.
const CHUNK_OUTPUTS: usize = 16;

impl Cpu {
    /// `out[r] = weight · x[r] (+ bias)` for each row (spec 4.2). `x` is `[rows, in_features]`, `out` `[rows, out_features]`.
    /// A row's result has the same bits whatever the number of rows. Weights of an integer format want a prepared `x`
    /// ([`Cpu::prepare`]) and [`Layout::Tiles`].
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
        let mut tasks = [const { None }; N];
        let mut chunks = 0;
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
            let rows_per_stride = if layout == Layout::Tiles { CHUNK_OUTPUTS } else { 1 };
            let stride = stride_bytes(dtype, layout, cols).unwrap_or(usize::MAX);
            let chunk_bytes = if layout == Layout::Tiles { CHUNK_INT_BYTES } else { CHUNK_BYTES };
            let wanted = chunk_bytes * rows_per_stride / stride.max(1);
            let step = wanted.min(outputs.div_ceil(2 * self.threads())).next_multiple_of(CHUNK_OUTPUTS).max(CHUNK_OUTPUTS);
            *task = Some(Task {
                out: SharedMut::new(p.out),
                weight: p.weight,
                x: SharedMut(x.for_weight(&p.weight)?.cast_mut()),
                rounded: matches!(x.prepared, Prepared::Rounded { .. }) && dtype == Dtype::Bf16,
                bias: SharedMut(p.bias.map_or(std::ptr::null_mut(), |b| b.as_ptr().cast_mut())),
                rows,
                step,
                first_chunk: chunks,
            });
            chunks += if rows == 0 { 0 } else { outputs.div_ceil(step) };
        }
        self.pool.run(chunks, |chunk, _| {
            let Some(task) = tasks.iter().flatten().rev().find(|t| t.first_chunk <= chunk) else { return };
            let begin = (chunk - task.first_chunk) * task.step;
            self.linear_chunk(task, begin, (begin + task.step).min(task.weight.rows()));
        });
        Ok(())
    }

    /// Outputs `begin..end` of one checked task.
    fn linear_chunk(&self, task: &Task<'_>, begin: usize, end: usize) {
        let (outputs, cols) = (task.weight.rows(), task.weight.cols());
        let (weight, bias) = (task.weight.bytes().as_ptr().cast(), task.bias.ptr().cast_const());
        let (out, x) = (task.out.ptr(), task.x.ptr().cast_const());
        let int = match task.weight.dtype() {
            Dtype::F32 | Dtype::Bf16 | Dtype::F16 => None,
            Dtype::Int8 => Some(0),
            Dtype::Int4 => Some(1),
        };
        // SAFETY, of all six: weight is [outputs, cols] in the layout of its kernels, x [rows, cols] in the form they read,
        // out [rows, outputs], bias [outputs] or NULL (checked); begin..end lies inside outputs and begins at a tile; chunks
        // are disjoint outputs.
        match (int, task.rows) {
            (None, 1) if task.rounded => unsafe { kernel!(self.gemv_bf16)(out, weight, x.cast(), bias, cols, begin, end) },
            (None, n_rows) if task.rounded => {
                let (x, out_stride) = (x.cast(), outputs);
                let args = ffi::DogeGemmBf16Args { out, weight, x, bias, n_rows, cols, begin, end, out_stride };
                unsafe { kernel!(self.gemm_bf16)(&args) }
            }
            (None, 1) => unsafe { kernel!(self.gemv[task.weight.dtype()])(out, weight, x.cast(), bias, cols, begin, end) },
            (None, n_rows) => {
                let (x, out_stride, x_stride) = (x.cast(), outputs, cols);
                let args = ffi::DogeGemmArgs { out, weight, x, bias, n_rows, cols, begin, end, out_stride, x_stride };
                unsafe { kernel!(self.gemm[task.weight.dtype()])(&args) }
            }
            (Some(int), 1) => unsafe { kernel!(self.gemv_int[int])(out, weight, x.cast(), bias, cols, begin, end) },
            (Some(int), n_rows) => {
                let (x, out_stride) = (x.cast(), outputs);
                let args = ffi::DogeGemmIntArgs { out, weight, x, bias, n_rows, cols, begin, end, out_stride };
                unsafe { kernel!(self.gemm_int[int])(&args) }
            }
        }
    }
}

/// A projection whose shapes are checked, ready to be shared among threads.
struct Task<'a> {
    out: SharedMut<f32>,
    weight: Matrix<'a>,
    /// Only read: rows in the form of the weight's kernels.
    x: SharedMut<u8>,
    /// x is in bf16.
    rounded: bool,
    /// Only read; NULL if there is none.
    bias: SharedMut<f32>,
    rows: usize,
    /// Outputs of a chunk.
    step: usize,
    first_chunk: usize,
}
