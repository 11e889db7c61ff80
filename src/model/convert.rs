//! Weights between the three float formats, and the search for values that no model can use.

use std::sync::{
    atomic::{AtomicUsize, Ordering::Relaxed},
    Mutex, PoisonError,
};

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{Error, Float, Result};

#[cfg(target_endian = "big")]
compile_error!("safetensors are little-endian and kernels read them in place");

/// Elements converted at a time, through buffers on the stack: the source may stand at any address.
const CHUNK: usize = 1024;
/// Below this many bytes a thread costs more than it saves.
const BYTES_PER_THREAD: usize = 4 << 20;

/// Widens elements.
pub(crate) fn widen(from: Float, bytes: &[u8], out: &mut [f32]) {
    match from {
        Float::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
        Float::Bf16 => {
            let mut half = [bf16::ZERO; CHUNK];
            for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
                let half = &mut half[..out.len()];
                bytemuck::cast_slice_mut::<bf16, u8>(half).copy_from_slice(bytes);
                half.convert_to_f32_slice(out);
            }
        }
        Float::F16 => {
            let mut half = [f16::ZERO; CHUNK];
            for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
                let half = &mut half[..out.len()];
                bytemuck::cast_slice_mut::<f16, u8>(half).copy_from_slice(bytes);
                half.convert_to_f32_slice(out);
            }
        }
    }
}

/// Narrows up to [`CHUNK`] elements, to the nearest, ties to even. The first value that is finite and has no finite
/// neighbour in the format is an error.
fn narrow(to: Float, x: &[f32], out: &mut [u8]) -> Result<(), f32> {
    match to {
        Float::F32 => out.copy_from_slice(bytemuck::cast_slice(x)),
        Float::Bf16 => {
            let mut half = [bf16::ZERO; CHUNK];
            let half = &mut half[..x.len()];
            half.convert_from_f32_slice(x);
            overflow(x, half.iter().map(|h| h.is_infinite()))?;
            out.copy_from_slice(bytemuck::cast_slice(half));
        }
        Float::F16 => {
            let mut half = [f16::ZERO; CHUNK];
            let half = &mut half[..x.len()];
            half.convert_from_f32_slice(x);
            overflow(x, half.iter().map(|h| h.is_infinite()))?;
            out.copy_from_slice(bytemuck::cast_slice(half));
        }
    }
    Ok(())
}

fn overflow(x: &[f32], infinite: impl Iterator<Item = bool> + Clone) -> Result<(), f32> {
    // Without branches first: infinities are as rare as they are fatal.
    if !infinite.clone().fold(false, |any, infinite| any | infinite) {
        return Ok(());
    }
    match x.iter().zip(infinite).find(|(x, infinite)| *infinite && x.is_finite()) {
        Some((x, _)) => Err(*x),
        None => Ok(()),
    }
}

/// `bytes` of format `from` as format `to`, on as many threads as pay.
///
/// # Errors
/// [`Error::BadTensor`] if a value does not fit `to`, [`Error::OutOfMemory`].
pub(crate) fn convert(name: &str, from: Float, bytes: &[u8], to: Float) -> Result<Vec<u8>> {
    let len = bytes.len() / from.size() * to.size();
    let mut out = zeroed(len)?;
    let per_thread = elements_per_thread(bytes.len() / from.size(), bytes.len());
    let parts = bytes.chunks(per_thread * from.size()).zip(out.chunks_mut(per_thread * to.size()));
    let work = |bytes: &[u8], out: &mut [u8]| -> Result<(), f32> {
        let mut x = [0.0; CHUNK];
        for (bytes, out) in bytes.chunks(CHUNK * from.size()).zip(out.chunks_mut(CHUNK * to.size())) {
            let x = &mut x[..bytes.len() / from.size()];
            widen(from, bytes, x);
            narrow(to, x, out)?;
        }
        Ok(())
    };
    in_parallel(parts.map(|(bytes, out)| move || work(bytes, out))).map_err(|x| Error::BadTensor {
        name: name.to_string(),
        why: format!("{x} does not fit {to}; choose another --dtype"),
    })?;
    Ok(out)
}

/// A tensor made by `block(i, x)`, which fills the i-th [`CHUNK`] numbers, on as many threads as pay.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn generate(name: &str, to: Float, len: usize, block: impl Fn(usize, &mut [f32]) + Sync) -> Result<Vec<u8>> {
    let bytes = len.checked_mul(to.size()).ok_or_else(|| out_of_memory(usize::MAX))?;
    let mut out = zeroed(bytes)?;
    let per_thread = elements_per_thread(len, bytes);
    let work = |first: usize, out: &mut [u8]| -> Result<(), f32> {
        let mut x = [0.0; CHUNK];
        for (i, out) in out.chunks_mut(CHUNK * to.size()).enumerate() {
            let x = &mut x[..out.len() / to.size()];
            block(first + i, x);
            narrow(to, x, out)?;
        }
        Ok(())
    };
    let work = &work;
    let parts = out.chunks_mut(per_thread * to.size()).enumerate();
    in_parallel(parts.map(|(i, out)| move || work(i * (per_thread / CHUNK), out))).map_err(|x| does_not_fit(name, x, to))?;
    Ok(out)
}

/// A tensor as f32.
pub(crate) fn to_f32(from: Float, bytes: &[u8]) -> Result<Vec<f32>> {
    let len = bytes.len() / from.size();
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| out_of_memory(len * 4))?;
    out.resize(len, 0.0);
    widen(from, bytes, &mut out);
    Ok(out)
}

/// Index of the first NaN or infinity.
pub(crate) fn first_non_finite(dtype: Float, bytes: &[u8]) -> Option<usize> {
    let per_thread = elements_per_thread(bytes.len() / dtype.size(), bytes.len());
    let work = |first: usize, bytes: &[u8]| -> Result<(), usize> {
        for (i, chunk) in bytes.chunks(CHUNK * dtype.size()).enumerate() {
            // A whole chunk first, without branches: a checkpoint of a gigabyte passes here.
            if !chunk_is_finite(dtype, chunk) {
                let one = |x: &[u8]| !chunk_is_finite(dtype, x);
                let at = chunk.chunks_exact(dtype.size()).position(one).unwrap_or(0);
                return Err(first + i * CHUNK + at);
            }
        }
        Ok(())
    };
    let parts = bytes.chunks(per_thread * dtype.size()).enumerate();
    in_parallel(parts.map(|(i, bytes)| move || work(i * per_thread, bytes))).err()
}

/// No exponent is all ones.
fn chunk_is_finite(dtype: Float, bytes: &[u8]) -> bool {
    let halves = |mask: u16| !bytes.chunks_exact(2).fold(false, |bad, b| bad | (u16::from_le_bytes([b[0], b[1]]) & mask == mask));
    match dtype {
        Float::F32 => {
            const MASK: u32 = 0x7f80_0000;
            let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            !bytes.chunks_exact(4).fold(false, |bad, b| bad | (word(b) & MASK == MASK))
        }
        Float::Bf16 => halves(0x7f80),
        Float::F16 => halves(0x7c00),
    }
}

/// Zeroed bytes, or the named error instead of an abort.
pub(crate) fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| out_of_memory(len))?;
    out.resize(len, 0);
    Ok(out)
}

fn does_not_fit(name: &str, x: f32, to: Float) -> Error {
    Error::BadTensor { name: name.to_string(), why: format!("{x} does not fit {to}; choose another --dtype") }
}

fn out_of_memory(bytes: usize) -> Error {
    Error::OutOfMemory { bytes: bytes as u128, what: "weights" }
}

/// A multiple of [`CHUNK`], at least 1.
fn elements_per_thread(elements: usize, bytes: usize) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(bytes / BYTES_PER_THREAD).max(1);
    elements.div_ceil(threads).next_multiple_of(CHUNK).max(CHUNK)
}

/// Runs the jobs side by side, on as many threads as the system lends, which end here. The first error in order.
pub(crate) fn in_parallel<E: Send>(jobs: impl ExactSizeIterator<Item = impl FnOnce() -> Result<(), E> + Send>) -> Result<(), E> {
    let jobs: Vec<_> = jobs.map(|job| Mutex::new(Some(job))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut errors = Vec::new();
        loop {
            let i = next.fetch_add(1, Relaxed);
            let Some(job) = jobs.get(i) else { return errors };
            let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
            errors.extend(job.and_then(|job| job().err()).map(|error| (i, error)));
        }
    };
    let errors = std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..jobs.len()).map_while(spawn).collect();
        let mut errors = work();
        for other in others {
            errors.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        errors
    });
    errors.into_iter().min_by_key(|(i, _)| *i).map_or(Ok(()), |(_, error)| Err(error))
}
