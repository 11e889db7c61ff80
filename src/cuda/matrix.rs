//! Weight matrices on a device.

use super::{buffer::Buffer, device::Device};
use crate::{ffi, stride_bytes, Dtype, Error, Layout, Matrix, Result};

/// A weight matrix in a device's memory: with padded rows, or in tiles as on the CPU.
#[derive(Debug)]
pub struct DeviceMatrix {
    pub(super) dtype: Dtype,
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Bytes of a row, or of a tile.
    pub(super) stride_bytes: usize,
    pub(super) bytes: Buffer<u8>,
}

/// Bytes of a row or a tile on a device.
fn device_stride(dtype: Dtype, layout: Layout, cols: usize) -> Option<usize> {
    let pad = ffi::DOGE_CUDA_PAD as usize;
    match (dtype.float(), layout) {
        (Some(float), _) => cols.checked_next_multiple_of(pad)?.checked_mul(float.size()),
        (None, Layout::Rows) => stride_bytes(dtype, layout, cols)?.checked_next_multiple_of(pad),
        (None, Layout::Tiles) => stride_bytes(dtype, layout, cols),
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
        let row = crate::stride_bytes(dtype, layout, cols).ok_or_else(too_large)?;
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

    /// As stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// out_features
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// in_features, without padding.
    pub fn cols(&self) -> usize {
        self.cols
    }
}
