//! Small Doges with random weights, of every kind.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::sync::Arc;

use doge_engine::{
    model::{Checkpoint, Config, Model, Session, SessionOptions, Variant},
    ops::Cpu,
    pool::Pool,
    Dtype, Kernels,
};

/// A small Doge: `change` edits the shape of a V2 model of hidden size 48.
pub fn config(change: impl FnOnce(&mut Config)) -> Config {
    let json = r#"{"model_type": "doge", "vocab_size": 96, "hidden_size": 48, "intermediate_size": 56,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
    let mut config = Config::from_json(json.as_bytes(), "config.json".as_ref()).unwrap();
    change(&mut config);
    config
}

pub fn moe(config: &mut Config) {
    (config.is_moe, config.num_experts, config.num_experts_per_tok) = (true, 49, 9);
}

pub fn model(config: Config, v1: bool, dtype: Dtype) -> Model {
    let variant = if v1 { Variant::v1(&config) } else { Variant::v2(&config) };
    Model::new(Checkpoint::random(config, variant, dtype, 11).unwrap())
}

pub fn cpu(threads: usize) -> Cpu {
    Cpu::new(Kernels::detect().unwrap(), Arc::new(Pool::new(threads).unwrap()))
}

pub fn session(model: &Model, cpu: &Cpu, block: usize) -> Session {
    Session::new(model, cpu, SessionOptions::default().block(block)).unwrap()
}

pub fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|t| t * t % 89 + 3).collect()
}

/// All logits of a prompt fed in calls of the given lengths, as bits.
pub fn logits(session: &mut Session, ids: &[u32], calls: &[usize]) -> Vec<u32> {
    struct Bits(Vec<u32>);
    impl doge_engine::model::Observer for Bits {
        fn logits(&mut self, _: usize, logits: &[f32]) {
            self.0.extend(bits(logits));
        }
    }
    let (mut bits, mut left) = (Bits(Vec::new()), ids);
    for &call in calls.iter().cycle() {
        if left.is_empty() {
            return bits.0;
        }
        let (now, rest) = left.split_at(call.min(left.len()));
        session.feed_observed(now, &mut bits).unwrap();
        left = rest;
    }
    bits.0
}

/// Shapes that reach every path: V1 and V2, dense and experts, windows, every weight format.
pub fn models() -> Vec<(&'static str, Model)> {
    vec![
        ("v2", model(config(|_| {}), false, Dtype::F32)),
        ("v2 window", model(config(|c| c.keep_window_size = 7), false, Dtype::Bf16)),
        ("v1 window", model(config(|c| c.keep_window_size = 6), true, Dtype::F16)),
        ("v1 large tiles", model(config(|c| c.keep_window_size = 150), true, Dtype::F32)),
        ("moe", model(config(moe), false, Dtype::Bf16)),
        ("v1 moe window", model(config(|c| (moe(c), c.keep_window_size = 9).0), true, Dtype::F32)),
        ("v2 int8", model(config(|c| c.keep_window_size = 7), false, Dtype::Int8)),
        ("moe int4", model(config(moe), false, Dtype::Int4)),
        ("sliding", model(config(|c| (c.sliding_window, c.keep_window_size) = (Some(12), 5)), false, Dtype::F32)),
    ]
}

/// The logits after each of `ids`, one by one.
pub fn go_on(session: &mut Session, ids: &[u32]) -> Vec<u32> {
    logits(session, ids, &[1])
}

pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}
