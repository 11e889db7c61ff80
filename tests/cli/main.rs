//! The command `doge` as a user's shell sees it: what goes to stdout, what to stderr, and the exit codes.
#![cfg(all(feature = "cli", feature = "embedded-model"))]

mod checkpoints;
mod options;

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

fn doge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doge"));
    command.args(args).stdin(Stdio::null());
    for variable in ["DOGE_ISA", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

fn run(args: &[&str]) -> Output {
    doge(args).output().unwrap()
}

fn run_with_stdin(args: &[&str], input: &[u8]) -> Output {
    let mut child = doge(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input); // which it need not read
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It ended with `code`, said nothing on stdout and `why` on stderr.
fn refused(output: &Output, code: i32, why: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert_eq!(stdout(output), "");
    assert!(stderr(output).contains(why), "expected '{why}' in: {}", stderr(output));
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn path(path: &str) -> String {
    repository(path).to_str().unwrap().to_string()
}

/// A copy of doge-bard with other texts in some of its files.
fn bard_with(texts: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(repository("models/doge-bard").join(file), folder.path().join(file)).unwrap();
    }
    texts.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
    folder
}

/// A generation that a signal or a closed pipe is to end (without either it takes minutes), after its first byte of text.
fn endless() -> Child {
    let args = ["generate", "-p", "ROMEO.\n", "-n", "100000", "--ignore-eos", "--seed", "1"];
    let mut child = doge(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

fn greedy_runs_are_as_expected(folder: &str, args: &[&str]) {
    let expected: Value = serde_json::from_slice(&std::fs::read(repository(folder).join("expected.json")).unwrap()).unwrap();
    let runs = expected["runs"].as_array().unwrap();
    assert!(runs.len() >= 8);
    for run in runs {
        let n = run["greedy_ids"].as_array().unwrap().len().to_string();
        let generate = ["generate", "--json", "-n", &n, "-p", run["prompt"].as_str().unwrap()];
        let got = json(&self::run(&[&generate, args].concat()));
        assert_eq!(got["prompt_ids"], run["prompt_ids"]);
        assert_eq!(got["ids"], run["greedy_ids"]);
        assert_eq!(got["text"], run["text"]);
        assert_eq!(got["finish"], "length");
        assert_eq!(got["settings"]["sampling"]["greedy"], true);
    }
}

#[test]
fn the_embedded_model_says_what_it_should() {
    greedy_runs_are_as_expected("models/doge-bard", &["-t", "2"]);
}

#[test]
fn the_moe_sibling_says_what_it_should() {
    let folder = "tests/fixtures/doge-bard-moe";
    greedy_runs_are_as_expected(folder, &["-m", &path(folder), "-t", "1"]);
}

#[test]
fn text_goes_to_stdout_and_timings_to_stderr() {
    let output = run(&["generate", "-p", "ROMEO.", "-n", "20"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!stdout(&output).is_empty());
    for line in ["load", "prefill", "decode", "peak RSS"] {
        assert!(stderr(&output).contains(line), "{}", stderr(&output));
    }
    assert!(!stderr(&output).contains('\x1b'), "colour where no terminal is");

    let quiet = run(&["generate", "-p", "ROMEO.", "-n", "20", "-q"]);
    assert_eq!(quiet.stdout, output.stdout);
    assert_eq!(stderr(&quiet), "");
    let echoed = run(&["generate", "-p", "ROMEO.", "-n", "20", "-q", "--echo"]);
    assert_eq!(stdout(&echoed), format!("ROMEO.{}", stdout(&output)));
    let verbose = run(&["generate", "-p", "ROMEO.", "-n", "20", "-v"]);
    assert_eq!(verbose.stdout, output.stdout);
    assert!(stderr(&verbose).contains("\"greedy\": true"), "{}", stderr(&verbose));
}

#[test]
fn the_text_may_come_from_a_file_or_stdin() {
    let from_argument = run(&["generate", "-p", "KING.\n", "-n", "8", "-q"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "KING.\n").unwrap();
    let from_file = run(&["generate", "-f", file.to_str().unwrap(), "-n", "8", "-q"]);
    assert_eq!(from_file.stdout, from_argument.stdout);
    for args in [["generate", "-", "-n", "8", "-q"].as_slice(), &["generate", "-f", "-", "-n", "8", "-q"]] {
        assert_eq!(run_with_stdin(args, b"KING.\n").stdout, from_argument.stdout);
    }
    #[cfg(unix)]
    {
        let piped = run_with_stdin(&["generate", "-f", "/dev/stdin", "-n", "8", "-q"], b"KING.\n");
        assert_eq!(piped.stdout, from_argument.stdout);
        refused(&run(&["generate", "-f", "/dev/zero"]), 1, "/dev/zero: more than");
        refused(&run(&["chat", "--chat-template-file", "/dev/zero"]), 1, "/dev/zero: more than");
        refused(&run(&["perplexity", "/dev/zero"]), 1, "/dev/zero: more than");
    }
    refused(&run(&["generate", "-f", "no/such/file"]), 1, "no/such/file");
    refused(&run_with_stdin(&["generate", "-"], b"\xff\xfe"), 1, "UTF-8");
}

#[test]
fn a_seed_makes_the_same_text_again() {
    let text = |seed: &str| {
        let output = run(&["generate", "-p", "ROMEO.\n", "-n", "30", "-q", "--temperature", "1.5", "-s", seed]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output.stdout
    };
    assert_eq!(text("5"), text("5"));
    assert_ne!(text("5"), text("6"));

    let unseeded = json(&run(&["generate", "-p", "ROMEO.\n", "-n", "30", "--temp", "1.5", "--json"]));
    let seed = unseeded["settings"]["sampling"]["seed"].to_string();
    assert_eq!(text(&seed), unseeded["text"].as_str().unwrap().as_bytes());
}

#[test]
fn both_spellings_mean_the_same() {
    let llama = ["--temp", "0.7", "--typical", "0.9", "--repeat-penalty", "1.2", "-n", "5"];
    let transformers = ["--temperature", "0.7", "--typical-p", "0.9", "--repetition-penalty", "1.2", "--max-new-tokens", "5"];
    let settings = |options: &[&str]| {
        let mut args = vec!["generate", "-p", "x", "--json", "--seed", "1", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.01"];
        args.extend(options);
        json(&run(&args))["settings"].clone()
    };
    let settings_of = settings(&llama);
    assert_eq!(settings_of, settings(&transformers));
    let sampling = &settings_of["sampling"];
    assert_eq!(settings_of["max_new_tokens"], 5);
    for (name, value) in [("temperature", 0.7), ("typical_p", 0.9), ("repetition_penalty", 1.2), ("top_p", 0.9), ("min_p", 0.01)]
    {
        assert_eq!(sampling[name], value);
    }
    assert_eq!(sampling["top_k"], 20);
    assert_eq!(sampling["repetition_window"], Value::Null);
}

#[test]
fn stop_strings_end_the_text_and_are_no_part_of_it() {
    let got = json(&run(&["generate", "-p", "ROMEO.\n", "--json", "-n", "39", "--stop", "nobody", "--stop", "Good morrow"]));
    assert_eq!(got["finish"], "stop_string");
    assert_eq!(got["text"], "\n[Enter ANTONIO, ANTONIO, and SALARINO.]\n\nANTONIO.\n");
    refused(&run(&["generate", "-p", "x", "--stop", ""]), 2, "stop");

    // A special token adds no text in which its name could be found.
    let special = ["-n", "5", "--logit-bias", "2=1e9", "--stop", "<|start_header_id|>"];
    let got = json(&run(&[&["generate", "-p", "ROMEO.\n", "--json"], &special[..]].concat()));
    assert_eq!((&got["finish"], &got["ids"]), (&"stop_string".into(), &serde_json::json!([2])));
    let chat = run_with_stdin(&[&["chat", "-v"], &special[..]].concat(), b"Who art thou?\n");
    assert!(stderr(&chat).contains("ended by: stop_string"), "{}", stderr(&chat));
}

/// Only one token can be chosen, and the penalties forbid it a second time.
#[test]
fn what_was_made_before_an_error_is_shown() {
    let others = (0..4096).filter(|&id| id != 63).flat_map(|id| ["--logit-bias".to_string(), format!("{id}=-inf")]);
    let others: Vec<String> = others.collect();
    let penalties = ["-q", "--stop", "[Exit", "--presence-penalty", "3e38", "--frequency-penalty", "3e38"];
    let args: Vec<&str> = others.iter().map(String::as_str).chain(penalties).collect();
    let output = run(&[&["generate", "-p", "ROMEO.\n"], &args[..]].concat());
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), "["), "{}", stderr(&output));
    assert!(stderr(&output).contains("no token to choose"), "{}", stderr(&output));

    let output = run(&[&["generate", "-p", "ROMEO.\n", "--json"], &args[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&got["text"], &got["ids"], &got["finish"]), (&"[".into(), &serde_json::json!([63]), &Value::Null));
    assert_eq!(stderr(&output), format!("error: {}\n", got["error"].as_str().unwrap()));

    let output = run_with_stdin(&[&["chat"], &args[..]].concat(), b"Who art thou?\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), "[\n"), "{}", stderr(&output));
}

#[test]
fn logit_bias_and_context_act() {
    // 203 is the newline that every greedy answer to this prompt begins with.
    let got = json(&run(&["generate", "-p", "ROMEO.\n", "--json", "-n", "1", "--logit-bias", "203=-inf"]));
    assert_ne!(got["ids"][0], 203);
    let got = json(&run(&["generate", "-p", "ROMEO.\n", "--json", "-n", "1", "--logit-bias", "1=1e9"]));
    assert_eq!((got["finish"].as_str(), got["text"].as_str()), (Some("eos"), Some("")));
    assert_eq!(got["ids"], serde_json::json!([1]), "the token that ends the text is one of the ids");
    let got = json(&run(&["generate", "-p", "ROMEO.\n", "--json", "-n", "50", "-c", "10"]));
    assert_eq!(got["finish"], "context_full");
    // 7 of the prompt, 3 fed back, and the one chosen last, which needs no room.
    assert_eq!(got["ids"].as_array().unwrap().len(), 4);
    refused(&run(&["generate", "-p", "ROMEO.\n", "-c", "3"]), 1, "context length of 3");
    refused(&run(&["generate", "-p", "x", "--logit-bias", "4096=1"]), 2, "4096");
}

#[test]
fn special_tokens_are_parsed_unless_forbidden() {
    let ids = |options: &[&str]| {
        let mut args = vec!["generate", "-p", "<|end_of_text|>", "--json", "-n", "0"];
        args.extend(options);
        json(&run(&args))["prompt_ids"].clone()
    };
    assert_eq!(ids(&[]), serde_json::json!([0, 1]));
    assert_eq!(ids(&["--no-bos"]), serde_json::json!([1]));
    assert!(ids(&["--no-parse-special"]).as_array().unwrap().len() > 4);
}

#[test]
fn wrong_usage_exits_with_2() {
    refused(&run(&["generate"]), 2, "--prompt");
    refused(&run(&["nonsense"]), 2, "nonsense");
    refused(&run(&["generate", "-p", "x", "-t", "0"]), 2, "threads");
    refused(&run(&["generate", "-p", "x", "--isa", "sse9"]), 2, "scalar, avx2, avxvnni, avx512, avx512bf16, amx");
    refused(&run(&["generate", "-p", "x", "--dtype", "q4"]), 2, "f32, bf16, f16");
    refused(&run(&["generate", "-p", "x", "--device", "cuda:7"]), 1, "cuda:7 cannot be used");
    refused(&run(&["generate", "-p", "x", "--top-p", "2"]), 2, "top_p");
    refused(&run(&["generate", "-p", "x", "-v", "-q"]), 2, "cannot be used with");
    let unknown = doge(&["generate", "-p", "x"]).env("DOGE_ISA", "sse9").output().unwrap();
    refused(&unknown, 2, "scalar, avx2, avxvnni, avx512, avx512bf16, amx");
    #[cfg(unix)]
    {
        let word: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"avx2\xff");
        let not_utf8 = |args: &[&str]| doge(args).env("DOGE_ISA", word).output().unwrap();
        refused(&not_utf8(&["generate", "-p", "x"]), 2, "unknown ISA level 'avx2\u{fffd}'");
        let report = json(&not_utf8(&["doctor", "--json"]));
        assert!(report["isa"]["why"].as_str().unwrap().contains("DOGE_ISA is 'avx2\u{fffd}'"), "{}", report["isa"]);
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = endless();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_timings_and_130() {
    let child = endless();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("tok/s"), "{}", stderr(&output));
}

#[test]
fn a_chat_remembers() {
    let args = ["chat", "-n", "12", "--system", "A play.", "-v"];
    let both = run_with_stdin(&args, b"Who art thou?\n\nAnd thy name?\n/exit\nnever read\n");
    assert_eq!(both.status.code(), Some(0), "{}", stderr(&both));
    let forgotten = run_with_stdin(&args, b"Who art thou?\n/reset\nAnd thy name?");
    let alone = run_with_stdin(&args, b"And thy name?\n");
    assert!(stdout(&forgotten).ends_with(stdout(&alone)));
    assert!(!stdout(&both).ends_with(stdout(&alone)), "the second answer does not depend on the first turn");
    // Each token of the conversation is fed once: the second turn adds only itself.
    let fed = |output: &Output| -> usize {
        let line = stderr(output).lines().find(|line| line.starts_with("prefill")).unwrap().to_string();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert!(fed(&both) < fed(&forgotten), "{} tokens, {} with /reset", fed(&both), fed(&forgotten));
}

#[test]
fn inspect_tells_what_a_checkpoint_is() {
    let embedded = json(&run(&["inspect", "--json"]));
    assert_eq!(embedded["variant"], "V2");
    assert_eq!(embedded["config"]["keep_window_size"], 64);
    let numbers = |tensor: &Value| -> u64 { tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product() };
    let parameters: u64 = embedded["tensors"].as_array().unwrap().iter().map(numbers).sum();
    assert_eq!(embedded["parameters"], parameters);
    // K and V of 64 tokens and some more beside, for each of 6 layers and 2 heads of 48.
    assert!(embedded["state_bytes"].as_u64().unwrap() >= 6 * 2 * 2 * 48 * 64 * 4);

    let moe = json(&run(&["inspect", "--json", "-m", &path("tests/fixtures/doge-bard-moe")]));
    assert_eq!((moe["config"]["num_experts"].as_u64(), moe["config"]["is_moe"].as_bool()), (Some(1024), Some(true)));
    let text = run(&["inspect", "-m", &path("tests/golden/chat_model")]);
    assert_eq!((text.status.code(), stderr(&text)), (Some(0), ""));
    for name in ["model.embed_tokens.weight", "bytes_per_token", "head_dim"] {
        assert!(stdout(&text).contains(name), "{}", stdout(&text));
    }
}

#[test]
fn doctor_tells_what_is_used() {
    let report = json(&doge(&["doctor", "--json"]).env("DOGE_ISA", "scalar").output().unwrap());
    assert_eq!(report["isa"]["chosen"], "scalar");
    assert!(report["gpu"]["cuda_in_this_build"].is_boolean());
    assert!(report["threads"]["default"].as_u64().unwrap() >= 1);
    let unknown = json(&doge(&["doctor", "--json"]).env("DOGE_ISA", "sse9").output().unwrap());
    assert_eq!(unknown["isa"]["chosen"], Value::Null);
    assert!(unknown["isa"]["why"].as_str().unwrap().contains("sse9"));
    let text = run(&["doctor"]);
    assert!(stdout(&text).contains("ISA levels") && stdout(&text).contains("huge pages"), "{}", stdout(&text));
}

/// The text is the same whatever the threads, so it does not matter what auto finds.
#[test]
fn threads_are_a_number_or_measured() {
    let settings = |threads: &[&str]| {
        let mut args = vec!["generate", "-p", "ROMEO.\n", "-n", "8", "--json", "-q"];
        args.extend(threads);
        let object = json(&run(&args));
        (
            object["ids"].clone(),
            object["settings"]["threads"].as_u64().unwrap(),
            object["settings"]["threads_batch"].as_u64().unwrap(),
        )
    };
    let (ids, token, block) = settings(&["-t", "2", "-tb", "3"]);
    assert_eq!((token, block), (2, 3));
    assert_eq!(settings(&["-t", "3"]), (ids.clone(), 3, 3));
    assert_eq!(settings(&["--threads-batch=1", "--threads", "2"]), (ids.clone(), 2, 1));
    let allowed = 1..=doge_engine::pool::Pool::default_threads() as u64;
    let (found, token, block) = settings(&["-t", "auto"]);
    assert!(found == ids && allowed.contains(&token) && allowed.contains(&block), "{token} and {block}");
    let (found, token, block) = settings(&["-t", "5", "-tb", "auto"]);
    assert!(found == ids && token == 5 && allowed.contains(&block), "{token} and {block}");

    for (args, why) in [
        (&["generate", "-p", "x", "-tb", "0"][..], "auto, or a number from 1"),
        (&["generate", "-p", "x", "-t", "many"], "auto, or a number from 1"),
        (&["verify", "tests/golden/v2_gqa", "-t", "auto"], "verify runs many"),
    ] {
        refused(&run(args), 2, why);
    }
    let prompt = json(&run(&["generate", "-n", "1", "--json", "-p", "-tb"]));
    assert_eq!(prompt["prompt"], "-tb");
}

#[test]
fn version_names_the_levels() {
    let version = run(&["--version"]);
    assert!(stdout(&version).contains(env!("CARGO_PKG_VERSION")) && stdout(&version).contains("scalar"));
}

#[test]
fn an_early_end_is_told() {
    let folder = bard_with(&[("generation_config.json", r#"{"bos_token_id": 0, "max_length": 9}"#)]);
    let model = folder.path().to_str().unwrap();
    for prompt in ["ROMEO.\n", "To be, or not to be, that is the question."] {
        let output = run(&["generate", "-p", prompt, "-m", model]);
        assert!(stderr(&output).contains("note: the text ends early: the checkpoint's max_length is 9"), "{}", stderr(&output));
        let chosen = run(&["generate", "-p", prompt, "-m", model, "-n", "2"]);
        assert!(!stderr(&chosen).contains("note:"), "{}", stderr(&chosen));
    }
    let full = ["generate", "-p", "ROMEO.\n", "-n", "50", "-c", "8"];
    assert!(stderr(&run(&full)).contains("note: the text ends early: the context of 8 tokens is full"));
    assert_eq!(stderr(&run(&[&full[..], &["-q"]].concat())), "");
    let chat = run_with_stdin(&["chat", "-n", "50", "-c", "30"], b"Who art thou?\n");
    assert!(stderr(&chat).contains("the context of 30 tokens is full"), "{}", stderr(&chat));
    let chat = run_with_stdin(&["chat", "-m", model], b"Who art thou?\n");
    assert!(stderr(&chat).contains("max_length is 9"), "{}", stderr(&chat));
}
