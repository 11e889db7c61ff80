//! int8 and int4 weights: made of floats at load, or written to a file that maps straight in.
//!
//! A scale belongs to 32 weights of a row and is chosen by the squared error, not by the maximum alone. What is quantised is
//! what the table of tensors holds in its stored format: projections, embedding, head, experts. Norms, gates, biases, A, dt_proj
//! and the router stay f32.

mod file;
mod group;
#[allow(clippy::indexing_slicing, reason = "groups of a stride that was measured for them")]
mod pack;

pub(crate) use file::Packed;
pub use file::{write, UNFINISHED};

use crate::{
    model::convert::{in_parallel, widen, zeroed},
    stride_bytes,
    tensor::TILE,
    Dtype, Error, Float, Layout, Result,
};

/// Weights that one thread should have at least.
const WEIGHTS_PER_THREAD: usize = 1 << 16;

/// A `[rows, cols]` matrix of floats in an integer format, on as many threads as pay.
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// use doge_engine::{ops::Cpu, quantize, Dtype, Float, Layout, Matrix};
///
/// let ones: Vec<u8> = [1.0f32; 16 * 32].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let bytes = quantize::matrix("ones", Float::F32, &ones, [16, 32], Dtype::Int8, Layout::Tiles)?;
/// let weight = Matrix::with_layout(Dtype::Int8, Layout::Tiles, 16, 32, &bytes).unwrap();
///
/// let (cpu, x, mut out) = (Cpu::detect()?, [0.5; 32], [0.0; 16]);
/// let mut scratch = vec![0; cpu.prepared_words(1, 32)];
/// let x = cpu.prepare(&mut scratch, &x, [weight])?; // what integer weights are multiplied with
/// cpu.linear(&mut out, weight, x, None)?;
/// assert!(out.iter().all(|out| (out - 16.0).abs() < 0.1));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::BadArgument`] if `bytes` is not that matrix or `dtype` no integer format, [`Error::NonFiniteValue`],
/// [`Error::OutOfMemory`].
pub fn matrix(name: &str, from: Float, bytes: &[u8], [rows, cols]: [usize; 2], dtype: Dtype, layout: Layout) -> Result<Vec<u8>> {
    let bad = |why: &str| Error::BadArgument { what: "quantize", why: format!("tensor '{name}': {why}") };
    if !dtype.is_int() {
        return Err(bad("the format is not int8 or int4"));
    }
    if rows.checked_mul(cols).and_then(|n| n.checked_mul(from.size())) != Some(bytes.len()) {
        return Err(bad("its bytes do not fill its shape"));
    }
    let stride = stride_bytes(dtype, layout, cols).ok_or_else(|| bad("is too large"))?;
    let stride_rows = if layout == Layout::Tiles { TILE } else { 1 };
    let strides = rows.div_ceil(stride_rows);
    let mut out = zeroed(strides.checked_mul(stride).ok_or_else(|| bad("is too large"))?)?;
    if out.is_empty() {
        return Ok(out);
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let per_thread = strides.div_ceil(threads.min(rows * cols / WEIGHTS_PER_THREAD).max(1));
    let row_bytes = cols * from.size();

    let work = |bytes: &[u8], out: &mut [u8]| -> Result<(), f32> {
        let mut x = vec![0.0; stride_rows * cols];
        for (bytes, out) in bytes.chunks(stride_rows * row_bytes).zip(out.chunks_mut(stride)) {
            let x = x.get_mut(..bytes.len() / from.size()).unwrap_or_default();
            widen(from, bytes, x);
            pack::stride(dtype, layout, x, cols, out)?;
        }
        Ok(())
    };
    let parts = bytes.chunks(per_thread * stride_rows * row_bytes).zip(out.chunks_mut(per_thread * stride));
    in_parallel(parts.map(|(bytes, out)| move || work(bytes, out)))
        .map_err(|x| Error::NonFiniteValue { place: format!("tensor '{name}' ({x}), which cannot be quantised") })?;
    Ok(out)
}

/// Are all scales of a packed matrix finite? `bytes` has the length [`crate::matrix_bytes`] says.
pub(crate) fn is_finite(dtype: Dtype, layout: Layout, cols: usize, bytes: &[u8]) -> bool {
    match stride_bytes(dtype, layout, cols) {
        None | Some(0) => true,
        Some(stride) => bytes.chunks_exact(stride).all(|bytes| pack::stride_is_finite(dtype, layout, cols, bytes)),
    }
}
