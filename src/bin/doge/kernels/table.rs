//! Rows as Markdown, CSV or JSON.

use serde_json::{json, Value};

use super::{
    compare::{Baseline, Change},
    measure::{Group, Row},
    roofs::Limit,
};
use crate::{
    failure::Failure,
    format::{print, quoted, Format},
    report, version,
};

const CSV: &str = "op,dtype,isa,shape,mode,threads,seconds,spread,samples,bytes,operations,gb_per_second,gop_per_second,\
    operations_per_byte,working_set_bytes,limit,roof,percent_of_roof,percent_spread,roof_steady,cycles,instructions,cache_misses,\
    was_seconds,change_of_time,change,noise,comparable,slower,cpu,gpu,commit,version";

pub struct Table {
    format: Format,
    counts: bool,
    baseline: Option<Baseline>,
    machine: Value,
    rows: Vec<Row>,
    json: Vec<Value>,
    /// Rows that the baseline has, those of them that cannot be compared, and those that are slower.
    found: usize,
    not_comparable: usize,
    slower: Vec<String>,
    /// Why the table can no longer be written.
    unwritten: Option<Failure>,
}

impl Table {
    pub fn new(format: Format, counts: bool, baseline: Option<Baseline>, machine: Value) -> Self {
        let (rows, json, slower) = (Vec::new(), Vec::new(), Vec::new());
        Table { format, counts, baseline, machine, rows, json, found: 0, not_comparable: 0, slower, unwritten: None }
    }

    pub fn baseline(&self) -> Option<&Baseline> {
        self.baseline.as_ref()
    }

    pub fn machine(&self) -> &Value {
        &self.machine
    }

    /// A line of the table. A comparison goes on when nobody reads it any more: its result is the exit code.
    fn print(&mut self, line: &str) -> Result<(), Failure> {
        match (self.baseline.is_some(), &self.unwritten) {
            (false, _) => print(line),
            (true, None) => {
                self.unwritten = print(line).err();
                Ok(())
            }
            (true, Some(_)) => Ok(()),
        }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn begin(&mut self) -> Result<(), Failure> {
        match self.format {
            Format::Md => {
                let mut columns =
                    vec!["op", "dtype", "isa", "shape", "mode", "threads", "time", "± spread", "KB", "GB/s", "GOP/s"];
                columns.extend(["op/B", "% of roof", "roof"]);
                if self.counts {
                    columns.extend(["cycles", "instr./cycle", "cache misses"]);
                }
                if self.baseline.is_some() {
                    columns.extend(["was", "change", "beside the roof", "noise"]);
                }
                let line =
                    |name: &&str| if ["op", "dtype", "isa", "shape", "mode", "roof"].contains(name) { "---|" } else { "---:|" };
                self.print(&format!("| {} |\n|{}", columns.join(" | "), columns.iter().map(line).collect::<String>()))
            }
            Format::Csv => self.print(CSV),
            Format::Json | Format::Jsonl => Ok(()),
        }
    }

    /// Is it slower than in the run it is compared with?
    pub fn is_slower(&self, row: &Row) -> bool {
        self.baseline.as_ref().and_then(|baseline| baseline.beside(row)).is_some_and(|change| change.slower)
    }

    pub fn row(&mut self, row: Row) -> Result<(), Failure> {
        let change = self.baseline.as_ref().and_then(|baseline| baseline.beside(&row));
        if let Some(change) = change {
            self.found += 1;
            self.not_comparable += usize::from(!change.comparable);
            if change.slower {
                let name =
                    format!("{}/{}/{}/{} {}", row.what.op, row.what.dtype, row.what.isa, row.what.shape, row.what.mode.name());
                self.slower.push(format!(
                    "{name}: {:+.1} % beside its roof, noise {:.1} %",
                    100.0 * change.change,
                    100.0 * change.noise
                ));
            }
        }
        match self.format {
            Format::Md => self.print(&self.markdown(&row, change))?,
            Format::Csv => self.print(&self.csv(&row, change))?,
            Format::Json => self.json.push(self.json(&row, change)),
            Format::Jsonl => self.print(&self.json(&row, change).to_string())?,
        }
        self.rows.push(row);
        Ok(())
    }

    /// Ends the table; has a kernel become slower?
    pub fn end(mut self, quiet: bool) -> Result<bool, Failure> {
        if self.format == Format::Json {
            let rows = std::mem::take(&mut self.json);
            self.print(&format!("{:#}", Value::Array(rows)))?;
        }
        if self.baseline.is_some() && self.found == 0 {
            return Err(Failure::Usage("--compare: the file has none of these rows".into()));
        }
        if self.baseline.is_some() && !quiet {
            let (compared, all, slower) = (self.found - self.not_comparable, self.rows.len(), self.slower.len());
            report::note(format_args!("{compared} of {all} rows compared, {slower} slower"));
        }
        if self.not_comparable > 0 && !quiet {
            let why = "the machine did not stay the same, or others used its processors: measure again when it is quiet";
            report::note(format_args!("{} rows are not comparable: {why}", self.not_comparable));
        }
        self.slower.iter().for_each(|row| report::error(&format!("slower: {row}")));
        match (self.slower.is_empty(), self.unwritten) {
            (true, Some(failure)) => Err(failure),
            (false, Some(failure)) => {
                failure.report();
                Ok(true)
            }
            (none_is, None) => Ok(!none_is),
        }
    }

    fn markdown(&self, row: &Row, change: Option<Change>) -> String {
        let mark = if row.is_steady() { "" } else { "~" };
        let spread = row.spread().map_or("—".into(), |spread| format!("{:.1} %", 100.0 * spread / row.median()));
        let mut line = format!(
            "| {} | {} | {} | {} | {} | {} | {} | {spread} | {:.1} | {:.1} | {:.1} | {:.2} | {mark}{:.1} | {} |",
            row.what.op,
            row.what.dtype,
            row.what.isa,
            row.what.shape,
            row.what.mode.name(),
            row.what.threads,
            time(row.median()),
            row.what.cost.bytes as f64 / 1e3,
            row.gigabytes_per_second(),
            row.gigaoperations_per_second(),
            row.intensity(),
            row.percent_of_roof(),
            roof(row),
        );
        if self.counts {
            line += &match row.counts {
                Some(c) => format!(" {:.0} | {:.2} | {:.1} |", c.cycles, c.instructions / c.cycles, c.cache_misses),
                None => " | | |".into(),
            };
        }
        if self.baseline.is_some() {
            line += &match change {
                Some(c) => {
                    let [of_time, change, noise] = [c.of_time, c.change, c.noise].map(|x| 100.0 * x);
                    let change = match (c.comparable, c.slower) {
                        (false, _) => "not comparable".into(),
                        (true, slower) => format!("{}{change:+.1} %", if slower { "**slower** " } else { "" }),
                    };
                    format!(" {} | {of_time:+.1} % | {change} | {noise:.1} % |", time(c.was))
                }
                None => " | new | | |".into(),
            };
        }
        line
    }

    fn csv(&self, row: &Row, change: Option<Change>) -> String {
        let samples: Vec<String> = row.samples().iter().map(f64::to_string).collect();
        let counts = row.counts.map_or([None; 3], |c| [c.cycles, c.instructions, c.cache_misses].map(Some));
        let changes = change.map_or([None; 4], |c| [c.was, c.of_time, c.change, c.noise].map(Some));
        let optional = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
        let mut fields = vec![
            row.what.op.to_string(),
            row.what.dtype.to_string(),
            row.what.isa.to_string(),
            row.what.shape.clone(),
            row.what.mode.name().to_string(),
            row.what.threads.to_string(),
            row.median().to_string(),
            optional(row.spread()),
            samples.join(" "),
            row.what.cost.bytes.to_string(),
            row.what.cost.operations.to_string(),
            row.gigabytes_per_second().to_string(),
            row.gigaoperations_per_second().to_string(),
            row.intensity().to_string(),
            row.what.working_set.to_string(),
            limit(row).to_string(),
            quoted(&roof(row)),
            row.percent_of_roof().to_string(),
            optional(row.percent_spread()),
            row.is_steady().to_string(),
        ];
        fields.extend(counts.into_iter().chain(changes).map(optional));
        let verdicts = change.map_or([None; 2], |c| [c.comparable, c.slower].map(Some));
        fields.extend(verdicts.map(|verdict| verdict.map_or(String::new(), |verdict| verdict.to_string())));
        fields.extend(["cpu", "gpu"].map(|which| quoted(self.machine[which].as_str().unwrap_or_default())));
        fields.push(version::COMMIT.unwrap_or_default().to_string());
        fields.push(env!("CARGO_PKG_VERSION").to_string());
        fields.join(",")
    }

    fn json(&self, row: &Row, change: Option<Change>) -> Value {
        let mut object = json!({
            "op": row.what.op,
            "dtype": row.what.dtype,
            "isa": row.what.isa,
            "shape": row.what.shape,
            "mode": row.what.mode.name(),
            "threads": row.what.threads,
            "seconds": {"median": row.median(), "spread": row.spread(), "samples": row.samples()},
            "bytes": row.what.cost.bytes,
            "operations": row.what.cost.operations,
            "gb_per_second": row.gigabytes_per_second(),
            "gop_per_second": row.gigaoperations_per_second(),
            "operations_per_byte": row.intensity(),
            "working_set_bytes": row.what.working_set,
            "percent_of_roof": row.percent_of_roof(),
            "percent_spread": row.percent_spread(),
            "roof": {
                "of": limit(row),
                "name": row.roof_name,
                "per_second": row.roof(),
                "steady": row.is_steady(),
            },
            "groups": row.groups.iter().map(group).collect::<Vec<_>>(),
            "counts": row.counts.map(|c| {
                json!({
                    "cycles": c.cycles,
                    "instructions": c.instructions,
                    "instructions_per_cycle": c.instructions / c.cycles,
                    "cache_misses": c.cache_misses,
                })
            }),
            "machine": self.machine,
            "commit": version::COMMIT,
            "version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(c) = change {
            object["compared"] = json!({
                "was_seconds": c.was,
                "change_of_time": c.of_time,
                "change": c.change,
                "noise": c.noise,
                "comparable": c.comparable,
                "slower": c.slower,
            });
        }
        object
    }
}

/// Samples, the bytes or operations a second that the roof gave just before and just after them, and how long threads waited.
fn group(group: &Group) -> Value {
    let Group { samples, roof, waited } = group;
    json!({"samples": samples, "per_second_before": roof.before, "per_second_after": roof.after, "share_waited": waited})
}

fn limit(row: &Row) -> &'static str {
    match row.limit {
        Limit::Reading { .. } => "bytes",
        Limit::Arithmetic(_) => "operations",
    }
}

/// The roof in words: `41.2 GB/s memory`, or `498 GOP/s vfmadd zmm`.
fn roof(row: &Row) -> String {
    let (mean, name) = (row.roof() / 1e9, &row.roof_name);
    match row.limit {
        Limit::Reading { .. } => format!("{mean:.1} GB/s {name}"),
        Limit::Arithmetic(_) => format!("{mean:.0} GOP/s {name}"),
    }
}

/// Three digits and a unit.
fn time(seconds: f64) -> String {
    let (x, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = match x {
        x if x < 10.0 => 2,
        x if x < 100.0 => 1,
        _ => 0,
    };
    format!("{x:.digits$} {unit}")
}
