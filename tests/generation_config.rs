//! generation_config.json over config.json.

use doge_engine::{Error, GenerationConfig, SamplingSettings};

fn read(config: &str, generation: &str) -> Result<GenerationConfig, Error> {
    GenerationConfig::from_json(Some(config), Some(generation))
}

#[test]
fn ids_are_looked_up_in_both_files() {
    let made = read(
        r#"{"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 7}"#,
        r#"{"eos_token_id": [1, 473], "pad_token_id": null}"#,
    )
    .unwrap();
    assert_eq!((made.bos_token_id, made.eos_token_ids, made.pad_token_id), (Some(5), vec![1, 473], Some(7)));
    let made = read(r#"{"eos_token_id": [2]}"#, "{}").unwrap();
    assert_eq!((made.bos_token_id, made.eos_token_ids), (None, vec![2]));
    // What old files have for none.
    assert_eq!(read(r#"{"pad_token_id": -1}"#, r#"{"pad_token_id": -1}"#).unwrap().pad_token_id, None);
    assert_eq!(GenerationConfig::from_json(None, None).unwrap(), GenerationConfig::default());
    let bard = GenerationConfig::from_folder(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/doge-bard")).unwrap();
    assert_eq!((bard.bos_token_id, bard.eos_token_ids, bard.pad_token_id), (Some(0), vec![1], Some(4)));
}

#[test]
fn sampling_defaults_are_those_of_transformers() {
    let plain = read("{}", "{}").unwrap();
    assert!(plain.sampling.is_greedy() && plain.unsupported.is_empty());
    let sampled = read("{}", r#"{"do_sample": true, "temperature": 1, "top_p": 0.9}"#).unwrap();
    assert_eq!(sampled.sampling, SamplingSettings::default().do_sample(true).top_p(0.9).top_k(50));
    let all = r#"{"do_sample": true, "temperature": 0.8, "top_k": 0, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.7, "repetition_penalty": 1.1}"#;
    let sampling = read("{}", all).unwrap().sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.8, 0, 0.5));
    assert_eq!((sampling.min_p, sampling.typical_p, sampling.repetition_penalty), (0.1, 0.7, 1.1));
    // config.json has a say in sampling only where there is no generation_config.json.
    let old = r#"{"do_sample": true, "top_k": 7}"#;
    assert!(read(old, "{}").unwrap().sampling.is_greedy());
    assert_eq!(GenerationConfig::from_json(Some(old), None).unwrap().sampling.top_k, 7);
}

#[test]
fn length_limits_count_differently() {
    let limit = |json: &str, prompt| read("{}", json).unwrap().new_token_limit(prompt);
    assert_eq!(limit("{}", 10), None);
    assert_eq!(limit(r#"{"max_length": 30}"#, 10), Some(20));
    assert_eq!(limit(r#"{"max_length": 30}"#, 40), Some(0));
    assert_eq!(limit(r#"{"max_length": 30, "max_new_tokens": 25}"#, 10), Some(25));
}

#[test]
fn settings_without_effect_are_listed() {
    let made =
        read("{}", r#"{"num_beams": 4, "min_length": 0, "suppress_tokens": [3], "guidance_scale": null, "use_cache": true}"#)
            .unwrap();
    assert_eq!(made.unsupported, ["num_beams", "suppress_tokens"]);
    let made = read("{}", r#"{"stop_strings": ["\n"], "forced_bos_token_id": 3, "max_time": 1.5}"#).unwrap();
    assert_eq!(made.unsupported, ["forced_bos_token_id", "stop_strings", "max_time"]);
    let idle = r#"{"suppress_tokens": [], "sequence_bias": {}, "token_healing": false, "encoder_no_repeat_ngram_size": 0}"#;
    assert!(read("{}", idle).unwrap().unsupported.is_empty());
    let active = r#"{"encoder_no_repeat_ngram_size": 2, "watermarking_config": {"bias": 2.5}, "token_healing": true}"#;
    let made = read("{}", active).unwrap();
    assert_eq!(made.unsupported, ["encoder_no_repeat_ngram_size", "watermarking_config", "token_healing"]);
}

#[test]
fn wrong_types_and_values_are_named() {
    for (json, word) in [
        (r#"{"eos_token_id": "1"}"#, "eos_token_id"),
        (r#"{"eos_token_id": [1, -1]}"#, "eos_token_id"),
        (r#"{"eos_token_id": [[1]]}"#, "eos_token_id"),
        (r#"{"bos_token_id": -1}"#, "bos_token_id"),
        (r#"{"bos_token_id": 4294967296}"#, "bos_token_id"),
        (r#"{"pad_token_id": 1.5}"#, "pad_token_id"),
        (r#"{"do_sample": "yes"}"#, "do_sample"),
        (r#"{"temperature": "hot"}"#, "temperature"),
        (r#"{"top_k": 1.5}"#, "top_k"),
        (r#"{"top_k": -1}"#, "top_k"),
        (r#"{"top_p": []}"#, "top_p"),
        (r#"{"temperature": -1}"#, "temperature must be finite and not negative, is -1"),
        (r#"{"temperature": 1e300}"#, "temperature must be finite"),
        (r#"{"top_p": 1.5}"#, "top_p must be from 0 to 1"),
        (r#"{"min_p": -0.1}"#, "min_p must be"),
        (r#"{"typical_p": 0}"#, "typical_p must be above 0"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty must be finite and above 0"),
        (r#"{"max_new_tokens": "many"}"#, "max_new_tokens"),
        (r#"{"max_length": -5}"#, "max_length"),
        ("[]", "object"),
        ("{", "object"),
        (r#"{"temperature": NaN}"#, "object"),
        ("\u{feff}{}", "byte order mark"),
    ] {
        let error = read("{}", json).unwrap_err();
        assert!(
            matches!(&error, Error::BadConfig { path, why } if path.ends_with("generation_config.json") && why.contains(word)),
            "{json}: {error}"
        );
    }
    assert!(matches!(read("7", "{}"), Err(Error::BadConfig { path, .. }) if path.ends_with("config.json")));
}

#[test]
fn a_text_begins_with_one_begin_of_text_token() {
    let config = |json| read("{}", json).unwrap();
    let begins = config(r#"{"bos_token_id": 5, "eos_token_id": [6, 7]}"#);
    assert_eq!((begins.with_bos(vec![]), begins.with_bos(vec![9, 5])), (vec![5], vec![5, 9, 5]));
    assert_eq!(begins.with_bos(vec![5, 9]), [5, 9], "the tokenizer has written it");
    assert_eq!(config(r#"{"bos_token_id": 6, "eos_token_id": [5, 6]}"#).with_bos(vec![9]), [9], "it ends texts");
    assert_eq!(config("{}").with_bos(vec![9]), [9]);
}

#[test]
fn absurd_files_are_refused_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("config.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(matches!(GenerationConfig::from_folder(folder.path()), Err(Error::BadFile { .. })));
    // The loader's limit for the same file.
    file.set_len((1 << 20) + 1).unwrap();
    assert!(matches!(GenerationConfig::from_folder(folder.path()), Err(Error::BadFile { .. })));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    std::fs::create_dir(folder.path().join("config.json")).unwrap();
    let not_a_file =
        || matches!(GenerationConfig::from_folder(folder.path()), Err(Error::BadFile { why, .. }) if why == "is not a file");
    assert!(not_a_file());
    // Nor is what may have no end, or no beginning.
    #[cfg(unix)]
    {
        std::fs::remove_dir(folder.path().join("config.json")).unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("config.json")).unwrap();
        assert!(not_a_file());
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        // Nor is a link to nothing the same as no file.
        std::os::unix::fs::symlink("gone", folder.path().join("generation_config.json")).unwrap();
        assert!(matches!(GenerationConfig::from_folder(folder.path()), Err(Error::Io { .. })));
    }
}
