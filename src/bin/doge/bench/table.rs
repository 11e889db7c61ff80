//! Rows as Markdown, CSV or JSON.

use serde_json::{json, Value};

use super::measure::{Limit, Row};
use crate::{
    failure::Failure,
    format::{print, quoted, Format},
    report, version,
};

const CSV: &str =
    "model,dtype,activations,isa,instruction,threads,test,depth,keep_window,kv_dtype,attention,tokens_per_second,mad,\
    samples,bytes_per_token,operations_per_token,read_gb_per_second,roof,roof_tokens_per_second,percent_of_roof,\
    roof_steady,peak_rss_bytes,cpu,gpu,commit,version,card_tokens_per_second";

pub struct Table {
    format: Format,
    /// Figures of the model cards to print beside the rows: model, tokens per second.
    cards: &'static [(&'static str, f64)],
    /// Does the user ask for a keep window?
    windows: bool,
    machine: Value,
    rows: Vec<Value>,
    is_empty: bool,
}

impl Table {
    pub fn new(format: Format, cards: &'static [(&'static str, f64)], windows: bool, machine: Value) -> Self {
        Table { format, cards, windows, machine, rows: Vec::new(), is_empty: true }
    }

    pub fn begin(&self) -> Result<(), Failure> {
        let (card, line) = if self.cards.is_empty() { ("", "") } else { (" card, i7-11 |", "---:|") };
        let (window, below) = if self.windows { (" keep window |", "---:|") } else { ("", "") };
        match self.format {
            Format::Md => print(&format!(
                "| model | weights × input | isa | instruction | threads | test | depth |{window} K, V × query | tok/s | ± MAD | MB/token | GB/s | % of roof | roof |{card}\n\
                 |---|---|---|---|---:|---|---:|{below}---|---:|---:|---:|---:|---:|---|{line}"
            )),
            Format::Csv => print(CSV),
            Format::Json | Format::Jsonl => Ok(()),
        }
    }

    pub fn row(&mut self, row: Row) -> Result<(), Failure> {
        self.is_empty = false;
        match self.format {
            Format::Md => print(&self.markdown(&row)),
            Format::Csv => print(&self.csv(&row)),
            Format::Json => {
                self.rows.push(self.json(&row));
                Ok(())
            }
            Format::Jsonl => print(&self.json(&row).to_string()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    pub fn end(self, quiet: bool) -> Result<(), Failure> {
        if !self.cards.is_empty() && !quiet {
            report::note("the model cards give one figure a size, on an i7-11, and neither format nor threads");
        }
        match self.format {
            Format::Json => print(&format!("{:#}", Value::Array(self.rows))),
            _ => Ok(()),
        }
    }

    /// What the model's card says of this row: it gives the speed of single tokens.
    fn card(&self, row: &Row) -> Option<f64> {
        let is_token = row.test.starts_with("tg");
        self.cards.iter().find(|(model, _)| is_token && *model == row.model).map(|&(_, rate)| rate)
    }

    fn markdown(&self, row: &Row) -> String {
        let (mark, roof) = (if row.roof.unsteady() { "~" } else { "" }, roof(row));
        let (mb, gb) = (row.cost.bytes / 1e6, gigabytes_per_second(row));
        let digits = match row.median() {
            rate if rate < 100.0 => 2,
            rate if rate < 1000.0 => 1,
            _ => 0,
        };
        let window = if self.windows { format!(" {} |", row.keep_window) } else { String::new() };
        let mut line = format!(
            "| {} | {} × {} | {} | {} | {} | {} | {} |{window} {} × {} | {:.digits$} | {:.digits$} | {mb:.2} | {gb:.1} | {mark}{:.1} | {roof} |",
            row.model,
            row.dtype,
            row.activations,
            row.isa,
            row.instruction,
            row.threads,
            row.test,
            row.depth,
            row.kv_dtype,
            row.attention,
            row.median(),
            row.mad(),
            row.percent_of_roof(),
        );
        if !self.cards.is_empty() {
            line += &self.card(row).map_or(" |".into(), |rate| format!(" {rate} |"));
        }
        line
    }

    fn csv(&self, row: &Row) -> String {
        let samples: Vec<String> = row.samples.iter().map(f64::to_string).collect();
        [
            quoted(&row.model),
            row.dtype.to_string(),
            row.activations.to_string(),
            row.isa.to_string(),
            quoted(row.instruction),
            row.threads.to_string(),
            row.test.clone(),
            row.depth.to_string(),
            row.keep_window.to_string(),
            row.kv_dtype.to_string(),
            row.attention.to_string(),
            row.median().to_string(),
            row.mad().to_string(),
            samples.join(" "),
            row.cost.bytes.to_string(),
            row.cost.operations().to_string(),
            gigabytes_per_second(row).to_string(),
            quoted(&roof(row)),
            row.roof_tokens_per_second().to_string(),
            row.percent_of_roof().to_string(),
            (!row.roof.unsteady()).to_string(),
            row.peak_rss_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
            quoted(self.machine["cpu"].as_str().unwrap_or_default()),
            quoted(self.machine["gpu"].as_str().unwrap_or_default()),
            version::COMMIT.unwrap_or_default().to_string(),
            env!("CARGO_PKG_VERSION").to_string(),
            self.card(row).map(|rate| rate.to_string()).unwrap_or_default(),
        ]
        .join(",")
    }

    fn json(&self, row: &Row) -> Value {
        let kind = match row.limit {
            Limit::Reading | Limit::Copy => "bytes read",
            Limit::Arithmetic => "operations",
        };
        let mut object = json!({
            "model": row.model,
            "dtype": row.dtype.name(),
            "activations": row.activations,
            "isa": row.isa,
            "instruction": row.instruction,
            "threads": row.threads,
            "test": row.test,
            "depth": row.depth,
            "keep_window": row.keep_window,
            "kv_dtype": row.kv_dtype.to_string(),
            "attention": row.attention,
            "tokens_per_second": {"median": row.median(), "mad": row.mad(), "samples": row.samples},
            "bytes_per_token": row.cost.bytes,
            "operations_per_token": row.cost.operations(),
            "read_gb_per_second": gigabytes_per_second(row),
            "roof_tokens_per_second": row.roof_tokens_per_second(),
            "percent_of_roof": row.percent_of_roof(),
            "roof": {
                "of": kind,
                "per_second_before": row.roof.before,
                "per_second_after": row.roof.after,
                "steady": !row.roof.unsteady(),
            },
            "peak_rss_bytes": row.peak_rss_bytes,
            "machine": self.machine,
            "commit": version::COMMIT,
            "version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(card) = self.card(row) {
            object["card_tokens_per_second"] = json!(card);
        }
        object
    }
}

fn gigabytes_per_second(row: &Row) -> f64 {
    row.median() * row.cost.bytes / 1e9
}

/// The roof in words: `41.2 GB/s`, or `498 GOP/s`.
fn roof(row: &Row) -> String {
    let mean = row.roof.mean() / 1e9;
    match row.limit {
        Limit::Reading | Limit::Copy => format!("{mean:.1} GB/s"),
        Limit::Arithmetic => format!("{mean:.0} GOP/s"),
    }
}
