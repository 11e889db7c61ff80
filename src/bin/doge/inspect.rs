//! `doge inspect`

use std::{
    fmt::Write as _,
    io::{stdout, Write as _},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use doge_engine::{
    model::{Checkpoint, Config, Model, Session, SessionOptions},
    ops::Cpu,
    pool::Pool,
};
use serde_json::{json, Map, Value};

use crate::{
    engine::{self, Source},
    failure::Failure,
    options::ModelOptions,
    report::{decimal, mebibytes},
};

/// Shows what a checkpoint is: config, variant, tensors, sizes
#[derive(Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let source = Source::find(&args.model, false)?;
    let inspected = Inspected::new(source.name(), source.checkpoint(&args.model.load_options())?)?;
    let text = if args.json { format!("{}\n", inspected.to_json()) } else { inspected.to_text() };
    stdout().write_all(text.as_bytes()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

struct Inspected {
    name: String,
    model: Model,
    /// Bytes of a sequence's state where it stops growing.
    state_bytes: u128,
    /// Tokens after which it has.
    state_tokens: usize,
}

impl Inspected {
    fn new(name: String, checkpoint: Checkpoint) -> Result<Self, Failure> {
        let model = Model::new(checkpoint);
        // Nothing runs here: one thread will do.
        let cpu = Cpu::new(engine::kernels(None)?, Arc::new(Pool::new(1)?));
        let session = Session::new(&model, &cpu, SessionOptions::default())?;
        let config = model.config();
        let state_tokens = config.sliding_window.unwrap_or(config.keep_window_size);
        let state_bytes = session.state_bytes(state_tokens);
        Ok(Inspected { name, state_bytes, state_tokens, model })
    }

    /// The facts beside config and tensors: name, value.
    fn facts(&self) -> Vec<(&'static str, Value)> {
        let checkpoint = self.model.checkpoint();
        let Checkpoint { config, variant, weights, .. } = checkpoint;
        vec![
            ("model", json!(self.name)),
            ("variant", json!(variant.generation(config))),
            ("found", json!(variant.to_string())),
            ("parameters", json!(variant.parameters(config))),
            ("held_as", json!(weights.embed_tokens.dtype().name())),
            ("bytes_per_token", json!(checkpoint.bytes_per_token())),
            ("state_bytes", json!(u64::try_from(self.state_bytes).unwrap_or(u64::MAX))),
            ("state_tokens", json!(self.state_tokens)),
            ("routing", if variant.is_moe { json!("per-token (default), reference") } else { Value::Null }),
        ]
    }

    fn to_json(&self) -> Value {
        let checkpoint = self.model.checkpoint();
        let file = |i: Option<usize>| checkpoint.files.get(i?).map(|file| file.path.display().to_string());
        let tensor = |t: &doge_engine::model::TensorInfo| json!({"name": t.name, "shape": t.shape, "dtype": t.dtype.name(), "held": t.held.name(), "bytes": t.bytes, "file": file(t.file)});
        let mut object: Map<String, Value> = self.facts().into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        object.insert("config".into(), config_json(&checkpoint.config).into());
        let files = checkpoint.files.iter().map(|f| json!({"path": f.path.display().to_string(), "bytes": f.bytes})).collect();
        object.insert("files".into(), Value::Array(files));
        object.insert("tensors".into(), checkpoint.tensors.iter().map(tensor).collect());
        object.insert("ignored".into(), json!(checkpoint.ignored));
        object.insert("notes".into(), json!(checkpoint.notes));
        object.into()
    }

    fn to_text(&self) -> String {
        let checkpoint = self.model.checkpoint();
        let mut out = String::new();
        // Writing to a String cannot fail.
        for (name, value) in self.facts() {
            let shown = match (name, value.as_u64()) {
                ("bytes_per_token" | "state_bytes", Some(bytes)) => format!("{bytes} ({})", mebibytes(bytes)),
                _ => plain(&value),
            };
            let _ = writeln!(out, "{name:<26}{shown}");
        }
        let _ = writeln!(out, "\nconfig, with defaults filled in");
        for (key, value) in config_json(&checkpoint.config) {
            let _ = writeln!(out, "  {key:<24}{}", plain(&value));
        }
        let _ = writeln!(out, "\nfiles");
        for (i, file) in checkpoint.files.iter().enumerate() {
            let _ = writeln!(out, "  [{i}] {}  {}", file.path.display(), mebibytes(file.bytes as u64));
        }
        let width = checkpoint.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        let _ = writeln!(out, "\ntensors ({})", checkpoint.tensors.len());
        for t in &checkpoint.tensors {
            let shape = format!("{:?}", t.shape);
            let file = t.file.map_or("-".to_string(), |i| i.to_string());
            let (name, dtype, held, bytes) = (&t.name, t.dtype.name(), t.held.name(), t.bytes);
            let _ = writeln!(out, "  {name:<width$}  {shape:<16} {dtype:<5} held as {held:<5}{bytes:>12} bytes  [{file}]");
        }
        for (title, lines) in [("ignored tensors", &checkpoint.ignored), ("notes", &checkpoint.notes)] {
            if !lines.is_empty() {
                let _ = writeln!(out, "\n{title}");
                lines.iter().for_each(|line| _ = writeln!(out, "  {line}"));
            }
        }
        out
    }
}

/// A value without JSON's quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The effective config under config.json's names.
fn config_json(c: &Config) -> Map<String, Value> {
    let mut fields = vec![
        ("vocab_size", json!(c.vocab_size)),
        ("hidden_size", json!(c.hidden_size)),
        ("intermediate_size", json!(c.intermediate_size)),
        ("num_hidden_layers", json!(c.num_hidden_layers)),
        ("num_attention_heads", json!(c.num_attention_heads)),
        ("num_key_value_heads", json!(c.num_key_value_heads)),
        ("head_dim", json!(c.head_dim)),
        ("hidden_act", json!(c.hidden_act.name())),
        ("rms_norm_eps", json!(decimal(c.rms_norm_eps))),
        ("max_position_embeddings", json!(c.max_position_embeddings)),
        ("rope_theta", json!(c.rope_theta)),
        ("rope_type", json!(c.rope.name())),
        ("tie_word_embeddings", json!(c.tie_word_embeddings)),
        ("attention_bias", json!(c.attention_bias)),
        ("mlp_bias", json!(c.mlp_bias)),
        ("keep_window_size", json!(c.keep_window_size)),
        ("sliding_window", json!(c.sliding_window)),
        ("is_moe", json!(c.is_moe)),
    ];
    if c.is_moe {
        fields.extend([
            ("num_experts", json!(c.num_experts)),
            ("num_experts_per_tok", json!(c.num_experts_per_tok)),
            ("norm_topk_prob", json!(c.norm_topk_prob)),
        ]);
    }
    fields.extend([
        ("bos_token_id", json!(c.bos_token_id)),
        ("eos_token_id", json!(c.eos_token_id)),
        ("pad_token_id", json!(c.pad_token_id)),
    ]);
    fields.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}
