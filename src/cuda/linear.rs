//! Linear layers over weight matrices on a device.

use super::{
    buffer::{expect_len, padded, Buffer, Rows},
    device::Device,
    input::Input,
    matrix::DeviceMatrix,
};
use crate::{
    ffi::{self, DogeCudaLinearArgs},
    Activation, Dtype, Error, Layout, Result,
};

const WARPS: u32 = ffi::DOGE_CUDA_THREADS / 32;

/// One linear layer of several that read the same input.
pub struct Projection<'a> {
    /// `[rows, weight.rows()]`
    pub out: &'a mut Rows,
    /// `[out_features, in_features]`
    pub weight: &'a DeviceMatrix,
    /// `[out_features]`
    pub bias: Option<&'a Buffer<f32>>,
}

/// No projection: it has no outputs.
const NONE: ffi::DogeCudaProjection = ffi::DogeCudaProjection {
    out: std::ptr::null_mut(),
    weight: std::ptr::null(),
    bias: std::ptr::null(),
    out_features: 0,
    out_stride: 0,
};

/// What the projections of one launch have in common, checked.
pub(super) struct Checked {
    pub(super) projection: [ffi::DogeCudaProjection; ffi::DOGE_CUDA_PROJECTIONS as usize],
    pub(super) dtype: Dtype,
    stride_bytes: usize,
    cols: usize,
}

pub(super) fn check<const N: usize>(projections: &mut [Projection<'_>; N], n_rows: usize) -> Result<Checked> {
    let mut checked = Checked { projection: [NONE; 3], dtype: Dtype::F32, stride_bytes: 0, cols: 0 };
    for (i, (to, p)) in checked.projection.iter_mut().zip(projections).enumerate() {
        let w = p.weight;
        if i > 0 && (w.dtype, w.cols) != (checked.dtype, checked.cols) {
            return Err(Error::BadArgument {
                what: "linear: weights",
                why: "of one call have different formats or inputs".into(),
            });
        }
        (checked.dtype, checked.stride_bytes, checked.cols) = (w.dtype, w.stride_bytes, w.cols);
        if (w.layout == Layout::Tiles) != w.dtype.is_int() {
            return Err(Error::BadArgument { what: "linear: weight", why: format!("{} weights in {:?}", w.dtype, w.layout) });
        }
        p.out.expect("linear: out", n_rows, w.rows)?;
        if let Some(bias) = p.bias {
            expect_len("linear: bias", bias, w.rows)?;
        }
        *to = ffi::DogeCudaProjection {
            out_stride: p.out.stride() as u32,
            out: p.out.buffer.ptr_mut(),
            weight: w.bytes.ptr().cast(),
            bias: p.bias.map_or(std::ptr::null(), Buffer::ptr),
            out_features: w.rows as u32,
        };
    }
    Ok(checked)
}

/// The norm before a projection.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// `[in_features]`, with the padding of a row.
    pub weight: &'a Buffer<f32>,
    /// Is added to the mean of squares.
    pub eps: f32,
}

/// Columns of a row that a projection can norm itself.
pub(super) const NORM_COLS_MAX: usize = ffi::DOGE_CUDA_NORM_COLS_MAX as usize;

impl Device {
    /// `out[r] = weight · x[r] (+ bias)` for `n_rows` rows, of up to three layers that read the same `x`; all weights of one
    /// format. The bits of a row do not depend on the number of rows.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn linear<const N: usize>(&self, projections: &mut [Projection<'_>; N], x: &Rows, n_rows: usize) -> Result<()> {
        const { assert!(N >= 1 && N <= ffi::DOGE_CUDA_PROJECTIONS as usize) };
        let checked = check(projections, n_rows)?;
        let args = linear_args(&checked, x, n_rows)?;
        // SAFETY: weights, bias, x and out have the shapes that were compared.
        unsafe { self.launch_linear(&checked, args) }
    }

    /// As [`Device::linear`] of `rms_norm(x)`, for one row.
    ///
    /// # Errors
    /// As [`Device::linear`]; [`Error::BadArgument`] for more than 2048 columns.
    pub fn linear_of_normed<const N: usize>(
        &self,
        projections: &mut [Projection<'_>; N],
        x: &Rows,
        norm: Norm<'_>,
    ) -> Result<()> {
        let checked = check(projections, 1)?;
        let args = with_norm(linear_args(&checked, x, 1)?, norm)?;
        // SAFETY: as in `linear`; the norm has a weight for each column.
        unsafe { self.launch_linear(&checked, args) }
    }

    /// `stream = gate · stream + (weight · x (+ bias))` for one row (spec 4.1). The projection's `out` is not touched.
    ///
    /// # Errors
    /// As [`Device::linear`].
    pub fn linear_to_stream(&self, projection: Projection<'_>, x: &Rows, stream: &mut Rows, gate: &Buffer<f32>) -> Result<()> {
        let cols = projection.weight.rows;
        let checked = check(&mut [projection], 1)?;
        stream.expect("linear: stream", 1, cols)?;
        expect_len("linear: residual", gate, cols)?;
        let args = linear_args(&checked, x, 1)?;
        let args = DogeCudaLinearArgs { stream: stream.buffer.ptr_mut(), residual: gate.ptr(), ..args };
        // SAFETY: as in `linear`; the stream and its gate have an element for each output.
        unsafe { self.launch_linear(&checked, args) }
    }

    /// `out[r] = act(gate · x[r]) · (up · x[r])`, each with its bias (spec 4.5). `projections` are gate and up; the result
    /// goes to gate's `out`, up's is not touched.
    ///
    /// # Errors
    /// As [`Device::linear`].
    pub fn linear_gated(&self, projections: &mut [Projection<'_>; 2], x: &Rows, n_rows: usize, act: Activation) -> Result<()> {
        let checked = check(projections, n_rows)?;
        let args = DogeCudaLinearArgs { act: act as u32, ..linear_args(&checked, x, n_rows)? };
        // SAFETY: as in `linear`.
        unsafe { self.launch_gated(&checked, args) }
    }

    /// As [`Device::linear_gated`] of `rms_norm(x)`, for one row.
    ///
    /// # Errors
    /// As [`Device::linear_of_normed`].
    pub fn linear_gated_of_normed(
        &self,
        projections: &mut [Projection<'_>; 2],
        x: &Rows,
        norm: Norm<'_>,
        act: Activation,
    ) -> Result<()> {
        let checked = check(projections, 1)?;
        let args = DogeCudaLinearArgs { act: act as u32, ..linear_args(&checked, x, 1)? };
        let args = with_norm(args, norm)?;
        // SAFETY: as in `linear`; the norm has a weight for each column.
        unsafe { self.launch_gated(&checked, args) }
    }

    /// # Safety
    /// What `args` points to has the shapes in `checked` and in `args`.
    unsafe fn launch_linear(&self, checked: &Checked, args: DogeCudaLinearArgs) -> Result<()> {
        let (which, rows) = rows_at_once(args.n_rows);
        let outputs = checked.projection.iter().map(|p| p.out_features);
        let blocks = match checked.dtype.is_int() {
            true => outputs.map(|n| n.div_ceil(ffi::DOGE_TILE)).sum::<u32>(),
            false => outputs.sum::<u32>().div_ceil(WARPS * if rows == 1 { 2 } else { 4 }), // so many outputs a warp
        };
        let kernel = &self.table().linear[which][checked.dtype as usize];
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, [blocks as usize, args.n_rows.div_ceil(rows) as usize, 1], &args) }
    }

    /// # Safety
    /// As of `launch_linear`.
    unsafe fn launch_gated(&self, checked: &Checked, args: DogeCudaLinearArgs) -> Result<()> {
        let (which, rows) = rows_at_once(args.n_rows);
        let outputs = check_gated(checked)?;
        let blocks = if checked.dtype.is_int() { outputs.div_ceil(ffi::DOGE_TILE) } else { outputs.div_ceil(WARPS * 2) };
        let kernel = &self.table().linear_gated[which][checked.dtype as usize];
        // SAFETY: the caller's promise; both have the same number of outputs.
        unsafe { self.launch(kernel, [blocks as usize, args.n_rows.div_ceil(rows) as usize, 1], &args) }
    }

    /// As [`Device::linear`], on tensor cores: bf16 weights, and `x` as it was rounded.
    ///
    /// # Errors
    /// As [`Device::linear`]; [`Error::BadArgument`] for weights of another format, or an `x` without room to be rounded.
    pub fn gemm_bf16<const N: usize>(&self, projections: &mut [Projection<'_>; N], x: &Input, n_rows: usize) -> Result<()> {
        let checked = check(projections, n_rows)?;
        let args = gemm_args(&checked, x, n_rows)?;
        let tiles = checked.projection.iter().map(|p| p.out_features.div_ceil(ffi::DOGE_CUDA_GEMM_TILE) as usize).sum();
        // SAFETY: as in `linear`; rows of x and of the weights are padded with zeros to `cols`.
        unsafe { self.launch(&self.table().gemm_bf16_tensor, [tiles, gemm_blocks(n_rows), 1], &args) }
    }

    /// As [`Device::linear_gated`], on tensor cores: the result goes to `gated`, rounded to bf16, with the padding of gate's
    /// `out`. No `out` is touched.
    ///
    /// # Errors
    /// As [`Device::gemm_bf16`].
    pub fn gemm_gated_bf16(
        &self,
        gated: &mut Buffer<u16>,
        projections: &mut [Projection<'_>; 2],
        x: &Input,
        n_rows: usize,
        act: Activation,
    ) -> Result<()> {
        let checked = check(projections, n_rows)?;
        let outputs = check_gated(&checked)?;
        expect_len("gemm_gated_bf16: gated", gated, n_rows * checked.projection[0].out_stride as usize)?;
        let args = ffi::DogeCudaGemmArgs { gated: gated.ptr_mut(), act: act as u32, ..gemm_args(&checked, x, n_rows)? };
        let tiles = outputs.div_ceil(ffi::DOGE_CUDA_GEMM_TILE / 2) as usize;
        // SAFETY: as in `gemm_bf16`; both have the same number of outputs, and `gated` is as large as gate's `out` must be.
        unsafe { self.launch(&self.table().gemm_gated_bf16_tensor, [tiles, gemm_blocks(n_rows), 1], &args) }
    }
}

/// Outputs of gate and up, which must have the same number of them.
pub(super) fn check_gated(checked: &Checked) -> Result<u32> {
    let [gate, up, _] = &checked.projection;
    if gate.out_features != up.out_features {
        return Err(Error::BadArgument { what: "linear_gated", why: "gate and up have different sizes".into() });
    }
    Ok(gate.out_features)
}

/// Blocks of threads that share the rows on tensor cores.
fn gemm_blocks(n_rows: usize) -> usize {
    n_rows.div_ceil(ffi::DOGE_CUDA_GEMM_TILE as usize)
}

fn gemm_args(checked: &Checked, x: &Input, n_rows: usize) -> Result<ffi::DogeCudaGemmArgs> {
    x.exact.expect("gemm_bf16: x", n_rows, checked.cols)?;
    expect_len("gemm_bf16: x rounded", &x.rounded, n_rows * x.exact.stride())?;
    if checked.dtype != Dtype::Bf16 {
        return Err(Error::BadArgument { what: "gemm_bf16: weight", why: format!("is {}, not bf16", checked.dtype) });
    }
    Ok(ffi::DogeCudaGemmArgs {
        projection: checked.projection,
        x: x.rounded.ptr(),
        gated: std::ptr::null_mut(),
        stride_bytes: checked.stride_bytes,
        n_rows: n_rows as u32,
        cols: padded(checked.cols) as u32,
        x_stride: x.exact.stride() as u32,
        act: 0,
    })
}

pub(super) fn linear_args(checked: &Checked, x: &Rows, n_rows: usize) -> Result<DogeCudaLinearArgs> {
    x.expect("linear: x", n_rows, checked.cols)?;
    Ok(DogeCudaLinearArgs {
        projection: checked.projection,
        x: x.buffer.ptr(),
        norm: std::ptr::null(),
        stream: std::ptr::null_mut(),
        residual: std::ptr::null(),
        stride_bytes: checked.stride_bytes,
        n_rows: n_rows as u32,
        cols: checked.cols as u32,
        x_stride: x.stride() as u32,
        act: 0,
        eps: 0.0,
    })
}

pub(super) fn with_norm(args: DogeCudaLinearArgs, norm: Norm<'_>) -> Result<DogeCudaLinearArgs> {
    if args.cols as usize > NORM_COLS_MAX {
        let why = format!("{} columns, where a projection can norm {NORM_COLS_MAX}", args.cols);
        return Err(Error::BadArgument { what: "linear: norm", why });
    }
    expect_len("linear: norm", norm.weight, padded(args.cols as usize))?;
    Ok(DogeCudaLinearArgs { norm: norm.weight.ptr(), eps: norm.eps, ..args })
}

/// Which kernel takes so many rows, and how many of them a block of threads takes together.
fn rows_at_once(n_rows: u32) -> (usize, u32) {
    if n_rows == 1 {
        (0, 1)
    } else {
        (1, 8)
    }
}
