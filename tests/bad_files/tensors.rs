//! Bad safetensors files and bad tensors in good ones.

use std::fs;

use doge_engine::{
    mapped::Mapped,
    model::{Checkpoint, LoadOptions},
    Error,
};
use proptest::prelude::*;
use serde_json::{json, Value};

use super::{
    maker::{file_of, Maker},
    refuse, refuse_path,
    Kind::{self, *},
};

const EMBED: &str = "model.embed_tokens.weight";
const Q: &str = "model.layers.0.self_attn.q_proj.weight";

/// A sound config beside the bytes of a weight file.
fn refuse_bytes(case: &str, kind: Kind, culprit: &[&str], file: Vec<u8>) {
    refuse(case, kind, culprit, |folder| {
        Maker::dense().write_config(folder);
        fs::write(folder.join("model.safetensors"), file).unwrap();
    });
}

fn refuse_maker(case: &str, kind: Kind, culprit: &[&str], maker: Maker) {
    refuse(case, kind, culprit, |folder| maker.write(folder));
}

#[test]
fn files_that_are_none() {
    let file = "model.safetensors";
    refuse_bytes("empty", BadFile, &[file, "0 bytes"], Vec::new());
    refuse_bytes("seven bytes", BadFile, &[file], vec![1; 7]);
    refuse_bytes("text", BadFile, &[file, "header"], b"<!DOCTYPE html><html>Access denied</html>".to_vec());
    refuse_bytes(
        "an LFS pointer",
        BadFile,
        &[file, "header"],
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
    );
    refuse_bytes("header length 2^64-1", BadFile, &[file, "18446744073709551615"], vec![0xff; 100]);
    refuse_bytes("header length 2^63", BadFile, &[file], [&(1u64 << 63).to_le_bytes()[..], &[b' '; 92]].concat());
    refuse_bytes("header beyond the file", BadFile, &[file, "truncated"], [&1000u64.to_le_bytes()[..], b"{}"].concat());
    refuse_bytes("header not JSON", BadFile, &[file, "not JSON"], file_of("{\"a\": ", b""));
    refuse_bytes("header with a byte order mark", BadFile, &[file, "byte order mark"], file_of("\u{feff}{}", b""));
    refuse_bytes("header not UTF-8", BadFile, &[file, "not JSON"], [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat());
    refuse_bytes("header a list", BadFile, &[file, "object"], file_of("[1, 2]", b""));
    refuse_bytes("header nested 10000 deep", BadFile, &[file], file_of(&"[".repeat(10_000), b""));
    refuse_bytes("no tensors", MissingTensor, &["self_attn.A"], file_of("{}", b""));
    refuse("a folder", BadFile, &[file, "not a file"], |folder| {
        Maker::dense().write_config(folder);
        fs::create_dir(folder.join("model.safetensors")).unwrap();
    });
}

#[test]
fn truncated_anywhere() {
    let whole = Maker::dense().file();
    let header = 8 + Value::Object(Maker::dense().header()).to_string().len();
    let cuts = (0..header).step_by(131).chain((header..whole.len()).step_by(257)).chain([header - 1, header, whole.len() - 1]);
    for cut in cuts {
        refuse_bytes(&format!("cut at {cut}"), BadFile, &["model.safetensors"], whole[..cut].to_vec());
    }
}

#[test]
fn offsets_and_shapes_that_lie() {
    let m = Maker::dense();
    let data = m.data();
    let entry = |value: Value| file_of(&json!({ "culprit": value }).to_string(), &[0; 64]);
    refuse_bytes("overlap", BadFile, &[Q, "overlaps"], {
        let from = m.header()[Q]["data_offsets"][0].as_u64().unwrap();
        m.file_with(Q, "data_offsets", json!([from - 4, from + 252]))
    });
    refuse_bytes("the same bytes twice", BadFile, &["overlaps"], {
        let mut header = m.header();
        header["model.layers.0.self_attn.o_proj.weight"]["data_offsets"] = header[Q]["data_offsets"].clone();
        file_of(&Value::Object(header).to_string(), &data)
    });
    refuse_bytes("gap", BadFile, &["culprit", "gap"], entry(json!({"dtype": "F32", "shape": [15], "data_offsets": [4, 64]})));
    refuse_bytes("bytes of nobody", BadFile, &["4 bytes after"], [m.file(), vec![0; 4]].concat());
    refuse_bytes(
        "beyond the file",
        BadFile,
        &["culprit", "truncated"],
        entry(json!({"dtype": "F32", "shape": [17], "data_offsets": [0, 68]})),
    );
    refuse_bytes("backwards", BadFile, &["culprit"], entry(json!({"dtype": "F32", "shape": [4], "data_offsets": [64, 0]})));
    refuse_bytes("negative", BadFile, &["culprit"], entry(json!({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]})));
    refuse_bytes(
        "near 2^64",
        BadFile,
        &["culprit"],
        entry(json!({"dtype": "U8", "shape": [u64::MAX], "data_offsets": [0, u64::MAX]})),
    );
    refuse_bytes(
        "2^61 - 1 bytes",
        BadFile,
        &["culprit"],
        entry(json!({"dtype": "U8", "shape": [(1u64 << 61) - 1], "data_offsets": [0, (1u64 << 61) - 1]})),
    );
    refuse_bytes("shape too small", BadFile, &[EMBED], m.file_with(EMBED, "shape", json!([15, 8])));
    refuse_bytes("shape too large", BadFile, &[EMBED], m.file_with(EMBED, "shape", json!([1u64 << 40, 8])));
    refuse_bytes("product wraps to the right size", BadFile, &["culprit"], {
        // 2^62 · 4 bytes wraps to 0 in 64 bits, and 0 bytes are there.
        entry(json!({"dtype": "F32", "shape": [1u64 << 32, 1u64 << 32], "data_offsets": [0, 0]}))
    });
    refuse_bytes("negative shape", BadFile, &[EMBED], m.file_with(EMBED, "shape", json!([-16, 8])));
    refuse_bytes("shape a string", BadFile, &[EMBED], m.file_with(EMBED, "shape", json!("16x8")));
    refuse_bytes("entry not an object", BadFile, &["culprit"], entry(json!(7)));
    refuse_bytes("no offsets", BadFile, &["culprit"], entry(json!({"dtype": "F32", "shape": [16]})));
    refuse_bytes("unknown dtype", BadFile, &[EMBED, "F128"], m.file_with(EMBED, "dtype", json!("F128")));
    refuse_bytes("I32 weights", BadTensor, &[EMBED, "I32"], m.file_with(EMBED, "dtype", json!("I32")));
    refuse_maker("F64 weights", BadTensor, &[Q, "F64"], {
        let mut m = Maker::dense();
        m.tensor(Q).dtype = "F64".into();
        m.tensor(Q).bytes = vec![0; 512];
        m
    });
}

#[test]
fn tensors_that_do_not_fit() {
    let layer = |name: &str| format!("model.layers.1.{name}");
    for (name, shape) in [
        ("self_attn.q_proj.weight", &[8, 9][..]),
        ("self_attn.k_proj.weight", &[8, 8]),
        ("self_attn.o_proj.weight", &[64]),
        ("self_attn.dt_proj.weight", &[2, 4]),
        ("self_attn.A", &[2]),
        ("self_attn.A", &[1, 1]),
        ("self_attn.q_norm.weight", &[8]),
        ("input_layernorm.weight", &[7]),
        ("input_residual", &[8, 1]),
        ("mlp.gate_proj.weight", &[8, 6]),
        ("mlp.down_proj.weight", &[6, 8]),
        ("mlp.down_proj.weight", &[0, 6]),
    ] {
        let name = layer(name);
        refuse_maker(&format!("{name} {shape:?}"), BadTensor, &[&name], Maker::dense().reshape(&name, shape));
    }
    let a = "model.layers.0.self_attn.A";
    refuse_maker("mask heads", BadTensor, &[a, "[1]", "[2]"], Maker::dense().reshape(a, &[3]));
    refuse_maker("no mask heads", BadTensor, &[a], Maker::dense().reshape(a, &[0]));
    let half_v1 = Maker::dense().reshape(a, &[2]);
    refuse_maker("A of V1, dt_proj of V2", BadTensor, &["layers.0.self_attn.dt_proj.weight", "[2, 4]"], half_v1);
    refuse_maker("vocabulary", BadTensor, &[EMBED, "vocab_size"], Maker::dense().set("vocab_size", 17));
    refuse_maker(
        "head",
        BadTensor,
        &["lm_head.weight"],
        Maker::dense().set("tie_word_embeddings", false).with("lm_head.weight", &[15, 8]),
    );
    refuse_maker("tied, and a head of its own", BadTensor, &["lm_head.weight", "tie_word_embeddings"], {
        Maker::dense().with("lm_head.weight", &[16, 8]).poke("lm_head.weight", 127, 9.0)
    });
    let experts = "model.layers.0.mlp.down_embed.weight";
    refuse_maker("experts", BadTensor, &[experts, "num_experts"], Maker::moe().set("num_experts", 10));
    let router = "model.layers.1.mlp.router_gate.weight";
    refuse_maker("router", BadTensor, &[router], Maker::moe().reshape(router, &[8, 8]));
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let biased = Maker::dense().with(bias, &[7]).with("model.layers.1.self_attn.q_proj.bias", &[8]);
    refuse_maker("bias of a wrong size", BadTensor, &[bias], biased);
}

#[test]
fn tensors_that_are_missing() {
    let all: Vec<String> = Maker::moe().tensors.into_iter().map(|t| t.name).collect();
    for name in all {
        let culprit = if name == EMBED { "embed_tokens" } else { &name };
        refuse_maker(&format!("without {name}"), MissingTensor, &[culprit], Maker::moe().without(&name));
    }
    let q_norm = "model.layers.1.self_attn.q_norm.weight";
    // k_norm in one place of a checkpoint without any q_norm: not to be taken for V1.
    let all = ["0.self_attn.q_norm", "1.self_attn.q_norm", "0.self_attn.k_norm"];
    let k_norm_only = all.iter().fold(Maker::dense(), |maker, name| maker.without(&format!("model.layers.{name}.weight")));
    refuse_maker("one k_norm", MissingTensor, &["model.layers.0.self_attn.q_norm"], k_norm_only);
    refuse_maker("q_norm in one layer only", MissingTensor, &[q_norm], Maker::dense().without(q_norm));
    refuse_maker(
        "bias in one layer only",
        MissingTensor,
        &["model.layers.1.mlp.up_proj.bias"],
        Maker::dense().with("model.layers.0.mlp.up_proj.bias", &[6]),
    );
    refuse_maker("biases announced", MissingTensor, &["q_proj.bias"], Maker::dense().set("attention_bias", true));
    refuse_maker("biases announced the old way", MissingTensor, &["q_proj.bias"], Maker::dense().set("hidden_bias", true));
    refuse_maker("experts announced", MissingTensor, &["router_gate"], Maker::dense().set("is_moe", true));
    refuse_maker("more layers announced", MissingTensor, &["model.layers.2."], Maker::dense().set("num_hidden_layers", 16000));
    let old = Maker::dense().without(EMBED).with("model.word_embed.weight", &[16, 8]);
    refuse_maker("old and new names mixed", MissingTensor, &["model.final_layernorm.weight"], old);
}

#[test]
fn other_models() {
    for (name, why) in [
        ("model.layers.0.self_attn.dynamic_mask", "2024"),
        ("model.layers.0.self_attn.v_embed.weight", "2024"),
        ("model.layers.0.self_attn.v_keys", "2024"),
        ("model.layers.0.self_attn.v_queries.weight", "2024"),
        ("model.layers.0.post_sequence_residual.weight", "December 2024"),
        ("model.layers.0.post_state_residual.weight", "December 2024"),
        ("model.layers.0.feed_forward.queries.weight", "retrieval"),
        ("model.layers.0.feed_forward.queries_proj.weight", "retrieval"),
        ("model.layers.0.feed_forward.keys", "retrieval"),
        ("model.layers.0.mlp.mlp_scaling", "2025-03"),
        ("model.layers.0.mlp.moe_scaling", "2025-03"),
    ] {
        refuse_maker(name, Unsupported, &[name, why], Maker::dense().with(name, &[8]));
    }
}

#[test]
fn numbers_that_are_none() {
    for (name, value) in [
        (EMBED, f32::NAN),
        (Q, f32::INFINITY),
        ("model.norm.weight", f32::NEG_INFINITY),
        ("model.layers.1.self_attn.A", -f32::NAN),
    ] {
        refuse_maker(&format!("{value} in {name}"), NonFinite, &[name, "element 0"], Maker::dense().poke(name, 0, value));
    }
    refuse_maker("the last number", NonFinite, &[EMBED, "element 127"], Maker::dense().poke(EMBED, 127, f32::NAN));
    // Whoever asks for it gets such a checkpoint.
    let folder = tempfile::tempdir().unwrap();
    Maker::dense().poke(EMBED, 0, f32::NAN).write(folder.path());
    Checkpoint::load(folder.path(), &LoadOptions::default().check_finite(false)).unwrap();
}

#[test]
fn paths_that_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    refuse_path("no such folder", NotFound, &["nowhere"], &folder.path().join("nowhere"));
    refuse_path("an empty folder", NotFound, &["config.json"], folder.path());
    Maker::dense().write_config(folder.path());
    refuse_path("no weights", NotFound, &["model.safetensors"], folder.path());
    fs::write(folder.path().join("pytorch_model.bin"), b"PK").unwrap();
    refuse_path("pickled weights", NotFound, &["pytorch_model.bin"], folder.path());
    refuse_path("no safetensors file", BadFile, &["pytorch_model.bin"], &folder.path().join("pytorch_model.bin"));
}

proptest! {
    /// Whatever the bytes are, loading ends with a value or an error. (And what was not changed loads: see above.)
    #[test]
    fn spoilt_bytes_never_panic(spots in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = Maker::moe().file();
        // Most of the danger is in the header.
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize + 8;
        for (at, byte) in spots {
            file[at.index(header)] = byte;
        }
        let config = Maker::moe().config.to_string();
        match Checkpoint::from_bytes(&config, Mapped::from_vec(file), &LoadOptions::default()) {
            Ok(_) => {}
            Err(error) => prop_assert!(error.is_model_error() || matches!(error, Error::NonFiniteValue { .. }), "{error:?}"),
        }
    }
}
