//! Weight matrices on a device, and linear layers over them.

use super::{
    buffer::{expect_len, padded, Buffer, Rows},
    device::Device,
    input::Input,
};
use crate::{ffi, stride_bytes, Activation, Dtype, Error, Layout, Matrix, Result};

/// A weight matrix in a device's memory: float formats with padded rows, integer formats as they are on the CPU.
#[derive(Debug)]
pub struct DeviceMatrix {
    pub(super) dtype: Dtype,
    pub(super) layout: Layout,
    rows: usize,
    cols: usize,
    /// Bytes of a row, or of a tile.
    pub(super) stride_bytes: usize,
    pub(super) bytes: Buffer<u8>,
}

/// Bytes of a row or a tile on a device.
fn device_stride(dtype: Dtype, layout: Layout, cols: usize) -> Option<usize> {
    match dtype.float() {
        Some(float) => cols.checked_next_multiple_of(ffi::DOGE_CUDA_PAD as usize)?.checked_mul(float.size()),
        None => stride_bytes(dtype, layout, cols),
    }
}

impl DeviceMatrix {
    /// Bytes that a matrix will take.
    pub(super) fn bytes(matrix: &Matrix<'_>) -> u128 {
        let stride = device_stride(matrix.dtype(), matrix.layout(), matrix.cols()).unwrap_or(usize::MAX);
        let strides = if matrix.layout() == Layout::Tiles { matrix.rows().div_ceil(16) } else { matrix.rows() };
        stride as u128 * strides as u128
    }

    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn upload(device: &Device, matrix: Matrix<'_>) -> Result<Self> {
        let (dtype, layout, rows, cols) = (matrix.dtype(), matrix.layout(), matrix.rows(), matrix.cols());
        let too_large = || Error::OutOfMemory { bytes: Self::bytes(&matrix), what: "weights on the GPU" };
        let stride_bytes = device_stride(dtype, layout, cols).ok_or_else(too_large)?;
        if u32::try_from(rows).is_err() || u32::try_from(cols).is_err() {
            return Err(too_large());
        }
        let row = dtype.float().map_or(stride_bytes, |float| cols * float.size());
        let bytes = if row == stride_bytes {
            Buffer::from_slice(device, matrix.bytes())? // straight from the map
        } else {
            let mut padded = vec![0; rows.checked_mul(stride_bytes).ok_or_else(too_large)?];
            for (to, from) in padded.chunks_exact_mut(stride_bytes).zip(matrix.bytes().chunks_exact(row.max(1))) {
                to[..row].copy_from_slice(from);
            }
            Buffer::from_slice(device, &padded)?
        };
        Ok(DeviceMatrix { dtype, layout, rows, cols, stride_bytes, bytes })
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }
}

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
struct Checked {
    projection: [ffi::DogeCudaProjection; ffi::DOGE_CUDA_PROJECTIONS as usize],
    dtype: Dtype,
    stride_bytes: usize,
    cols: usize,
}

fn check<const N: usize>(projections: &mut [Projection<'_>; N], n_rows: usize) -> Result<Checked> {
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

/// Rows that one block of threads takes together.
fn rows_at_once(n_rows: usize) -> (usize, usize) {
    if n_rows == 1 {
        (0, 1)
    } else {
        (1, 8)
    }
}

impl Device {
    /// `out[r] = weight · x[r] (+ bias)` for `n_rows` rows, of up to three layers that read the same `x`; all weights of one
    /// format. The bits of a row do not depend on the number of rows.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn linear<const N: usize>(&self, projections: &mut [Projection<'_>; N], x: &Rows, n_rows: usize) -> Result<()> {
        const { assert!(N >= 1 && N <= ffi::DOGE_CUDA_PROJECTIONS as usize) };
        let checked = check(projections, n_rows)?;
        x.expect("linear: x", n_rows, checked.cols)?;
        let (which, rows) = rows_at_once(n_rows);
        let outputs: usize = checked.projection.iter().map(|p| p.out_features as usize).sum();
        let blocks = if checked.dtype.is_int() {
            checked.projection.iter().map(|p| p.out_features.div_ceil(ffi::DOGE_TILE) as usize).sum()
        } else {
            outputs.div_ceil(4 * if rows == 1 { 2 } else { 4 }) // four warps, of two or four outputs each
        };
        let args = linear_args(&checked, x, n_rows, 0);
        let kernel = &self.table().linear[which][checked.dtype as usize];
        // SAFETY: weights, bias, x and out have the shapes that `check` and `expect` compared.
        unsafe { self.launch(kernel, [blocks, n_rows.div_ceil(rows), 1], &args) }
    }

    /// `out[r] = act(gate · x[r]) · (up · x[r])`, each with its bias (spec 4.5). `projections` are gate and up; the result
    /// goes to gate's `out`, up's is not touched.
    ///
    /// # Errors
    /// As [`Device::linear`].
    pub fn linear_gated(&self, projections: &mut [Projection<'_>; 2], x: &Rows, n_rows: usize, act: Activation) -> Result<()> {
        let checked = check(projections, n_rows)?;
        x.expect("linear_gated: x", n_rows, checked.cols)?;
        let outputs = check_gated(&checked)?;
        let (which, rows) = rows_at_once(n_rows);
        let blocks = if checked.dtype.is_int() {
            outputs.div_ceil(ffi::DOGE_TILE)
        } else {
            outputs.div_ceil(4 * if rows == 1 { 1 } else { 2 })
        };
        let args = linear_args(&checked, x, n_rows, act as u32);
        let kernel = &self.table().linear_gated[which][checked.dtype as usize];
        // SAFETY: as in `linear`; both have the same number of outputs.
        unsafe { self.launch(kernel, [blocks as usize, n_rows.div_ceil(rows), 1], &args) }
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
fn check_gated(checked: &Checked) -> Result<u32> {
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

fn linear_args(checked: &Checked, x: &Rows, n_rows: usize, act: u32) -> ffi::DogeCudaLinearArgs {
    ffi::DogeCudaLinearArgs {
        projection: checked.projection,
        x: x.buffer.ptr(),
        stride_bytes: checked.stride_bytes,
        n_rows: n_rows as u32,
        cols: checked.cols as u32,
        x_stride: x.stride() as u32,
        act,
    }
}
