//! What comes in through pointers: option structs of any version, strings, slices, and where results go.

use std::ffi::{c_char, CStr};

use super::status::{DogeStatus, Failure, Outcome};

/// A struct whose first field is `size_t struct_size`, and for which all zeros are the defaults.
///
/// # Safety
/// `#[repr(C)]`, begins with that field, and all zero bytes are a value.
pub(super) unsafe trait Versioned: Copy {}

/// Structs of later versions may be longer than ours; this much.
const LONGEST: usize = 4096;

/// The options at `from`, which may be of an older version of the header (shorter: the rest is default) or a newer one
/// (longer: what we do not know must be zero). NULL: all defaults.
///
/// # Safety
/// `from` is NULL, or points to `struct_size` readable bytes, the first of them `struct_size`.
pub(super) unsafe fn read<T: Versioned>(what: &str, from: *const T) -> Result<T, Failure> {
    // SAFETY: `Versioned` promises that zeros are a value.
    let mut options: T = unsafe { std::mem::zeroed() };
    if from.is_null() {
        return Ok(options);
    }
    // SAFETY: the caller's promise; the field is the first.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    let bad = |why: &str| Failure::new(DogeStatus::BadArgument, format!("{what}: struct_size is {size}, {why}"));
    if !(size_of::<usize>()..=LONGEST).contains(&size) {
        return Err(bad("which no version of the struct has; set it to sizeof"));
    }
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are readable (the caller's promise) and lie inside `options`.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut options).cast::<u8>(), known) };
    // SAFETY: `size` bytes are readable (the caller's promise).
    let unknown = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(known), size - known) };
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(bad("and asks for something that this version of the library does not know"));
    }
    Ok(options)
}

/// Stores a result in a struct of any version: as much of it as the caller's has room for.
///
/// # Safety
/// `to` is NULL, or points to `struct_size` writable bytes, the first of them `struct_size`.
pub(super) unsafe fn write<T: Versioned>(what: &str, to: *mut T, result: T) -> Outcome {
    if to.is_null() {
        return Err(Failure::null(what));
    }
    // SAFETY: the caller's promise; the field is the first.
    let size = unsafe { to.cast::<usize>().read_unaligned() };
    if !(size_of::<usize>()..=LONGEST).contains(&size) {
        let why = format!("{what}: struct_size is {size}, which no version of the struct has; set it to sizeof");
        return Err(Failure::new(DogeStatus::BadArgument, why));
    }
    let (known, first) = (size.min(size_of::<T>()), size_of::<usize>());
    // SAFETY: both hold `known` bytes at least; struct_size itself stays the caller's.
    unsafe {
        let (from, to) = ((&raw const result).cast::<u8>(), to.cast::<u8>());
        std::ptr::copy_nonoverlapping(from.add(first), to.add(first), known - first);
    }
    Ok(())
}

/// The value that a handle stands for.
///
/// # Safety
/// `handle` is NULL or valid for the time of the call.
pub(super) unsafe fn borrow<'a, T>(what: &str, handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| Failure::null(what))
}

/// A string in UTF-8; `None` for NULL.
///
/// # Safety
/// `text` is NULL or ends with a NUL, and stays unchanged for the time of the call.
pub(super) unsafe fn optional_str<'a>(what: &str, text: *const c_char) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_str();
    text.map(Some).map_err(|_| Failure::new(DogeStatus::BadArgument, format!("{what} is not UTF-8")))
}

/// `n` elements; none if `n` is 0, whatever `data` is.
///
/// # Safety
/// `data` points to `n` elements that stay unchanged for the time of the call, or is NULL, or `n` is 0.
pub(super) unsafe fn slice<'a, T>(what: &str, data: *const T, n: usize) -> Result<&'a [T], Failure> {
    check(what, data, n)?;
    // SAFETY: not NULL and of possible length (checked); the rest is the caller's promise.
    Ok(if n == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, n) } })
}

/// As [`slice`], to write to.
///
/// # Safety
/// As [`slice`], and nobody else has the elements for the time of the call.
pub(super) unsafe fn slice_mut<'a, T>(what: &str, data: *mut T, n: usize) -> Result<&'a mut [T], Failure> {
    check(what, data, n)?;
    // SAFETY: not NULL and of possible length (checked); the rest is the caller's promise.
    Ok(if n == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, n) } })
}

/// Refuses an array to write to that shares memory with one that is read meanwhile: [`slice_mut`] of the one beside [`slice`] of
/// the other would be undefined.
pub(super) fn apart<T, U>(
    (to, written, n_written): (&str, *const T, usize),
    (from, read, n_read): (&str, *const U, usize),
) -> Outcome {
    check(to, written, n_written)?;
    check(from, read, n_read)?;
    let (written_end, read_end) = (written.wrapping_add(n_written), read.wrapping_add(n_read));
    let overlap = written.addr() < read_end.addr() && read.addr() < written_end.addr();
    if n_written > 0 && n_read > 0 && overlap {
        let why = format!("{to} and {from} overlap; give each memory of its own");
        return Err(Failure::new(DogeStatus::BadArgument, why));
    }
    Ok(())
}

fn check<T>(what: &str, data: *const T, n: usize) -> Outcome {
    if n > 0 && data.is_null() {
        return Err(Failure::null(what));
    }
    let bytes = n.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    if n > 0 && (bytes.is_none() || !data.is_aligned()) {
        return Err(Failure::new(DogeStatus::BadArgument, format!("{what}: {n} elements cannot stand there")));
    }
    Ok(())
}

/// Makes `value` a handle, and stores it.
///
/// # Safety
/// `out` is NULL or writable.
pub(super) unsafe fn give<T>(out: *mut *mut T, make: impl FnOnce() -> Result<T, Failure>) -> Outcome {
    if out.is_null() {
        return Err(Failure::null("out"));
    }
    // SAFETY: not NULL; the caller's promise. First, so that it is never left unset.
    unsafe { out.write(std::ptr::null_mut()) };
    let made = Box::into_raw(Box::new(make()?));
    // SAFETY: as above.
    unsafe { out.write(made) };
    Ok(())
}

/// Drops what a handle stands for; NULL is nothing.
///
/// # Safety
/// `handle` is NULL, or was made by [`give`] and is not used again.
pub(super) unsafe fn free<T>(handle: *mut T) {
    super::status::guard_value((), || {
        if !handle.is_null() {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(handle) });
        }
    })
}

/// Copies `bytes` to a buffer of `capacity`, and stores their number.
///
/// # Safety
/// `buffer` holds `capacity` writable elements or is NULL with a capacity of 0; `n` is NULL or writable.
pub(super) unsafe fn fill<T: Copy>(bytes: &[T], buffer: *mut T, capacity: usize, n: *mut usize) -> Outcome {
    if n.is_null() {
        return Err(Failure::null("n"));
    }
    // SAFETY: not NULL; the caller's promise.
    unsafe { n.write(bytes.len()) };
    if bytes.len() > capacity {
        let why = format!("the buffer holds {capacity} elements, {} are needed", bytes.len());
        return Err(Failure::new(DogeStatus::BufferTooSmall, why));
    }
    // SAFETY: the caller's promise.
    let buffer = unsafe { slice_mut("buffer", buffer, bytes.len()) }?;
    buffer.copy_from_slice(bytes);
    Ok(())
}
