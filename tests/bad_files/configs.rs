//! Bad config.json files.

use std::{fs, path::Path};

use doge_engine::model::Config;
use proptest::prelude::*;
use serde_json::{json, Value};

use super::{
    maker::Maker,
    refuse,
    Kind::{self, *},
};

fn refuse_text(case: &str, culprit: &[&str], text: &[u8]) {
    refuse(case, BadConfig, culprit, |folder| {
        Maker::dense().write(folder);
        fs::write(folder.join("config.json"), text).unwrap();
    });
}

fn refuse_key(kind: Kind, key: &str, value: Value) {
    refuse_key_as(kind, &[key], key, value);
}

fn refuse_key_as(kind: Kind, culprit: &[&str], key: &str, value: Value) {
    let case = format!("{key}: {value}");
    refuse(&case, kind, culprit, |folder| Maker::dense().set(key, value).write(folder));
}

#[test]
fn configs_that_are_none() {
    refuse_text("empty", &["config.json", "not JSON"], b"");
    refuse_text("cut", &["config.json", "not JSON"], b"{\"vocab_size\": 16");
    refuse_text("a list", &["config.json", "object"], b"[{}]");
    refuse_text("not UTF-8", &["config.json", "not JSON"], b"{\"vocab_size\": \"\xff\"}");
    refuse_text("Python's NaN", &["config.json", "not JSON"], b"{\"rms_norm_eps\": NaN}");
    refuse_text("a number beyond f64", &["config.json", "not JSON"], b"{\"rms_norm_eps\": 1e999}");
    refuse_text("nested 10000 deep", &["config.json", "not JSON"], "{\"a\":".repeat(10_000).as_bytes());
    refuse_text("a byte order mark", &["config.json", "byte order mark"], b"\xef\xbb\xbf{}");
    refuse("a folder", BadFile, &["config.json", "not a file"], |folder| {
        Maker::dense().write(folder);
        fs::remove_file(folder.join("config.json")).unwrap();
        fs::create_dir(folder.join("config.json")).unwrap();
    });
    refuse("a megabyte", BadFile, &["config.json", "larger than"], |folder| {
        Maker::dense().set("padding", "x".repeat(1 << 20)).write(folder);
    });
}

#[test]
fn wrong_types() {
    let sizes = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "keep_window_size",
        "window_size",
        "sliding_window",
        "num_experts",
        "num_experts_per_tok",
    ];
    for key in sizes {
        for value in
            [json!("8"), json!(8.5), json!(-8), json!(0), json!([8]), json!({}), json!(true), json!(1u64 << 60), json!(u64::MAX)]
        {
            if !(key.starts_with("num_experts") && value == 0) {
                refuse_key(BadConfig, key, value);
            }
        }
    }
    let flags = ["tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_bias", "is_moe", "norm_topk_prob", "is_causal"];
    for key in flags {
        for value in [json!("true"), json!(1), json!([])] {
            refuse_key(BadConfig, key, value);
        }
    }
    for key in ["rms_norm_eps", "rope_theta", "dynamic_mask_ratio"] {
        for value in [json!("1e-6"), json!([1.0]), json!(true)] {
            refuse_key(BadConfig, key, value);
        }
    }
    for key in ["bos_token_id", "pad_token_id", "eos_token_id"] {
        for value in [json!("1"), json!(-2), json!(1.5), json!(1u64 << 32), json!({})] {
            refuse_key(BadConfig, key, value);
        }
    }
    for key in ["bos_token_id", "eos_token_id"] {
        refuse_key(BadConfig, key, json!(-1));
    }
    for key in ["hidden_act", "model_type"] {
        refuse_key(BadConfig, key, json!(3));
    }
    for key in ["rope_scaling", "rope_parameters"] {
        refuse_key(BadConfig, key, json!("dynamic"));
    }
    refuse_key(BadConfig, "eos_token_id", json!([1, "2"]));
    refuse_key(BadConfig, "bos_token_id", json!([1]));
}

#[test]
fn values_that_make_no_model() {
    refuse_key(BadConfig, "head_dim", json!(5));
    refuse_key_as(BadConfig, &["head_dim"], "num_attention_heads", json!(8)); // 8 / 8 = 1: odd
    refuse_key_as(BadConfig, &["head_dim"], "num_attention_heads", json!(9)); // 8 / 9 = 0
    refuse_key(BadConfig, "num_key_value_heads", json!(3));
    refuse_key(BadConfig, "num_key_value_heads", json!(4));
    refuse_key(BadConfig, "rms_norm_eps", json!(-1e-6));
    refuse_key(BadConfig, "rms_norm_eps", json!(1e300));
    refuse_key(BadConfig, "rope_theta", json!(0));
    refuse_key(BadConfig, "rope_theta", json!(-10000.0));
    for vanishes in [1e-300, 1e-40, 1e39] {
        refuse_key_as(BadConfig, &["rope_theta", "f32"], "rope_theta", json!(vanishes));
        let linear = json!({"rope_type": "linear", "factor": vanishes});
        refuse_key_as(BadConfig, &["factor", "f32"], "rope_parameters", linear);
    }
    refuse_key_as(BadConfig, &["hidden_act", "gelu_10", "silu"], "hidden_act", json!("gelu_10"));
    refuse_key(BadConfig, "hidden_act", json!(""));
    refuse_key_as(Unsupported, &["model_type", "llama"], "model_type", json!("llama"));
    refuse_key(Unsupported, "dynamic_mask_ratio", json!(0.1));
    refuse_key(Unsupported, "is_causal", json!(true));
    refuse_key(Unsupported, "num_inner_values", json!(16));
    refuse_key(Unsupported, "cross_domain_intermediate_size", json!(64));
    refuse_key(Unsupported, "partial_rotary_factor", json!(0.5));
    for (experts, per_tok) in [(9, 10), (10, 10), (1, 2), (15, 10)] {
        refuse(&format!("{per_tok} of {experts}"), BadConfig, &["num_experts_per_tok"], |folder| {
            Maker::moe().set("num_experts", experts).set("num_experts_per_tok", per_tok).write(folder)
        });
    }
    for key in ["num_experts", "num_experts_per_tok"] {
        refuse(key, BadConfig, &[key, "found 0"], |folder| Maker::moe().set(key, 0).write(folder));
        // Nor where only the tensors tell of experts.
        refuse(key, BadConfig, &[key, "found 0"], |folder| Maker::moe().set("is_moe", false).set(key, 0).write(folder));
    }
    refuse("2^32 - 1 experts", BadTensor, &["num_experts"], |f| Maker::moe().set("num_experts", u32::MAX).write(f));
}

#[test]
fn sizes_that_multiply_to_nonsense() {
    let big = 1 << 24;
    for (culprit, keys) in [
        ("num_attention_heads", &[("num_attention_heads", big), ("head_dim", big), ("hidden_size", big)][..]),
        ("intermediate_size", &[("intermediate_size", big), ("hidden_size", big), ("num_hidden_layers", 1 << 14)]),
        ("keep_window_size", &[("keep_window_size", u32::MAX as usize), ("head_dim", big), ("num_hidden_layers", 1 << 14)]),
    ] {
        refuse(culprit, BadConfig, &[culprit, "memory"], |folder| {
            let maker = keys.iter().fold(Maker::dense(), |maker, (key, value)| maker.set(key, *value));
            maker.write(folder);
        });
    }
    // Absurd sizes that do multiply are the tensors' to refuse, before anything is allocated.
    for (key, size) in [("vocab_size", u32::MAX as usize), ("intermediate_size", big), ("hidden_size", big)] {
        refuse(key, BadTensor, &["shape"], |folder| Maker::dense().set("head_dim", 4).set(key, size).write(folder));
    }
}

#[test]
fn rope_that_cannot_be() {
    let refuse_rope = |culprit: &[&str], dict: Value| {
        refuse_key_as(BadConfig, culprit, "rope_scaling", dict.clone());
        refuse_key_as(BadConfig, culprit, "rope_parameters", dict);
    };
    refuse_rope(&["rope_type", "su2"], json!({"rope_type": "su2", "factor": 2.0}));
    refuse_rope(&["rope_type", "ntk"], json!({"type": "ntk", "factor": 2.0}));
    refuse_rope(&["rope_type"], json!({"rope_type": 3}));
    refuse_rope(&["rope_theta"], json!({"rope_type": "default", "rope_theta": 0}));
    for kind in ["linear", "dynamic"] {
        refuse_rope(&["factor", "missing"], json!({ "rope_type": kind }));
        for factor in [json!(0), json!(-2.0), json!("2"), json!([2.0])] {
            refuse_rope(&["factor"], json!({"rope_type": kind, "factor": factor}));
        }
    }
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let yarn = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.0, "truncate": true});
    let longrope = json!({"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 64, "short_factor": [1.0, 1.5], "long_factor": [1.0, 2.0], "attention_factor": 1.0});
    let change = |dict: &Value, key: &str, value: Value| {
        let mut dict = dict.clone();
        dict[key] = value;
        dict
    };
    for (dict, key, value) in [
        (&llama3, "factor", json!(null)),
        (&llama3, "low_freq_factor", json!(null)),
        (&llama3, "high_freq_factor", json!(null)),
        (&llama3, "high_freq_factor", json!(1.0)),
        (&llama3, "original_max_position_embeddings", json!(64.5)),
        (&llama3, "original_max_position_embeddings", json!(0)),
        (&yarn, "factor", json!(-1)),
        (&yarn, "beta_fast", json!(-32)),
        (&yarn, "beta_slow", json!("1")),
        (&yarn, "mscale", json!(-1)),
        (&yarn, "attention_factor", json!(0)),
        (&yarn, "truncate", json!("no")),
        (&yarn, "rope_theta", json!(1)),
        (&longrope, "short_factor", json!(null)),
        (&longrope, "long_factor", json!([1.0])),
        (&longrope, "long_factor", json!([1.0, 2.0, 3.0])),
        (&longrope, "short_factor", json!([1.0, 0.0])),
        (&longrope, "short_factor", json!([1.0, 1e-300])),
        (&longrope, "short_factor", json!([1.0, "2"])),
        (&longrope, "long_factor", json!(2.0)),
        (&longrope, "original_max_position_embeddings", json!(1)),
        (&longrope, "attention_factor", json!(-1.0)),
    ] {
        refuse_rope(&[key], change(dict, key, value));
    }
    refuse_rope(&["factor", "missing"], json!({"rope_type": "yarn", "original_max_position_embeddings": 64}));
    refuse("dynamic with head_dim 2", BadConfig, &["dynamic", "head_dim"], |folder| {
        Maker::dense().set("head_dim", 2).set("rope_scaling", json!({"type": "dynamic", "factor": 2})).write(folder)
    });
    refuse_key_as(Unsupported, &["full_attention"], "rope_parameters", json!({"full_attention": {"rope_type": "default"}}));
}

proptest! {
    /// Whatever a key's value is, reading a config ends with a value or an error.
    #[test]
    fn odd_values_never_panic(key in 0usize..30, number in any::<f64>(), whole in any::<i64>(), pick in 0..6) {
        let mut config = Maker::moe().config;
        let kind = ["yarn", "longrope", "llama3", "dynamic"][key % 4];
        let rope = json!({"rope_type": kind, "factor": number, "original_max_position_embeddings": whole,
            "low_freq_factor": number, "high_freq_factor": 4, "short_factor": [number, 1], "long_factor": [1, 1]});
        let value = [json!(number), json!(whole), json!(whole as u64), json!([whole]), json!(number.to_string()), rope][pick as usize].clone();
        let keys = ["vocab_size", "hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "rope_theta", "rope_scaling", "keep_window_size",
            "num_experts", "num_experts_per_tok", "num_hidden_layers", "rms_norm_eps", "max_position_embeddings", "eos_token_id", "sliding_window"];
        config[keys[key % keys.len()]] = value;
        let _ = Config::from_json(config.to_string().as_bytes(), Path::new("config.json"));
    }
}
