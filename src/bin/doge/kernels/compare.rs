//! The rows of an earlier run beside those of this one.

use std::{collections::HashMap, path::Path};

use serde_json::Value;

use super::measure::{Mode, Row};
use crate::{failure::Failure, machine};

/// Smaller changes are never called one: clocks, pages and neighbours differ from run to run.
const LEAST: f64 = 0.05;

/// What stands in the file, by what identifies a row.
pub struct Baseline {
    rows: HashMap<String, Old>,
    /// What they were measured on.
    processor: Option<String>,
}

/// What a run says of a row, and how far from it another run may come.
#[derive(Clone, Copy, Debug)]
struct Old {
    /// Seconds of a call.
    median: f64,
    percent_of_roof: f64,
    percent_spread: f64,
    steady: bool,
}

/// A row beside its older self.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Seconds of a call then.
    pub was: f64,
    /// By how much the time has grown: 0.1 is 10 % more.
    pub of_time: f64,
    /// By how much more than the roof's own has: a machine that has become slower takes its roof down with it.
    pub change: f64,
    /// What that may be by chance: as far as both runs say that their medians may be off.
    pub noise: f64,
    /// The machine was steady under both.
    pub comparable: bool,
    /// It has grown beyond the noise, and so has the plain time by more than what is never called a change.
    pub slower: bool,
}

/// What identifies a row.
pub fn key(op: &str, dtype: &str, isa: &str, shape: &str, mode: Mode, threads: usize) -> String {
    format!("{op}/{dtype}/{isa}/{shape}/{}/{threads}", mode.name())
}

impl Baseline {
    /// Reads what `-o json` or `-o jsonl` wrote.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|source| Failure::Input { from: path.to_path_buf(), source })?;
        let malformed =
            |why: &str| Failure::Usage(format!("--compare {}: {why}; expected the JSON of an earlier run", path.display()));
        let rows: Vec<Value> = match serde_json::from_str(&text) {
            Ok(Value::Array(rows)) => rows,
            _ => {
                text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|error| malformed(&error.to_string()))?
            }
        };
        let mut found = HashMap::new();
        for row in &rows {
            let number = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).filter(|x| x.is_finite() && *x >= 0.0);
            let (Some(median), Some(percent_of_roof)) = (number("/seconds/median"), number("/percent_of_roof")) else {
                return Err(malformed("a row has no time and percentage"));
            };
            let Some(percent_spread) = number("/percent_spread") else {
                return Err(malformed("a row has no spread, as with fewer repetitions than -r 5"));
            };
            let steady = row.pointer("/roof/steady") != Some(&Value::Bool(false));
            let word = |name: &str| match &row[name] {
                Value::String(word) => word.clone(),
                other => other.to_string(),
            };
            let key = ["op", "dtype", "isa", "shape", "mode", "threads"].map(word).join("/");
            found.insert(key, Old { median, percent_of_roof, percent_spread, steady });
        }
        if found.is_empty() {
            return Err(malformed("it has no rows"));
        }
        let processor = machine::processor(&rows[0]["machine"]).map(str::to_string);
        Ok(Baseline { rows: found, processor })
    }

    /// # Errors
    /// [`Failure::Usage`] if the file has none of these rows: better told before they are measured.
    pub fn check(&self, keys: &[String]) -> Result<(), Failure> {
        if keys.iter().any(|key| self.rows.contains_key(key)) {
            return Ok(());
        }
        let first = self.rows.keys().min().map_or("", String::as_str);
        Err(Failure::Usage(format!("--compare: the file has none of these rows, but rows as {first}; choose the same ones")))
    }

    /// What the file was measured on, if on something else than this.
    pub fn other_processor(&self, machine: &Value) -> Option<&str> {
        self.processor.as_deref().filter(|processor| machine::processor(machine) != Some(processor))
    }

    /// `None` if the file does not have this row.
    pub fn beside(&self, row: &Row) -> Option<Change> {
        let what = &row.what;
        let key = key(what.op, what.dtype, what.isa, &what.shape, what.mode, what.threads);
        let old = self.rows.get(&key).filter(|old| old.median > 0.0 && old.percent_of_roof > 0.0)?;
        let (median, percent_of_roof, percent_spread) = (row.median(), row.percent_of_roof(), row.percent_spread()?);
        Some(change(*old, Old { median, percent_of_roof, percent_spread, steady: row.is_steady() }))
    }
}

fn change(old: Old, new: Old) -> Change {
    let of_time = new.median / old.median - 1.0;
    let change = old.percent_of_roof / new.percent_of_roof - 1.0;
    let spreads = old.percent_spread / old.percent_of_roof + new.percent_spread / new.percent_of_roof;
    let (noise, comparable) = (spreads.max(LEAST), old.steady && new.steady);
    let slower = comparable && change > noise && of_time > LEAST;
    Change { was: old.median, of_time, change, noise, comparable, slower }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(median: f64, percent_of_roof: f64, percent_spread: f64) -> Old {
        Old { median, percent_of_roof, percent_spread, steady: true }
    }

    #[test]
    fn slower_is_what_exceeds_both_spreads_and_the_machine() {
        let old = run(1.0, 80.0, 4.0);
        // A fifth slower, and each run may be off by a twentieth.
        let fifth = change(old, run(1.2, 66.7, 3.3));
        assert!(fifth.slower && (fifth.change - 0.2).abs() < 1e-3 && (fifth.noise - 0.1).abs() < 1e-3);
        // Within what both may be off: 5 % and 16 %.
        assert!(!change(old, run(1.2, 66.7, 10.7)).slower);
        assert!(!change(run(1.0, 80.0, 0.0), run(1.04, 76.9, 0.0)).slower);
        // The machine is as much slower as the kernel; or faster, and the kernel less so.
        assert!(!change(old, run(1.2, 80.0, 1.0)).slower);
        assert!(!change(old, run(0.9, 60.0, 1.0)).slower);
        let faster = change(old, run(0.5, 160.0, 1.0));
        assert!(!faster.slower && (faster.of_time + 0.5).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_judged_that_was_measured_on_an_unsteady_machine() {
        let (steady, tenth) = (run(1.0, 80.0, 1.0), run(10.0, 8.0, 0.1));
        let judged = |old, new| (change(old, new).comparable, change(old, new).slower);
        assert_eq!(judged(steady, tenth), (true, true));
        assert_eq!(judged(Old { steady: false, ..steady }, tenth), (false, false));
        assert_eq!(judged(steady, Old { steady: false, ..tenth }), (false, false));
    }
}
