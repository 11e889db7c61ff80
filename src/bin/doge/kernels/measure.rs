//! One row: the samples of a kernel between two measurements of its roof.

use std::time::{Duration, Instant};

use doge_engine::{ops::Cpu, pool::Pool, Kernels};

use super::{
    counters::{Counters, Counts},
    list::{Entry, Job, Store},
    roofs::{self, Limit, Roofs},
};
use crate::{
    failure::Failure,
    samples::{median, Beside},
};

/// A sample is as many calls as take this long.
const SAMPLE: Duration = Duration::from_millis(4);
/// A row of slow calls ends after this long, with [`FEWEST`] samples at least.
const ROW: Duration = Duration::from_millis(600);
const FEWEST: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The same inputs call after call, as caches hold them
    Hot,
    /// Other inputs each time, from more than the caches hold
    Cold,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Hot => "hot",
            Mode::Cold => "cold",
        }
    }
}

/// One row of the table.
pub struct Row {
    pub op: &'static str,
    pub dtype: &'static str,
    pub isa: &'static str,
    pub shape: String,
    pub mode: Mode,
    /// That ran it.
    pub threads: usize,
    /// Seconds of a call, of each sample in the order taken.
    pub samples: Vec<f64>,
    pub bytes: usize,
    pub operations: usize,
    /// Bytes that the calls go through in turn.
    pub working_set: usize,
    pub limit: Limit,
    /// Where the bytes are, or what multiplies.
    pub roof_name: String,
    pub roof: Beside,
    pub counts: Option<Counts>,
}

impl Row {
    /// Seconds of a call.
    pub fn median(&self) -> f64 {
        median(self.samples.clone())
    }

    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.median() / 1e9
    }

    pub fn gigaoperations_per_second(&self) -> f64 {
        self.operations as f64 / self.median() / 1e9
    }

    /// Operations for each byte.
    pub fn intensity(&self) -> f64 {
        self.operations as f64 / self.bytes as f64
    }

    /// Seconds of a call at the roof.
    pub fn roof_seconds(&self) -> f64 {
        let amount = match self.limit {
            Limit::Reading { .. } => self.bytes,
            Limit::Arithmetic(_) => self.operations,
        };
        amount as f64 / self.roof.mean()
    }

    pub fn percent_of_roof(&self) -> f64 {
        100.0 * self.roof_seconds() / self.median()
    }
}

/// An ISA level with its threads.
pub struct Runner {
    /// With all threads, and with the calling one alone.
    all: (Cpu, Roofs),
    alone: (Cpu, Roofs),
}

impl Runner {
    pub fn new(kernels: Kernels, threads: usize) -> Result<Self, Failure> {
        let of = |threads| -> Result<(Cpu, Roofs), Failure> {
            let cpu = Cpu::new(kernels, Pool::new(threads)?.into());
            let roofs = Roofs::new(&cpu)?;
            Ok((cpu, roofs))
        };
        Ok(Runner { all: of(threads)?, alone: of(1)? })
    }

    /// The row of an entry in a mode; `Failure::Wrong` if its result is.
    pub fn row(&mut self, entry: &Entry, mode: Mode, samples: usize, counters: Option<&mut Counters>) -> Result<Row, Failure> {
        let (cpu, roofs) = if entry.alone { &mut self.alone } else { &mut self.all };
        let cpu = entry.cpu(cpu);
        let mut store = Store::new(1);
        let mut job = entry.make(&mut store, &cpu)?;
        let worst = job.check(&cpu)?;
        if !worst.passed() {
            return Err(Failure::Wrong { what: entry.id(&cpu), why: worst.what });
        }
        let mut copies = 1;
        if mode == Mode::Cold {
            copies = roofs::beyond_the_caches().div_ceil(store.bytes_of_a_copy().max(1)).max(2);
            drop(job);
            store = Store::new(copies);
            job = entry.make(&mut store, &cpu)?;
        }
        let (kind, working_set) = (cpu.peak_kind(entry.dtype), copies * store.bytes_of_a_copy());
        let limit = roofs.limit(entry.cost.bytes, working_set, entry.cost.operations, kind)?;
        let mut calls = Calls { job: job.as_mut(), cpu: &cpu, copies, next: 0 };
        let per_sample = calls.in_a_sample()?;
        let before = roofs.fresh(limit)?;
        calls.run(per_sample)?; // the roof has emptied the caches
        let (mut seconds, start) = (Vec::with_capacity(samples), Instant::now());
        while seconds.len() < samples && (seconds.len() < FEWEST || start.elapsed() < ROW) {
            seconds.push(calls.run(per_sample)?.as_secs_f64() / per_sample as f64);
        }
        let counts = match counters {
            Some(counters) => counters.count(per_sample, || calls.run(per_sample).map(drop))?,
            None => None,
        };
        let after = roofs.now(limit)?;
        Ok(Row {
            op: entry.op,
            dtype: entry.dtype.name(),
            isa: cpu.kernels().isa().name(),
            shape: entry.shape.clone(),
            mode,
            threads: cpu.threads(),
            samples: seconds,
            bytes: entry.cost.bytes,
            operations: entry.cost.operations,
            working_set,
            limit,
            roof_name: match limit {
                Limit::Reading { .. } => roofs::level(working_set, cpu.threads()),
                Limit::Arithmetic(kind) => roofs.instruction(kind).to_string(),
            },
            roof: Beside { before, after },
            counts,
        })
    }
}

/// Calls of a job, one copy after another.
struct Calls<'a> {
    job: &'a mut dyn Job,
    cpu: &'a Cpu,
    copies: usize,
    next: usize,
}

impl Calls<'_> {
    fn run(&mut self, calls: usize) -> Result<Duration, Failure> {
        let start = Instant::now();
        for _ in 0..calls {
            self.job.run(self.cpu, self.next)?;
            self.next = if self.next + 1 == self.copies { 0 } else { self.next + 1 };
        }
        Ok(start.elapsed())
    }

    /// How many calls make a sample. Warms up on the way.
    fn in_a_sample(&mut self) -> Result<usize, Failure> {
        let mut calls = 1;
        loop {
            let time = self.run(calls)?;
            if time >= SAMPLE / 2 {
                return Ok((calls as f64 * SAMPLE.as_secs_f64() / time.as_secs_f64()).ceil() as usize);
            }
            calls *= 2;
        }
    }
}
