//! What this machine could do at best: how fast its threads read a working set, how fast they multiply. A speed means
//! little beside the speed of another machine, and much beside these.
//!
//! Each thread works on its own, from a common start to a common end, so nobody waits for the slowest. A figure is the
//! median of several short runs after one that warms up (clocks, pages, caches). Where other processes or other guests
//! of the host share the memory, it drifts within seconds: measure just before and just after what is compared with it.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        Barrier, Mutex, PoisonError,
    },
    time::{Duration, Instant},
};

use crate::{
    mapped::HugePages,
    ops::{Cpu, PeakKind, Streams},
    Result,
};

/// Length of a run, and how many there are after the warm-up.
const RUN: Duration = Duration::from_millis(10);
const RUNS: usize = 5;
/// Bytes of the largest working set: a larger one is read no slower, for this one is far beyond any cache.
pub const LARGEST: usize = 1 << 30;
/// Bytes read between two looks at the clock, if not a little more.
const PIECE: usize = 512 << 10;
/// Rounds of a peak between two looks at the clock: some 10 µs.
const ROUNDS: usize = 2000;

/// Measures with the threads and the ISA level of a [`Cpu`].
pub struct Roof {
    cpu: Cpu,
    buffer: HugePages,
}

/// Peak arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Peak {
    /// Its name.
    pub instruction: &'static str,
    /// Of all threads together. A product and its sum are two operations.
    pub operations_per_second: f64,
}

impl Roof {
    /// With a buffer for working sets of up to `bytes` bytes, at most [`LARGEST`].
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn new(cpu: &Cpu, bytes: usize) -> Result<Self> {
        let len = bytes.clamp(PIECE, LARGEST);
        let mut buffer = HugePages::new(len, "a bandwidth probe")?;
        // Untouched pages all share one page of zeros.
        buffer.fill(0x5a);
        Ok(Roof { cpu: cpu.clone(), buffer })
    }

    /// Bytes of memory that the probe itself holds.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes a second at which all threads together read a working set of `bytes` bytes over and over, each its own share.
    pub fn read_bandwidth(&self, bytes: usize) -> f64 {
        let words: &[u64] = bytemuck::cast_slice(&self.buffer[..self.buffer.len() / 64 * 64]);
        let share = (bytes.min(self.buffer.len()) / 8 / self.cpu.threads()).clamp(8, words.len() / self.cpu.threads());
        let cursors: Vec<AtomicUsize> = (0..self.cpu.threads()).map(|_| AtomicUsize::new(0)).collect();
        let best_of = |streams| {
            self.median(|thread| {
                let mine = &words[thread * share..(thread + 1) * share];
                let at = cursors[thread].load(Relaxed);
                let piece = &mine[at..(at + PIECE / 8).min(share)];
                // A share that a cache holds is read several times, or the clock would be measured.
                let times = (PIECE / 8 / share).max(1);
                for _ in 0..times {
                    std::hint::black_box(self.cpu.read_words(std::hint::black_box(piece), streams));
                }
                cursors[thread].store(if at + piece.len() == share { 0 } else { at + piece.len() }, Relaxed);
                (times * piece.len()) as u64 * 8
            })
        };
        // Which of the two is the faster depends on the prefetchers of the machine.
        f64::max(best_of(Streams::Eight), best_of(Streams::One))
    }

    /// The peak of the level's fastest instruction for `kind`, of all threads together.
    pub fn peak(&self, kind: PeakKind) -> Peak {
        let operations_per_second = self.median(|_| self.cpu.peak(kind, ROUNDS).operations);
        Peak { instruction: self.peak_instruction(kind), operations_per_second }
    }

    /// The instruction that [`Roof::peak`] measures for `kind`.
    pub fn peak_instruction(&self, kind: PeakKind) -> &'static str {
        self.cpu.peak(kind, 0).instruction
    }

    /// Calls `work(thread)`, which tells how much it did, over and over on every thread: how much is done in a second.
    fn median(&self, work: impl Fn(usize) -> u64 + Sync) -> f64 {
        let mut rates: Vec<f64> = (0..=RUNS).map(|_| self.run(&work)).skip(1).collect();
        rates.sort_by(f64::total_cmp);
        rates[RUNS / 2]
    }

    fn run(&self, work: &(impl Fn(usize) -> u64 + Sync)) -> f64 {
        let (start_together, rate) = (Barrier::new(self.cpu.threads()), Mutex::new(0.0));
        // A chunk for each thread: as none ends before all have begun, no thread takes two.
        self.cpu.on_every_thread(|thread| {
            start_together.wait();
            let (start, mut done) = (Instant::now(), 0);
            while start.elapsed() < RUN {
                done += work(thread);
            }
            let mine = done as f64 / start.elapsed().as_secs_f64();
            *rate.lock().unwrap_or_else(PoisonError::into_inner) += mine;
        });
        rate.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Roof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roof({} bytes, {:?})", self.buffer.len(), self.cpu)
    }
}
