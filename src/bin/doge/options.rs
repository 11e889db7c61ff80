//! Options that several commands share.

use std::path::PathBuf;

use clap::Args;
use doge_engine::{
    model::{LoadOptions, Model, SessionOptions},
    ops::{Activations, Routing},
    DeviceWord, Dtype, Float, Isa,
};

use crate::threads::{Asked, Threads};

/// Which checkpoint, and how to load it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelOptions {
    /// A checkpoint folder, a .safetensors file with config.json beside it, or owner/name from the Hugging Face cache;
    /// without it the embedded doge-bard
    #[arg(short, long, value_name = "PATH|OWNER/NAME")]
    pub model: Option<PathBuf>,
    /// Branch, tag or commit of owner/name [default: main]
    #[arg(long, value_name = "REVISION", requires = "model")]
    pub revision: Option<String>,
    /// Fetch owner/name into the Hugging Face cache if it is not there (the only use of the network)
    #[arg(long, requires = "model")]
    pub download: bool,
    /// Hold the matrices as f32, bf16, f16, int8 or int4 instead of as stored
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    /// Read the weights into memory instead of mapping their files
    #[arg(long)]
    pub no_mmap: bool,
    /// Look for NaN and infinities in all weights at load
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub check_finite: bool,
}

impl ModelOptions {
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions::default().dtype(self.dtype).mmap(!self.no_mmap).check_finite(self.check_finite)
    }
}

/// Where to run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Processor")]
pub struct CpuOptions {
    /// Device to run on: auto (a GPU if this build has kernels for it and there is one), cpu, cuda, cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceWord::Auto)]
    pub device: DeviceWord,
    /// ISA level of the kernels: scalar, avx2, avxvnni, avx512, avx512bf16, amx [default: DOGE_ISA, else the fastest that runs]
    #[arg(long, value_name = "LEVEL")]
    pub isa: Option<Isa>,
    /// What bf16 weights are multiplied with: f32 (on level amx in bf16 parts that add up to it), or activations rounded to
    /// bf16, as other engines do it, which is faster in a prompt where the CPU has a bf16 dot product (levels avx512bf16 and
    /// amx), and a tenth or two slower with AVX2 alone. Attention is rounded too, beside weights of every format: with
    /// --kv-dtype bf16, and on a GPU that of a prompt
    #[arg(long, value_enum, default_value_t = ActivationsWord::F32)]
    pub activations: ActivationsWord,
    /// Threads; auto tries this model with fewer and fewer at the start, some tenths of a second, and takes the fewest that
    /// are within 5 % of the fastest [default: what affinity and cgroup quota allow]
    #[arg(short, long, value_name = "N|auto")]
    pub threads: Option<Threads>,
    /// Threads for a prompt, as far as it is more than one token; also -tb [default: as --threads]
    #[arg(long, value_name = "N|auto")]
    pub threads_batch: Option<Threads>,
}

impl CpuOptions {
    pub fn asked_threads(&self) -> Asked {
        Asked { threads: self.threads, threads_batch: self.threads_batch }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ActivationsWord {
    /// What golden data is held to
    F32,
    /// Rounded to bf16 where they meet bf16 weights
    Bf16,
}

/// The form in which the weights really meet their input, whatever was asked for.
pub fn activations_of(model: &Model, form: Activations) -> &'static str {
    match (model.checkpoint().weights.embed_tokens.dtype(), form) {
        (Dtype::Int8 | Dtype::Int4, _) if model.is_on_device() => "f32",
        (Dtype::Int8 | Dtype::Int4, _) => "int8",
        (Dtype::Bf16, Activations::Bf16) => "bf16",
        _ => "f32",
    }
}

impl From<ActivationsWord> for Activations {
    fn from(word: ActivationsWord) -> Self {
        match word {
            ActivationsWord::F32 => Activations::F32,
            ActivationsWord::Bf16 => Activations::Bf16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RoutingWord {
    /// By the token's own router logits: the same in a prompt as token by token
    PerToken,
    /// As transformers does it, where a prompt's tokens choose by each other's logits
    Reference,
}

impl RoutingWord {
    pub fn name(self) -> &'static str {
        match self {
            RoutingWord::PerToken => "per-token",
            RoutingWord::Reference => "reference",
        }
    }
}

/// How a sequence runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sequence")]
pub struct SequenceOptions {
    /// Tokens the sequence may have, prompt included [default: no limit; the state is bounded by keep_window_size]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_size: Option<u32>,
    /// How experts are chosen for a prompt (MoE checkpoints)
    #[arg(long, value_enum, default_value_t = RoutingWord::PerToken)]
    pub routing: RoutingWord,
    /// Format of K and V in memory: f32, bf16, f16. With 16 bits, tokens far into a text come up to twice as fast
    #[arg(long, value_name = "FORMAT", default_value_t = Float::F32)]
    pub kv_dtype: Float,
}

impl SequenceOptions {
    pub fn session_options(&self) -> SessionOptions {
        let default = SessionOptions::default().routing(match self.routing {
            RoutingWord::PerToken => Routing::PerToken,
            RoutingWord::Reference => Routing::Reference,
        });
        default.ctx_size(self.ctx_size.map_or(default.ctx_size, |n| n as usize)).kv_dtype(self.kv_dtype)
    }
}

/// How much a run tells on stderr.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Show the effective settings on stderr
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}
