//! `doge quantize`

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Args;
use doge_engine::{quantize, Dtype};

use crate::{failure::Failure, report::mebibytes};

/// Writes a checkpoint with int8 or int4 weights, which loads in place
#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// The checkpoint: a folder, or a .safetensors file with config.json beside it
    #[arg(short, long, value_name = "PATH")]
    pub model: PathBuf,
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
    let bytes = quantize::write(&args.model, args.dtype, &args.output)?;
    eprintln!("{}: {} in {:.1} s", args.output.display(), mebibytes(bytes as u64), start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
