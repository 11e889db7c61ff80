//! What a row is held against: how fast the level that holds its data can be read, how fast its instruction multiplies.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use doge_engine::{
    ops::{Cpu, PeakKind},
    pool::Pool,
    roof::{Roof, LARGEST},
    Result,
};

use crate::host;

/// A measurement this young still tells about now: a row's last one is the next row's first.
const FRESH: Duration = Duration::from_millis(1500);
/// Less than this of each thread's share measures how long a loop takes to start.
const LEAST_SHARE: usize = 8 << 10;
/// Where the system tells nothing about its caches.
const UNKNOWN_CACHE: usize = 64 << 20;

/// What limits a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Bytes a second, of a working set of this size.
    Reading { bytes: usize },
    /// Operations a second.
    Arithmetic(PeakKind),
}

/// What rows run on, as far as it has roofs.
pub trait Machine {
    /// Bytes a second, read of a working set of this size.
    fn bandwidth(&mut self, bytes: usize) -> Result<f64>;

    /// Operations a second.
    fn peak(&mut self, kind: PeakKind) -> Result<f64>;

    /// What multiplies.
    fn instruction(&self, kind: PeakKind) -> &'static str;

    /// Where a working set of this size is.
    fn level(&self, bytes: usize) -> String;

    /// The working set to measure for one of this size: a smaller one would measure how long a loop takes to start, a larger one
    /// the same again.
    fn measurable(&self, bytes: usize) -> usize;
}

/// The kernels and threads of a [`Cpu`].
pub struct Host {
    cpu: Cpu,
    /// With a buffer as long as it has to be so far.
    roof: Roof,
}

impl Host {
    pub fn new(cpu: &Cpu) -> Result<Self> {
        Ok(Host { cpu: cpu.clone(), roof: Roof::new(cpu, 0)? })
    }
}

impl Machine for Host {
    fn bandwidth(&mut self, bytes: usize) -> Result<f64> {
        if self.roof.buffer_bytes() < bytes {
            self.roof = Roof::new(&self.cpu, bytes)?;
        }
        Ok(self.roof.read_bandwidth(bytes))
    }

    fn peak(&mut self, kind: PeakKind) -> Result<f64> {
        Ok(self.roof.peak(kind).operations_per_second)
    }

    fn instruction(&self, kind: PeakKind) -> &'static str {
        self.roof.peak_instruction(kind)
    }

    fn level(&self, bytes: usize) -> String {
        let caches = caches(self.cpu.threads());
        if caches.is_empty() {
            return "reading".into(); // nobody says from where
        }
        caches.into_iter().find(|(_, size)| bytes <= *size).map_or("memory".into(), |(name, _)| name)
    }

    fn measurable(&self, bytes: usize) -> usize {
        let least = LEAST_SHARE * self.cpu.threads();
        bytes.clamp(least, beyond_the_caches().clamp(least, LARGEST))
    }
}

/// Measures the roofs of a machine, and remembers them for a while.
pub struct Roofs<M> {
    pub machine: M,
    measured: HashMap<Limit, (Instant, f64)>,
}

impl<M: Machine> Roofs<M> {
    pub fn new(machine: M) -> Self {
        Roofs { machine, measured: HashMap::new() }
    }

    /// The limit of work that reads and writes `bytes` of a working set of `working_set` bytes, and does `operations`: what takes
    /// longer at best, by the last figures there are.
    pub fn limit(&mut self, bytes: usize, working_set: usize, operations: usize, kind: PeakKind) -> Result<Limit> {
        let reading = Limit::Reading { bytes: self.machine.measurable(working_set) };
        let arithmetic = Limit::Arithmetic(kind);
        let (bandwidth, peak) = (self.any(reading)?, self.any(arithmetic)?);
        Ok(if operations as f64 / peak > bytes as f64 / bandwidth { arithmetic } else { reading })
    }

    /// The last figure, however old.
    pub fn any(&mut self, limit: Limit) -> Result<f64> {
        match self.measured.get(&limit) {
            Some(&(_, figure)) => Ok(figure),
            None => self.now(limit),
        }
    }

    /// A figure of just now.
    pub fn fresh(&mut self, limit: Limit) -> Result<f64> {
        match self.measured.get(&limit) {
            Some(&(at, figure)) if at.elapsed() < FRESH => Ok(figure),
            _ => self.now(limit),
        }
    }

    /// A new figure.
    pub fn now(&mut self, limit: Limit) -> Result<f64> {
        let figure = match limit {
            Limit::Reading { bytes } => self.machine.bandwidth(bytes)?,
            Limit::Arithmetic(kind) => self.machine.peak(kind)?,
        };
        self.measured.insert(limit, (Instant::now(), figure));
        Ok(figure)
    }

    /// Where the bytes are, or what multiplies.
    pub fn name(&self, limit: Limit, working_set: usize) -> String {
        match limit {
            Limit::Reading { .. } => self.machine.level(working_set),
            Limit::Arithmetic(kind) => self.machine.instruction(kind).to_string(),
        }
    }
}

/// The caches that hold data, smallest first, each with what `threads` threads have of it together: L1 and L2 are a core's own.
pub fn caches(threads: usize) -> Vec<(String, usize)> {
    let data = host::caches().into_iter().filter(|(name, _)| !name.ends_with('i'));
    let of_all = |(name, bytes): (String, u64)| {
        let own = name.starts_with("L1") || name.starts_with("L2");
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        (name.trim_end_matches('d').to_string(), if own { bytes.saturating_mul(threads) } else { bytes })
    };
    data.map(of_all).collect()
}

/// A working set that no cache holds a good part of.
pub fn beyond_the_caches() -> usize {
    let largest = caches(Pool::default_threads()).into_iter().map(|(_, bytes)| bytes).max();
    largest.unwrap_or(UNKNOWN_CACHE).saturating_mul(4)
}
