//! Memory of a device.

use bytemuck::Pod;
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, ValidAsZeroBits};

use super::{
    device::{failed, Device},
    DOGE_CUDA_PAD,
};
use crate::{Error, Result};

/// What device memory may hold: plain numbers.
pub trait Element: Pod + DeviceRepr + ValidAsZeroBits {}
impl<T: Pod + DeviceRepr + ValidAsZeroBits> Element for T {}

/// `len` elements in a device's memory.
pub struct Buffer<T: Element> {
    device: Device,
    slice: CudaSlice<T>,
    len: usize,
}

impl<T: Element> Buffer<T> {
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn zeros(device: &Device, len: usize) -> Result<Self> {
        // The driver has no empty allocations.
        let slice = device.stream().alloc_zeros(len.max(1)).map_err(|error| {
            let bytes = len as u128 * size_of::<T>() as u128;
            match failed("allocating")(error) {
                Error::OutOfMemory { .. } => Error::OutOfMemory { bytes, what: "a buffer on the GPU" },
                other => other,
            }
        })?;
        Ok(Buffer { device: device.clone(), slice, len })
    }

    /// # Errors
    /// As [`Buffer::zeros`].
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Self> {
        let mut buffer = Self::zeros(device, values.len())?;
        buffer.write(0, values)?;
        device.synchronize()?; // the values may be a temporary's
        Ok(buffer)
    }

    /// In elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Has it no elements?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Overwrites elements from `begin` on. The driver may look at `values` until somebody waits for the device: that it is done
    /// with pageable memory when it returns holds on most systems, and is promised for none. So the values must stay that long.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if they do not fit, [`Error::Device`].
    pub fn write(&mut self, begin: usize, values: &[T]) -> Result<()> {
        let range = self.range(begin, values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        self.device.stream().memcpy_htod(values, &mut self.slice.slice_mut(range)).map_err(failed("copying to the GPU"))
    }

    /// Elements from `begin` on, when everything before is done.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if there are not so many, [`Error::Device`].
    pub fn read(&self, begin: usize, values: &mut [T]) -> Result<()> {
        let range = self.range(begin, values.len())?;
        if !values.is_empty() {
            self.device.stream().memcpy_dtoh(&self.slice.slice(range), values).map_err(failed("copying from the GPU"))?;
        }
        self.device.synchronize()
    }

    /// All of it.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.read(0, &mut values)?;
        Ok(values)
    }

    /// Copies `len` elements of `from`, which begin at `from_begin`, to `begin`.
    pub(super) fn copy(&mut self, begin: usize, from: &Buffer<T>, from_begin: usize, len: usize) -> Result<()> {
        let (to, from_range) = (self.range(begin, len)?, from.range(from_begin, len)?);
        if len == 0 {
            return Ok(());
        }
        let copied = self.device.stream().memcpy_dtod(&from.slice.slice(from_range), &mut self.slice.slice_mut(to));
        copied.map_err(failed("copying on the GPU"))
    }

    fn range(&self, begin: usize, len: usize) -> Result<std::ops::Range<usize>> {
        let end = begin.checked_add(len).filter(|&end| end <= self.len);
        let why = || format!("{len} elements from {begin} on, where there are {}", self.len);
        end.map(|end| begin..end).ok_or_else(|| Error::BadArgument { what: "a buffer on the GPU", why: why() })
    }

    /// For kernels that read it.
    pub(super) fn ptr(&self) -> *const T {
        self.slice.device_ptr(self.device.stream()).0 as *const T
    }

    /// For kernels that write to it.
    pub(super) fn ptr_mut(&mut self) -> *mut T {
        self.slice.device_ptr_mut(&self.device.stream().clone()).0 as *mut T
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} on {:?})", self.len, self.device)
    }
}

/// A row's length in memory: padded, so that kernels read it in whole pieces of 32 bytes.
pub(super) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(DOGE_CUDA_PAD as usize)
}

/// Rows of activations, `[rows, cols]` f32, each padded with zeros.
#[derive(Debug)]
pub struct Rows {
    pub(super) buffer: Buffer<f32>,
    rows: usize,
    cols: usize,
}

impl Rows {
    /// Rows of zeros.
    ///
    /// # Errors
    /// As [`Buffer::zeros`]; [`Error::OutOfMemory`] for sizes beyond reason.
    pub fn zeros(device: &Device, rows: usize, cols: usize) -> Result<Self> {
        let len = rows.checked_mul(padded(cols)).filter(|&len| u32::try_from(len).is_ok());
        let too_many = || Error::OutOfMemory { bytes: 4 * rows as u128 * cols as u128, what: "activations on the GPU" };
        Ok(Rows { buffer: Buffer::zeros(device, len.ok_or_else(too_many)?)?, rows, cols })
    }

    /// `values` is `[rows, cols]`, not padded.
    ///
    /// # Errors
    /// As [`Rows::zeros`]; [`Error::BadArgument`] if `values` are no whole rows.
    pub fn from_slice(device: &Device, cols: usize, values: &[f32]) -> Result<Self> {
        let rows = values.len().checked_div(cols).unwrap_or(0);
        if rows * cols != values.len() {
            return Err(Error::BadArgument { what: "rows", why: format!("{} numbers are no rows of {cols}", values.len()) });
        }
        let mut to = Rows::zeros(device, rows, cols)?;
        let mut all = vec![0.0; rows * to.stride()];
        for (to, from) in all.chunks_exact_mut(padded(cols).max(1)).zip(values.chunks_exact(cols.max(1))) {
            to[..cols].copy_from_slice(from);
        }
        to.buffer.write(0, &all)?;
        device.synchronize()?; // `all` goes
        Ok(to)
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Floats of a row, without its padding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Floats from one row to the next.
    pub fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// The first `rows` rows without their padding.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if there are not so many, [`Error::Device`].
    pub fn read(&self, rows: usize) -> Result<Vec<f32>> {
        let stride = self.stride().max(1);
        let mut all = vec![0.0; rows * self.stride()];
        self.buffer.read(0, &mut all)?;
        Ok(all.chunks_exact(stride).flat_map(|row| &row[..self.cols]).copied().collect())
    }

    /// An error unless there are `rows` rows of `cols`.
    pub(super) fn expect(&self, what: &'static str, rows: usize, cols: usize) -> Result<()> {
        if self.rows >= rows && self.cols == cols {
            return Ok(());
        }
        Err(Error::BadArgument { what, why: format!("is [{}, {}] where [{rows}, {cols}] is needed", self.rows, self.cols) })
    }
}

/// An error unless a buffer has `len` elements.
pub(super) fn expect_len<T: Element>(what: &'static str, buffer: &Buffer<T>, len: usize) -> Result<()> {
    if buffer.len() >= len {
        return Ok(());
    }
    Err(Error::BadArgument { what, why: format!("has {} elements where {len} are needed", buffer.len()) })
}
