//! One row: groups of samples of a kernel, each between two measurements of its roof.

use std::time::Instant;

use doge_engine::{
    ops::{Cpu, PeakKind},
    pool::Pool,
    Kernels,
};

use super::{
    counters::{Counters, Counts},
    list::{store::Spare, Cost, Entry, Job, Store},
    roofs::{self, Host, Limit, Machine, Roofs},
};
use crate::{
    failure::Failure,
    samples::{median, median_spread, waited, Beside},
};

/// Seconds of a sample: as many calls as take this long.
const SAMPLE: f64 = 4e-3;
/// A larger part of the percentage than this is a wide spread.
const WIDE: f64 = 0.05;
/// Threads that waited for a processor for a larger part of a group than this were disturbed.
const DISTURBED: f64 = 0.1;
/// What is further above its roof than this, in percent of it, was not measured beside the roof that it had.
const BELIEVABLE: f64 = 110.0;
/// The samples of slow calls end after this many seconds.
const GROUP: f64 = 0.2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
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

/// What a row measures.
pub struct What {
    pub op: &'static str,
    pub dtype: &'static str,
    pub isa: &'static str,
    pub shape: String,
    pub mode: Mode,
    /// That run it.
    pub threads: usize,
    pub cost: Cost,
    /// What would multiply.
    pub kind: PeakKind,
    /// Bytes that the calls go through in turn.
    pub working_set: usize,
}

/// Samples in a row, seconds of a call each, and their roof just before and just after.
pub struct Group {
    pub samples: Vec<f64>,
    pub roof: Beside,
    /// For what part of the time its threads, ready to run, had no processor, on average.
    pub waited: f64,
}

/// One row of the table: the same in several groups, each with inputs made anew.
pub struct Row {
    pub what: What,
    pub limit: Limit,
    /// Where the bytes are, or what multiplies.
    pub roof_name: String,
    pub groups: Vec<Group>,
    pub counts: Option<Counts>,
}

impl Row {
    /// Seconds of a call, of each sample in the order taken.
    pub fn samples(&self) -> Vec<f64> {
        self.groups.iter().flat_map(|group| &group.samples).copied().collect()
    }

    fn medians(&self) -> Vec<f64> {
        self.groups.iter().map(|group| median(group.samples.clone())).collect()
    }

    /// Seconds of a call.
    pub fn median(&self) -> f64 {
        median(self.medians())
    }

    /// How far from that another run may come, in seconds; of a few groups nobody can say.
    pub fn spread(&self) -> Option<f64> {
        median_spread(self.medians())
    }

    /// Of each group, with the roof that was measured with it.
    fn percents(&self) -> Vec<f64> {
        let amount = self.amount() as f64;
        self.groups.iter().zip(self.medians()).map(|(group, seconds)| 100.0 * amount / group.roof.mean() / seconds).collect()
    }

    pub fn percent_of_roof(&self) -> f64 {
        median(self.percents())
    }

    /// As [`Row::spread`], of the percentage.
    pub fn percent_spread(&self) -> Option<f64> {
        median_spread(self.percents())
    }

    /// Do the groups say too little?
    pub fn is_wide(&self) -> bool {
        self.percent_spread().is_some_and(|spread| spread > WIDE * self.percent_of_roof())
    }

    /// What the limit limits, of one call.
    fn amount(&self) -> usize {
        match self.limit {
            Limit::Reading { .. } => self.what.cost.bytes,
            Limit::Arithmetic(_) => self.what.cost.operations,
        }
    }

    /// Bytes or operations a second at the roof.
    pub fn roof(&self) -> f64 {
        median(self.groups.iter().map(|group| group.roof.mean()).collect())
    }

    /// Did the machine stay the same under every group, and leave it its processors?
    pub fn is_steady(&self) -> bool {
        let disturbed = |group: &Group| group.roof.unsteady() || group.waited > DISTURBED;
        self.percent_of_roof() <= self.most_believable() && !self.groups.iter().any(disturbed)
    }

    /// A roof of bytes is one of reading; what is written meanwhile may come on top.
    fn most_believable(&self) -> f64 {
        let Cost { bytes, written, .. } = self.what.cost;
        match self.limit {
            Limit::Reading { .. } => BELIEVABLE * bytes as f64 / (bytes - written) as f64,
            Limit::Arithmetic(_) => BELIEVABLE,
        }
    }

    pub fn gigabytes_per_second(&self) -> f64 {
        self.what.cost.bytes as f64 / self.median() / 1e9
    }

    pub fn gigaoperations_per_second(&self) -> f64 {
        self.what.cost.operations as f64 / self.median() / 1e9
    }

    /// Operations for each byte.
    pub fn intensity(&self) -> f64 {
        self.what.cost.operations as f64 / self.what.cost.bytes as f64
    }

    /// More groups of the same.
    pub fn join(&mut self, other: Row) {
        self.groups.extend(other.groups);
        self.counts = other.counts.or(self.counts);
    }
}

/// How to measure a group.
#[derive(Clone, Copy)]
pub struct Plan {
    pub mode: Mode,
    pub samples: usize,
    /// What the row's first group found to be its limit; there is none yet: the result is checked first.
    pub limit: Option<Limit>,
}

/// What measures rows: the levels of a CPU, or a GPU.
pub trait Bench {
    /// How many entries there are.
    fn entries(&self) -> usize;

    /// A row of one group; none where the mode makes no difference. `Failure::Wrong` if its result is.
    fn row(&mut self, entry: usize, plan: Plan, counters: Option<&mut Counters>) -> Result<Option<Row>, Failure>;
}

/// Calls that are timed, one after another.
pub trait Calls {
    /// Seconds of `turns` turns.
    fn run(&mut self, turns: usize) -> Result<f64, Failure>;

    /// Calls of a turn.
    fn of_a_turn(&self) -> usize {
        1
    }
}

/// Measures one group.
pub fn group<M: Machine>(
    what: What,
    calls: &mut dyn Calls,
    roofs: &mut Roofs<M>,
    plan: Plan,
    counters: Option<&mut Counters>,
) -> Result<Row, Failure> {
    let (begin, waited_before) = (Instant::now(), waited());
    let limit = match plan.limit {
        Some(limit) => limit,
        None => roofs.limit(what.cost.bytes, what.working_set, what.cost.operations, what.kind)?,
    };
    let turns = turns_in_a_sample(calls)?;
    let before = roofs.fresh(limit)?;
    calls.run(turns)?; // the roof has emptied the caches
    let (mut samples, start) = (Vec::with_capacity(plan.samples), Instant::now());
    while samples.len() < plan.samples && (samples.is_empty() || start.elapsed().as_secs_f64() < GROUP) {
        samples.push(calls.run(turns)? / (turns * calls.of_a_turn()) as f64);
    }
    let counts = match counters {
        Some(counters) => counters.count(turns, || calls.run(turns).map(drop))?,
        None => None,
    };
    let roof = Beside { before, after: roofs.now(limit)? };
    let roof_name = roofs.name(limit, what.working_set);
    let waited = (waited() - waited_before).max(0.0) / begin.elapsed().as_secs_f64() / what.threads as f64;
    Ok(Row { what, limit, roof_name, groups: vec![Group { samples, roof, waited }], counts })
}

/// How many turns make a sample. Warms up on the way.
fn turns_in_a_sample(calls: &mut dyn Calls) -> Result<usize, Failure> {
    let mut turns = 1;
    loop {
        let seconds = calls.run(turns)?;
        if seconds >= SAMPLE / 2.0 {
            return Ok((turns as f64 * SAMPLE / seconds).ceil() as usize);
        }
        turns *= 2;
    }
}

/// The entries on an ISA level with its threads.
pub struct Level<'a> {
    entries: &'a [Entry],
    /// With all threads, and with the calling one alone.
    all: (Cpu, Roofs<Host>),
    alone: (Cpu, Roofs<Host>),
    /// For inputs from memory. Those in caches get new pages in every group, for these tell in their speed.
    spare: Spare,
}

impl<'a> Level<'a> {
    pub fn new(entries: &'a [Entry], kernels: Kernels, threads: usize) -> Result<Self, Failure> {
        let of = |threads| -> Result<(Cpu, Roofs<Host>), Failure> {
            let cpu = Cpu::new(kernels, Pool::new(threads)?.into());
            let roofs = Roofs::new(Host::new(&cpu)?);
            Ok((cpu, roofs))
        };
        Ok(Level { entries, all: of(threads)?, alone: of(1)?, spare: Spare::default() })
    }
}

impl Bench for Level<'_> {
    fn entries(&self) -> usize {
        self.entries.len()
    }

    fn row(&mut self, entry: usize, plan: Plan, counters: Option<&mut Counters>) -> Result<Option<Row>, Failure> {
        let entry = &self.entries[entry];
        let (cpu, roofs) = if entry.alone { &mut self.alone } else { &mut self.all };
        let cpu = entry.cpu(cpu);
        if !entry.runs_on(cpu.kernels()) {
            return Ok(None);
        }
        let mut store = Store::new(1);
        let mut job = entry.make(&mut store, &cpu)?;
        if plan.limit.is_none() {
            let worst = job.check(&cpu)?;
            if !worst.passed() {
                return Err(Failure::Wrong { what: entry.id(&cpu), why: worst.what });
            }
        }
        let mut copies = 1;
        if plan.mode == Mode::Cold {
            copies = roofs::beyond_the_caches().div_ceil(store.bytes_of_a_copy().max(1)).max(2);
            drop(job);
            store = Store::reusing(&self.spare, copies);
            job = entry.make(&mut store, &cpu)?;
        }
        let what = What {
            op: entry.op,
            dtype: entry.dtype.name(),
            isa: cpu.kernels().isa().name(),
            shape: entry.shape.clone(),
            mode: plan.mode,
            threads: cpu.threads(),
            cost: entry.cost,
            kind: entry.peak_kind(&cpu),
            working_set: copies * store.bytes_of_a_copy(),
        };
        group(what, &mut InTurn { job, cpu, copies, next: 0 }, roofs, plan, counters).map(Some)
    }
}

/// Calls of a job, one copy after another.
struct InTurn {
    job: Box<dyn Job>,
    cpu: Cpu,
    copies: usize,
    next: usize,
}

impl Calls for InTurn {
    fn run(&mut self, turns: usize) -> Result<f64, Failure> {
        let start = Instant::now();
        for _ in 0..turns {
            self.job.run(&self.cpu, self.next)?;
            self.next = if self.next + 1 == self.copies { 0 } else { self.next + 1 };
        }
        Ok(start.elapsed().as_secs_f64())
    }
}
