//! `doge kernels`

mod compare;
mod counters;
mod list;
mod measure;
mod plot;
mod roofs;
mod table;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use doge_engine::{model::family, pool::Pool, pool::MAX_THREADS, Dtype, Isa, Kernels};

use crate::{
    failure::{Failure, VERIFICATION_FAILED},
    format::Format,
    report,
};

use compare::Baseline;
use counters::Counters;
use list::Entry;
use measure::{Mode, Runner};
use table::Table;

/// A row that seems to have become slower is measured again this often, after a pause each: a neighbour of a few seconds is no
/// regression.
const CONFIRMATIONS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Measures single kernels, beside what this machine could do at best.
///
/// A row is a kernel at one format and one shape: the median time of a call and its spread (median absolute deviation), the
/// bytes that it has to read and write, the operations it has to do, and the roof that stops it: the read bandwidth of the
/// cache level or memory that holds its data, or the peak of the instruction that multiplies. That roof is measured just
/// before and just after the row, with the same threads; ~ marks rows whose two measurements differ by more than 15 %. Each
/// kernel's result is held against the reference before it is timed.
///
/// hot: the same inputs, call after call. cold: inputs in turn, from four times the largest cache. A roof of bytes is one of
/// reading; what is also written may pass it, as caches and memory do both at once. Lists are separated by commas; every
/// combination is a row.
///
/// Without -o, --op, --dtype, --shape and --preset: every kernel at its main shape, in some two minutes. --preset NAME or
/// --op NAME gives all shapes, --isa all every level.
#[derive(Args, Debug)]
pub struct KernelsArgs {
    /// Operations; gemv also stands for gemv_int and gemv_bf16, and so on
    #[arg(long, value_name = "OPS", value_delimiter = ',')]
    pub op: Vec<String>,
    /// Formats of the weights; vectors are f32
    #[arg(long, value_name = "DTYPES", value_delimiter = ',')]
    pub dtype: Vec<Dtype>,
    /// ISA levels, or all that run here [default: DOGE_ISA, else the highest that runs]
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
    /// Threads [default: what affinity and cgroup quota allow]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    pub threads: Option<u16>,
    /// Samples of a row; a slow kernel has fewer
    #[arg(short, long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: u16,
    /// Compare with the JSON of an earlier run; exit code 4 if a kernel has become slower beyond the spreads of both, and further
    /// from its roof
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
    let baseline = args.compare.as_deref().map(Baseline::read).transpose()?;
    let (entries, levels) = (entries(args)?, levels(args)?);
    // Before the threads of the kernels, which are to be counted.
    let mut counters = Counters::new().map_err(|error| {
        if !args.quiet {
            report::note(format_args!("no cycles, instructions and cache misses: perf_event_open says {error}"));
        }
    });
    let threads = args.threads.map_or_else(Pool::default_threads, usize::from);
    let mut table = Table::new(args.output, counters.is_ok(), baseline);
    table.begin()?;
    for kernels in levels {
        let mut runner = Runner::new(kernels, threads)?;
        for &mode in &args.mode {
            for entry in &entries {
                let mut measure = || runner.row(entry, mode, args.repetitions.into(), counters.as_mut().ok());
                let mut row = measure()?;
                for _ in 0..CONFIRMATIONS {
                    if !table.is_slower(&row) {
                        break;
                    }
                    std::thread::sleep(PAUSE);
                    let again = measure()?;
                    row = if again.median() < row.median() { again } else { row };
                }
                table.row(row)?;
            }
        }
    }
    if let Some(path) = &args.plot {
        let svg = plot::svg(table.rows());
        std::fs::write(path, svg).map_err(|source| Failure::Input { from: path.clone(), source })?;
    }
    let slower = table.end(args.quiet)?;
    Ok(if slower { ExitCode::from(VERIFICATION_FAILED) } else { ExitCode::SUCCESS })
}

/// The entries that the options ask for.
fn entries(args: &KernelsArgs) -> Result<Vec<Entry>, Failure> {
    let names: Vec<&str> = list::KERNELS.iter().map(|(op, _)| *op).collect();
    let is = |op: &str, word: &str| op == word || op.strip_prefix(word).is_some_and(|rest| rest.starts_with('_'));
    if let Some(word) = args.op.iter().find(|word| !names.iter().any(|op| is(op, word))) {
        return Err(Failure::Usage(format!("unknown operation '{word}'; expected one of: {}", names.join(", "))));
    }
    let presets = if args.preset.is_empty() { vec![list::PRESET.to_string()] } else { args.preset.clone() };
    let mut all: Vec<Entry> = Vec::new();
    for preset in &presets {
        for entry in list::entries(preset).map_err(|error| Failure::Usage(error.to_string()))? {
            if !all.iter().any(|other| (other.op, other.dtype, &other.shape) == (entry.op, entry.dtype, &entry.shape)) {
                all.push(entry);
            }
        }
    }
    all.sort_by_key(|entry| names.iter().position(|op| *op == entry.op));
    let short = args.op.is_empty() && args.dtype.is_empty() && args.shape.is_empty() && args.preset.is_empty();
    let shapes: Vec<String> = all.iter().map(|entry| entry.shape.clone()).collect();
    if let Some(word) = args.shape.iter().find(|word| !shapes.contains(word)) {
        let mut shapes = shapes;
        shapes.sort();
        shapes.dedup();
        let presets = family::names().collect::<Vec<_>>().join(", ");
        let why = format!("unknown shape '{word}'; here there are: {}; others with --preset: {presets}", shapes.join(", "));
        return Err(Failure::Usage(why));
    }
    let wanted = |entry: &Entry| {
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
    match &args.isa[..] {
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
