//! The options of the command, and the settings of its checkpoints: each arrives where it acts.

use std::process::Output;

use serde_json::{json, Value};

use super::{bard_with, doge, json, path, repository, run, run_with_stdin, stderr, stdout};

fn generated(args: &[&str]) -> Value {
    json(&run(&[&["generate", "-p", "ROMEO.\n", "--json"], args].concat()))
}

fn chat(args: &[&str], lines: &str) -> Output {
    let said = run_with_stdin(&[&["chat", "-n", "12"], args].concat(), lines.as_bytes());
    assert_eq!(said.status.code(), Some(0), "{args:?}: {}", stderr(&said));
    said
}

#[test]
fn every_sampling_option_arrives() {
    let sampling = |args: &[&str]| generated(&[&["-n", "1"], args].concat())["settings"]["sampling"].clone();
    let penalties = sampling(&["--presence-penalty", "0.5", "--frequency-penalty", "-0.25", "--repeat-last-n", "7"]);
    assert_eq!((&penalties["presence_penalty"], &penalties["frequency_penalty"]), (&json!(0.5), &json!(-0.25)));
    assert_eq!((&penalties["repetition_window"], &penalties["greedy"]), (&json!(7), &json!(true)));
    for alone in
        [["--seed", "3"], ["--top-k", "5"], ["--top-p", "0.5"], ["--min-p", "0.1"], ["--typical", "0.5"], ["--temp", "0.5"]]
    {
        assert_eq!(sampling(&alone)["greedy"], false, "{alone:?}");
    }
    // A penalty changes what is said.
    let said = |args: &[&str]| generated(&[&["-n", "40"], args].concat())["ids"].clone();
    let plain = said(&[]);
    for args in [["--presence-penalty", "5"], ["--frequency-penalty", "5"], ["--repeat-penalty", "1.5"]] {
        assert_ne!(said(&args), plain, "{args:?}");
    }
}

#[test]
fn the_checkpoints_settings_act_and_the_users_win() {
    let settings = json!({
        "bos_token_id": 0, "eos_token_id": [1, 9999], "do_sample": true, "top_k": 7, "repetition_penalty": 1.25,
        "max_new_tokens": 3, "num_beams": 4,
    });
    let folder = bard_with(&[("generation_config.json", &settings.to_string())]);
    let model = folder.path().to_str().unwrap();
    let got = generated(&["-m", model]);
    let sampling = &got["settings"]["sampling"];
    assert_eq!((&sampling["greedy"], &sampling["top_k"]), (&json!(false), &json!(7)));
    assert_eq!((&sampling["repetition_penalty"], got["ids"].as_array().unwrap().len()), (&json!(1.25), 3));
    assert_eq!(generated(&["-m", model, "-n", "2", "--top-k", "9"])["settings"]["sampling"]["top_k"], 9);
    // An end token that the model has not is none to forbid.
    assert_eq!(generated(&["-m", model, "--ignore-eos"])["settings"]["sampling"]["logit_bias"], json!([[1, "-inf"]]));
    let said = run(&["generate", "-p", "x", "-m", model]);
    assert!(stderr(&said).contains("num_beams"), "{}", stderr(&said));
}

#[test]
fn without_a_number_100_tokens_and_with_minus_one_all_that_fit() {
    assert_eq!(generated(&[])["settings"]["max_new_tokens"], 100);
    let endless = generated(&["-n", "-1", "-c", "30"]);
    // 7 of the prompt, and the one chosen last, which needs no room.
    assert_eq!((endless["finish"].as_str(), endless["ids"].as_array().unwrap().len()), (Some("context_full"), 30 - 7 + 1));
}

#[test]
fn rates_are_tokens_by_seconds() {
    let timings = generated(&["-n", "20"])["timings"].clone();
    let number = |key: &str| timings[key].as_f64().unwrap();
    for kind in ["prefill", "decode"] {
        let rate = number(&format!("{kind}_tokens")) / number(&format!("{kind}_seconds"));
        assert!((number(&format!("{kind}_tokens_per_second")) / rate - 1.0).abs() < 1e-9, "{timings}");
    }
    assert!(number("sampling_seconds") > 0.0 && number("detokenising_seconds") > 0.0, "{timings}");
}

#[test]
fn a_chat_ends_a_turn_at_eos() {
    let said = chat(&["-v", "--logit-bias", "1=1e9"], "x\n");
    assert!(stdout(&said) == "\n" && stderr(&said).contains("ended by: eos"), "{said:?}");
}

#[test]
fn a_chat_ends_a_turn_at_the_templates_own_token() {
    let tokenizer = std::fs::read_to_string(repository("models/doge-bard/tokenizer.json")).unwrap();
    let (name, id) = doge_engine::embedded::tokenizer().unwrap().special_tokens().pop().unwrap();
    assert_ne!(id, 1, "which ends a text anyway");
    let folder = bard_with(&[
        ("tokenizer.json", &tokenizer.replace(&name, "<|im_end|>")),
        ("chat_template.jinja", "{{ bos_token }}{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}"),
    ]);
    let (model, bias) = (folder.path().to_str().unwrap(), format!("{id}=1e9"));
    let said = chat(&["-v", "-m", model, "--logit-bias", &bias], "x\n");
    assert!(stdout(&said) == "\n" && stderr(&said).contains("ended by: eos"), "{said:?}");
}

/// What a chat with a template of its own answers.
fn answers_by(template: &str, lines: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.jinja");
    std::fs::write(&file, template).unwrap();
    stdout(&chat(&["-q", "--chat-template-file", file.to_str().unwrap()], lines)).to_string()
}

#[test]
fn a_template_that_rewrites_the_past_begins_anew() {
    let last_alone = |lines: &str| answers_by("{{ bos_token }}{{ messages[-1].content }}\n", lines);
    let (both, alone) = (last_alone("Who art thou?\nAnd thy name?\n"), last_alone("And thy name?\n"));
    assert!(alone.len() > 1 && both.ends_with(&alone), "{both:?} {alone:?}");
}

#[test]
fn a_chat_shows_its_answers_to_the_template() {
    let template =
        "{% if messages | length > 2 and messages[1].role != 'assistant' %}{{ raise_exception('no answer') }}{% endif %}";
    answers_by(&format!("{template}{{{{ bos_token }}}}x"), "a\nb\nc\n");
}

/// Of two windows of 32 tokens.
fn perplexity(args: &[&str]) -> Output {
    let text = path("models/doge-bard/heldout.txt");
    let measured = ["perplexity", &text, "--window", "32", "--windows", "2", "-q"];
    run(&[&measured, args].concat())
}

#[test]
fn the_table_of_perplexity_has_the_numbers_of_the_json() {
    let args = |form| ["--dtype", "int8", "--kl-base", "f32", "-o", form];
    let (table, json) = (perplexity(&args("md")), json(&perplexity(&args("json"))));
    let (beside, value) = (&json["beside"], |of: &Value| of["value"].as_f64().unwrap());
    let (here, there, ratio) = (&json["perplexity"], &beside["perplexity"], value(&beside["perplexity_ratio"]));
    let kl = value(&beside["mean_kl"]);
    let close = |got: f64, want: f64| (got / want - 1.0).abs() < 1e-9;
    assert!(kl > 0.0 && ratio != 1.0 && close(value(here) / value(there), ratio), "{json}");
    // The error of exp(x) is exp(x) times that of x.
    assert!(close(here["error"].as_f64().unwrap() / value(here), json["mean_nll"]["error"].as_f64().unwrap()), "{json}");
    for number in [format!("{:.4}", value(here)), format!("{:.4}", value(there)), format!("{ratio:.6}"), format!("{kl:.3e}")] {
        assert!(stdout(&table).contains(&number), "{number}: {table:?}");
    }
}

#[test]
fn the_formats_of_perplexity_reach_the_model() {
    let run = |args: &[&str]| json(&perplexity(&[args, &["-o", "json"]].concat()));
    let plain = run(&[]);
    assert_eq!((&plain["kv_dtype"], &plain["activations"]), (&json!("f32"), &json!("f32")));
    for (option, key) in [("--kv-dtype", "kv_dtype"), ("--activations", "activations")] {
        let rounded = run(&[option, "bf16"]);
        assert_eq!(rounded[key], "bf16");
        assert_ne!(rounded["mean_nll"], plain["mean_nll"], "{option}");
        let value = |of: &Value| of["mean_nll"]["value"].as_f64().unwrap();
        assert!((value(&rounded) / value(&plain) - 1.0).abs() < 0.01, "{option}: {rounded}");
    }
}

#[test]
fn the_cache_is_found_by_the_variables() {
    let cache = tempfile::tempdir().unwrap();
    for hub in ["hf/hub", "home/.cache/huggingface/hub"] {
        let snapshot = cache.path().join(hub).join("models--owner--name/snapshots/aaaaa");
        std::fs::create_dir_all(&snapshot).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(repository("tests/golden/v2_gqa").join(file), snapshot.join(file)).unwrap();
        }
    }
    for (variable, path) in [("HF_HOME", "hf"), ("HF_HUB_CACHE", "hf/hub"), ("HUGGINGFACE_HUB_CACHE", "hf/hub"), ("HOME", "home")]
    {
        let mut inspect = doge(&["inspect", "-m", "owner/name"]);
        let said = inspect.env_remove("HOME").env(variable, cache.path().join(path)).output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{variable}: {}", stderr(&said));
        assert!(stderr(&said).contains("note: refs/main names no snapshot"), "{variable}: {}", stderr(&said));
    }
}
