//! `doge bench` and `doge perplexity`, as a user's shell sees them.
#![cfg(all(feature = "cli", feature = "embedded-model"))]

use std::{
    collections::BTreeSet,
    process::{Command, Output},
};

use serde_json::Value;

fn doge(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doge"))
        .args(args.split(' '))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("DOGE_ISA")
        .output()
        .unwrap()
}

fn stdout(args: &str) -> String {
    let output = doge(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A prompt row and a generation row, at two depths.
const ROWS: &str = "bench -m models/doge-bard -p 8 -n 4 -d 0,5 -r 2 -t 2 -q -o";

/// Everything that a row of JSON must have, and that its numbers belong together.
fn check_row(row: &Value, test: &str, depth: u64) {
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    let text = |key: &str| row[key].as_str().unwrap_or_else(|| panic!("{key}: {row}"));
    assert_eq!((text("test"), row["depth"].as_u64()), (test, Some(depth)));
    assert_eq!((text("dtype"), row["threads"].as_u64()), ("bf16", Some(2)));
    assert!(text("model").contains("doge-bard") && !text("isa").is_empty() && !text("version").is_empty());
    assert!(row.get("commit").is_some());
    assert!(text("activations") == "f32" && !text("instruction").is_empty());
    let speed = &row["tokens_per_second"];
    let samples: Vec<f64> = speed["samples"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let [a, b] = samples[..] else { panic!("{speed}") };
    let median = speed["median"].as_f64().unwrap();
    let close = |got: f64, want: f64| (got / want - 1.0).abs() < 1e-9;
    assert!(a > 0.0 && b > 0.0 && close(median, (a + b) / 2.0), "{speed}");
    assert!((speed["mad"].as_f64().unwrap() - (a - b).abs() / 2.0).abs() < 1e-9 * median, "{speed}");
    assert!(close(number("read_gb_per_second"), median * number("bytes_per_token") / 1e9), "{row}");
    assert!(close(number("percent_of_roof"), 100.0 * median / number("roof_tokens_per_second")), "{row}");
    assert!(number("peak_rss_bytes") > 1e6);
    assert!(row["machine"].get("cpu").is_some() && row["machine"].get("kernel").is_some());
}

#[test]
fn json_rows_are_complete() {
    let rows: Value = serde_json::from_str(&stdout(&format!("{ROWS} json"))).unwrap();
    let rows = rows.as_array().unwrap();
    let wanted = [("pp8", 0), ("tg4", 0), ("pp8", 5), ("tg4", 5)];
    assert_eq!(rows.len(), wanted.len());
    rows.iter().zip(wanted).for_each(|(row, (test, depth))| check_row(row, test, depth));
    // Five tokens deeper, a token reads five keys more of each head.
    let bytes = |i: usize| rows[i]["bytes_per_token"].as_f64().unwrap();
    assert!(bytes(3) > bytes(1), "{} and {}", bytes(3), bytes(1));
}

/// The bytes of the state are the mean over the places of the test, also where the window is full before it ends.
#[test]
fn the_state_is_counted_as_it_fills() {
    let rows = stdout("bench -m models/doge-bard -w 4 -p 0 -n 1,64 -d 0,64 -r 1 --no-warmup -q -o jsonl");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.iter().all(|row| row["keep_window"] == 4), "{rows:?}");
    let [nothing, filling, full, _] = [0, 1, 2, 3].map(|i| rows[i]["bytes_per_token"].as_f64().unwrap());
    // No key, then one, two, three, and four for the other sixty.
    let (got, want) = ((filling - nothing) / (full - nothing), (1 + 2 + 3 + 60 * 4) as f64 / (64 * 4) as f64);
    assert!((got - want).abs() < 0.02, "{got}, not {want}"); // V1's heads have rows of their own once a key is dropped
}

/// A short prompt reads as much as a token and does as little, a longer one is bound by its products.
#[test]
fn a_row_stands_beside_what_takes_longer() {
    let rows = stdout("bench --preset 20m --dtype f32 -p 1,64 -n 4 -r 1 -t 1 --no-warmup -q -o jsonl");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let limits: Vec<_> = rows.iter().map(|row| (row["test"].as_str().unwrap(), row["roof"]["of"].as_str().unwrap())).collect();
    assert_eq!(limits, [("pp1", "bytes read"), ("pp64", "operations"), ("tg4", "bytes read")]);
    let [one, token] = [0, 2].map(|i| rows[i]["bytes_per_token"].as_f64().unwrap());
    assert!((one / token - 1.0).abs() < 0.01, "{one} and {token}");
}

/// Rows are told apart by what they ran with, and what would be the same is measured once.
#[test]
fn forms_are_rows_where_they_differ() {
    let named = |more: &str| -> Vec<(String, String)> {
        let args = "bench --preset 20m --dtype int8 --isa scalar --activations f32,bf16 -p 2 -n 0 -r 1 --no-warmup -q -o jsonl";
        let of = |row: Value| (row["activations"].as_str().unwrap().into(), row["attention"].as_str().unwrap().into());
        stdout(&format!("{args}{more}")).lines().map(|line| of(serde_json::from_str(line).unwrap())).collect()
    };
    let row = |attention: &str| ("int8".to_string(), attention.to_string());
    assert_eq!(named(""), [row("f32")]);
    assert_eq!(named(" --kv-dtype bf16"), [row("f32"), row("bf16")]);
}

#[test]
fn every_output_has_the_rows() {
    let lines: Vec<Value> = stdout(&format!("{ROWS} jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    check_row(&lines[1], "tg4", 0);

    let csv = stdout(&format!("{ROWS} csv"));
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(columns.len(), 5);
    assert!(columns.iter().all(|&n| n == columns[0]), "{csv}"); // in this model's name and formats no comma is quoted

    for (window, expected) in [("", 15), (" -w 9", 16)] {
        let md = stdout(&format!("{ROWS} md{window}"));
        let bars: Vec<usize> = md.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(bars, [expected; 6], "{md}");
    }
}

#[test]
fn lists_make_every_combination() {
    let rows =
        stdout("bench --preset 20m --dtype f32,bf16 --isa scalar -t 1,2 -p 2 -n 0 -r 1 -d 0,1 -w 64 --no-warmup -q -o jsonl");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let key = |row: &Value| (row["dtype"].to_string(), row["threads"].to_string(), row["depth"].to_string());
    let keys: BTreeSet<_> = rows.iter().map(key).collect();
    assert_eq!((rows.len(), keys.len()), (8, 8), "{keys:?}");
    assert!(rows.iter().all(|row| row["isa"] == "scalar" && row["model"] == "20m"));
}

/// What a row ran with is what it names: whatever was asked for, integer weights meet int8, and f32 weights f32.
#[test]
fn rows_name_what_ran() {
    let args = "bench --preset 20m --dtype f32,bf16,int8 --isa scalar --activations bf16 -t 1 -tb 3 -p 2 -n 1 -r 1 --no-warmup -q -o jsonl";
    let rows: Vec<Value> = stdout(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap();
            (text("dtype"), text("activations"), text("instruction"), text("test"), row["threads"].as_u64().unwrap())
        })
        .collect();
    let (float, int) = ("float multiply, add", "int multiply, add");
    let wanted = [
        ("f32", "f32", float, "pp2", 3),
        ("f32", "f32", float, "tg1", 1),
        ("bf16", "bf16", float, "pp2", 3),
        ("bf16", "bf16", float, "tg1", 1),
        ("int8", "int8", int, "pp2", 3),
        ("int8", "int8", int, "tg1", 1),
    ];
    assert_eq!(named, wanted);
}

#[test]
fn auto_is_a_number_of_threads() {
    let rows = stdout("bench -m models/doge-bard -t auto,2 -p 0 -n 4 -r 1 -q -o jsonl");
    let threads: Vec<u64> =
        rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["threads"].as_u64().unwrap()).collect();
    let allowed = 1..=doge_engine::pool::Pool::default_threads() as u64;
    assert!(matches!(threads[..], [auto, 2] if allowed.contains(&auto)), "{threads:?}");
}

/// An int8 checkpoint cannot be held as f32: the rows before are there, and so is the error.
#[test]
fn rows_are_not_lost_with_one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let int8 = folder.path().join("int8");
    let made = doge(&format!("quantize -m models/doge-bard --dtype int8 -o {}", int8.display()));
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    for (dtypes, rows) in [("int8,f32", 1), ("f32,int8", 0)] {
        let output = doge(&format!("bench -m {} --dtype {dtypes} -p 8 -n 0 -r 1 -q -o json", int8.display()));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains("error:"), "{stderr}");
        let found =
            if output.stdout.is_empty() { 0 } else { serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap().len() };
        assert_eq!(found, rows);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_prompt_without_end_is_refused() {
    let doge = format!("ulimit -v 8000000; exec {} bench -m models/doge-bard -n 0 -q -p 4294967294", env!("CARGO_BIN_EXE_doge"));
    let output = Command::new("sh").args(["-c", &doge]).env_remove("DOGE_ISA").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("cannot allocate"), "{:?} {stderr}", output.status);
}

#[test]
fn wrong_usage_is_refused() {
    for (args, why) in [
        ("bench --preset 20k", "20k"),
        ("bench --preset 20m -p 0 -n 0", "nothing to measure"),
        ("bench --preset 20m --dtype f33", "f33"),
        ("bench --preset 20m -t 2,some", "auto, or a number"),
        ("bench -m models/doge-bard -d 4294967295 -o json", "at most 4294967294 tokens: too few for pp512 at depth 4294967295"),
        ("perplexity no-such-file", "no-such-file"),
    ] {
        let output = doge(args);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.is_empty() && stderr.contains(why), "{args}: {stderr}");
    }
    let stride = doge("perplexity models/doge-bard/heldout.txt --window 64 --stride 65");
    assert_eq!(stride.status.code(), Some(2), "{}", String::from_utf8_lossy(&stride.stderr));
}

/// The figure that models/doge-bard/expected.json has from the reference.
#[test]
fn perplexity_of_the_held_out_text() {
    let text = stdout("perplexity models/doge-bard/heldout.txt --window 256 --windows 24 -o json");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["tokens"], 6120);
    let perplexity = json["perplexity"]["value"].as_f64().unwrap();
    assert!((perplexity - 69.8754).abs() < 5e-5, "{perplexity}");
    let error = json["perplexity"]["error"].as_f64().unwrap();
    assert!((error / 2.7297 - 1.0).abs() < 1e-3, "{error}"); // as first measured: the reference has none
}

/// bf16 weights widened to f32 are the very weights: to the bit where both meet x as it is, and but for the order of sums where a
/// level takes x apart for bf16 alone. (tests/perplexity.rs compares models that differ.)
#[test]
fn a_format_is_compared_token_by_token() {
    let of = |isa: &str| -> Value {
        let args =
            "perplexity models/doge-bard/heldout.txt --window 128 --stride 64 --windows 3 --dtype f32 --kl-base bf16 -o json";
        serde_json::from_str(&stdout(&format!("{args}{isa}"))).unwrap()
    };
    let (same, fastest) = (of(" --isa scalar"), of(""));
    assert_eq!(same["tokens"], 127 + 64 + 64);
    assert_eq!(same["beside"]["mean_kl"]["value"].as_f64(), Some(0.0));
    assert_eq!(same["beside"]["same_top"]["value"].as_f64(), Some(1.0));
    assert_eq!(same["beside"]["perplexity_ratio"]["value"].as_f64(), Some(1.0));
    assert_eq!(same["beside"]["perplexity"], same["perplexity"]);
    let kl = fastest["beside"]["mean_kl"]["value"].as_f64().unwrap();
    assert!(kl.abs() < 1e-9, "{kl}");
    assert_eq!(fastest["beside"]["same_top"]["value"].as_f64(), Some(1.0));
}
