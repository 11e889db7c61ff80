//! The roofs: what they read is checked by its exclusive or; of the peaks, which compute nothing, only what they say they did.

use doge_engine::{
    ops::{Cpu, PeakKind, Streams},
    Dtype,
};

use super::super::{
    cases::{lengths, Case, Fill, Random},
    close::{exactly, Worst},
    guarded::Guarded,
};

/// `n` words.
pub fn read_cases(lanes: usize) -> Vec<Case> {
    let around = [63, 64, 65, 511, 512, 513, 4096 + 7];
    let case = |n| Case { n, rows: 1, out: 1, fill: Fill::Uniform, offset: 0, seed: n as u64 };
    lengths(lanes).into_iter().chain(around).map(case).collect()
}

pub fn read_words(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let random = &mut Random::new(case.seed);
    let words: Vec<u64> = (0..case.n).map(|_| (random.below(1 << 32) as u64) << 32 | random.below(1 << 32) as u64).collect();
    let words = Guarded::new(&words);
    let want = words.get().iter().fold(0, |x, word| x ^ word);
    [Streams::One, Streams::Eight]
        .into_iter()
        .map(|streams| exactly("xor", &[cpu.read_words(words.get(), streams)], &[want]))
        .fold(Worst::default(), Worst::max)
}

/// `n` rounds.
pub fn peak_cases(_: usize) -> Vec<Case> {
    [0, 1, 7, 1000].map(|n| Case { n, rows: 1, out: 1, fill: Fill::Zeros, offset: 0, seed: 0 }).to_vec()
}

pub fn peak(cpu: &Cpu, _: Dtype, case: &Case) -> Worst {
    let mut worst = Worst::default();
    for kind in PeakKind::ALL {
        let (one, run) = (cpu.peak(kind, 1), cpu.peak(kind, case.n));
        if one.operations == 0 || run.instruction.is_empty() {
            worst = worst.max(Worst::failure(format!("{kind:?}: {one:?}")));
        }
        worst = worst.max(exactly("operations", &[run.operations], &[case.n as u64 * one.operations]));
    }
    worst
}
