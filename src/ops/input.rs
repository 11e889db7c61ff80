use super::{expect_len, kernel, rows_of, Activations, Cpu, SharedMut};
use crate::{ffi, Dtype, Error, Matrix, Result};

/// The input of linear layers: rows of f32, and, where a weight asks for it, the same rows in the form its kernels read.
/// A slice of f32 is one for weights of a float format; for others [`Cpu::prepare`] makes it.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub(super) x: &'a [f32],
    pub(super) prepared: Option<Prepared<'a>>,
}

/// The rows once more, for kernels that do not read f32. Rows of `cols` columns.
#[derive(Clone, Copy)]
pub(super) struct Prepared<'a> {
    pub(super) form: Form,
    rows: &'a [u32],
    cols: usize,
}

/// A form of x that is not f32.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// To int8 with a scale for each group of columns, for integer weights.
    Quantized,
    /// To bf16, for bf16 weights.
    Rounded,
    /// Into bf16 parts that add up to them, for bf16 weights.
    Split,
}

impl Form {
    /// From row to row.
    fn row_bytes(self, cols: usize) -> usize {
        match self {
            Form::Quantized => quantized_row_words(cols).saturating_mul(4),
            Form::Rounded => bf16_row(cols, 1).saturating_mul(2),
            Form::Split => bf16_row(cols, SPLIT_PARTS).saturating_mul(2),
        }
    }

    /// Do kernels of such weights read it?
    pub(super) fn is_for(self, dtype: Dtype) -> bool {
        match self {
            Form::Quantized => dtype.is_int(),
            Form::Rounded | Form::Split => dtype == Dtype::Bf16,
        }
    }
}

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(x: &'a [f32]) -> Self {
        Input { x, prepared: None }
    }
}

impl<'a> From<&'a Vec<f32>> for Input<'a> {
    fn from(x: &'a Vec<f32>) -> Self {
        x.as_slice().into()
    }
}

impl Input<'_> {
    /// The rows as `weight`'s kernels read them, and the bytes from one to the next.
    pub(super) fn for_weight(&self, weight: &Matrix<'_>) -> Result<(*const u8, usize)> {
        let Some(Prepared { form, rows, cols }) = self.prepared.filter(|prepared| prepared.form.is_for(weight.dtype())) else {
            if weight.dtype().is_int() {
                let why = format!("is not quantised, which {} weights need: see Cpu::prepare", weight.dtype());
                return Err(Error::BadArgument { what: "linear: x", why });
            }
            return Ok((self.x.as_ptr().cast(), weight.cols().saturating_mul(size_of::<f32>())));
        };
        if cols != weight.cols() {
            let why = format!("was prepared in rows of {cols}, {} weights here want rows of {}", weight.dtype(), weight.cols());
            return Err(Error::BadArgument { what: "linear: x", why });
        }
        Ok((rows.as_ptr().cast(), form.row_bytes(cols)))
    }
}

/// DOGE_QUANTIZED_ROW of the contract, in 4-byte words: a macro with arguments is the one thing bindgen leaves out.
const fn quantized_row_words(cols: usize) -> usize {
    cols.div_ceil(2 * ffi::DOGE_GROUP as usize) * 20
}

/// Parts of a row that is split.
pub const SPLIT_PARTS: usize = 3;

/// From row to row of an input of `cols` columns that [`Cpu::prepare`] rounded to bf16 (`parts` 1) or split ([`SPLIT_PARTS`]), in
/// elements. Rows of a multiple of 512 bytes have a cache line more: else 16 of them, which a kernel reads side by side, would
/// share the few lines that a cache has for addresses so far apart. (AMX, 1024 columns: split in 1.7 times as much time.)
pub const fn bf16_row(cols: usize, parts: usize) -> usize {
    let row = cols.saturating_mul(parts);
    if row > 0 && row % 256 == 0 {
        row.saturating_add(32)
    } else {
        row
    }
}

impl Cpu {
    /// Does [`Cpu::prepare`] split the input of layers that all have such weights into [`SPLIT_PARTS`] bf16 parts?
    pub fn splits(&self, dtype: Dtype) -> bool {
        dtype == Dtype::Bf16 && self.activations() == Activations::F32 && self.kernels.splits()
    }

    /// 4-byte words of scratch that [`Cpu::prepare`] needs for `rows` rows.
    pub fn prepared_words(&self, rows: usize, cols: usize) -> usize {
        let parts = match self.activations() {
            Activations::F32 if self.kernels.splits() => SPLIT_PARTS,
            Activations::F32 => 0,
            Activations::Bf16 => 1,
        };
        rows.saturating_mul(quantized_row_words(cols).max(bf16_row(cols, parts).div_ceil(2)))
    }

    /// Makes `x`, `[rows, in_features]`, the input of linear layers with these weights, once for all of them: rows are
    /// quantised to int8 with a scale for each 32 columns, if a weight is of an integer format; if all weights are bf16, they are
    /// rounded to bf16, where [`Activations::Bf16`] was chosen, or split into bf16 parts that add up to them, where the level's
    /// kernels are fastest so ([`Cpu::splits`]). `scratch` holds [`Cpu::prepared_words`] then; otherwise it is not touched.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a wrong length or weights of different `in_features`.
    pub fn prepare<'a, const N: usize>(
        &self,
        scratch: &'a mut [u32],
        x: &'a [f32],
        weights: [Matrix<'_>; N],
    ) -> Result<Input<'a>> {
        let Some(Plan { form, rows, cols, words }) = self.plan(scratch.len(), x, &weights)? else { return Ok(x.into()) };
        let row_kernel = match form {
            Form::Quantized => kernel!(self.quantize_row),
            Form::Rounded => kernel!(self.round_row),
            Form::Split => kernel!(self.split_row),
        };
        let stride = form.row_bytes(cols);
        let out = SharedMut::new(&mut scratch[..words]);
        self.over_rows(rows, cols, |begin, end| {
            for r in begin..end {
                // SAFETY: row r of x has cols floats, row r of the scratch the bytes of such a row, aligned to 4 or to 2
                // (`plan`); pieces are disjoint rows.
                unsafe { row_kernel(out.ptr().cast::<u8>().add(r * stride).cast(), x.as_ptr().add(r * cols), cols) }
            }
        });
        Ok(Input { x, prepared: Some(Prepared { form, rows: &scratch[..words], cols }) })
    }

    /// What [`Cpu::prepare`] returned when it was called with this `x`, `scratch` and weights: nothing is computed again.
    ///
    /// # Errors
    /// As [`Cpu::prepare`].
    pub fn prepared<'a, const N: usize>(&self, scratch: &'a [u32], x: &'a [f32], weights: [Matrix<'_>; N]) -> Result<Input<'a>> {
        let plan = self.plan(scratch.len(), x, &weights)?;
        let prepared = plan.map(|Plan { form, cols, words, .. }| Prepared { form, rows: &scratch[..words], cols });
        Ok(Input { x, prepared })
    }

    /// In which form these weights want `x`, if not as it is; checks the lengths.
    fn plan(&self, scratch: usize, x: &[f32], weights: &[Matrix<'_>]) -> Result<Option<Plan>> {
        let Some(cols) = weights.first().map(Matrix::cols) else { return Ok(None) };
        let form = if weights.iter().any(|weight| weight.dtype().is_int()) {
            Form::Quantized
        } else if weights.iter().any(|weight| weight.dtype() != Dtype::Bf16) {
            return Ok(None);
        } else if self.activations() == Activations::Bf16 {
            Form::Rounded
        } else if self.splits(Dtype::Bf16) {
            Form::Split
        } else {
            return Ok(None);
        };
        for weight in weights {
            expect_len("prepare: in_features", weight.cols(), cols)?;
        }
        let (rows, words) = (rows_of("prepare: x", x.len(), cols)?, self.prepared_words(x.len() / cols.max(1), cols));
        if scratch < words {
            return Err(Error::BadArgument { what: "prepare: scratch", why: format!("holds less than {words} words") });
        }
        Ok(Some(Plan { form, rows, cols, words }))
    }
}

/// What [`Cpu::prepare`] is to make.
struct Plan {
    form: Form,
    rows: usize,
    cols: usize,
    /// Of scratch.
    words: usize,
}
