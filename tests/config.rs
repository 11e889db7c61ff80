//! Every spelling and default of config.json (spec §1).

use std::path::Path;

use doge_engine::model::{Config, RopeParameters};
use doge_engine::{Activation, Error};
use serde_json::{json, Value};

fn read(json: Value) -> Config {
    Config::from_json(json.to_string().as_bytes(), Path::new("config.json")).unwrap()
}

fn refused(json: Value) -> Error {
    Config::from_json(json.to_string().as_bytes(), Path::new("config.json")).unwrap_err()
}

#[test]
fn an_empty_config_has_the_class_defaults() {
    let config = read(json!({}));
    assert_eq!(config, Config::default());
    assert_eq!(
        (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers),
        (32768, 1024, 2048, 32)
    );
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (8, 8, 128));
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.max_position_embeddings), (1e-6, 10000.0, 2048));
    assert_eq!((config.keep_window_size, config.sliding_window), (2048, None));
    assert_eq!((config.num_experts, config.num_experts_per_tok, config.num_keys()), (16384, 64, 128));
    assert_eq!((config.bos_token_id, config.eos_token_id, config.pad_token_id), (None, vec![], None));
    assert_eq!(config.rope, RopeParameters::Default);
}

#[test]
fn doge2_has_its_own_defaults() {
    let config = read(json!({"model_type": "doge2", "mlp_bias": true}));
    assert_eq!((config.intermediate_size, config.num_experts, config.num_experts_per_tok), (4096, 4096, 64));
    assert!(!config.mlp_bias, "doge2 has no such bias");
    let config = read(json!({"model_type": "doge2", "intermediate_size": 64, "num_experts": 100}));
    assert_eq!((config.intermediate_size, config.num_experts), (64, 100));
}

#[test]
fn null_is_absent() {
    let keys = [
        "num_key_value_heads",
        "head_dim",
        "sliding_window",
        "rope_scaling",
        "rope_parameters",
        "eos_token_id",
        "hidden_act",
        "vocab_size",
    ];
    for key in keys {
        assert_eq!(read(json!({ key: null })), Config::default(), "{key}");
    }
}

#[test]
fn heads_follow_from_each_other() {
    let config = read(json!({"hidden_size": 48, "num_attention_heads": 4}));
    assert_eq!((config.num_key_value_heads, config.head_dim, config.group()), (4, 12, 1));
    let config = read(json!({"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}));
    assert_eq!((config.q_rows(), config.kv_rows(), config.group()), (64, 32, 2));
}

#[test]
fn windows_and_biases_have_old_names() {
    assert_eq!(read(json!({"window_size": 7})).keep_window_size, 7);
    assert_eq!(read(json!({"window_size": 7, "keep_window_size": 9})).keep_window_size, 9);
    assert_eq!(read(json!({"window_size": 7, "keep_window_size": null})).keep_window_size, 7);
    let config = read(json!({"hidden_bias": true}));
    assert!(config.attention_bias && config.mlp_bias);
    let config = read(json!({"attention_bias": true}));
    assert!(config.attention_bias && !config.mlp_bias);
}

#[test]
fn token_ids_are_one_or_many() {
    assert_eq!(read(json!({"eos_token_id": 1})).eos_token_id, [1]);
    assert_eq!(read(json!({"eos_token_id": [128001, 128009]})).eos_token_id, [128001, 128009]);
    assert_eq!(read(json!({"bos_token_id": 0})).bos_token_id, Some(0));
    // What old configs have for none.
    assert_eq!(read(json!({"pad_token_id": -1})).pad_token_id, None);
    assert_eq!(read(json!({"pad_token_id": 3})).pad_token_id, Some(3));
}

#[test]
fn num_keys_is_the_floor_of_the_root() {
    for (experts, keys) in [(1, 1), (3, 1), (4, 2), (8, 2), (9, 3), (20, 4), (16348, 127), (16384, 128)] {
        let per_tok = 1;
        assert_eq!(read(json!({"is_moe": true, "num_experts": experts, "num_experts_per_tok": per_tok})).num_keys(), keys);
    }
    // Dense: whatever stands there is dead.
    read(json!({"num_experts": 1, "num_experts_per_tok": 64}));
    assert_eq!(read(json!({"num_experts": 0, "num_experts_per_tok": 0})).num_keys(), 0);
}

#[test]
fn dead_keys_are_ignored() {
    let config = read(json!({
        "num_cdmoe_experts": 16348, "num_cdmoe_heads": "4", "expert_retrieval_size": 64, "patch_size": null, "num_channels": 3, "auto_map": {},
        "unk_token_id": [], "use_cache": true, "hidden_dropout": 0.1, "architectures": ["X"], "num_cdmmoe_experts": -1, "dynamic_mask_ratio": 0.0,
        "is_causal": false, "torch_dtype": "float32", "num_inner_values": null,
    }));
    assert_eq!(config, Config::default());
}

#[test]
fn activations_have_transformers_names() {
    for (name, act) in [
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("relu", Activation::Relu),
        ("relu2", Activation::Relu2),
        ("sigmoid", Activation::Sigmoid),
        ("tanh", Activation::Tanh),
        ("quick_gelu", Activation::QuickGelu),
        ("mish", Activation::Mish),
        ("linear", Activation::Linear),
    ] {
        assert_eq!(read(json!({ "hidden_act": name })).hidden_act, act);
    }
    for (i, act) in Activation::ALL.into_iter().enumerate() {
        assert_eq!(act as u32 as usize, i);
        assert_eq!(act.name().parse::<Activation>().unwrap(), act);
    }
}

#[test]
fn rope_has_two_spellings() {
    let dynamic = RopeParameters::Dynamic { factor: 4.0 };
    let old = json!({"type": "dynamic", "factor": 4});
    let new = json!({"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0});
    let rope = |json: Value| {
        let config = read(json);
        (config.rope, config.rope_theta)
    };
    assert_eq!(rope(json!({ "rope_scaling": old })), (dynamic.clone(), 10000.0));
    assert_eq!(rope(json!({"rope_scaling": old, "rope_theta": 7.0})), (dynamic.clone(), 7.0));
    assert_eq!(rope(json!({ "rope_parameters": new })), (RopeParameters::Linear { factor: 3.0 }, 500.0));
    // A theta inside beats the one outside; rope_scaling replaces rope_parameters, its theta included.
    assert_eq!(rope(json!({"rope_parameters": new, "rope_theta": 7.0})).1, 500.0);
    assert_eq!(rope(json!({"rope_parameters": new, "rope_scaling": old})), (dynamic.clone(), 10000.0));
    assert_eq!(rope(json!({"rope_parameters": new, "rope_scaling": null})).1, 500.0);
    assert_eq!(rope(json!({"rope_parameters": new, "rope_scaling": {}})).1, 500.0);
    assert_eq!(rope(json!({"rope_scaling": null, "rope_theta": 500.0})), (RopeParameters::Default, 500.0));
    assert_eq!(rope(json!({"rope_parameters": {"rope_theta": 4e4}})), (RopeParameters::Default, 4e4));
    // rope_type beats the older type.
    assert_eq!(rope(json!({"rope_scaling": {"rope_type": "dynamic", "type": "linear", "factor": 4}})).0, dynamic);
}

#[test]
fn original_max_position_embeddings_has_an_order() {
    let original = |outside: Value, inside: Value| {
        let dict = json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": inside});
        let config =
            read(json!({"original_max_position_embeddings": outside, "rope_parameters": dict, "max_position_embeddings": 256}));
        match config.rope {
            RopeParameters::Yarn { original_max_position_embeddings: n, factor, .. } => (n, factor),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(original(json!(32), json!(64)), (32, 8.0));
    assert_eq!(original(json!(null), json!(64)), (64, 4.0));
    assert_eq!(original(json!(null), json!(null)), (256, 1.0));
}

#[test]
fn partial_rotation_is_refused_in_the_dict_too() {
    let dict = |factor: f64| json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": factor}});
    assert!(matches!(refused(dict(0.5)), Error::UnsupportedModel { .. }));
    assert_eq!(read(dict(1.0)), Config::default());
}

#[test]
fn longrope_and_yarn_take_all_their_factors() {
    let longrope = |outside: Value| {
        let mut json =
            json!({"head_dim": 4, "rope_parameters": {"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}});
        json.as_object_mut().unwrap().extend(outside.as_object().unwrap().clone());
        json
    };
    // The factor follows from the lengths, and a single place has none.
    assert!(matches!(refused(longrope(json!({"max_position_embeddings": 1}))), Error::BadConfig { .. }));
    let mut given = longrope(json!({}));
    (given["rope_parameters"]["factor"], given["rope_parameters"]["attention_factor"]) = (json!(2), json!(1.5));
    assert!(matches!(read(given).rope, RopeParameters::Longrope { attention_factor: Some(f), .. } if f == 1.5));
    let yarn = json!({"rope_parameters": {"rope_type": "yarn", "factor": 4, "mscale": 2.0, "mscale_all_dim": 0.5}});
    assert!(
        matches!(read(yarn).rope, RopeParameters::Yarn { mscale: Some(a), mscale_all_dim: Some(b), .. } if (a, b) == (2.0, 0.5))
    );
}

#[test]
fn yarn_and_longrope_options() {
    let yarn = json!({"rope_type": "yarn", "factor": 4, "beta_fast": 0, "beta_slow": null, "mscale": 0, "mscale_all_dim": 0.5, "truncate": false});
    assert_eq!(
        read(json!({ "rope_parameters": yarn })).rope,
        RopeParameters::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 2048,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: Some(0.5),
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
        }
    );
    let longrope = json!({"rope_type": "longrope", "short_factor": [1, 1.5], "long_factor": [1.0, 2.0], "original_max_position_embeddings": 512});
    assert_eq!(
        read(json!({"rope_parameters": longrope, "head_dim": 4})).rope,
        RopeParameters::Longrope {
            short_factor: vec![1.0, 1.5],
            long_factor: vec![1.0, 2.0],
            factor: 4.0,
            original_max_position_embeddings: 512,
            attention_factor: None,
        }
    );
}
