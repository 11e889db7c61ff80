//! The contract `kernels/doge_kernels.h` as Rust sees it: generated, committed, checked for size and layout at compile time.

#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, missing_docs, clippy::all, reason = "generated")]
mod bindings;

pub use bindings::*;
