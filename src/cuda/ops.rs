//! The safe doors to the kernels that have no room of their own: shapes checked, one launch each.

use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    input::Input,
    matrix::DeviceMatrix,
};
use crate::{ffi, Activation, Result};

/// Where a sequence stands, in device memory.
pub type Place = Buffer<u32>;
/// Words of [`ffi::DogeCudaPlace`].
pub(super) const PLACE_WORDS: usize = size_of::<ffi::DogeCudaPlace>() / 4;

/// The pointer of a buffer, or none.
pub(super) fn null<T: super::buffer::Element>(buffer: Option<&Buffer<T>>) -> *const T {
    buffer.map_or(std::ptr::null(), Buffer::ptr)
}

/// The gated residual before a norm: `x = gate · x + branch`.
pub struct Residual<'a> {
    /// `[cols]`, with the padding of a row.
    pub gate: &'a Buffer<f32>,
    /// `[n, cols]`
    pub branch: &'a Rows,
}

impl Device {
    /// `out[r] = table[ids[r]]` (spec 3). Ids beyond the table are the caller's to refuse.
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for shapes that do not fit, [`crate::Error::Device`].
    pub fn embed(&self, out: &mut Rows, table: &DeviceMatrix, ids: &Buffer<u32>, n_rows: usize) -> Result<()> {
        out.expect("embed: out", n_rows, table.cols())?;
        expect_len("embed: ids", ids, n_rows)?;
        let args = ffi::DogeCudaEmbedArgs {
            out_stride: out.stride() as u32,
            out: out.buffer.ptr_mut(),
            table: table.bytes.ptr().cast(),
            ids: ids.ptr(),
            stride_bytes: table.stride_bytes,
            n_rows: n_rows as u32,
            cols: table.cols() as u32,
        };
        // SAFETY: shapes as compared above; ids are checked before they get to the device, or chosen by argmax over the vocabulary.
        unsafe { self.launch(&self.table().embed[table.dtype as usize], [n_rows, 1, 1], &args) }
    }

    /// `out = rms_norm(x)`, after `x = gate · x + branch` where there is a residual (spec 3, 4.1); also rounded, where `out`
    /// has room for that.
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for shapes that do not fit, [`crate::Error::Device`].
    pub fn rms_norm(
        &self,
        out: &mut Input,
        x: &mut Rows,
        residual: Option<Residual<'_>>,
        weight: &Buffer<f32>,
        eps: f32,
        n_rows: usize,
    ) -> Result<()> {
        let cols = x.cols();
        x.expect("rms_norm: x", n_rows, cols)?;
        out.exact.expect("rms_norm: out", n_rows, cols)?;
        expect_len("rms_norm: weight", weight, cols)?;
        let (mut gate, mut branch) = (std::ptr::null(), std::ptr::null());
        if let Some(residual) = &residual {
            expect_len("rms_norm: gate", residual.gate, cols)?;
            residual.branch.expect("rms_norm: branch", n_rows, cols)?;
            (gate, branch) = (residual.gate.ptr(), residual.branch.buffer.ptr());
        }
        let mut rounded = std::ptr::null_mut();
        if !out.rounded.is_empty() {
            expect_len("rms_norm: rounded", &out.rounded, n_rows * x.stride())?;
            rounded = out.rounded.ptr_mut();
        }
        let args = ffi::DogeCudaNormArgs {
            out: out.exact.buffer.ptr_mut(),
            rounded,
            stride: x.stride() as u32,
            x: x.buffer.ptr_mut(),
            gate,
            branch,
            weight: weight.ptr(),
            n_rows: n_rows as u32,
            cols: cols as u32,
            eps,
        };
        // SAFETY: all rows have `cols` columns and one stride, vectors `cols` elements.
        unsafe { self.launch(&self.table().rms_norm, [n_rows, 1, 1], &args) }
    }

    /// `gate = act(gate) · up` (spec 4.5).
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for shapes that do not fit, [`crate::Error::Device`].
    pub fn gated_activation(&self, gate: &mut Rows, up: &Rows, act: Activation, n_rows: usize) -> Result<()> {
        gate.expect("gated_activation: gate", n_rows, up.cols())?;
        up.expect("gated_activation: up", n_rows, up.cols())?;
        let n = n_rows * up.stride();
        let args = ffi::DogeCudaGatedArgs { gate: gate.buffer.ptr_mut(), up: up.buffer.ptr(), n, act: act as u32 };
        // SAFETY: both hold n floats.
        unsafe { self.launch(&self.table().gated_activation, [n.div_ceil(ffi::DOGE_CUDA_THREADS as usize), 1, 1], &args) }
    }
}
