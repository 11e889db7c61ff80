//! Checkpoints that are not as they should be, and those that are made: what is said of them, and the exit codes.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{bard_with, doge, path, refused, repository, run, run_with_stdin, stderr, stdout};

#[test]
fn a_bad_model_exits_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().to_str().unwrap();
    refused(&run(&["generate", "-p", "x", "-m", "no/such"]), 3, "no/such");
    refused(&run(&["inspect", "-m", model]), 3, "config.json");
    std::fs::copy(repository("models/doge-bard/config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), [0xff; 100]).unwrap();
    refused(&run(&["inspect", "-m", model]), 3, "model.safetensors");
    let weights = std::fs::read(repository("models/doge-bard/model.safetensors")).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), &weights[..weights.len() - 1]).unwrap();
    refused(&run(&["inspect", "-m", model]), 3, "truncated");
    std::fs::write(folder.path().join("model.safetensors"), &weights).unwrap();
    refused(&run(&["generate", "-p", "x", "-m", model]), 3, "tokenizer.json");
}

#[test]
fn verify_counts_and_exits_with_4_if_a_case_fails() {
    let case = repository("tests/golden/v2_gqa");
    let good = run(&["verify", case.to_str().unwrap(), "-t", "2"]);
    assert_eq!(good.status.code(), Some(0), "{}", stdout(&good));
    assert!(stdout(&good).ends_with("1 passed, 0 failed\n"), "{}", stdout(&good));
    // The same expectations, another model: the weights of one tensor are moved.
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "expected.safetensors", "model.safetensors"] {
        std::fs::copy(case.join(file), folder.path().join(file)).unwrap();
    }
    let file = folder.path().join("model.safetensors");
    let mut weights = std::fs::read(&file).unwrap();
    let end = weights.len();
    weights[end - 400..].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&1f32.to_le_bytes()));
    std::fs::write(&file, weights).unwrap();
    let bad = run(&["verify", folder.path().to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(4), "{}", stdout(&bad));
    assert!(stdout(&bad).contains("FAIL") && stdout(&bad).ends_with("0 passed, 1 failed\n"), "{}", stdout(&bad));
    // Nor is it a success because nobody reads on.
    let mut unread =
        doge(&["verify", folder.path().to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let output = unread.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(4), ""));
    refused(&run(&["verify", folder.path().join("none").to_str().unwrap()]), 1, "none");
}

/// Not a number is no small error, and what cannot be read is not passed over.
#[test]
fn verify_fails_where_it_cannot_tell() {
    let (case, folder) = (repository("tests/golden/v2_gqa"), tempfile::tempdir().unwrap());
    let copy = folder.path().join("case");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "expected.safetensors", "model.safetensors"] {
        std::fs::copy(case.join(file), copy.join(file)).unwrap();
    }
    let verify = |dtype: &str| run(&["verify", copy.to_str().unwrap(), "-t", "2", "--dtype", dtype]);
    assert_eq!(verify("int8").status.code(), Some(0));
    std::fs::create_dir(folder.path().join("index.json")).unwrap();
    let unreadable = verify("int8");
    assert!(unreadable.status.code() == Some(4) && stdout(&unreadable).contains("index.json"), "{}", stdout(&unreadable));
    std::fs::remove_dir(folder.path().join("index.json")).unwrap();

    // The logits expected: the header tells where they are.
    let mut bytes = std::fs::read(copy.join("expected.safetensors")).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    let at = data + header["exact_logits_full"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(copy.join("expected.safetensors"), bytes).unwrap();
    for dtype in ["f32", "int8"] {
        let nan = verify(dtype);
        assert!(nan.status.code() == Some(4) && stdout(&nan).contains("NaN"), "{}", stdout(&nan));
    }
}

#[test]
fn bad_values_of_a_checkpoint_are_its_own() {
    for (values, why) in [
        (r#"{"temperature": -1}"#, "temperature must be"),
        (r#"{"top_p": 1.5}"#, "top_p must be"),
        (r#"{"bos_token_id": 999999}"#, "bos_token_id 999999 is outside the vocabulary of 4096"),
    ] {
        let folder = bard_with(&[("generation_config.json", values)]);
        let model = folder.path().to_str().unwrap();
        let output = run(&["generate", "-p", "x", "-n", "1", "-m", model]);
        refused(&output, 3, &format!("{model}/generation_config.json: {why}"));
    }
    // Without a begin-of-text token its id does not matter.
    let folder = bard_with(&[("generation_config.json", r#"{"bos_token_id": 999999}"#)]);
    let model = folder.path().to_str().unwrap();
    assert_eq!(run(&["generate", "-p", "x", "-n", "1", "--no-bos", "-m", model]).status.code(), Some(0));
    refused(&run(&["perplexity", &path("models/doge-bard/heldout.txt"), "-m", model]), 3, "bos_token_id 999999");
}

/// Whatever runs a checkpoint says what it left out.
#[test]
fn layers_too_many_are_told() {
    let config = std::fs::read_to_string(repository("models/doge-bard/config.json")).unwrap();
    let mut json: Value = serde_json::from_str(&config).unwrap();
    json["num_hidden_layers"] = serde_json::json!(1);
    let folder = bard_with(&[("config.json", &json.to_string())]);
    let model = folder.path().to_str().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "To be, or not to be").unwrap();
    for args in [
        ["generate", "-m", model, "-n", "1", "-p", "x"].as_slice(),
        &["perplexity", "-m", model, "--window", "8", text.to_str().unwrap()],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains("tensors are not used, such as 'model.layers.1."), "{}", stderr(&output));
    }
}

#[test]
fn bad_files_end_with_one_named_error() {
    let tokenizer = std::fs::read_to_string(repository("models/doge-bard/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&tokenizer).unwrap();
    json["normalizer"] = serde_json::json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
    let folder = bard_with(&[("tokenizer.json", &json.to_string())]);
    let output = run(&["generate", "-p", "x", "-m", folder.path().to_str().unwrap()]);
    refused(&output, 3, "tokenizer.json contradicts itself: ");
    assert!(stderr(&output).lines().count() == 1 && !stderr(&output).contains("panicked"), "{}", stderr(&output));

    let template = folder.path().join("template.jinja");
    std::fs::write(&template, format!("{{{{ {}true }}}}", "not ".repeat(20000))).unwrap();
    refused(&run(&["chat", "--chat-template-file", template.to_str().unwrap()]), 3, "chat template: it has 80010 bytes");
    std::fs::write(&template, format!("{{{{ 1{} }}}}", "+1".repeat(32000))).unwrap();
    let chat = run_with_stdin(&["chat", "-n", "1", "--chat-template-file", template.to_str().unwrap()], b"x\n");
    assert_eq!(chat.status.code(), Some(0), "{}", stderr(&chat));

    refused(&doge(&["inspect"]).env("DOGE_ISA", "foo").output().unwrap(), 2, "DOGE_ISA: unknown ISA level 'foo'");
    #[cfg(unix)]
    {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("config.json", folder.path().join("config.json")).unwrap();
        refused(&run(&["inspect", "-m", folder.path().to_str().unwrap()]), 1, "symbolic links");
    }
}

#[test]
fn a_weight_that_is_no_number_is_the_models_fault() {
    let folder = bard_with(&[]);
    let (model, file) = (folder.path().to_str().unwrap(), folder.path().join("model.safetensors"));
    let mut weights = std::fs::read(&file).unwrap();
    let end = weights.len();
    weights[end - 2..].fill(0xff);
    std::fs::write(&file, weights).unwrap();
    let made = folder.path().join("int8");
    refused(&run(&["quantize", "-m", model, "--dtype", "int8", "-o", made.to_str().unwrap()]), 3, "non-finite value in");
    refused(&run(&["inspect", "-m", model]), 3, "non-finite value in");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (half, whole) = (folder.path().join("model.safetensors.unfinished"), folder.path().join("model.safetensors"));
    let bard = path("models/doge-bard");
    let mut child = doge(&["quantize", "-m", &bard, "--dtype", "int4", "-o", folder.path().to_str().unwrap()]).spawn().unwrap();
    while !half.exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // On a fast machine it may have ended before.
    let code = child.wait().unwrap().code();
    assert!(!half.exists() && (code, whole.exists()) != (Some(130), true) && matches!(code, Some(0 | 130)), "{code:?}");
}
