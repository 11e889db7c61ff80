use super::{expect_len, kernel, rows_of, Activations, Cpu, SharedMut};
use crate::{ffi, Dtype, Error, Matrix, Result};

/// The input of linear layers: rows of f32, and, where a weight asks for it, the same rows in the form its kernels read.
/// A slice of f32 is one for weights of a float format; for others [`Cpu::prepare`] makes it.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub(super) x: &'a [f32],
    pub(super) prepared: Prepared<'a>,
}

/// The rows once more, for kernels that do not read f32. Rows of `cols` columns.
#[derive(Clone, Copy)]
pub(super) enum Prepared<'a> {
    No,
    /// To int8 with a scale for each group of columns, for integer weights.
    Quantized {
        rows: &'a [u32],
        cols: usize,
    },
    /// To bf16, for bf16 weights.
    Rounded {
        rows: &'a [u32],
        cols: usize,
    },
    /// Into bf16 parts that add up to them, for bf16 weights.
    Split {
        rows: &'a [u32],
        cols: usize,
    },
}

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(x: &'a [f32]) -> Self {
        Input { x, prepared: Prepared::No }
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
        let (rows, cols, stride) = match self.prepared {
            Prepared::Quantized { rows, cols } if weight.dtype().is_int() => {
                (rows, cols, quantized_row_words(cols).saturating_mul(4))
            }
            Prepared::Rounded { rows, cols } if weight.dtype() == Dtype::Bf16 => (rows, cols, cols.saturating_mul(2)),
            Prepared::Split { rows, cols } if weight.dtype() == Dtype::Bf16 => (rows, cols, cols.saturating_mul(2 * SPLIT_PARTS)),
            _ if weight.dtype().is_int() => {
                let why = format!("is not quantised, which {} weights need: see Cpu::prepare", weight.dtype());
                return Err(Error::BadArgument { what: "linear: x", why });
            }
            _ => return Ok((self.x.as_ptr().cast(), weight.cols().saturating_mul(size_of::<f32>()))),
        };
        if cols != weight.cols() {
            let why = format!("was prepared in rows of {cols}, {} weights here want rows of {}", weight.dtype(), weight.cols());
            return Err(Error::BadArgument { what: "linear: x", why });
        }
        Ok((rows.as_ptr().cast(), stride))
    }
}

/// DOGE_QUANTIZED_ROW of the contract, in 4-byte words: a macro with arguments is the one thing bindgen leaves out.
const fn quantized_row_words(cols: usize) -> usize {
    cols.div_ceil(2 * ffi::DOGE_GROUP as usize) * 20
}

/// Parts of a row that is split.
pub const SPLIT_PARTS: usize = 3;

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
        rows.saturating_mul(quantized_row_words(cols).max(cols.saturating_mul(parts).div_ceil(2)))
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
        let Some(form) = self.form(scratch.len(), x, &weights)? else { return Ok(x.into()) };
        let cols = form.cols;
        // Bytes from row to row.
        let (row_kernel, stride) = match form.kind {
            Kind::Quantized => (kernel!(self.quantize_row), quantized_row_words(cols).saturating_mul(4)),
            Kind::Rounded => (kernel!(self.round_row), cols.saturating_mul(2)),
            Kind::Split => (kernel!(self.split_row), cols.saturating_mul(2 * SPLIT_PARTS)),
        };
        let out = SharedMut::new(&mut scratch[..form.words]);
        self.over_rows(form.rows, cols, |begin, end| {
            for r in begin..end {
                // SAFETY: row r of x has cols floats, row r of the scratch the bytes of such a row, aligned to 4 or to 2
                // (`form`); pieces are disjoint rows.
                unsafe { row_kernel(out.ptr().cast::<u8>().add(r * stride).cast(), x.as_ptr().add(r * cols), cols) }
            }
        });
        Ok(form.input(scratch, x))
    }

    /// What [`Cpu::prepare`] returned when it was called with this `x`, `scratch` and weights: nothing is computed again.
    ///
    /// # Errors
    /// As [`Cpu::prepare`].
    pub fn prepared<'a, const N: usize>(&self, scratch: &'a [u32], x: &'a [f32], weights: [Matrix<'_>; N]) -> Result<Input<'a>> {
        Ok(self.form(scratch.len(), x, &weights)?.map_or(x.into(), |form| form.input(scratch, x)))
    }

    /// In which form these weights want `x`, if not as it is; checks the lengths.
    fn form(&self, scratch: usize, x: &[f32], weights: &[Matrix<'_>]) -> Result<Option<Form>> {
        let Some(cols) = weights.first().map(Matrix::cols) else { return Ok(None) };
        let kind = if weights.iter().any(|weight| weight.dtype().is_int()) {
            Kind::Quantized
        } else if weights.iter().any(|weight| weight.dtype() != Dtype::Bf16) {
            return Ok(None);
        } else if self.activations() == Activations::Bf16 {
            Kind::Rounded
        } else if self.splits(Dtype::Bf16) {
            Kind::Split
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
        Ok(Some(Form { kind, rows, cols, words }))
    }
}

/// A form of x that is not f32.
struct Form {
    kind: Kind,
    rows: usize,
    cols: usize,
    /// Of scratch.
    words: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Quantized,
    Rounded,
    Split,
}

impl Form {
    fn input<'a>(&self, scratch: &'a [u32], x: &'a [f32]) -> Input<'a> {
        let (rows, cols) = (&scratch[..self.words], self.cols);
        let prepared = match self.kind {
            Kind::Quantized => Prepared::Quantized { rows, cols },
            Kind::Rounded => Prepared::Rounded { rows, cols },
            Kind::Split => Prepared::Split { rows, cols },
        };
        Input { x, prepared }
    }
}
