//! Versions, and the kernels on their own.

use std::{ffi::c_char, ptr::null, str::FromStr};

use super::{
    options::optional_str,
    status::{guard, DogeStatus, Failure},
};
use crate::{ffi::DogeKernelTable, Isa, Kernels};

/// Version of this interface: raised when something that exists changes its meaning or goes. What is only added raises nothing.
pub const DOGE_ENGINE_ABI_VERSION: u32 = 1;

/// DOGE_ENGINE_ABI_VERSION of the library; a program compares it with its header's. From any thread.
#[no_mangle]
pub extern "C" fn doge_abi_version() -> u32 {
    DOGE_ENGINE_ABI_VERSION
}

/// The library's version, such as "0.1.0". Never NULL, always valid. From any thread.
#[no_mangle]
pub extern "C" fn doge_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The kernels of one ISA level ("scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "amx"), or of the best that this CPU has
/// if `isa` is NULL: a table of functions on plain pointers that needs no model; doge_kernels.h describes each. `*out` is a
/// constant of the library: never freed, for any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_kernels(isa: *const c_char, out: *mut *const DogeKernelTable) -> DogeStatus {
    guard(|| {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: not NULL; valid (header).
        unsafe { out.write(null()) };
        // SAFETY: a string (header).
        let isa = unsafe { optional_str("isa", isa) }?;
        let kernels = match isa {
            Some(word) => Kernels::for_isa(Isa::from_str(word)?)?,
            None => Kernels::detect()?,
        };
        // SAFETY: as above.
        unsafe { out.write(kernels.table()) };
        Ok(())
    })
}
