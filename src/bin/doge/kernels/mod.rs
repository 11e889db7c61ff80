//! `doge kernels`

mod compare;
mod counters;
#[cfg(feature = "cuda")]
mod device;
mod list;
mod measure;
mod plot;
mod roofs;
mod table;

use std::{collections::HashMap, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use doge_engine::{model::family, pool::Pool, pool::MAX_THREADS, Device, DeviceWord, Dtype, Isa, Kernels};

use crate::{
    failure::{Failure, VERIFICATION_FAILED},
    format::Format,
    machine, report,
    samples::ENOUGH,
};

use compare::Baseline;
use counters::Counters;
use list::Entry;
use measure::{Bench, Level, Mode, Plan, Row};
use table::Table;

/// How often the whole list is measured: what slows a machine for seconds, or other pages for the inputs, shows as the spread of
/// a row.
const PASSES: usize = ENOUGH;
/// Before the last of them, rows whose spread is wide are measured up to this often again, in passes of their own.
const MORE_PASSES: usize = 6;
/// A row that seems to have become slower is measured again this often, after a pause each: a neighbour of a few seconds is no
/// regression.
const CONFIRMATIONS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Measures single kernels, beside what this machine could do at best.
///
/// A row is a kernel at one format and one shape: the median time of a call, the bytes that it has to read and write, the
/// operations it has to do, and the roof that stops it: the read bandwidth of the cache level or memory that holds its data, or
/// the peak of the instruction that multiplies. The whole list is measured five times, with inputs made anew, rows that vary up to
/// six times more, and printed with the last; the time is the median of these, the spread how far that may be off (as far as the
/// farther of the outermost of five, or the outermost but one of eight: the true median lies between them in 15 of 16 cases; of
/// fewer than five there is none). The roof is measured just before and just after each, with the same threads; ~ marks rows where
/// these two differ by more than 15 %, whose threads waited for a processor for more than a tenth of the time, or that are further
/// above their roof than their writes explain. Each kernel's result is held against the reference before it is timed.
///
/// On a GPU calls are replayed as a graph between two events; roofs are the reads of its L2 cache, copies of its memory, and its
/// multiplications. What is smaller than half a percent of the L2 cache has no cold row there.
///
/// hot: the same inputs, call after call. cold: inputs in turn, from four times the largest cache. A roof of bytes is one of
/// reading; what is also written may pass it, as caches and memory do both at once. Lists are separated by commas; every
/// combination is a row.
///
/// Without -o, --op, --dtype, --shape and --preset: every kernel at its main shape, in some ten minutes. --preset NAME or
/// --op NAME gives all shapes, --isa all every level.
#[derive(Args, Debug)]
pub struct KernelsArgs {
    /// Operations; gemv also stands for gemv_int and gemv_bf16, and so on
    #[arg(long, value_name = "OPS", value_delimiter = ',')]
    pub op: Vec<String>,
    /// Formats of the weights; vectors are f32
    #[arg(long, value_name = "DTYPES", value_delimiter = ',')]
    pub dtype: Vec<Dtype>,
    /// ISA levels, or all that run here [default: DOGE_ISA, else the fastest that runs]
    #[arg(long, value_name = "LEVELS|all", value_delimiter = ',')]
    pub isa: Vec<String>,
    /// Shapes as the table has them: rows x columns x outputs, as in 512x1024x2048
    #[arg(long, value_name = "SHAPES", value_delimiter = ',')]
    pub shape: Vec<String>,
    /// Members of the family whose shapes to take [default: 1.4b-moe, which is a 320m with experts]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub preset: Vec<String>,
    /// Inputs that stay in the caches, and inputs that do not
    #[arg(long, value_enum, value_name = "MODES", value_delimiter = ',', default_value = "hot,cold")]
    pub mode: Vec<Mode>,
    /// Device to run on: cpu, cuda, cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceWord::Cpu)]
    pub device: DeviceWord,
    /// Threads [default: what affinity and cgroup quota allow]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    pub threads: Option<u16>,
    /// Samples of a row at least; a slow kernel has fewer
    #[arg(short, long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: u16,
    /// Compare with the JSON of an earlier run, both with -r 5 at least; exit code 4 if a kernel has become slower, and further
    /// from its roof by more than both runs' spreads. What is marked ~ in one of them is not judged
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Draw the rows under their roofs
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// json is one array at the end, jsonl a line as soon as a row is there
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub output: Format,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

pub fn run(args: &KernelsArgs) -> Result<ExitCode, Failure> {
    if args.compare.is_some() && usize::from(args.repetitions) < ENOUGH {
        return Err(Failure::Usage(format!("--compare needs -r {ENOUGH} or more: of fewer nobody knows the spread")));
    }
    let baseline = args.compare.as_deref().map(Baseline::read).transpose()?;
    let (levels, device) = (levels(args)?, Device::open(args.device)?);
    // Before the threads of the kernels, which are to be counted.
    let mut counters = Counters::new().map_err(|error| {
        if !args.quiet && args.device == DeviceWord::Cpu {
            report::note(format_args!("no cycles, instructions and cache misses: perf_event_open says {error}"));
        }
    });
    let threads = args.threads.map_or_else(Pool::default_threads, usize::from);
    let mut table = Table::new(args.output, counters.is_ok(), baseline, machine::machine(&device));
    if let Some(other) = table.baseline().and_then(|baseline| baseline.other_processor(table.machine())) {
        if !args.quiet {
            report::note(format_args!("--compare: the file is of another processor, {other}"));
        }
    }
    let measured = measure_on(args, device, levels, threads, counters.as_mut().ok(), &mut table);
    let drawn = measured.and_then(|()| {
        let Some(path) = &args.plot else { return Ok(()) };
        std::fs::write(path, plot::svg(table.rows(), table.machine()))
            .map_err(|source| Failure::Input { from: path.clone(), source })
    });
    // What was measured is not lost with what was not, or with the picture.
    match drawn {
        Err(failure) if table.rows().is_empty() => Err(failure),
        drawn => {
            let slower = table.end(args.quiet);
            drawn?;
            Ok(if slower? { ExitCode::from(VERIFICATION_FAILED) } else { ExitCode::SUCCESS })
        }
    }
}

/// Measures what the options ask for on this device.
fn measure_on(
    args: &KernelsArgs,
    device: Device,
    levels: Vec<Kernels>,
    threads: usize,
    mut counters: Option<&mut Counters>,
    table: &mut Table,
) -> Result<(), Failure> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => {
            let entries = chosen(args, list::on_device::entries, |entry| &entry.entry)?;
            if !args.quiet {
                let names: Vec<String> = list::on_device::LEFT_OUT.iter().map(|(op, why)| format!("{op} ({why})")).collect();
                report::note(format_args!("not measured by themselves on a GPU: {}", names.join(", ")));
            }
            check(args, table, &entries.iter().map(|one| (&one.entry, "cuda", 1)).collect::<Vec<_>>())?;
            table.begin()?;
            measure(args, &mut device::Gpu::new(gpu, &entries)?, None, table)
        }
        _ => {
            let entries = chosen(args, list::entries, |entry| entry)?;
            let of = |kernels: &Kernels| {
                let (kernels, isa) = (*kernels, kernels.isa().name());
                let running = entries.iter().filter(move |entry| entry.runs_on(kernels));
                running.map(move |entry| (entry, isa, if entry.alone { 1 } else { threads }))
            };
            check(args, table, &levels.iter().flat_map(of).collect::<Vec<_>>())?;
            table.begin()?;
            for kernels in levels {
                let absent = list::absent(&entries, kernels);
                if !args.quiet && !absent.is_empty() {
                    report::note(format_args!(
                        "not on level {}, whose gemv and gemm are as fast: {}",
                        kernels.isa(),
                        absent.join(", ")
                    ));
                }
                measure(args, &mut Level::new(&entries, kernels, threads)?, counters.as_deref_mut(), table)?;
            }
            Ok(())
        }
    }
}

/// Will the picture and the comparison have something of what is going to be measured: entries, each with a level and threads?
fn check(args: &KernelsArgs, table: &Table, rows: &[(&Entry, &'static str, usize)]) -> Result<(), Failure> {
    if args.plot.is_some() && rows.iter().all(|(entry, ..)| entry.cost.operations == 0) {
        return Err(Failure::Usage("--plot: nothing with operations to draw; choose other operations".into()));
    }
    let Some(baseline) = table.baseline() else { return Ok(()) };
    let keys = rows.iter().flat_map(|&(entry, isa, threads)| {
        let key = move |&mode| compare::key(entry.op, entry.dtype.name(), isa, &entry.shape, mode, threads);
        args.mode.iter().map(key)
    });
    baseline.check(&keys.collect::<Vec<_>>())
}

/// Each of these once.
fn distinct<T: Clone + PartialEq>(words: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for word in words {
        if !distinct.contains(word) {
            distinct.push(word.clone());
        }
    }
    distinct
}

/// Measures everything in several passes, and hands over each row in the last.
fn measure(
    args: &KernelsArgs,
    bench: &mut dyn Bench,
    mut counters: Option<&mut Counters>,
    table: &mut Table,
) -> Result<(), Failure> {
    let all = usize::from(args.repetitions);
    let (passes, more) = if all < PASSES { (all, 0) } else { (PASSES, MORE_PASSES) };
    let entries = bench.entries();
    let list: Vec<(Mode, usize)> =
        distinct(&args.mode).into_iter().flat_map(|mode| (0..entries).map(move |entry| (mode, entry))).collect();
    let mut rows: HashMap<(Mode, usize), Row> = HashMap::new();
    for pass in 1..=passes + more {
        let (is_further, is_last) = ((passes..passes + more).contains(&pass), pass == passes + more);
        for &(mode, entry) in &list {
            if is_further && !rows.get(&(mode, entry)).is_some_and(Row::is_wide) {
                continue;
            }
            let before = rows.remove(&(mode, entry));
            let plan = Plan { mode, samples: all.div_ceil(passes), limit: before.as_ref().map(|row| row.limit) };
            let counters = counters.as_deref_mut().filter(|_| is_last);
            let Some(new) = bench.row(entry, plan, counters)? else { continue };
            let mut row = joined(before, new);
            if !is_last {
                rows.insert((mode, entry), row);
                continue;
            }
            for _ in 0..CONFIRMATIONS {
                if !table.is_slower(&row) {
                    break;
                }
                std::thread::sleep(PAUSE);
                if let Some(again) = bench.row(entry, Plan { limit: Some(row.limit), ..plan }, None)? {
                    row.join(again);
                }
            }
            table.row(row)?;
        }
    }
    Ok(())
}

fn joined(before: Option<Row>, new: Row) -> Row {
    match before {
        None => new,
        Some(mut row) => {
            row.join(new);
            row
        }
    }
}

/// What the options ask for, of the entries that `of` names for a member of the family.
fn chosen<T>(
    args: &KernelsArgs,
    of: impl Fn(&str) -> doge_engine::Result<Vec<T>>,
    entry: impl Fn(&T) -> &Entry,
) -> Result<Vec<T>, Failure> {
    let names: Vec<&str> = list::KERNELS.iter().map(|(op, _)| *op).collect();
    let is = |op: &str, word: &str| op == word || op.strip_prefix(word).is_some_and(|rest| rest.starts_with('_'));
    if let Some(word) = args.op.iter().find(|word| !names.iter().any(|op| is(op, word))) {
        return Err(Failure::Usage(format!("unknown operation '{word}'; expected one of: {}", names.join(", "))));
    }
    let presets = if args.preset.is_empty() { vec![list::PRESET.to_string()] } else { args.preset.clone() };
    let mut all: Vec<T> = Vec::new();
    for preset in &presets {
        for new in of(preset).map_err(|error| Failure::Usage(error.to_string()))? {
            let id = |of: &T| (entry(of).op, entry(of).dtype, entry(of).shape.clone());
            if !all.iter().any(|other| id(other) == id(&new)) {
                all.push(new);
            }
        }
    }
    all.sort_by_key(|one| names.iter().position(|op| *op == entry(one).op));
    let short = args.op.is_empty() && args.dtype.is_empty() && args.shape.is_empty() && args.preset.is_empty();
    let shapes: Vec<String> = all.iter().map(|one| entry(one).shape.clone()).collect();
    if let Some(word) = args.shape.iter().find(|word| !shapes.contains(word)) {
        let mut shapes = shapes;
        shapes.sort();
        shapes.dedup();
        let presets = family::names().collect::<Vec<_>>().join(", ");
        let why = format!("unknown shape '{word}'; here there are: {}; others with --preset: {presets}", shapes.join(", "));
        return Err(Failure::Usage(why));
    }
    let wanted = |one: &T| {
        let entry = entry(one);
        (!short || entry.main)
            && (args.op.is_empty() || args.op.iter().any(|word| is(entry.op, word)))
            && (args.dtype.is_empty() || args.dtype.contains(&entry.dtype))
            && (args.shape.is_empty() || args.shape.contains(&entry.shape))
    };
    all.retain(wanted);
    if all.is_empty() {
        return Err(Failure::Usage("no operation has these formats and shapes".into()));
    }
    Ok(all)
}

/// The ISA levels that the options ask for.
fn levels(args: &KernelsArgs) -> Result<Vec<Kernels>, Failure> {
    match &distinct(&args.isa)[..] {
        [] => Ok(vec![crate::engine::kernels(None)?]),
        [word] if word == "all" => Ok(Kernels::available().collect()),
        words => {
            let level = |word: &String| {
                let isa: Isa = word.parse().map_err(|error: doge_engine::Error| Failure::Usage(error.to_string()))?;
                Ok(Kernels::for_isa(isa)?)
            };
            words.iter().map(level).collect()
        }
    }
}
