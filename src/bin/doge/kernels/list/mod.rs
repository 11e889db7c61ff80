//! The one list of kernels to measure: operation × format × shape. `doge kernels` and the criterion benches walk it; a
//! test holds it against the kernel table.
//!
//! An [`Entry`] says what a call costs by its definition, however it is done: each input read once, each output written
//! once, the operations of its formula. It makes its inputs, runs through the public doors of [`Cpu`], and holds its own
//! result against `doge_engine::reference` by the budgets of `reference::close` before anyone times it.

mod attention;
mod elementwise;
mod experts;
mod linear;
mod norms;
#[cfg(feature = "cuda")]
pub mod on_device;
pub mod store;

use doge_engine::{
    model::{family, Config, Variant},
    ops::{Activations, Cpu, PeakKind},
    reference::close::Worst,
    Dtype, Kernels, Result,
};

pub use store::Store;

/// One kernel at one format and one shape.
pub struct Entry {
    /// The operation's name in the kernel table; `expert_mix` stands for its two halves.
    pub op: &'static str,
    pub dtype: Dtype,
    /// Rows × columns, and × outputs.
    pub shape: String,
    /// What bf16 weights are multiplied with.
    pub activations: Activations,
    /// Only for levels whose kernels take f32 in parts ([`Cpu::splits`]).
    pub splits: bool,
    /// So small that its door keeps to the calling thread.
    pub alone: bool,
    /// Part of the short run.
    pub main: bool,
    pub cost: Cost,
    make: Make,
}

type Make = Box<dyn Fn(&mut Store, &Cpu) -> Result<Box<dyn Job>>>;

/// Of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// To be read and written at least.
    pub bytes: usize,
    /// Of these, what is written.
    pub written: usize,
    /// A product and its sum are two; so is a comparison one, and exp.
    pub operations: usize,
}

/// The inputs and outputs of a call, in one or more copies.
pub trait Job {
    /// One call, on one copy.
    fn run(&mut self, cpu: &Cpu, copy: usize) -> Result<()>;

    /// Runs the first copy and holds it against the reference; of a large result, some rows and some columns.
    fn check(&mut self, cpu: &Cpu) -> Result<Worst>;
}

impl Entry {
    fn new(op: &'static str, dtype: Dtype, shape: String, cost: Cost, make: Make) -> Self {
        Entry { op, dtype, shape, activations: Activations::F32, splits: false, alone: false, main: true, cost, make }
    }

    /// As criterion and reports name it.
    pub fn id(&self, cpu: &Cpu) -> String {
        format!("{}/{}/{}/{}", self.op, self.dtype, cpu.kernels().isa(), self.shape)
    }

    /// `cpu` as this entry wants it.
    pub fn cpu(&self, cpu: &Cpu) -> Cpu {
        cpu.clone().with_activations(self.activations)
    }

    /// Has the level such a kernel?
    pub fn runs_on(&self, kernels: Kernels) -> bool {
        !self.splits || kernels.splits()
    }

    /// What it multiplies.
    pub fn peak_kind(&self, cpu: &Cpu) -> PeakKind {
        match self.dtype {
            Dtype::Bf16 if self.splits => PeakKind::Bf16,
            _ if self.op == "expert_mix" => PeakKind::F32, // its rows are widened, whatever they are
            dtype => cpu.peak_kind(dtype),
        }
    }

    /// Inputs for calls on `cpu`, with which they were made.
    ///
    /// # Errors
    /// [`doge_engine::Error::OutOfMemory`].
    pub fn make(&self, store: &mut Store, cpu: &Cpu) -> Result<Box<dyn Job>> {
        (self.make)(store, cpu)
    }
}

/// Every operation of the list, and what of the kernel table it runs.
pub const KERNELS: &[(&str, &[&str])] = &[
    ("embed_row", &["embed_row"]),
    ("rms_norm", &["rms_norm"]),
    ("residual_rms_norm", &["residual_rms_norm"]),
    ("qk_norm", &["qk_norm"]),
    ("rope", &["rope"]),
    ("gemv", &["gemv"]),
    ("gemm", &["gemm"]),
    ("round_row", &["round_row"]),
    ("gemv_bf16", &["gemv_bf16"]),
    ("gemm_bf16", &["gemm_bf16"]),
    ("split_row", &["split_row"]),
    ("gemv_split", &["gemv_split"]),
    ("gemm_split", &["gemm_split"]),
    ("quantize_row", &["quantize_row"]),
    ("gemv_int", &["gemv_int"]),
    ("gemm_int", &["gemm_int"]),
    ("mask_score", &["mask_score"]),
    ("dynamic_mask_attention", &["dynamic_mask_attention"]),
    ("dynamic_mask_attention_bf16", &["dynamic_mask_attention_bf16"]),
    ("gated_activation", &["gated_activation"]),
    ("product_key_router", &["product_key_router"]),
    ("expert_mix", &["expert_down", "expert_up"]),
    ("argmax", &["argmax"]),
];

/// The shapes of everybody who names none: those of the 320M, with experts.
pub const PRESET: &str = "1.4b-moe";

/// Everything a member of the family runs, in the order of [`KERNELS`]. Experts are there if it has any.
///
/// # Errors
/// [`doge_engine::Error::UnknownWord`] if there is no such member.
pub fn entries(preset: &str) -> Result<Vec<Entry>> {
    let (config, variant) = family::preset(preset)?;
    let shape = Shape::new(&config, &variant);
    let mut entries = Vec::new();
    for add in [norms::entries, elementwise::entries, linear::entries, attention::entries, experts::entries] {
        add(&shape, &mut entries);
    }
    entries.sort_by_key(|entry| KERNELS.iter().position(|(op, _)| *op == entry.op));
    Ok(entries)
}

/// The operations of these entries that a level has no kernels for.
pub fn absent(entries: &[Entry], kernels: Kernels) -> Vec<&'static str> {
    let mut absent: Vec<_> = entries.iter().filter(|entry| !entry.runs_on(kernels)).map(|entry| entry.op).collect();
    absent.dedup();
    absent
}

/// The sizes of a model by the letters of docs/model.md.
struct Shape {
    hidden: usize,
    intermediate: usize,
    vocab: usize,
    /// nq, nkv, M
    heads: usize,
    kv_heads: usize,
    mask_heads: usize,
    head_dim: usize,
    /// K of the router, and how many experts a token has; 0: dense.
    router_keys: usize,
    experts_per_token: usize,
}

impl Shape {
    fn new(config: &Config, variant: &Variant) -> Self {
        Shape {
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            vocab: config.vocab_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            mask_heads: variant.mask_heads,
            head_dim: config.head_dim,
            router_keys: if config.is_moe { config.num_experts.isqrt() } else { 0 },
            experts_per_token: config.num_experts_per_tok,
        }
    }
}

/// Tokens of a block.
const BLOCK: usize = 512;
/// Rows that fill a good part of a core's own cache.
const SOME: usize = 64;

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

fn magnitudes(x: &[f32]) -> Vec<f32> {
    x.iter().copied().map(f32::abs).collect()
}
