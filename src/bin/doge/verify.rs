//! `doge verify`

use std::{
    io::{stdout, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use doge_engine::{
    verify::{self, VerifyOptions},
    Dtype, Float,
};

use crate::{
    engine,
    failure::{Failure, VERIFICATION_FAILED},
    options::CpuOptions,
};

/// Runs every golden case found under a folder and compares with what it expects
///
/// One line a case. Figures are the largest error as a fraction of its budget: 1 is the edge.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Folder of golden cases, searched with its subfolders
    pub dir: PathBuf,
    /// Hold the matrices as f32, bf16, f16, int8 or int4 instead of as stored. Where bf16 or f16 round them, logits are held to the
    /// engine's own reference on the rounded weights, not to the case's results; with int8 and int4 it is checked that a prompt
    /// has the bits of its tokens one by one, and shown how far the logits move
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    #[command(flatten)]
    pub cpu: CpuOptions,
}

pub fn run(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let (kernels, form) = (engine::kernels(args.cpu.isa)?, args.cpu.activations.into());
    let Some(cpu) = args.cpu.asked_threads().cpu_of_any_model(kernels, form) else {
        return Err(Failure::Usage("auto chooses threads for one model, and verify runs many: give a number".into()));
    };
    let options = VerifyOptions::new(cpu?).device(engine::device(args.cpu.device, Float::F32, false)?).dtype(args.dtype);
    let mut written = Ok(());
    let reports = verify::run(&args.dir, &options, |report| {
        if written.is_ok() {
            written = writeln!(stdout(), "{report}");
        }
    })?;
    let failed = reports.iter().filter(|report| !report.passed()).count();
    let unread = verify::INFORMATION.join(", ");
    let written = written
        .and_then(|()| writeln!(stdout(), "not checked, being for information only: {unread}"))
        .and_then(|()| writeln!(stdout(), "{} passed, {failed} failed", reports.len() - failed))
        .map_err(Failure::Output);
    match (failed, written) {
        (0, written) => written.map(|()| ExitCode::SUCCESS),
        // Whoever closed the pipe still wants to know, and an output that failed is told of besides.
        (_, written) => {
            written.unwrap_or_else(|failure| _ = failure.report());
            Ok(ExitCode::from(VERIFICATION_FAILED))
        }
    }
}
