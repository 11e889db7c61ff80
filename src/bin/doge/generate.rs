//! `doge generate`

use std::{
    io::{stdin, stdout, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgGroup, Args};
use doge_engine::{model::Session, Error, Finish, Generation, TextGeneration, Timings, Until};
use serde_json::{json, Value};

use crate::{
    engine::Engine,
    failure::{Failure, INTERRUPTED},
    host, input,
    interrupt::Interrupt,
    options::{CpuOptions, ModelOptions, OutputOptions, SequenceOptions},
    report,
    sampling::{self, SamplingOptions},
};

/// Tokens to generate where neither the user nor the checkpoint says.
const MAX_NEW_TOKENS: usize = 100;

/// Tokens that a GPU chooses before the host looks: few enough to stream, many enough that looking costs nothing.
const AHEAD: usize = 16;

/// Continues a text
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("text").required(true).args(["prompt", "file", "stdin"])))]
pub struct GenerateArgs {
    /// The text to continue
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A file with the text to continue, taken as it is; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read the text to continue from stdin
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
    pub stdin: Option<String>,
    /// Leave out the begin-of-text token in front of the text
    #[arg(long)]
    pub no_bos: bool,
    /// Take special tokens spelled out in the text for plain text
    #[arg(long)]
    pub no_parse_special: bool,
    /// Print the text to continue as well
    #[arg(long)]
    pub echo: bool,
    /// Print one JSON object at the end: text, ids, why it ended (or the error that ended it), timings, settings
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sampling: SamplingOptions,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub sequence: SequenceOptions,
    #[command(flatten)]
    pub cpu: CpuOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

pub fn run(args: &GenerateArgs) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::install()?;
    let stops = args.sampling.stop_strings()?;
    let prompt = prompt(args)?;
    let engine = Engine::load(&args.model, &args.cpu, args.sequence.kv_dtype, args.output.quiet)?;
    let config = &engine.generation_config;
    let ids = engine.encode_prompt(&prompt, !args.no_bos, !args.no_parse_special)?;
    if ids.is_empty() {
        return Err(Failure::Usage("the text to continue is empty, and the checkpoint has no begin-of-text token".into()));
    }

    let max_new_tokens = args.sampling.max_new_tokens(config, ids.len(), MAX_NEW_TOKENS);
    let mut sampler = args.sampling.sampler(config, &config.eos_token_ids, engine.model.config().vocab_size)?;
    let settings = json!({
        "max_new_tokens": max_new_tokens,
        "eos_token_ids": config.eos_token_ids,
        "stop": args.sampling.stop,
        "sampling": sampling::to_json(sampler.settings()),
        "routing": args.sequence.routing.name(),
        "dtype": engine.model.checkpoint().weights.embed_tokens.dtype().name(),
        "device": engine.device(),
        "isa": engine.cpu.kernels().isa().name(),
        "threads": engine.cpu.threads(),
        "threads_batch": engine.cpu.for_rows(2).threads(),
    });
    if args.output.verbose {
        report::faint(engine.describe());
        report::faint(format_args!("{settings:#}"));
    }

    let mut session = Session::new(&engine.model, &engine.cpu, args.sequence.session_options())?;
    let until = Until::default()
        .max_new_tokens(max_new_tokens)
        .eos_token_ids(&config.eos_token_ids)
        .cancel(interrupt.begin())
        .ahead(AHEAD);
    let generation = Generation::new(&mut session, &mut sampler, &ids, until)?;
    let mut generation = TextGeneration::new(generation, &engine.tokenizer, stops);

    let mut output = Output { streams: !args.json, text: String::new() };
    if args.echo {
        output.push(&prompt)?;
    }
    let mut failed = None;
    for piece in &mut generation {
        match piece {
            Ok(piece) => output.push(&piece)?,
            Err(error) => failed = Some(error), // the last that comes: what was made is shown first
        }
    }
    let (generated, finish, timings) = generation.into_parts();

    if args.json {
        let object = json!({
            "model": engine.source.name(),
            "prompt": prompt,
            "prompt_ids": ids,
            "text": output.text,
            "ids": generated,
            "finish": finish.map(Finish::name),
            "error": failed.as_ref().map(Error::to_string),
            "timings": timings_json(engine.load, &timings),
            "settings": settings,
        });
        writeln!(stdout(), "{object}").map_err(Failure::Output)?;
    } else {
        output.end_line()?;
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    if !args.output.quiet {
        args.sampling.note_early_end(finish, config, args.sequence.session_options().ctx_size);
        if !args.json {
            report::timings(engine.load, &timings);
        }
    }
    Ok(if finish == Some(Finish::Cancelled) { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The text to continue, exactly as given.
fn prompt(args: &GenerateArgs) -> Result<String, Failure> {
    match (&args.prompt, &args.file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) if path != Path::new("-") => input::file(path),
        _ => input::read(stdin(), Path::new("stdin")),
    }
}

/// The text on its way to stdout.
pub struct Output {
    /// Write each piece as it comes, or keep them for the end.
    pub streams: bool,
    pub text: String,
}

impl Output {
    pub fn push(&mut self, piece: &str) -> Result<(), Failure> {
        self.text.push_str(piece);
        if self.streams {
            let mut stdout = stdout().lock();
            stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)?;
        }
        Ok(())
    }

    /// On a terminal, what follows shall begin on a line of its own. Elsewhere the text stays as it is.
    fn end_line(&self) -> Result<(), Failure> {
        if stdout().is_terminal() && !self.text.ends_with('\n') {
            writeln!(stdout()).map_err(Failure::Output)?;
        }
        Ok(())
    }
}

fn timings_json(load: std::time::Duration, timings: &Timings) -> Value {
    json!({
        "load_seconds": load.as_secs_f64(),
        "prefill_tokens": timings.prefill_tokens,
        "prefill_seconds": timings.prefill.as_secs_f64(),
        "prefill_tokens_per_second": report::per_second(timings.prefill_tokens, timings.prefill),
        "decode_tokens": timings.decode_tokens,
        "decode_seconds": timings.decode.as_secs_f64(),
        "decode_tokens_per_second": report::per_second(timings.decode_tokens, timings.decode),
        "sampling_seconds": timings.sampling.as_secs_f64(),
        "detokenising_seconds": timings.detokenising.as_secs_f64(),
        "peak_rss_bytes": host::peak_rss(),
    })
}
