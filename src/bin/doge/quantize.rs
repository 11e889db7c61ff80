//! `doge quantize`

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use clap::Args;
use doge_engine::{quantize, Dtype};

use crate::{
    engine,
    failure::{Failure, INTERRUPTED},
    interrupt::Interrupt,
    report::mebibytes,
};

/// How often it is looked whether Ctrl-C was pressed.
const GLANCE: Duration = Duration::from_millis(10);

/// Writes a checkpoint with int8 or int4 weights, which loads in place
#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// The checkpoint: a folder, a .safetensors file with config.json beside it, or owner/name from the Hugging Face cache
    #[arg(short, long, value_name = "PATH|OWNER/NAME")]
    pub model: PathBuf,
    /// Branch, tag or commit of owner/name [default: main]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Fetch owner/name into the Hugging Face cache if it is not there (the only use of the network)
    #[arg(long)]
    pub download: bool,
    /// int8 (8.5 bits a weight) or int4 (4.5 bits)
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Dtype,
    /// Folder for the new checkpoint; must not hold weights yet
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
}

pub fn run(args: &QuantizeArgs) -> Result<ExitCode, Failure> {
    if !args.dtype.is_int() {
        return Err(Failure::Usage(format!("--dtype {} is no integer format; expected int8 or int4", args.dtype)));
    }
    let start = Instant::now();
    let source = engine::resolve(&args.model, args.revision.as_deref(), args.download, false)?;
    let interrupt = Interrupt::install()?;
    let cancel = interrupt.begin();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| quantize::write(&source, args.dtype, &args.output));
        while !writer.is_finished() {
            if cancel.load(Ordering::Relaxed) {
                // Half a checkpoint is of no use, and may be large. There is none if it was not begun or has just been ended.
                let _ = std::fs::remove_file(args.output.join(quantize::UNFINISHED));
                std::process::exit(INTERRUPTED.into());
            }
            std::thread::sleep(GLANCE);
        }
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let bytes = written.map_err(Failure::of_checkpoint)?;
    eprintln!("{}: {} in {:.1} s", args.output.display(), mebibytes(bytes as u64), start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
