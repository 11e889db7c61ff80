//! Checkpoints made by code: a small sound one, and the means to spoil it.

use std::{fs, path::Path};

use serde_json::{json, Map, Value};

#[derive(Clone)]
pub struct RawTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A checkpoint as bytes: any part can be changed before it is written.
#[derive(Clone)]
pub struct Maker {
    pub config: Value,
    pub tensors: Vec<RawTensor>,
}

impl Maker {
    /// V2, dense, tied, f32: 2 layers, H 8, 2 heads of 4 over 1 K/V head, I 6, V 16.
    pub fn dense() -> Self {
        let config = json!({
            "model_type": "doge", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true, "eos_token_id": 1,
        });
        let mut maker = Maker { config, tensors: Vec::new() };
        maker.add("model.embed_tokens.weight", &[16, 8]);
        maker.add("model.norm.weight", &[8]);
        for i in 0..2 {
            for (name, shape) in [
                ("input_layernorm.weight", &[8][..]),
                ("input_residual", &[8]),
                ("post_attention_layernorm.weight", &[8]),
                ("post_attention_residual", &[8]),
                ("self_attn.A", &[1]),
                ("self_attn.dt_proj.weight", &[1, 4]),
                ("self_attn.q_norm.weight", &[4]),
                ("self_attn.k_norm.weight", &[4]),
                ("self_attn.q_proj.weight", &[8, 8]),
                ("self_attn.k_proj.weight", &[4, 8]),
                ("self_attn.v_proj.weight", &[4, 8]),
                ("self_attn.o_proj.weight", &[8, 8]),
                ("mlp.gate_proj.weight", &[6, 8]),
                ("mlp.up_proj.weight", &[6, 8]),
                ("mlp.down_proj.weight", &[8, 6]),
            ] {
                maker.add(&format!("model.layers.{i}.{name}"), shape);
            }
        }
        maker
    }

    /// The same with 9 experts, 4 a token.
    pub fn moe() -> Self {
        let mut maker = Maker::dense().set("is_moe", true).set("num_experts", 9).set("num_experts_per_tok", 4);
        for i in 0..2 {
            maker.add(&format!("model.layers.{i}.mlp.router_gate.weight"), &[6, 8]);
            maker.add(&format!("model.layers.{i}.mlp.down_embed.weight"), &[9, 8]);
            maker.add(&format!("model.layers.{i}.mlp.up_embed.weight"), &[9, 8]);
        }
        maker
    }

    pub fn add(&mut self, name: &str, shape: &[usize]) {
        let len: usize = shape.iter().product();
        let bytes = (0..len).flat_map(|i| (1.0 + i as f32 / 64.0).to_le_bytes()).collect();
        self.tensors.push(RawTensor { name: name.into(), dtype: "F32".into(), shape: shape.to_vec(), bytes });
    }

    pub fn with(mut self, name: &str, shape: &[usize]) -> Self {
        self.add(name, shape);
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|t| t.name != name);
        assert_eq!(self.tensors.len() + 1, before, "no tensor {name}");
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Another shape, and as many bytes as it asks for.
    pub fn reshape(self, name: &str, shape: &[usize]) -> Self {
        self.without(name).with(name, shape)
    }

    /// One element of a tensor replaced.
    pub fn poke(mut self, name: &str, index: usize, value: f32) -> Self {
        self.tensor(name).bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    /// The header's entries, offsets as they should be.
    pub fn header(&self) -> Map<String, Value> {
        let mut at = 0;
        let mut header = Map::new();
        for t in &self.tensors {
            let entry = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + t.bytes.len()]});
            header.insert(t.name.clone(), entry);
            at += t.bytes.len();
        }
        header
    }

    pub fn data(&self) -> Vec<u8> {
        self.tensors.iter().flat_map(|t| t.bytes.iter().copied()).collect()
    }

    /// The safetensors file.
    pub fn file(&self) -> Vec<u8> {
        file_of(&Value::Object(self.header()).to_string(), &self.data())
    }

    /// The file with one field of a tensor's header entry replaced.
    pub fn file_with(&self, name: &str, field: &str, value: Value) -> Vec<u8> {
        let mut header = self.header();
        header[name][field] = value;
        file_of(&Value::Object(header).to_string(), &self.data())
    }

    pub fn write(&self, folder: &Path) {
        self.write_config(folder);
        fs::write(folder.join("model.safetensors"), self.file()).unwrap();
    }

    pub fn write_config(&self, folder: &Path) {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
    }

    /// Two shards, tensors in turn; returns the index's weight map, not yet written.
    pub fn write_shards(&self, folder: &Path) -> Map<String, Value> {
        self.write_config(folder);
        let mut map = Map::new();
        for half in 0..2 {
            let name = format!("model-0000{}-of-00002.safetensors", half + 1);
            let tensors: Vec<RawTensor> = self.tensors.iter().skip(half).step_by(2).cloned().collect();
            map.extend(tensors.iter().map(|t| (t.name.clone(), Value::from(name.clone()))));
            let shard = Maker { config: Value::Null, tensors };
            fs::write(folder.join(name), shard.file()).unwrap();
        }
        map
    }
}

pub fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

pub fn write_index(folder: &Path, weight_map: impl Into<Value>) {
    let index = json!({"metadata": {}, "weight_map": weight_map.into()});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}
