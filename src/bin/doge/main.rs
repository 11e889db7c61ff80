//! The command `doge`. Text and data go to stdout, everything else to stderr.
#![forbid(unsafe_code)]

mod bench;
mod chat;
mod doctor;
mod engine;
mod failure;
mod format;
mod generate;
mod host;
mod input;
mod inspect;
mod interrupt;
mod kernels;
mod machine;
mod options;
mod perplexity;
mod quantize;
mod report;
mod samples;
mod sampling;
mod threads;
mod verify;
mod version;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use doge_engine::Tokenizer;

use failure::Failure;

/// Runs Doge language models on hand-written kernels.
///
/// Exit codes: 0 ok, 1 failed while running, 2 wrong usage, 3 bad or unsupported model, 4 verification failed,
/// 130 interrupted.
#[derive(Parser)]
#[command(name = "doge", version = version::short(), long_version = version::long(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::GenerateArgs>),
    Chat(Box<chat::ChatArgs>),
    Verify(verify::VerifyArgs),
    Inspect(inspect::InspectArgs),
    Quantize(quantize::QuantizeArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
    Kernels(kernels::KernelsArgs),
    Perplexity(perplexity::PerplexityArgs),
}

/// The arguments, with `--threads-batch` for llama.cpp's `-tb`: else an option of one dash has one letter. No value follows
/// where `-tb` is itself the value of another option.
fn arguments() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    for i in 1..words.len() {
        let value = words.get(i + 1).is_some_and(|next| !next.as_encoded_bytes().starts_with(b"-"));
        if words[i] == "-tb" && value {
            words[i] = "--threads-batch".into();
        }
    }
    words
}

/// A panic that becomes a named error is told of by that error alone.
fn silence_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !Tokenizer::catches_panics() {
            usual(panic);
        }
    }));
}

fn main() -> ExitCode {
    silence_caught_panics();
    let result: Result<ExitCode, Failure> = match Cli::parse_from(arguments()).command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
    };
    result.unwrap_or_else(|failure| failure.report())
}
