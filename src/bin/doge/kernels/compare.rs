//! The rows of an earlier run beside those of this one.

use std::{collections::HashMap, path::Path};

use serde_json::Value;

use super::measure::Row;
use crate::{
    failure::Failure,
    samples::{mad, median},
};

/// Smaller changes are never called one: clocks, pages and neighbours differ from run to run.
const LEAST: f64 = 0.05;
/// How many deviations of both runs together a change must exceed.
const DEVIATIONS: f64 = 3.0;

/// What stands in the file, by what identifies a row.
pub struct Baseline {
    rows: HashMap<String, Old>,
}

#[derive(Clone, Copy, Debug)]
struct Old {
    /// Seconds of a call, and their spread.
    median: f64,
    mad: f64,
    percent_of_roof: f64,
}

/// A row beside its older self.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Seconds of a call then.
    pub was: f64,
    /// By how much the time has grown: 0.1 is 10 % more.
    pub change: f64,
    /// What a change of the time may be by chance.
    pub noise: f64,
    /// The kernel is slower, and the machine is not: the time has grown beyond the noise, and so has the distance from the roof.
    pub slower: bool,
}

fn key(part: impl Fn(&str) -> String) -> String {
    ["op", "dtype", "isa", "shape", "mode", "threads"].map(part).join("/")
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
            let numbers = (number("/seconds/median"), number("/seconds/mad"), number("/percent_of_roof"));
            let (Some(median), Some(mad), Some(percent_of_roof)) = numbers else {
                return Err(malformed("a row has no times"));
            };
            let word = |name: &str| match &row[name] {
                Value::String(word) => word.clone(),
                other => other.to_string(),
            };
            found.insert(key(word), Old { median, mad, percent_of_roof });
        }
        if found.is_empty() {
            return Err(malformed("it has no rows"));
        }
        Ok(Baseline { rows: found })
    }

    /// `None` if the file does not have this row.
    pub fn beside(&self, row: &Row) -> Option<Change> {
        let word = |name: &str| match name {
            "op" => row.op.to_string(),
            "dtype" => row.dtype.to_string(),
            "isa" => row.isa.to_string(),
            "shape" => row.shape.clone(),
            "mode" => row.mode.name().to_string(),
            _ => row.threads.to_string(),
        };
        let old = self.rows.get(&key(word)).filter(|old| old.median > 0.0)?;
        Some(change(*old, median(row.samples.clone()), mad(&row.samples), row.percent_of_roof()))
    }
}

fn change(old: Old, median: f64, mad: f64, percent_of_roof: f64) -> Change {
    let noise = (DEVIATIONS * (old.mad / old.median + mad / median)).max(LEAST);
    let change = median / old.median - 1.0;
    // A machine that has become slower takes its roof down with it.
    let further_from_the_roof = old.percent_of_roof > percent_of_roof * (1.0 + noise);
    Change { was: old.median, change, noise, slower: change > noise && further_from_the_roof }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_is_what_exceeds_both_spreads_and_the_machine() {
        let old = Old { median: 1.0, mad: 0.01, percent_of_roof: 80.0 };
        assert!(change(old, 1.2, 0.01, 66.7).slower);
        // Within the spreads: 3 * (1 % + 8 %).
        assert!(!change(old, 1.2, 0.1, 66.7).slower);
        assert!(!change(old, 1.04, 0.0, 76.9).slower);
        // The machine is as much slower as the kernel.
        assert!(!change(old, 1.2, 0.01, 80.0).slower);
        let faster = change(old, 0.5, 0.01, 160.0);
        assert!(!faster.slower && (faster.change + 0.5).abs() < 1e-12);
    }
}
