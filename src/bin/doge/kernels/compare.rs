//! The rows of an earlier run beside those of this one.

use std::{collections::HashMap, path::Path};

use serde_json::Value;

use super::measure::Row;
use crate::failure::Failure;

/// Smaller changes are never called one: clocks, pages and neighbours differ from run to run.
const LEAST: f64 = 0.05;
/// How many spreads of both runs together a change must exceed.
const SPREADS: f64 = 2.0;

/// What stands in the file, by what identifies a row.
pub struct Baseline {
    rows: HashMap<String, Old>,
}

/// What a run says of a row, and how far from it another run may come.
#[derive(Clone, Copy, Debug)]
struct Old {
    /// Seconds of a call.
    median: f64,
    spread: f64,
    percent_of_roof: f64,
    percent_spread: f64,
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
            let times = (number("/seconds/median"), number("/seconds/spread"));
            let (Some(median), Some(spread), Some(percent_of_roof), Some(percent_spread)) =
                (times.0, times.1, number("/percent_of_roof"), number("/percent_spread"))
            else {
                return Err(malformed("a row has no times with their spread"));
            };
            let word = |name: &str| match &row[name] {
                Value::String(word) => word.clone(),
                other => other.to_string(),
            };
            found.insert(key(word), Old { median, spread, percent_of_roof, percent_spread });
        }
        if found.is_empty() {
            return Err(malformed("it has no rows"));
        }
        Ok(Baseline { rows: found })
    }

    /// `None` if the file does not have this row.
    pub fn beside(&self, row: &Row) -> Option<Change> {
        let what = &row.what;
        let word = |name: &str| match name {
            "op" => what.op.to_string(),
            "dtype" => what.dtype.to_string(),
            "isa" => what.isa.to_string(),
            "shape" => what.shape.clone(),
            "mode" => what.mode.name().to_string(),
            _ => what.threads.to_string(),
        };
        let old = self.rows.get(&key(word)).filter(|old| old.median > 0.0)?;
        let (median, spread) = (row.median(), row.spread());
        let (percent_of_roof, percent_spread) = (row.percent_of_roof(), row.percent_spread());
        Some(change(*old, Old { median, spread, percent_of_roof, percent_spread }))
    }
}

fn change(old: Old, new: Old) -> Change {
    let noise = |old: (f64, f64), new: (f64, f64)| (SPREADS * (old.1 / old.0 + new.1 / new.0)).max(LEAST);
    let change = new.median / old.median - 1.0;
    let of_time = noise((old.median, old.spread), (new.median, new.spread));
    // A machine that has become slower takes its roof down with it.
    let of_roof = noise((old.percent_of_roof, old.percent_spread), (new.percent_of_roof, new.percent_spread));
    let further_from_the_roof = old.percent_of_roof > new.percent_of_roof * (1.0 + of_roof);
    Change { was: old.median, change, noise: of_time, slower: change > of_time && further_from_the_roof }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(median: f64, spread: f64, percent_of_roof: f64) -> Old {
        Old { median, spread, percent_of_roof, percent_spread: spread / median * percent_of_roof }
    }

    #[test]
    fn slower_is_what_exceeds_both_spreads_and_the_machine() {
        let old = run(1.0, 0.02, 80.0);
        // A fifth slower, and both runs two per cent apart in themselves.
        assert!(change(old, run(1.2, 0.024, 66.7)).slower);
        // Within the spreads: 2 * (2 % + 9 %).
        assert!(!change(old, run(1.2, 0.108, 66.7)).slower);
        assert!(!change(run(1.0, 0.0, 80.0), run(1.04, 0.0, 76.9)).slower);
        // The machine is as much slower as the kernel.
        assert!(!change(old, run(1.2, 0.024, 80.0)).slower);
        let faster = change(old, run(0.5, 0.01, 160.0));
        assert!(!faster.slower && (faster.change + 0.5).abs() < 1e-12);
    }
}
