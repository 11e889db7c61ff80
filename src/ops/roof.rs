use std::ffi::CStr;

use super::{kernel, Activations, Cpu};
use crate::{ffi, Dtype};

/// What is multiplied with what. The discriminants are the contract's `DogePeakKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum PeakKind {
    /// f32 with f32.
    F32 = ffi::DOGE_PEAK_F32,
    /// bf16 with bf16.
    Bf16 = ffi::DOGE_PEAK_BF16,
    /// Unsigned with signed bytes.
    Int8 = ffi::DOGE_PEAK_INT8,
}

impl PeakKind {
    /// Every kind, in the contract's order.
    pub const ALL: [PeakKind; ffi::DOGE_PEAK_COUNT as usize] = [PeakKind::F32, PeakKind::Bf16, PeakKind::Int8];
}

/// How many runs of its words [`Cpu::read_words`] reads side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Streams {
    /// One after another.
    One = 1,
    /// Eight at a time, as a kernel that reads several rows does.
    Eight = 8,
}

/// One call of [`Cpu::peak`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeakRun {
    /// What ran: the level's best for the kind.
    pub instruction: &'static str,
    /// A product and its sum are two.
    pub operations: u64,
}

impl Cpu {
    /// The exclusive or of all words, by a loop that does nothing but read. On the calling thread.
    pub fn read_words(&self, words: &[u64], streams: Streams) -> u64 {
        // SAFETY: words holds words.len() words.
        unsafe { kernel!(self.read_words)(words.as_ptr(), words.len(), streams as usize) }
    }

    /// `rounds` rounds of the level's fastest instruction for `kind`, all in registers. On the calling thread.
    pub fn peak(&self, kind: PeakKind, rounds: usize) -> PeakRun {
        let mut run = ffi::DogePeak { instruction: std::ptr::null(), operations: 0, result: 0 };
        // SAFETY: `run` is the kernel's to fill in.
        unsafe { kernel!(self.peak)(&mut run, kind as u32, rounds) };
        std::hint::black_box(run.result);
        // SAFETY: the kernel named a string constant of its archive (contract), which is ASCII.
        let instruction = unsafe { CStr::from_ptr(run.instruction) }.to_str().unwrap_or("unnamed");
        PeakRun { instruction, operations: run.operations }
    }

    /// What a matrix product with weights of this format multiplies, unless its input is split ([`Cpu::splits`]).
    pub fn peak_kind(&self, dtype: Dtype) -> PeakKind {
        match dtype {
            Dtype::Bf16 if self.activations == Activations::Bf16 => PeakKind::Bf16,
            Dtype::F32 | Dtype::Bf16 | Dtype::F16 => PeakKind::F32, // widened
            Dtype::Int8 | Dtype::Int4 => PeakKind::Int8,
        }
    }
}
