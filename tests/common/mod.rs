//! What the kernel tests share: one table of checks, the numbers to feed them, the budgets to judge them by.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cases;
pub mod checks;
#[cfg(feature = "cuda")]
pub mod emulator;
pub mod guarded;

use std::sync::Arc;

pub use doge_engine::reference::close;
use doge_engine::{ops::Cpu, pool::Pool, Kernels};

/// One level on `threads` threads.
pub fn cpu(kernels: Kernels, threads: usize) -> Cpu {
    Cpu::new(kernels, Arc::new(Pool::new(threads).expect("a thread pool")))
}

/// Every ISA level that can run here, lowest first.
pub fn cpus(threads: usize) -> Vec<Cpu> {
    Kernels::available().map(|kernels| cpu(kernels, threads)).collect()
}
