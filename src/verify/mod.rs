//! Compares the engine with recorded results of the reference: what `doge verify` runs.
//!
//! Four kinds of cases are found under a folder: model cases (a checkpoint with `expected.safetensors`), trained
//! checkpoints (with an `expected.json` of greedy runs and a held-out loss), and fixtures of tokenizer, chat and sampling.
//! Their format is described in tests/golden/README.md. Every figure is an error as a fraction of its budget: 1 is the
//! edge. Nothing is passed over silently: what a case could not be held to is listed with it.

mod expected;
#[cfg(feature = "text")]
mod fixtures;
mod model_case;
mod recorded;
#[cfg(feature = "text")]
mod trained;

pub use model_case::INFORMATION;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    model::{Checkpoint, Model},
    ops::Cpu,
    Device, Dtype, Error, Result,
};

/// How to verify. Made by [`VerifyOptions::new`] and the methods of the fields' names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Threads and kernels.
    pub cpu: Cpu,
    /// Where the models run; `cpu` then only chooses tokens.
    pub device: Device,
    /// Convert the weights first. Where that rounds them, the engine is held to [`crate::reference`] on the same weights
    /// instead of the case's own results.
    pub dtype: Option<Dtype>,
    /// Tokens of a block of a prompt, as [`SessionOptions::block`](crate::model::SessionOptions::block).
    pub block: Option<usize>,
}

impl VerifyOptions {
    /// On the CPU, with the weights as they are stored.
    pub fn new(cpu: Cpu) -> Self {
        VerifyOptions { cpu, device: Device::Cpu, dtype: None, block: None }
    }

    /// Sets [`VerifyOptions::device`].
    pub fn device(self, device: Device) -> Self {
        VerifyOptions { device, ..self }
    }

    /// Sets [`VerifyOptions::dtype`].
    pub fn dtype(self, dtype: impl Into<Option<Dtype>>) -> Self {
        VerifyOptions { dtype: dtype.into(), ..self }
    }

    /// Sets [`VerifyOptions::block`].
    pub fn block(self, block: usize) -> Self {
        VerifyOptions { block: Some(block), ..self }
    }

    fn place(&self, checkpoint: Checkpoint) -> Result<Model> {
        self.device.place(Model::new(checkpoint))
    }
}

/// One comparison of a case.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Largest error as a fraction of its budget.
    Error(f64),
    /// How far rounded weights move the largest logit, as a fraction of it: for information, passes if it is a number.
    Distance(f64),
    /// Must agree exactly; says where it first does not.
    Exact(Result<(), String>),
}

impl Outcome {
    /// Is nothing beyond its budget?
    pub fn passed(&self) -> bool {
        match self {
            Outcome::Error(fraction) => *fraction <= 1.0, // false for NaN
            Outcome::Distance(fraction) => !fraction.is_nan(),
            Outcome::Exact(agrees) => agrees.is_ok(),
        }
    }
}

/// The largest error: NaN if one is, which `f64::max` would lose.
fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |worst, x| if x > worst || x.is_nan() { x } else { worst })
}

/// What became of one case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaseReport {
    /// The folder's.
    pub name: String,
    /// Comparisons by name, in the order made.
    pub checks: Vec<(&'static str, Outcome)>,
    /// What was not checked, and why.
    pub unchecked: Vec<String>,
    /// The case could not be run to its end.
    pub failure: Option<String>,
}

impl CaseReport {
    fn new(name: String) -> Self {
        CaseReport { name, checks: Vec::new(), unchecked: Vec::new(), failure: None }
    }

    /// Adds a comparison; of the same name the worse one stays.
    fn check(&mut self, name: &'static str, outcome: Outcome) {
        match self.checks.iter_mut().find(|(known, _)| *known == name) {
            None => self.checks.push((name, outcome)),
            Some((_, known)) => {
                let worse = match (&*known, &outcome) {
                    (Outcome::Error(a) | Outcome::Distance(a), Outcome::Error(b) | Outcome::Distance(b)) => b.is_nan() || b > a,
                    _ => known.passed(),
                };
                if worse {
                    *known = outcome;
                }
            }
        }
    }

    /// Everything that was compared agrees, and something was that could have failed.
    pub fn passed(&self) -> bool {
        let could_fail = |(_, outcome): &(&str, Outcome)| !matches!(outcome, Outcome::Distance(_));
        self.failure.is_none() && self.checks.iter().any(could_fail) && self.checks.iter().all(|(_, outcome)| outcome.passed())
    }

    /// Notes a tensor that a case of this kind should have, and has not.
    fn absent(&mut self, tensor: &str) {
        let why = format!("{tensor}: not in the case");
        if !self.unchecked.contains(&why) {
            self.unchecked.push(why);
        }
    }
}

/// One line: `ok   v2_gqa  full 0.10  decode 0.09  …  greedy exact`.
impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:<22}", if self.passed() { "ok  " } else { "FAIL" }, self.name)?;
        for (name, outcome) in &self.checks {
            match outcome {
                Outcome::Error(fraction) => write!(f, "  {name} {fraction:.2}")?,
                Outcome::Distance(fraction) => write!(f, "  {name} {:.2}%", 100.0 * fraction)?,
                Outcome::Exact(Ok(())) => write!(f, "  {name} exact")?,
                Outcome::Exact(Err(why)) => write!(f, "  {name} DIFFERS ({why})")?,
            }
        }
        if let Some(why) = &self.failure {
            write!(f, "  {why}")?;
        }
        if !self.unchecked.is_empty() {
            write!(f, "  [not checked: {}]", self.unchecked.join("; "))?;
        }
        Ok(())
    }
}

/// A case found under a folder.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Model(PathBuf),
    Json(PathBuf),
}

/// Runs every case under `folder` (and `folder` itself, if it is one) in the order of their names, and shows each report
/// as it is made.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::ModelNotFound`] if there is no case in it.
pub fn run(folder: &Path, options: &VerifyOptions, mut each: impl FnMut(&CaseReport)) -> Result<Vec<CaseReport>> {
    let mut found = Vec::new();
    find(folder, 0, &mut found)?;
    if found.is_empty() {
        let why = "no folder there holds an expected.safetensors or an expected.json".into();
        return Err(Error::ModelNotFound { name: folder.display().to_string(), why });
    }
    let mut reports = Vec::with_capacity(found.len());
    for case in &found {
        let report = run_case(case, options);
        each(&report);
        reports.push(report);
    }
    Ok(reports)
}

/// Folders below the one given in which cases are looked for.
const MAX_DEPTH: usize = 3;

fn find(folder: &Path, depth: usize, found: &mut Vec<Found>) -> Result<()> {
    if folder.join("expected.safetensors").is_file() {
        found.push(Found::Model(folder.to_path_buf()));
    } else if folder.join("expected.json").is_file() {
        found.push(Found::Json(folder.to_path_buf()));
    }
    if depth == MAX_DEPTH {
        return Ok(());
    }
    let io = |source| Error::Io { path: folder.to_path_buf(), source };
    let mut inner = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            inner.push(path);
        }
    }
    inner.sort();
    inner.iter().try_for_each(|path| find(path, depth + 1, found))
}

fn run_case(case: &Found, options: &VerifyOptions) -> CaseReport {
    let (Found::Model(folder) | Found::Json(folder)) = case;
    let mut report = CaseReport::new(folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned());
    let outcome = match case {
        Found::Model(_) => model_case::run(folder, options, &mut report),
        #[cfg(feature = "text")]
        Found::Json(_) => run_json(folder, options, &mut report),
        #[cfg(not(feature = "text"))]
        Found::Json(_) => {
            report.failure = Some("this build has no tokenizer (feature `text`)".into());
            Ok(())
        }
    };
    if let Err(error) = outcome {
        report.failure = Some(error.to_string());
    }
    report
}

/// The kind of an expected.json shows in its keys.
#[cfg(feature = "text")]
fn run_json(folder: &Path, options: &VerifyOptions, report: &mut CaseReport) -> Result<()> {
    let path = folder.join("expected.json");
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::BadFile { path: path.clone(), why: e.to_string() })?;
    let has = |key: &str| json.get(key).is_some();
    match () {
        () if has("encode") => fixtures::tokenizer(folder, &json, report),
        () if has("rows") && has("atol") => fixtures::sampling(&json, report),
        () if has("stop_tokens") => fixtures::chat_model(folder, &json, options, report),
        () if has("heldout") => trained::run(folder, &json, options, report),
        () => {
            Err(Error::BadFile { path, why: "is of no kind known here (tokenizer, sampling, chat model, trained model)".into() })
        }
    }
}
