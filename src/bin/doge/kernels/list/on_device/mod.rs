//! The entries that a GPU has a kernel of its own for, with its inputs and its launch. Formulas, formats, shapes and costs are
//! the CPU's; so are the references. What a GPU does only inside of a larger launch has no entry here: see [`LEFT_OUT`].

mod jobs;
mod mix;
mod small;

use doge_engine::{
    cuda::{Device, LayerShape},
    model::family,
    ops::Activations,
    reference::close::Worst,
    Dtype, Result,
};

use super::{Entry, Shape, Store};
use jobs::{Attention, Embed, Gated, Linear, Norm};
use mix::Mix;
use small::{Argmax, Round, Score};

/// Operations of the list that a GPU has no kernel for that runs alone, and why.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("qk_norm", "part of rope"),
    ("rope", "its launch needs a sequence's tables"),
    ("split_row, gemv_split and gemm_split", "f32 is multiplied as it is"),
    ("quantize_row", "whole numbers are widened instead"),
    ("product_key_router", "part of expert_mix"),
];

/// Lanes that share a sum: a warp.
const LANES: usize = 32;

/// An entry of the list, on a GPU.
pub struct DeviceEntry {
    pub entry: Entry,
    make: Make,
}

type Make = Box<dyn Fn(&Device, usize) -> Result<Box<dyn DeviceJob>>>;

/// The inputs and outputs of a call on a GPU, in one or more copies.
pub trait DeviceJob {
    /// Gives one call, on one copy, to the GPU.
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()>;

    /// Runs the first copy and holds some of it against the reference.
    fn check(&mut self, gpu: &Device) -> Result<Worst>;
}

impl DeviceEntry {
    /// Inputs for calls on `gpu`, in `copies` copies.
    ///
    /// # Errors
    /// [`doge_engine::Error::OutOfMemory`], [`doge_engine::Error::Device`].
    pub fn make(&self, gpu: &Device, copies: usize) -> Result<Box<dyn DeviceJob>> {
        (self.make)(gpu, copies)
    }
}

/// What [`super::entries`] has, less what is left out.
///
/// # Errors
/// [`doge_engine::Error::UnknownWord`] if there is no such member of the family.
pub fn entries(preset: &str) -> Result<Vec<DeviceEntry>> {
    let (config, variant) = family::preset(preset)?;
    let shape = Shape::new(&config, &variant);
    Ok(super::entries(preset)?.into_iter().filter_map(|entry| on_device(entry, &shape)).collect())
}

fn on_device(entry: Entry, shape: &Shape) -> Option<DeviceEntry> {
    let sizes: Vec<usize> = entry.shape.split('x').filter_map(|size| size.parse().ok()).collect();
    let (dtype, activations) = (entry.dtype, entry.activations);
    let make: Make = match (entry.op, &sizes[..]) {
        ("embed_row", &[rows, cols]) => Box::new(move |gpu, copies| Embed::make(gpu, copies, dtype, rows, cols)),
        ("rms_norm" | "residual_rms_norm", &[rows, cols]) => {
            let with_residual = entry.op == "residual_rms_norm";
            Box::new(move |gpu, copies| Norm::make(gpu, copies, with_residual, rows, cols))
        }
        ("gemv" | "gemv_int", &[cols, outputs]) => {
            Box::new(move |gpu, copies| Linear::make(gpu, copies, dtype, false, [1, cols, outputs]))
        }
        ("gemm" | "gemm_int" | "gemm_bf16", &[rows, cols, outputs]) => {
            let rounds = activations == Activations::Bf16;
            Box::new(move |gpu, copies| Linear::make(gpu, copies, dtype, rounds, [rows, cols, outputs]))
        }
        ("round_row", &[rows, cols]) => Box::new(move |gpu, copies| Round::make(gpu, copies, rows, cols)),
        ("mask_score", &[rows, cols, heads]) => Box::new(move |gpu, copies| Score::make(gpu, copies, rows, cols, heads)),
        ("argmax", &[vocab]) => Box::new(move |gpu, copies| Argmax::make(gpu, copies, vocab)),
        ("gated_activation", &[rows, cols]) => Box::new(move |gpu, copies| Gated::make(gpu, copies, rows, cols)),
        // K and V are f32 on a GPU.
        ("dynamic_mask_attention", &[queries, keys]) if dtype == Dtype::F32 => {
            let Shape { heads, kv_heads, mask_heads, head_dim, .. } = *shape;
            let (keep_window_size, sliding_window) = (keys, None);
            let layer = LayerShape { q_heads: heads, mask_heads, kv_heads, head_dim, keep_window_size, sliding_window };
            Box::new(move |gpu, copies| Attention::make(gpu, copies, layer, queries, keys))
        }
        ("expert_mix", &[top, cols]) => {
            let keys = shape.router_keys;
            Box::new(move |gpu, copies| Mix::make(gpu, copies, dtype, keys, top, cols))
        }
        _ => return None,
    };
    Some(DeviceEntry { entry, make })
}

/// `copies` of what `make` makes.
fn copies<T>(copies: usize, make: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    (0..copies).map(make).collect()
}

/// Random numbers, other ones for each call of the same store.
fn numbers(store: &mut Store, n: usize, low: f32, high: f32) -> Result<Vec<f32>> {
    Ok(store.floats(n, low, high)?.get(0).to_vec())
}
