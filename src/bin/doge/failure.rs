//! What ends the command early, and the exit code that says so.

use std::{io, path::PathBuf, process::ExitCode};

use doge_engine::Error;

use crate::report;

pub const VERIFICATION_FAILED: u8 = 4;
/// 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub enum Failure {
    /// The engine refused or failed.
    Engine(Error),
    /// The checkpoint is to blame, whatever kind of error it is.
    Model(Error),
    /// The command line, or the environment, asks for something that does not exist.
    Usage(String),
    /// A file named by the user cannot be read or written, or stdin not be read.
    Input { from: PathBuf, source: io::Error },
    /// A result is not what the reference says.
    Wrong { what: String, why: String },
    /// stdout cannot be written to.
    Output(io::Error),
    /// The system refuses something that has nothing to do with the model.
    System { what: &'static str, source: io::Error },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Engine(error)
    }
}

impl Failure {
    /// Why a checkpoint cannot be loaded or read.
    pub fn of_checkpoint(error: Error) -> Self {
        match error {
            Error::NonFiniteValue { .. } => Failure::Model(error), // at this time it is a weight
            other => other.into(),
        }
    }

    /// Tells the user, and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (code, why) = match self {
            // Whoever read our output has enough of it, like `head`: nothing went wrong.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Failure::Output(error) => (1, format!("cannot write to stdout: {error}")),
            Failure::Input { from, source } => (1, format!("{}: {source}", from.display())),
            Failure::System { what, source } => (1, format!("{what}: {source}")),
            Failure::Wrong { what, why } => (VERIFICATION_FAILED, format!("{what}: {why}")),
            Failure::Usage(why) => (2, why),
            Failure::Model(error) => (3, error.to_string()),
            Failure::Engine(error) if error.is_model_error() => (3, error.to_string()),
            Failure::Engine(error) => (1, error.to_string()),
        };
        report::error(&why);
        ExitCode::from(code)
    }
}
