//! A token in one launch (kernels/cuda/token.cu): what its stages multiply, and the words that they hand each other. Made once for
//! a sequence; a launch needs nothing new.

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};

use super::{
    attention_input::{Heads, MaskScore, Rotation},
    buffer::{padded, Buffer},
    decode_attention::{decode_args, MaskValues, Token},
    device::{failed, Device},
    forward::{projection, Forward},
    kept::{Kept, KeptShape},
    linear::{check, check_gated, linear_args, with_norm, Checked, Norm, Projection},
    made::{made, Made},
    scratch::Scratch,
    weights::{DeviceLayer, DeviceWeights},
};
use crate::{
    ffi::{self, DogeCudaLinearArgs, DogeCudaStage, DogeCudaTokenArgs, DogeCudaTokenAttention},
    Dtype, Result,
};

const COLS_MAX: usize = ffi::DOGE_CUDA_TOKEN_COLS_MAX as usize;
const KV_MAX: usize = ffi::DOGE_CUDA_TOKEN_KV_MAX as usize;
/// Channels of a head: one for each thread of the team.
const HEAD_DIM_MAX: usize = ffi::DOGE_CUDA_THREADS as usize;
/// Teams that do projections, and their warps.
const TEAMS: usize = ffi::DOGE_CUDA_TOKEN_PROJECTORS as usize;
const WARPS: usize = TEAMS * ffi::DOGE_CUDA_THREADS as usize / 32;
/// Of a warp's ring of weights: a turn of two sides, and one on its way.
const SLOTS_MIN: usize = 4;
const SLOTS_MAX: usize = ffi::DOGE_CUDA_SLOTS_MAX as usize;
/// A tile's keys and values.
const TILES_BYTES: usize = 2 * 4 * ffi::DOGE_CUDA_TILE as usize * HEAD_DIM_MAX;

/// What shapes a [`Words`].
#[derive(Clone, Copy, Debug)]
struct WordsSizes {
    hidden: usize,
    intermediate: usize,
    q: usize,
    kv: usize,
    partial: usize,
}

made! {
    /// What stages hand each other; each with two words more, for who looks at two at a time.
    struct Words(z: WordsSizes) {
        /// The stream before attention, and between attention and MLP.
        stream: Buffer<u64> = padded(z.hidden),
        between: Buffer<u64> = padded(z.hidden),
        /// q, k and v, of even layers and odd ones: the next layer's begin while the last one's key is put away.
        qkv_even: Buffer<u64> = padded(z.q + 2 * z.kv),
        qkv_odd: Buffer<u64> = padded(z.q + 2 * z.kv),
        partial: Buffer<u64> = z.partial,
        attn: Buffer<u64> = padded(z.q),
        gated: Buffer<u64> = padded(z.intermediate),
        /// Launches so far, and blocks of this one that are done.
        launch: Buffer<u32> = 2,
    }
}

/// A token in one launch.
pub(super) struct Program {
    // Named in the arguments.
    _words: Words,
    _stages: CudaSlice<DogeCudaStage>,
    _attentions: CudaSlice<DogeCudaTokenAttention>,
    dtype: Dtype,
    blocks: usize,
    /// Bytes of shared memory beside the kernel's own.
    shared: usize,
    args: DogeCudaTokenArgs,
}

// SAFETY: plain numbers, and addresses in device memory.
unsafe impl DeviceRepr for DogeCudaStage {}
// SAFETY: as above.
unsafe impl DeviceRepr for DogeCudaTokenAttention {}
// SAFETY: the addresses are the device's, and nothing on the host follows them.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

/// The format that all matrices of the layers have, and the head.
fn one_format(w: &DeviceWeights) -> Option<Dtype> {
    let of_layer = |l: &DeviceLayer| {
        [&l.q_proj, &l.k_proj, &l.v_proj, &l.o_proj, &l.gate_proj, &l.up_proj, &l.down_proj].map(|linear| linear.weight.dtype())
    };
    let dtype = w.head().dtype();
    w.layers.iter().flat_map(of_layer).all(|other| other == dtype).then_some(dtype)
}

impl Forward<'_> {
    /// The token in `s.ids`, from its embedding in `s.x` to `s.logits`, as one launch. None for what the kernel has no room for, or
    /// does not do: experts, a sliding window, several formats, wide rows; then its operations are launches (decode.rs).
    pub fn program(&self, layers: &mut [Kept], s: &mut Scratch) -> Result<Option<Program>> {
        let (gpu, c, w) = (self.device, self.config, self.weights);
        let (q, kv) = (c.q_rows(), c.kv_rows());
        let Some(dtype) = one_format(w) else { return Ok(None) };
        let fits = |cols: usize| cols <= COLS_MAX && cols % 4 == 0;
        let is_wide = ![c.hidden_size, c.intermediate_size, q, c.head_dim].into_iter().all(fits);
        if c.is_moe || c.sliding_window.is_some() || is_wide || kv > KV_MAX || c.head_dim > HEAD_DIM_MAX || layers.is_empty() {
            return Ok(None);
        }
        let (kernel, blocks) = (&gpu.table().token[dtype as usize], gpu.multiprocessors()?);
        if !kernel.has_copy_engine {
            return Ok(None);
        }
        let slots = (gpu.shared_beside(kernel)?.saturating_sub(TILES_BYTES) / (WARPS * slot_bytes(dtype))).min(SLOTS_MAX);
        if slots < SLOTS_MIN {
            return Ok(None);
        }
        let shared = TILES_BYTES + WARPS * slots * slot_bytes(dtype);
        gpu.allow_shared(kernel, shared)?;

        let KeptShape { head_dim, .. } = layers[0].shape();
        let partial = c.num_attention_heads * layers[0].shape().tiles() * (2 + head_dim);
        let sizes = WordsSizes { hidden: c.hidden_size, intermediate: c.intermediate_size, q, kv, partial };
        let mut words = Words::make(gpu, sizes)?;
        let workers = blocks * if dtype.is_int() { TEAMS } else { WARPS };
        let mut stages = Stages { all: Vec::new(), dtype, blocks, workers, units: 0 };
        let (mut attentions, eps) = (Vec::new(), c.rms_norm_eps);
        let (stream, between, gated) = (words.stream.ptr_mut(), words.between.ptr_mut(), words.gated.ptr_mut());
        for (i, (layer, kept)) in w.layers.iter().zip(layers).enumerate() {
            let tag = 5 * i as u32;
            let qkv_words = if i % 2 == 0 { words.qkv_even.ptr_mut() } else { words.qkv_odd.ptr_mut() };

            let (q_proj, k_proj, v_proj) = (&layer.q_proj, &layer.k_proj, &layer.v_proj);
            let qkv = check(&mut [projection(&mut s.q, q_proj), projection(&mut s.k, k_proj), projection(&mut s.v, v_proj)], 1)?;
            let args = with_norm(linear_args(&qkv, &s.x, 1)?, Norm { weight: &layer.input_layernorm, eps })?;
            stages.push(&qkv, args, false, (stream, tag), (qkv_words, tag + 1), None);

            let score = MaskScore { dt_weight: &layer.dt_weight, bias: layer.dt_bias.as_ref(), a: &layer.a };
            let token = Token {
                out: &mut s.attn.exact,
                mask: &mut s.mask,
                values: MaskValues::Score(score),
                q: Heads { rows: &mut s.q, heads: c.num_attention_heads, norm: layer.q_norm.as_ref() },
                k: Heads { rows: &mut s.k, heads: c.num_key_value_heads, norm: layer.k_norm.as_ref() },
                v: &s.v,
            };
            let rotation = Rotation { cos: &s.cos, sin: &s.sin, at: &s.next.at, head_dim, eps };
            let scale = 1.0 / (head_dim as f32).sqrt();
            attentions.push(DogeCudaTokenAttention {
                decode: decode_args(token, &rotation, kept, &mut s.lists, &mut s.room, scale)?,
                q: qkv_words,
                k: qkv_words.wrapping_add(q),
                v: qkv_words.wrapping_add(q + kv),
                partial: words.partial.ptr_mut(),
                out: words.attn.ptr_mut(),
                tag: tag + 2,
                tag_of_words: tag + 1,
            });

            let o = check(&mut [projection(&mut s.branch, &layer.o_proj)], 1)?;
            let args = linear_args(&o, &s.attn.exact, 1)?;
            let args = DogeCudaLinearArgs { residual: layer.input_residual.ptr(), ..args };
            stages.push(&o, args, false, (words.attn.ptr_mut(), tag + 2), (between, tag + 3), Some((stream, tag)));

            let both = check(&mut [projection(&mut s.gate.exact, &layer.gate_proj), projection(&mut s.up, &layer.up_proj)], 1)?;
            check_gated(&both)?;
            let args = with_norm(linear_args(&both, &s.x, 1)?, Norm { weight: &layer.post_attention_layernorm, eps })?;
            let args = DogeCudaLinearArgs { act: c.hidden_act as u32, ..args };
            stages.push(&both, args, true, (between, tag + 3), (gated, tag + 4), None);

            let down = check(&mut [projection(&mut s.branch, &layer.down_proj)], 1)?;
            let args = linear_args(&down, &s.gate.exact, 1)?;
            let args = DogeCudaLinearArgs { residual: layer.post_attention_residual.ptr(), ..args };
            stages.push(&down, args, false, (gated, tag + 4), (stream, tag + 5), Some((between, tag + 3)));
        }
        let n_layers = attentions.len() as u32;
        let head = check(&mut [Projection { out: &mut s.logits, weight: w.head(), bias: None }], 1)?;
        let args = with_norm(linear_args(&head, &s.x, 1)?, Norm { weight: &w.norm, eps })?;
        stages.push(&head, args, false, (stream, 5 * n_layers), (std::ptr::null_mut(), 0), None);

        let upload = failed("copying to the GPU");
        let n_stages = stages.all.len() as u32;
        let stages = gpu.stream().clone_htod(&stages.all).map_err(&upload)?;
        let attentions = gpu.stream().clone_htod(&attentions).map_err(&upload)?;
        gpu.synchronize()?; // the lists on the host go when this returns
        let args = DogeCudaTokenArgs {
            stages: stages.device_ptr(gpu.stream()).0 as *const _,
            attentions: attentions.device_ptr(gpu.stream()).0 as *const _,
            x: s.x.buffer.ptr(),
            stream,
            launch: words.launch.ptr_mut(),
            n_stages,
            n_layers,
            n_x: words.sizes.hidden as u32,
            n_tags: 5 * n_layers + 1,
            n_blocks: blocks as u32,
            slots: slots as u32,
        };
        Ok(Some(Program { _words: words, _stages: stages, _attentions: attentions, dtype, blocks, shared, args }))
    }
}

/// Bytes of a slot of a ring of weights (kernels/cuda/weight_stream.h).
fn slot_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 | Dtype::Bf16 | Dtype::F16 => 2048,
        Dtype::Int8 => 1088,
        Dtype::Int4 => 576,
    }
}

/// The stages so far.
struct Stages {
    all: Vec<DogeCudaStage>,
    dtype: Dtype,
    blocks: usize,
    /// Of the grid.
    workers: usize,
    /// Of the stages so far.
    units: usize,
}

impl Stages {
    /// Words go with the tag that they have, or get.
    fn push(
        &mut self,
        checked: &Checked,
        linear: DogeCudaLinearArgs,
        is_gated: bool,
        (words, tag_of_words): (*mut u64, u32),
        (words_out, tag): (*mut u64, u32),
        stream: Option<(*mut u64, u32)>,
    ) {
        let (stream, tag_of_stream) = stream.unwrap_or((std::ptr::null_mut(), 0));
        let shift = (self.units % self.workers) as u32;
        let of_projections = || checked.projection.iter().take(if is_gated { 1 } else { 3 }).map(|p| p.out_features);
        let outputs = of_projections().sum::<u32>();
        let units = match self.dtype.is_int() {
            true => of_projections().map(|n| n.div_ceil(ffi::DOGE_TILE)).sum(),
            false if is_gated => outputs,
            false => outputs.div_ceil(2),
        };
        self.units += units as usize;
        self.all.push(DogeCudaStage {
            linear,
            words,
            words_out,
            stream,
            tag,
            tag_of_words,
            tag_of_stream,
            shift,
            is_gated: u32::from(is_gated),
            outputs,
            units,
            shift_blocks: shift % self.blocks as u32,
            padding: 0,
        });
    }
}

impl Device {
    /// Runs a token.
    pub(super) fn run_program(&self, program: &Program) -> Result<()> {
        let kernel = &self.table().token[program.dtype as usize];
        // SAFETY: the program's parts have the shapes that were compared when it was made, and the sequence keeps what they name.
        unsafe { self.launch_together(kernel, program.blocks, program.shared, &program.args) }
    }
}
