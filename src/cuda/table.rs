//! The kernels of a device by operation, as the CPU's kernel table has them. Names and threads are those of
//! `kernels/cuda/*.cu`.

use cudarc::driver::CudaFunction;

use super::device::{Args, Kernel};
use crate::{ffi, Dtype, Result};

/// One kernel for each stored format.
pub(super) type PerDtype = [Kernel; Dtype::ALL.len()];

pub(super) struct Table {
    pub embed: PerDtype,
    pub rms_norm: Kernel,
    /// For one row, and for eight at a time.
    pub linear: [PerDtype; 2],
    pub linear_gated: [PerDtype; 2],
    pub gemm_bf16_tensor: Kernel,
    pub gemm_gated_bf16_tensor: Kernel,
    pub round_bf16: Kernel,
    pub rope: Kernel,
    pub mask_score: Kernel,
    pub kept_offer: Kernel,
    pub kept_commit: Kernel,
    pub window_add: Kernel,
    pub window_choose: Kernel,
    /// For heads of up to 128 channels, and up to 256.
    pub attention_prefill: [Kernel; 2],
    pub attention_prefill_tensor: [Kernel; 2],
    pub attention_decode: [Kernel; 2],
    pub token: PerDtype,
    pub gated_activation: Kernel,
    /// One block of threads a row, and one for each group of its experts.
    pub experts: PerDtype,
    pub experts_groups: PerDtype,
    pub argmax: Kernel,
    pub sample: Kernel,
    pub roof_read: Kernel,
    pub roof_fma: Kernel,
    pub roof_mma: Kernel,
}

const THREADS: u32 = ffi::DOGE_CUDA_THREADS;
/// Kernels of a decode step, which wait for the launch before: how their names begin.
const WAITS: [&str; 7] =
    ["doge_embed", "doge_linear", "doge_attention_decode", "doge_rms_norm", "doge_experts", "doge_argmax", "doge_sample"];

impl Table {
    /// `function` finds a kernel by its name, and knows whether it was compiled for sm_90 or later.
    pub fn load(function: impl Fn(&str) -> Result<(CudaFunction, bool)>) -> Result<Self> {
        let one = |name: &'static str, threads| {
            let (function, is_hopper) = function(name)?;
            Ok(Kernel {
                name,
                function,
                threads,
                has_copy_engine: is_hopper,
                waits: is_hopper && WAITS.iter().any(|begin| name.starts_with(begin)),
            })
        };
        let formats = |names: [&'static str; 5], threads| -> Result<PerDtype> {
            let [f32, bf16, f16, int8, int4] = names.map(|name| one(name, threads));
            Ok([f32?, bf16?, f16?, int8?, int4?])
        };
        let embed = ["doge_embed_f32", "doge_embed_bf16", "doge_embed_f16", "doge_embed_int8", "doge_embed_int4"];
        let linear_1 =
            ["doge_linear_f32_1", "doge_linear_bf16_1", "doge_linear_f16_1", "doge_linear_int8_1", "doge_linear_int4_1"];
        let linear_8 =
            ["doge_linear_f32_8", "doge_linear_bf16_8", "doge_linear_f16_8", "doge_linear_int8_8", "doge_linear_int4_8"];
        let gated_1 = [
            "doge_linear_gated_f32_1",
            "doge_linear_gated_bf16_1",
            "doge_linear_gated_f16_1",
            "doge_linear_gated_int8_1",
            "doge_linear_gated_int4_1",
        ];
        let gated_8 = [
            "doge_linear_gated_f32_8",
            "doge_linear_gated_bf16_8",
            "doge_linear_gated_f16_8",
            "doge_linear_gated_int8_8",
            "doge_linear_gated_int4_8",
        ];
        let experts = ["doge_experts_f32", "doge_experts_bf16", "doge_experts_f16", "doge_experts_int8", "doge_experts_int4"];
        let experts_groups = [
            "doge_experts_groups_f32",
            "doge_experts_groups_bf16",
            "doge_experts_groups_f16",
            "doge_experts_groups_int8",
            "doge_experts_groups_int4",
        ];
        let token = ["doge_token_f32", "doge_token_bf16", "doge_token_f16", "doge_token_int8", "doge_token_int4"];
        Ok(Table {
            embed: formats(embed, THREADS)?,
            rms_norm: one("doge_rms_norm", THREADS)?,
            linear: [formats(linear_1, THREADS)?, formats(linear_8, THREADS)?],
            linear_gated: [formats(gated_1, THREADS)?, formats(gated_8, THREADS)?],
            gemm_bf16_tensor: one("doge_gemm_bf16_tensor", THREADS)?,
            gemm_gated_bf16_tensor: one("doge_gemm_gated_bf16_tensor", THREADS)?,
            round_bf16: one("doge_round_bf16", THREADS)?,
            rope: one("doge_rope", THREADS)?,
            mask_score: one("doge_mask_score", THREADS)?,
            kept_offer: one("doge_kept_offer", THREADS)?,
            kept_commit: one("doge_kept_commit", THREADS)?,
            window_add: one("doge_window_add", THREADS)?,
            window_choose: one("doge_window_choose", THREADS)?,
            attention_prefill: [one("doge_attention_prefill_128", THREADS)?, one("doge_attention_prefill_256", THREADS)?],
            attention_prefill_tensor: [
                one("doge_attention_prefill_bf16_tensor_128", THREADS)?,
                one("doge_attention_prefill_bf16_tensor_256", THREADS)?,
            ],
            attention_decode: [one("doge_attention_decode_128", THREADS)?, one("doge_attention_decode_256", THREADS)?],
            token: formats(token, THREADS * ffi::DOGE_CUDA_TOKEN_TEAMS)?,
            gated_activation: one("doge_gated_activation", THREADS)?,
            experts: formats(experts, ffi::DOGE_CUDA_EXPERT_THREADS)?,
            experts_groups: formats(experts_groups, ffi::DOGE_CUDA_EXPERT_THREADS)?,
            argmax: one("doge_argmax", ffi::DOGE_CUDA_ARGMAX_THREADS)?,
            sample: one("doge_sample", ffi::DOGE_CUDA_ARGMAX_THREADS)?,
            roof_read: one("doge_roof_read", THREADS)?,
            roof_fma: one("doge_roof_fma", THREADS)?,
            roof_mma: one("doge_roof_mma", THREADS)?,
        })
    }
}

impl Args for ffi::DogeCudaEmbedArgs {}
impl Args for ffi::DogeCudaNormArgs {}
impl Args for ffi::DogeCudaLinearArgs {}
impl Args for ffi::DogeCudaRoundArgs {}
impl Args for ffi::DogeCudaGemmArgs {}
impl Args for ffi::DogeCudaRoofArgs {}
impl Args for ffi::DogeCudaRopeArgs {}
impl Args for ffi::DogeCudaMaskScoreArgs {}
impl Args for ffi::DogeCudaOfferArgs {}
impl Args for ffi::DogeCudaAttentionArgs {}
impl Args for ffi::DogeCudaDecodeArgs {}
impl Args for ffi::DogeCudaCommitArgs {}
impl Args for ffi::DogeCudaWindowAddArgs {}
impl Args for ffi::DogeCudaWindowChooseArgs {}
impl Args for ffi::DogeCudaTokenArgs {}
impl Args for ffi::DogeCudaGatedArgs {}
impl Args for ffi::DogeCudaExpertsArgs {}
impl Args for ffi::DogeCudaNextArgs {}
impl Args for ffi::DogeCudaSampleArgs {}
