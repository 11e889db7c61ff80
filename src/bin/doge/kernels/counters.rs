//! What the CPU counts itself, where the system lets a process ask (`perf_event_open`, Linux).

/// Of one call, on all threads together: kernels in user mode, and whatever a thread does while it waits for another.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub cycles: f64,
    pub instructions: f64,
    pub cache_misses: f64,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use perf_event::{events::Hardware, Builder, Counter, ReadFormat};

    use super::Counts;

    /// They count the thread that makes them, and every thread that it starts from then on.
    pub struct Counters {
        cycles: Counter,
        instructions: Counter,
        cache_misses: Counter,
    }

    impl Counters {
        /// To be made before the threads of the kernels.
        pub fn new() -> io::Result<Self> {
            let counter = |event| Builder::new(event).inherit(true).read_format(ReadFormat::empty()).build();
            Ok(Counters {
                cycles: counter(Hardware::CPU_CYCLES)?,
                instructions: counter(Hardware::INSTRUCTIONS)?,
                cache_misses: counter(Hardware::CACHE_MISSES)?,
            })
        }

        /// Counts what `work` does, which is `calls` calls. `None` if the system has changed its mind.
        pub fn count<E>(&mut self, calls: usize, work: impl FnOnce() -> Result<(), E>) -> Result<Option<Counts>, E> {
            let before = self.read();
            for counter in self.all() {
                let _ = counter.enable(); // what did not count is seen in its reading
            }
            let done = work();
            for counter in self.all() {
                let _ = counter.disable();
            }
            done?;
            let (Ok(before), Ok(after)) = (before, self.read()) else { return Ok(None) };
            let per_call = |i: usize| (after[i].saturating_sub(before[i])) as f64 / calls as f64;
            let counts = Counts { cycles: per_call(0), instructions: per_call(1), cache_misses: per_call(2) };
            Ok(Some(counts).filter(|counts| counts.cycles > 0.0))
        }

        fn all(&mut self) -> [&mut Counter; 3] {
            [&mut self.cycles, &mut self.instructions, &mut self.cache_misses]
        }

        fn read(&mut self) -> io::Result<[u64; 3]> {
            let [cycles, instructions, cache_misses] = self.all();
            Ok([cycles.read()?, instructions.read()?, cache_misses.read()?])
        }
    }
}
#[cfg(target_os = "linux")]
pub use linux::Counters;

/// Elsewhere nothing is counted.
#[cfg(not(target_os = "linux"))]
pub enum Counters {}

#[cfg(not(target_os = "linux"))]
impl Counters {
    pub fn new() -> std::io::Result<Self> {
        Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
    }

    pub fn count<E>(&mut self, _: usize, _: impl FnOnce() -> Result<(), E>) -> Result<Option<Counts>, E> {
        match *self {}
    }
}
