//! The list of kernels against the kernel table, and `doge kernels` as a user's shell sees it.
#![cfg(feature = "cli")]

mod common;
#[path = "../src/bin/doge/kernels/list/mod.rs"]
#[allow(dead_code, reason = "the command times what is only run here")]
mod list;

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output, Stdio},
};

use common::checks::CHECKS;
use doge_engine::{model::family, ops::PeakKind};
use serde_json::Value;

fn doge(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doge")).args(args.split(' ')).env_remove("DOGE_ISA").output().unwrap()
}

fn stdout(args: &str) -> String {
    let output = doge(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Those that measure the machine have nothing to be measured beside.
const ROOFS: [&str; 2] = ["read_words", "peak"];

/// A kernel enters the table together with its check (tests/kernel_matrix.rs) and its entry here.
#[test]
fn every_pointer_of_the_table_has_its_entry() {
    let entries = list::entries(list::PRESET).unwrap();
    for main in [true, false] {
        let of = |op: &'static str| {
            let (_, kernels) =
                list::KERNELS.iter().find(|(name, _)| *name == op).unwrap_or_else(|| panic!("{op} is no word of the list"));
            kernels.iter().copied()
        };
        let listed: BTreeSet<(&str, &str)> = entries
            .iter()
            .filter(|entry| entry.main || !main)
            .flat_map(|entry| of(entry.op).map(|kernel| (kernel, entry.dtype.name())))
            .collect();
        let table: BTreeSet<(&str, &str)> = CHECKS
            .iter()
            .filter(|check| !ROOFS.contains(&check.op))
            .flat_map(|check| check.dtypes.iter().map(|dtype| (check.op, dtype.name())))
            .collect();
        assert_eq!(listed, table, "the list (left) and the kernel table");
    }
}

/// Entries of one operation and format differ in their shapes, for every member of the family.
#[test]
fn ids_are_names() {
    for preset in family::names() {
        let entries = list::entries(preset).unwrap();
        let ids: BTreeSet<String> = entries.iter().map(|e| format!("{}/{}/{}", e.op, e.dtype, e.shape)).collect();
        assert_eq!(ids.len(), entries.len(), "{preset}");
        assert!(entries.iter().all(|e| e.cost.bytes > 0 && !e.shape.contains(['/', ','])), "{preset}");
    }
}

/// A kernel stands beside what it runs: the rows of experts are widened to f32 in every format.
#[test]
fn entries_name_what_they_multiply() {
    let cpu = common::cpus(1).pop().unwrap();
    for entry in list::entries(list::PRESET).unwrap() {
        let kind = entry.peak_kind(&entry.cpu(&cpu));
        match entry.op {
            "expert_mix" => assert_eq!(kind, PeakKind::F32, "{}", entry.dtype),
            "gemv_int" | "gemm_int" => assert_eq!(kind, PeakKind::Int8, "{}", entry.dtype),
            _ => {}
        }
    }
}

/// What is written is a part of what is read and written.
#[test]
fn every_entry_reads() {
    for preset in family::names() {
        for entry in list::entries(preset).unwrap() {
            assert!(entry.cost.written < entry.cost.bytes, "{} {} {}", entry.op, entry.dtype, entry.shape);
        }
    }
}

/// Every entry of the smallest model with experts on every level, and each copy can run.
#[test]
fn every_entry_is_right() {
    for cpu in common::cpus(2) {
        for entry in list::entries("20m-moe").unwrap().into_iter().filter(|entry| entry.runs_on(cpu.kernels())) {
            let (cpu, id) = (entry.cpu(&cpu), entry.id(&cpu));
            let mut job = entry.make(&mut list::Store::new(2), &cpu).unwrap();
            job.run(&cpu, 1).unwrap();
            let worst = job.check(&cpu).unwrap();
            assert!(worst.passed(), "{id}: {}", worst.what);
        }
    }
}

/// A few rows of each kind, in as little time as can be.
const ROWS: &str = "kernels --op rms_norm,gemv --dtype f32,int8 --preset 20m --shape 1x256,256x512 -r 3 -t 2 -q -o";

fn check_row(row: &Value, mode: &str) {
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    assert_eq!(row["mode"], mode);
    let floats = |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>();
    let close = |got: f64, want: f64| (got / want - 1.0).abs() < 1e-9;
    // Three groups of one sample.
    let (seconds, groups) = (&row["seconds"], row["groups"].as_array().unwrap());
    let amount = if row["roof"]["of"] == "bytes" { number("bytes") } else { number("operations") };
    let (mut samples, mut percents) = (floats(&seconds["samples"]), Vec::new());
    for (group, sample) in groups.iter().zip(&samples) {
        assert_eq!(floats(&group["samples"]), [*sample], "{group}");
        let roof = |key: &str| group[key].as_f64().unwrap();
        let mean = (roof("per_second_before") + roof("per_second_after")) / 2.0;
        percents.push(100.0 * amount / mean / sample);
    }
    samples.sort_by(f64::total_cmp);
    percents.sort_by(f64::total_cmp);
    assert_eq!((groups.len(), samples.len(), seconds["median"].as_f64()), (3, 3, Some(samples[1])), "{seconds}");
    // Of three nobody can say how far they may be off.
    assert!(seconds["spread"].is_null() && row["percent_spread"].is_null(), "{row}");
    assert!(close(number("percent_of_roof"), percents[1]), "{row}");
    assert!(close(number("gb_per_second"), number("bytes") / samples[1] / 1e9), "{row}");
    assert!(close(number("gop_per_second"), number("operations") / samples[1] / 1e9), "{row}");
    assert!(close(number("operations_per_byte"), number("operations") / number("bytes")), "{row}");
    assert!(number("working_set_bytes") >= number("bytes"), "{row}");
    assert!(row["machine"].get("cpu").is_some() && row.get("counts").is_some() && row.get("commit").is_some());
}

#[test]
fn rows_are_complete_in_every_output() {
    let rows: Value = serde_json::from_str(&stdout(&format!("{ROWS} json"))).unwrap();
    let names: Vec<String> =
        rows.as_array().unwrap().iter().map(|row| format!("{} {} {}", row["op"], row["dtype"], row["shape"])).collect();
    let both = ["\"rms_norm\" \"f32\" \"1x256\"", "\"gemv\" \"f32\" \"256x512\"", "\"gemv_int\" \"int8\" \"256x512\""];
    assert_eq!(names, both.repeat(2));
    rows.as_array().unwrap().iter().enumerate().for_each(|(i, row)| check_row(row, if i < 3 { "hot" } else { "cold" }));
    // A single row of rms_norm is the calling thread's.
    assert_eq!((&rows[0]["threads"], &rows[1]["threads"]), (&1.into(), &2.into()));

    let jsonl = stdout(&format!("{ROWS} jsonl --mode hot"));
    assert_eq!(jsonl.lines().count(), 3);
    jsonl.lines().for_each(|line| check_row(&serde_json::from_str(line).unwrap(), "hot"));

    let csv = stdout(&format!("{ROWS} csv --mode hot"));
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.len() == 4 && columns.iter().all(|&n| n == columns[0]), "{csv}"); // no quoted comma here

    let md = stdout(&format!("{ROWS} md --mode hot,hot --isa scalar,scalar")); // each row once
    let bars: Vec<usize> = md.lines().map(|line| line.matches('|').count()).collect();
    assert!(bars.len() == 5 && bars.iter().all(|&n| n == bars[0]), "{md}");
    assert_eq!((md.matches(" | — | ").count(), md.matches("±").count()), (3, 1), "{md}");
}

const COMPARED: &str = "kernels --op argmax --mode hot --preset 20m -r 5";

/// The rows of an older run that are so many times as fast as these were, on a machine that was steady.
fn older(rows: &str, folder: &Path, times: f64) -> String {
    let mut rows: Value = serde_json::from_str(rows).unwrap();
    for row in rows.as_array_mut().unwrap() {
        row["seconds"]["median"] = (row["seconds"]["median"].as_f64().unwrap() / times).into();
        row["percent_of_roof"] = (row["percent_of_roof"].as_f64().unwrap() * times).into();
        row["percent_spread"] = 0.0.into();
        row["roof"]["steady"] = true.into();
    }
    let file = folder.join("old.json");
    std::fs::write(&file, rows.to_string()).unwrap();
    file.display().to_string()
}

#[test]
fn a_regression_is_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let rows = stdout(&format!("{COMPARED} -q -o json"));
    // Hundreds of times faster then: no noise explains that. Beside others that use the processors there is no verdict.
    let file = older(&rows, folder.path(), 500.0);
    let slower = doge(&format!("{COMPARED} -o json --compare {file}"));
    let (json, stderr) = (String::from_utf8_lossy(&slower.stdout), String::from_utf8_lossy(&slower.stderr));
    let row: Value = serde_json::from_str::<Value>(&json).unwrap()[0].clone();
    let (compared, steady) = (&row["compared"], row["roof"]["steady"].as_bool().unwrap());
    assert_eq!((&compared["comparable"], &compared["slower"]), (&steady.into(), &steady.into()), "{row}");
    assert!(compared["change"].as_f64().unwrap() > 10.0, "{row}");
    assert_eq!(slower.status.code(), Some(if steady { 4 } else { 0 }), "{stderr}");
    assert!(stderr.contains(if steady { "slower: argmax" } else { "1 rows are not comparable" }), "{stderr}");

    // Ten thousand times slower then.
    let file = older(&rows, folder.path(), 1e-4);
    let faster = doge(&format!("{COMPARED} -o json --compare {file}"));
    assert_eq!(faster.status.code(), Some(0), "{}", String::from_utf8_lossy(&faster.stderr));
}

/// What cannot be compared or drawn is told before anything is measured.
#[test]
fn nothing_is_measured_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let row = r#"{"op": "argmax", "dtype": "f32", "isa": "scalar", "shape": "32768", "mode": "hot", "threads": 1, "seconds":
        {"median": 1e-5}, "percent_of_roof": 50, "percent_spread": SPREAD, "machine": {"cpu": "another"}}"#
        .replace('\n', " ");
    let (file, few) = (folder.path().join("old.json"), folder.path().join("few.json"));
    std::fs::write(&file, row.replace("SPREAD", "1")).unwrap();
    std::fs::write(&few, row.replace("SPREAD", "null")).unwrap();
    let (file, few) = (file.display(), few.display());
    for (args, why) in [
        (format!("--op argmax --isa scalar --mode cold --compare {file}"), "none of these rows"),
        (format!("--op argmax --isa scalar --mode hot -r 4 --compare {file}"), "needs -r 5"),
        (format!("--op argmax --isa scalar --mode hot --compare {few}"), "-r 5"),
        (format!("--op embed_row --plot {}", folder.path().join("x.svg").display()), "nothing with operations to draw"),
    ] {
        let output = doge(&format!("kernels {args}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && output.stdout.is_empty() && stderr.contains(why), "{args}: {stderr}");
    }
    let other = doge(&format!("kernels --op argmax --isa scalar --mode hot -r 5 --compare {file}"));
    let stderr = String::from_utf8_lossy(&other.stderr);
    assert!(stderr.contains("of another processor, another"), "{stderr}");
}

#[test]
fn a_plot_is_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roofline.svg");
    stdout(&format!("{ROWS} json --mode hot --plot {}", file.display()));
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && svg.contains("prefers-color-scheme"));
    assert!(["rms_norm", "gemv", "GB/s", "GOP/s", ", version "].iter().all(|word| svg.contains(word)), "{svg}");
}

/// The rows were measured; the reader has them, or has gone: what is wrong is told in both cases.
#[test]
fn rows_and_regressions_are_not_lost_with_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let unwritable = folder.path().join("no-such-folder/x.svg");
    let output = doge(&format!("{COMPARED} -q -o json --plot {}", unwritable.display()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("no-such-folder"), "{stderr}");
    let rows = String::from_utf8(output.stdout).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&rows).unwrap().as_array().unwrap().len(), 1);

    let file = older(&rows, folder.path(), 500.0);
    for format in ["md", "json", "jsonl"] {
        let args = format!("{COMPARED} -o {format} --compare {file}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_doge"));
        let command = command.args(args.split(' ')).env_remove("DOGE_ISA").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let told = match output.status.code() {
            Some(4) => "slower: argmax",
            Some(0) => "1 rows are not comparable", // others used the processors
            code => panic!("{format}: {code:?} {stderr}"),
        };
        assert!(stderr.contains(told), "{format}: {stderr}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    for (args, why) in [
        ("kernels --op gemw", "unknown operation 'gemw'; expected one of: embed_row, rms_norm"),
        ("kernels --op rms_norm --shape 3x5", "unknown shape '3x5'"),
        ("kernels --op rms_norm --dtype int8", "no operation has"),
        ("kernels --preset 20k", "20k"),
        ("kernels --isa avx1024", "avx1024"),
        ("kernels --mode warm", "warm"),
        ("kernels -t 0", "0"),
        ("kernels --compare no-such-file", "no-such-file"),
        ("kernels --compare Cargo.toml", "Cargo.toml"),
    ] {
        let output = doge(args);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.is_empty() && stderr.contains(why), "{args}: {stderr}");
    }
}
