//! Good checkpoints: every golden one loads as what it is, conversions round as they should, synthetic ones are sound.

use std::{fs, path::Path, path::PathBuf};

use doge_engine::{
    mapped::Mapped,
    model::{family, Biases, Checkpoint, LoadOptions, Names, RopeParameters},
    Dtype, Error, Tensor,
};
use half::{bf16, f16};
use serde_json::{json, Value};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn load(case: &str, options: &LoadOptions) -> Checkpoint {
    Checkpoint::load(&golden(case), options).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// A tensor's numbers, widened by the `half` crate one by one.
fn numbers(tensor: &Tensor) -> Vec<f32> {
    let bytes = tensor.matrix().bytes();
    match tensor.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        _ => doge_engine::reference::embed::widen(tensor.matrix()),
    }
}

#[test]
fn every_golden_checkpoint_is_recognised() {
    let index: Value = serde_json::from_slice(&fs::read(golden("index.json")).unwrap()).unwrap();
    let cases = index["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 49);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let Checkpoint { config, variant, weights, files, tensors, ignored, notes, .. } = load(name, &LoadOptions::default());
        let raw: Value = serde_json::from_slice(&fs::read(golden(name).join("config.json")).unwrap()).unwrap();

        let expected = &case["variant"];
        let mask_heads = if expected["mask_heads"] == "q" { config.num_attention_heads } else { config.num_key_value_heads };
        let names = if expected["old_names"] == true { Names::Old } else { Names::New };
        assert_eq!((variant.names, variant.mask_heads), (names, mask_heads), "{name}");
        assert_eq!(variant.qk_norm, expected["qk_norm"] == true, "{name}");
        let hidden_bias = raw["hidden_bias"] == true;
        let attention = hidden_bias || raw["attention_bias"] == true;
        let mlp = hidden_bias || raw["mlp_bias"] == true;
        assert_eq!(variant.biases, Biases::of_config(&config), "{name}");
        assert_eq!((variant.biases.dt_proj, variant.biases.down_proj), (attention, mlp), "{name}");
        assert_eq!((variant.is_moe, config.is_moe), (raw["is_moe"] == true, raw["is_moe"] == true), "{name}");
        assert_eq!(variant.tied, raw["tie_word_embeddings"] == true, "{name}");

        let stored = case["store"].as_str().unwrap();
        assert_eq!(weights.embed_tokens.dtype().name(), stored, "{name}");
        assert!(weights.embed_tokens.is_mapped(), "{name}");
        let entries = fs::read_dir(golden(name)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(files.len(), entries.filter(|e| e.starts_with("model") && e.ends_with(".safetensors")).count(), "{name}");
        let both = name == "v2_tied_and_stored";
        assert_eq!(ignored, if both { vec!["lm_head.weight"] } else { vec![] }, "{name}");
        assert_eq!(notes.len(), usize::from(both), "{name}: {notes:?}");

        // Every byte of the files' data is accounted for.
        let used: usize = tensors.iter().map(|t| t.bytes).sum();
        let stored_twice = if both { weights.embed_tokens.size() } else { 0 };
        let data: usize = files.iter().map(|f| f.bytes - 8 - header_len(&f.path)).sum();
        assert_eq!(used + stored_twice, data, "{name}");
        assert_eq!(
            tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum::<usize>(),
            variant.parameters(&config),
            "{name}"
        );

        assert_eq!(weights.layers.len(), config.num_hidden_layers, "{name}");
        for layer in &weights.layers {
            assert_eq!((layer.q_proj.weight.rows(), layer.q_proj.weight.cols()), (config.q_rows(), config.hidden_size), "{name}");
            assert_eq!((layer.a.len(), layer.dt_proj.weight.len()), (mask_heads, mask_heads * config.kv_rows()), "{name}");
            assert_eq!((layer.q_norm.is_some(), layer.k_norm.is_some()), (variant.qk_norm, variant.qk_norm), "{name}");
            assert_eq!((layer.dt_proj.bias.is_some(), layer.gate_proj.bias.is_some()), (attention, mlp), "{name}");
            assert_eq!(layer.experts.is_some(), variant.is_moe, "{name}");
            if let Some(experts) = &layer.experts {
                assert_eq!(
                    (experts.router_gate.rows(), experts.router_gate.dtype()),
                    (2 * config.num_keys(), Dtype::F32),
                    "{name}"
                );
            }
        }
    }
}

fn header_len(path: &Path) -> usize {
    u64::from_le_bytes(fs::read(path).unwrap()[..8].try_into().unwrap()) as usize
}

#[test]
fn generations_have_names() {
    for (case, generation) in
        [("v2_gqa", "V2"), ("v2_mha", "V2"), ("v1_gqa", "V1"), ("v1_mha", "V1"), ("doge2_early", "doge2 early")]
    {
        let checkpoint = load(case, &LoadOptions::default());
        assert_eq!(checkpoint.variant.generation(&checkpoint.config), generation, "{case}");
    }
}

#[test]
fn rope_of_the_published_configs() {
    let checkpoint = load("v1_old_names", &LoadOptions::default());
    assert_eq!(checkpoint.config.rope, RopeParameters::Dynamic { factor: 4.0 });
    assert_eq!(load("rope_dynamic_legacy", &LoadOptions::default()).config.rope, RopeParameters::Dynamic { factor: 4.0 });
    assert_eq!(load("config_rope_theta", &LoadOptions::default()).config.rope_theta, 500.0);
}

#[test]
fn matrices_are_converted_to_nearest_even() {
    let stored = load("moe_k2", &LoadOptions::default());
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let asked = load("moe_k2", &LoadOptions::default().dtype(dtype));
        let round = |x: &f32| if dtype == Dtype::F16 { f16::from_f32(*x).to_f32() } else { bf16::from_f32(*x).to_f32() };
        let same = |a: &Tensor, b: &Tensor| {
            assert_eq!((b.dtype(), b.rows(), b.cols(), b.is_mapped()), (dtype, a.rows(), a.cols(), false));
            assert_eq!(numbers(a).iter().map(round).collect::<Vec<_>>(), numbers(b));
        };
        same(&stored.weights.embed_tokens, &asked.weights.embed_tokens);
        for (a, b) in stored.weights.layers.iter().zip(&asked.weights.layers) {
            same(&a.down_proj.weight, &b.down_proj.weight);
            let (a_experts, b_experts) = (a.experts.as_ref().unwrap(), b.experts.as_ref().unwrap());
            same(&a_experts.up_embed, &b_experts.up_embed);
            // Small tensors stay f32, bit for bit.
            assert_eq!(numbers(&a_experts.router_gate), numbers(&b_experts.router_gate));
            assert_eq!((&a.dt_proj.weight, &a.a, &a.input_residual), (&b.dt_proj.weight, &b.a, &b.input_residual));
        }
        assert!(asked.bytes_per_token() < stored.bytes_per_token());
    }
}

#[test]
fn widening_is_exact() {
    for case in ["bf16_moe_window", "f16"] {
        let stored = load(case, &LoadOptions::default().mmap(false));
        let wide = load(case, &LoadOptions::default().dtype(Dtype::F32));
        assert_eq!(wide.weights.embed_tokens.dtype(), Dtype::F32);
        assert_eq!(numbers(&stored.weights.embed_tokens), numbers(&wide.weights.embed_tokens));
        assert_eq!(stored.weights.norm, wide.weights.norm);
        assert_eq!(stored.weights.layers[0].a, wide.weights.layers[0].a);
    }
}

/// A file whose header has an odd length: every tensor lies at an odd address.
fn odd_file() -> Vec<u8> {
    let file = fs::read(golden("v2_gqa").join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(file[8..8 + header].to_vec()).unwrap();
    let spaces = if header % 2 == 0 { " " } else { "  " };
    let mut odd = ((header + spaces.len()) as u64).to_le_bytes().to_vec();
    odd.extend_from_slice(text.as_bytes());
    odd.extend_from_slice(spaces.as_bytes());
    odd.extend_from_slice(&file[8 + header..]);
    odd
}

#[test]
fn any_alignment_is_used_in_place() {
    let config = fs::read_to_string(golden("v2_gqa").join("config.json")).unwrap();
    let aligned = load("v2_gqa", &LoadOptions::default());
    let odd = Checkpoint::from_bytes(&config, Mapped::from_vec(odd_file()), &LoadOptions::default()).unwrap();
    assert!(odd.weights.embed_tokens.is_mapped());
    assert_ne!(odd.weights.embed_tokens.matrix().bytes().as_ptr() as usize % 4, 0);
    assert_eq!(numbers(&odd.weights.embed_tokens), numbers(&aligned.weights.embed_tokens));
    let narrow = LoadOptions::default().dtype(Dtype::Bf16);
    let (a, b) = (load("v2_gqa", &narrow), Checkpoint::from_bytes(&config, Mapped::from_vec(odd_file()), &narrow).unwrap());
    assert_eq!(numbers(a.weights.head()), numbers(b.weights.head()));
}

/// A golden checkpoint with its config changed, loaded from memory.
fn with_config(case: &str, change: impl FnOnce(&mut Value)) -> Result<Checkpoint, Error> {
    let mut config: Value = serde_json::from_slice(&fs::read(golden(case).join("config.json")).unwrap()).unwrap();
    change(&mut config);
    let file = Mapped::open(&golden(case).join("model.safetensors")).unwrap();
    Checkpoint::from_bytes(&config.to_string(), file, &LoadOptions::default())
}

#[test]
fn tensors_decide_where_the_config_is_silent() {
    // Early-2025 configs omit tie_word_embeddings although the model is tied.
    let tied = with_config("v2_mha", |c| drop(c.as_object_mut().unwrap().remove("tie_word_embeddings"))).unwrap();
    assert!(tied.variant.tied && tied.weights.lm_head.is_none());
    assert!(tied.notes.is_empty());
    let told = with_config("v2_mha", |c| c["tie_word_embeddings"] = json!(false)).unwrap();
    assert!(told.variant.tied && told.notes.len() == 1 && told.notes[0].contains("lm_head.weight"), "{:?}", told.notes);
    let moe = with_config("moe_k2", |c| drop(c.as_object_mut().unwrap().remove("is_moe"))).unwrap();
    assert!(moe.config.is_moe && moe.variant.is_moe && moe.notes.len() == 1);
    let biased = with_config("v2_bias", |c| (c["attention_bias"], c["mlp_bias"]) = (json!(false), json!(false))).unwrap();
    let b = biased.variant.biases;
    let all = [b.q_proj, b.k_proj, b.v_proj, b.dt_proj, b.o_proj, b.gate_proj, b.up_proj, b.down_proj];
    assert_eq!((all, biased.ignored), ([true; 8], vec![]));
    // model_type says nothing about the variant.
    let v1 = with_config("v1_gqa", |c| c["model_type"] = json!("doge2")).unwrap();
    assert_eq!(v1.variant.generation(&v1.config), "V1");
    // Fewer layers than there are: those left over are listed.
    let short = with_config("v2_gqa", |c| c["num_hidden_layers"] = json!(1)).unwrap();
    assert!(short.ignored.iter().all(|name| name.starts_with("model.layers.1.")) && short.ignored.len() == 15);
}

#[test]
fn v1_has_token_ids_of_its_own() {
    let without = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
        let config =
            with_config("v1_gqa", |c| keys.iter().for_each(|k| drop(c.as_object_mut().unwrap().remove(k)))).unwrap().config;
        (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    };
    assert_eq!(without(&["bos_token_id", "eos_token_id", "pad_token_id"]), (Some(0), vec![1], Some(2)));
    let null = with_config("v1_gqa", |c| c["eos_token_id"] = json!(null)).unwrap().config;
    assert!(null.eos_token_id.is_empty());
    let v2 = with_config("v2_gqa", |c| drop(c.as_object_mut().unwrap().remove("eos_token_id"))).unwrap().config;
    assert!(v2.eos_token_id.is_empty());
}

#[test]
fn synthetic_checkpoints_repeat_and_are_finite() {
    let (mut config, variant) = family::preset("20m-moe").unwrap();
    (config.vocab_size, config.num_hidden_layers) = (512, 2);
    for dtype in Dtype::ALL {
        let a = Checkpoint::random(config.clone(), variant, dtype, 7).unwrap();
        let b = Checkpoint::random(config.clone(), variant, dtype, 7).unwrap();
        let c = Checkpoint::random(config.clone(), variant, dtype, 8).unwrap();
        let bytes = |c: &Checkpoint| c.weights.layers[1].experts.as_ref().unwrap().up_embed.matrix().bytes().to_vec();
        assert_eq!(bytes(&a), bytes(&b));
        assert_ne!(bytes(&a), bytes(&c));
        assert_eq!(a.weights.layers[1].a, b.weights.layers[1].a);
        assert!(a.weights.layers.iter().all(|layer| layer.a.iter().all(|a| *a != 0.0)));

        let x = numbers(&a.weights.layers[0].q_proj.weight);
        let variance = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        assert!((variance * 256.0 - 1.0).abs() < 0.02, "variance {variance} for 256 inputs");
        assert!(a.weights.norm.iter().all(|x| (0.89..1.11).contains(x)));
        assert_eq!(a.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum::<usize>(), variant.parameters(&config));
    }
}

#[test]
fn bytes_per_token_are_those_of_the_spec() {
    // Spec §9, MB at f32 and bf16, of the smallest dense and MoE models.
    for (name, f32_mb, bf16_mb) in [("20m", 52.0, 26.0), ("20m-moe", 53.0, 27.0)] {
        let (config, variant) = family::preset(name).unwrap();
        for (dtype, mb) in [(Dtype::F32, f32_mb), (Dtype::Bf16, bf16_mb)] {
            let checkpoint = Checkpoint::random(config.clone(), variant, dtype, 1).unwrap();
            let found = checkpoint.bytes_per_token() as f64 / 1e6;
            assert!((found - mb).abs() < 0.7, "{name} {dtype}: {found} MB, the spec says {mb}");
        }
    }
}

#[test]
fn random_refuses_what_no_model_is() {
    let (config, variant) = family::preset("20m").unwrap();
    let mut odd = config.clone();
    odd.head_dim = 3;
    assert!(matches!(Checkpoint::random(odd, variant, Dtype::F32, 0), Err(Error::BadArgument { what: "head_dim", .. })));
    let mut heads = variant;
    heads.mask_heads = 5;
    assert!(matches!(Checkpoint::random(config, heads, Dtype::F32, 0), Err(Error::BadArgument { what: "mask_heads", .. })));
    assert!(matches!(family::preset("70b"), Err(Error::UnknownWord { .. })));
}

#[test]
fn experts_that_no_config_announces_are_checked() {
    let bad = with_config("moe_k2", |c| {
        c.as_object_mut().unwrap().remove("is_moe");
        c["num_experts_per_tok"] = json!(50);
    });
    let error = bad.map(drop).unwrap_err();
    assert!(matches!(&error, Error::BadConfig { why, .. } if why.contains("num_experts_per_tok")), "{error}");
}

#[test]
fn the_single_file_wins_over_an_index() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("v2_gqa").join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("model.safetensors.index.json"), r#"{"weight_map": {"a": "gone.safetensors"}}"#).unwrap();
    Checkpoint::load(folder.path(), &LoadOptions::default()).unwrap();
}

/// From 9 MB on several threads convert a part each, as they do with every published model's embedding.
#[test]
fn large_tensors_are_converted_like_small_ones() {
    let rows = 40_000;
    let x: Vec<f32> = (0..rows * 64).map(|i| ((i % 9973) as f32 - 4000.0) / 64.0).collect();
    let json = r#"{"model_type": "doge", "vocab_size": 40000, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true}"#;
    let mut tensors = vec![("model.embed_tokens.weight".to_string(), vec![rows, 64], &x[..])];
    let layer = [
        ("input_layernorm.weight", vec![64]),
        ("input_residual", vec![64]),
        ("post_attention_layernorm.weight", vec![64]),
        ("post_attention_residual", vec![64]),
        ("self_attn.A", vec![1]),
        ("self_attn.dt_proj.weight", vec![1, 32]),
        ("self_attn.q_norm.weight", vec![32]),
        ("self_attn.k_norm.weight", vec![32]),
        ("self_attn.q_proj.weight", vec![64, 64]),
        ("self_attn.k_proj.weight", vec![32, 64]),
        ("self_attn.v_proj.weight", vec![32, 64]),
        ("self_attn.o_proj.weight", vec![64, 64]),
        ("mlp.gate_proj.weight", vec![8, 64]),
        ("mlp.up_proj.weight", vec![8, 64]),
        ("mlp.down_proj.weight", vec![64, 8]),
    ];
    tensors.push(("model.norm.weight".into(), vec![64], &x[..64]));
    tensors.extend(layer.map(|(name, shape)| {
        let count = shape.iter().product();
        (format!("model.layers.0.{name}"), shape, &x[..count])
    }));
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, numbers) in tensors {
        let begin = data.len();
        data.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let load = |file: &[u8], dtype: Option<Dtype>| {
        Checkpoint::from_bytes(json, Mapped::from_vec(file.to_vec()), &LoadOptions::default().dtype(dtype))
    };
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let held = load(&file, Some(dtype)).unwrap();
        let round = |x: &f32| if dtype == Dtype::F16 { f16::from_f32(*x).to_f32() } else { bf16::from_f32(*x).to_f32() };
        let differs = numbers(&held.weights.embed_tokens).iter().zip(&x).position(|(held, x)| *held != round(x));
        assert_eq!(differs, None, "{dtype}");
    }
    let set = |file: &mut [u8], at: usize, x: f32| file[8 + header.len() + 4 * at..][..4].copy_from_slice(&x.to_le_bytes());
    set(&mut file, 0, f32::MAX);
    let error = load(&file, Some(Dtype::Bf16)).map(drop).unwrap_err();
    assert!(matches!(&error, Error::BadTensor { why, .. } if why.contains("does not fit bf16")), "{error}");
    // What is no number is named, whichever thread finds it, and the first of several.
    for at in [2_000_001, 5000] {
        set(&mut file, at, f32::NAN);
        let error = load(&file, None).map(drop).unwrap_err();
        assert!(error.to_string().contains(&format!("element {at}")), "{error}");
    }
}

#[test]
fn overflow_is_no_silent_infinity() {
    let mut file = fs::read(golden("v2_gqa").join("model.safetensors")).unwrap();
    let config = fs::read_to_string(golden("v2_gqa").join("config.json")).unwrap();
    // The first tensor of the file is lm_head.weight.
    let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    file[start + 40..start + 44].copy_from_slice(&70000f32.to_le_bytes());
    let load = |dtype| Checkpoint::from_bytes(&config, Mapped::from_vec(file.clone()), &LoadOptions::default().dtype(dtype));
    match load(Dtype::F16) {
        Err(Error::BadTensor { name, why }) => assert!(name == "lm_head.weight" && why.contains("70000") && why.contains("f16")),
        other => panic!("{:?}", other.map(|c| c.variant)),
    }
    assert!(load(Dtype::Bf16).is_ok());
}
