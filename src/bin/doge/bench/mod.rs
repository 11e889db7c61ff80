//! `doge bench`

mod cost;
mod measure;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use doge_engine::{
    model::{family, Checkpoint, Config, LoadOptions, Model, SessionOptions, Variant},
    Device, DeviceWord, Dtype, Error, Float, Isa, Kernels,
};

use crate::{
    engine::Source,
    failure::Failure,
    format::Format,
    host, machine,
    options::{ActivationsWord, ModelOptions},
    report,
    threads::{Asked, Threads},
};

use measure::{Bench, Test};
use table::Table;

/// What is measured if nobody says what: the sizes whose speed the model cards give.
const CARDS: [(&str, f64); 4] = [("20m", 142.0), ("60m", 62.0), ("160m", 28.0), ("320m", 16.0)];

/// Measures tokens per second, beside what this machine could do at best.
///
/// A row is a test: pp512 takes in a prompt of 512 tokens, tg128 generates 128 tokens one by one (the forward pass and the
/// greedy choice; no tokenizer). Just before and just after it, the machine's read bandwidth or its peak arithmetic is measured
/// with the same threads, whichever takes longer at best. Their mean is the roof; ~ marks a row whose two measurements differ
/// by more than 15 %: the machine changed under it. Lists are separated by commas; every combination is a row.
///
/// Without -m and --preset: the family at bf16, in short runs, beside the figures of the model cards.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// A checkpoint: folder, .safetensors file or owner/name from the Hugging Face cache
    #[arg(short, long, value_name = "PATH|OWNER/NAME")]
    pub model: Option<PathBuf>,
    /// Members of the family with random weights, made in memory
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub preset: Vec<String>,
    /// Formats of the matrices [default: as stored; bf16 for presets]
    #[arg(long, value_name = "DTYPES", value_delimiter = ',')]
    pub dtype: Vec<Dtype>,
    /// ISA levels [default: DOGE_ISA, else the fastest that runs]
    #[arg(long, value_name = "LEVELS", value_delimiter = ',')]
    pub isa: Vec<Isa>,
    /// Forms in which bf16 weights meet their input, and K and V in bf16 the queries
    #[arg(long, value_enum, value_name = "FORMS", value_delimiter = ',', default_value = "f32")]
    pub activations: Vec<ActivationsWord>,
    /// Device to run on: cpu, cuda, cuda:N. On a GPU the roof of every row is the bandwidth of a copy in its memory
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceWord::Cpu)]
    pub device: DeviceWord,
    /// Threads; auto tries each model with fewer and fewer, and takes the fewest that are within 5 % of the fastest
    /// [default: what affinity and cgroup quota allow]
    #[arg(short, long, value_name = "NS|auto", value_delimiter = ',')]
    pub threads: Vec<Threads>,
    /// Threads for the prompt; also -tb [default: as --threads]
    #[arg(long, value_name = "NS|auto", value_delimiter = ',')]
    pub threads_batch: Vec<Threads>,
    /// Tokens of a prompt; 0: no such test [default: 512]
    #[arg(short = 'p', long, value_name = "NS", value_delimiter = ',')]
    pub n_prompt: Vec<u32>,
    /// Tokens to generate; 0: no such test [default: 128]
    #[arg(short = 'n', long, value_name = "NS", value_delimiter = ',')]
    pub n_gen: Vec<u32>,
    /// Tokens in the sequence before the test
    #[arg(short = 'd', long, value_name = "NS", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<u32>,
    /// Samples of a test [default: 5]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: Option<u16>,
    /// No run before the first sample
    #[arg(long)]
    pub no_warmup: bool,
    /// Keep this many keys instead of the model's keep_window_size
    #[arg(short = 'w', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_window: Option<u32>,
    /// Format of K and V in memory: f32, bf16, f16
    #[arg(long, value_name = "FORMAT", default_value_t = Float::F32)]
    pub kv_dtype: Float,
    /// json is one array at the end, jsonl a line as soon as a row is there
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub output: Format,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl BenchArgs {
    /// Where the checkpoint of -m is looked for; its formats are a list of their own.
    fn model_options(&self) -> ModelOptions {
        let model = self.model.clone();
        ModelOptions { model, revision: None, download: false, dtype: None, no_mmap: false, check_finite: true }
    }
}

/// Which model a row measures.
enum Subject {
    File(Source),
    Preset { name: String, config: Box<Config>, variant: Variant },
}

pub fn run(args: &BenchArgs) -> Result<ExitCode, Failure> {
    let cards = args.model.is_none() && args.preset.is_empty();
    let lengths = |asked: &[u32], default: u32, short: u32| match asked {
        [] => vec![if cards { short } else { default } as usize],
        asked => asked.iter().map(|&n| n as usize).collect(),
    };
    let prompts = lengths(&args.n_prompt, 512, 128).into_iter().filter(|&n| n > 0).map(Test::Prompt);
    let generations = lengths(&args.n_gen, 128, 64).into_iter().filter(|&n| n > 0).map(Test::Generate);
    let tests: Vec<Test> = prompts.chain(generations).collect();
    if tests.is_empty() {
        return Err(Failure::Usage("-p 0 and -n 0 leave nothing to measure".into()));
    }
    let bench = Bench {
        tests,
        depths: args.depth.iter().map(|&depth| depth as usize).collect(),
        samples: args.repetitions.map_or(if cards { 3 } else { 5 }, usize::from),
        warms_up: !args.no_warmup,
        session: SessionOptions::default().kv_dtype(args.kv_dtype),
    };
    let device = Device::open(args.device)?;
    let (runners, subjects) = (runners(args)?, subjects(args, cards)?);
    let cards: &[_] = if cards { &CARDS } else { &[] };
    let mut table = Table::new(args.output, cards, args.keep_window.is_some(), machine::machine(&device));
    table.begin()?;
    let measured = measure(args, &bench, &device, &runners, subjects, &mut table);
    // What was measured is not lost with what was not.
    let ended = if measured.is_err() && table.is_empty() { Ok(()) } else { table.end(args.quiet) };
    measured.and(ended).map(|()| ExitCode::SUCCESS)
}

/// Every row, handed over to `table` as soon as it is there.
fn measure(
    args: &BenchArgs,
    bench: &Bench,
    device: &Device,
    runners: &[(Kernels, Asked)],
    subjects: Vec<Subject>,
    table: &mut Table,
) -> Result<(), Failure> {
    for subject in subjects {
        let dtypes = match (&args.dtype[..], &subject) {
            ([], Subject::File(_)) => vec![None],
            ([], Subject::Preset { .. }) => vec![Some(Dtype::Bf16)],
            (asked, _) => asked.iter().copied().map(Some).collect(),
        };
        for dtype in dtypes {
            let mut checkpoint = subject.checkpoint(dtype)?;
            if let Some(keep_window) = args.keep_window {
                checkpoint.config.keep_window_size = keep_window as usize;
            }
            let name = subject.name();
            let model = device.place(Model::new(checkpoint))?;
            for &(kernels, asked) in runners {
                for &form in forms(args, &model) {
                    bench.rows(&name, &model, &asked.cpu(&model, kernels, form.into())?, &mut |row| {
                        if !args.quiet && row.roof.unsteady() {
                            report::note(format_args!("{}: the machine's own speed changed during the row", row.name()));
                        }
                        table.row(row)
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// The forms that are asked for, as far as they differ: on the CPU only what meets bf16 is rounded.
fn forms<'a>(args: &'a BenchArgs, model: &Model) -> &'a [ActivationsWord] {
    let weights = model.checkpoint().weights.embed_tokens.dtype();
    let differ = model.is_on_device() || weights == Dtype::Bf16 || args.kv_dtype == Float::Bf16;
    if differ {
        &args.activations
    } else {
        &args.activations[..1]
    }
}

/// Every combination of ISA level and threads.
fn runners(args: &BenchArgs) -> Result<Vec<(Kernels, Asked)>, Failure> {
    let kernels = match &args.isa[..] {
        [] => vec![crate::engine::kernels(None)?],
        levels => levels.iter().map(|&isa| Kernels::for_isa(isa)).collect::<Result<_, _>>()?,
    };
    let asked = |list: &[Threads]| match list {
        [] => vec![None],
        list => list.iter().copied().map(Some).collect(),
    };
    let mut runners = Vec::new();
    for kernels in kernels {
        for threads in asked(&args.threads) {
            for threads_batch in asked(&args.threads_batch) {
                runners.push((kernels, Asked { threads, threads_batch }));
            }
        }
    }
    Ok(runners)
}

fn subjects(args: &BenchArgs, cards: bool) -> Result<Vec<Subject>, Failure> {
    let mut subjects = Vec::new();
    if args.model.is_some() {
        subjects.push(Subject::File(Source::find(&args.model_options(), args.quiet)?));
    }
    let cards = CARDS.iter().filter(|_| cards).map(|(name, _)| *name);
    for name in args.preset.iter().map(String::as_str).chain(cards) {
        let (config, variant) = family::preset(name).map_err(|error| Failure::Usage(error.to_string()))?;
        subjects.push(Subject::Preset { name: name.to_ascii_lowercase(), config: Box::new(config), variant });
    }
    Ok(subjects)
}

impl Subject {
    fn name(&self) -> String {
        match self {
            Subject::File(source) => source.name(),
            Subject::Preset { name, .. } => name.clone(),
        }
    }

    fn checkpoint(&self, dtype: Option<Dtype>) -> Result<Checkpoint, Failure> {
        match self {
            Subject::File(source) => source.checkpoint(&LoadOptions::default().dtype(dtype)),
            Subject::Preset { config, variant, .. } => {
                let dtype = dtype.unwrap_or(Dtype::Bf16);
                // Random weights fill every page: better refused than killed halfway.
                let bytes = Checkpoint::random_bytes(config, variant, dtype);
                if host::memory().available.is_some_and(|available| bytes as u64 > available) {
                    return Err(Error::OutOfMemory { bytes: bytes as u128, what: "random weights; less is available" }.into());
                }
                Ok(Checkpoint::random(Config::clone(config), *variant, dtype, 0)?)
            }
        }
    }
}
