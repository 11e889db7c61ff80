// Every op of the house, compiled for the level whose lane header was included before, and the table that holds them in the
// order of doge_kernels.h. Everything but the table has internal linkage: two levels must never share a function.
#include "vec_math.inl"

#include "dot_tile.inl"

#include "argmax.inl"
#include "embed_row.inl"
#include "gated_activation.inl"
#include "gemm.inl"
#include "gemv.inl"
#ifdef __AMX_BF16__
#include "linear_bf16_amx.inl"
#endif
#include "expert_mix.inl"
#include "mask_score.inl"
#include "product_key_router.inl"
#include "rms_norm.inl"
#include "roof.inl"
#include "rope.inl"
#include "round_row.inl"

#include "dynamic_mask_attention.inl"

#include "int_tile.inl"

#include "gemm_int.inl"
#include "gemv_int.inl"
#include "int_row.inl"
#include "quantize_row.inl"

extern "C" const DogeKernelTable DOGE_TABLE = {
    /* abi_version            */ DOGE_ABI_VERSION,
    /* lanes                  */ (uint32_t)LANES,
    /* embed_row              */ {embed_row<F32>, embed_row<Bf16>, embed_row<F16>, embed_row_int<Int8>, embed_row_int<Int4>},
    /* rms_norm               */ rms_norm,
    /* residual_rms_norm      */ residual_rms_norm,
    /* qk_norm                */ qk_norm,
    /* rope                   */ rope,
    /* gemv                   */ {gemv<F32>, gemv<Bf16>, gemv<F16>},
    /* gemm                   */ {gemm<F32>, gemm<Bf16>, gemm<F16>},
    /* round_row              */ round_row,
    /* gemv_bf16              */ gemv_bf16,
    /* gemm_bf16              */ gemm_bf16,
#ifdef __AMX_BF16__
    /* split_row              */ split_row,
    /* gemv_split             */ gemv_split,
    /* gemm_split             */ gemm_split,
#else
    /* split_row              */ nullptr,
    /* gemv_split             */ nullptr,
    /* gemm_split             */ nullptr,
#endif
    /* quantize_row           */ quantize_row,
    /* gemv_int               */ {gemv_int<Int8>, gemv_int<Int4>},
    /* gemm_int               */ {gemm_int<Int8>, gemm_int<Int4>},
    /* mask_score             */ mask_score,
    /* dynamic_mask_attention */ {dynamic_mask_attention<F32>, dynamic_mask_attention<Bf16>, dynamic_mask_attention<F16>},
    /* dynamic_mask_attention_bf16 */ dynamic_mask_attention_bf16,
    /* gated_activation       */ gated_activation,
    /* product_key_router     */ product_key_router,
    /* expert_down            */ {expert_down<F32>, expert_down<Bf16>, expert_down<F16>, expert_down_int<Int8>, expert_down_int<Int4>},
    /* expert_up              */ {expert_up<F32>, expert_up<Bf16>, expert_up<F16>, expert_up_int<Int8>, expert_up_int<Int4>},
    /* argmax                 */ argmax,
    /* read_words             */ read_words,
    /* peak                   */ peak,
};
