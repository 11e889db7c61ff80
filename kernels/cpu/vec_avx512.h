// The lanes of the AVX-512 levels: 16 floats in a __m512 (F, BW, DQ, VL).
//
// A lane header is all that an op knows of its ISA. The three have the same functions in the same order:
//   load_n, store_n   the first n elements, 1 <= n <= LANES; the other lanes are 0; nothing beyond is touched
//   load_or           the other lanes are `other`
//   max, min          a > b ? a : b and a < b ? a : b; so b where either is NaN
//   times_pow2        a * 2^n, n whole, |n| <= 250, rounded once; overflows to infinity, underflows through the denormals
//   load_pairs, dot_pairs   LANES pairs of bf16; c + the products of each pair, as the contract says of round_row's gemv
//   prefetch          into the L2 cache: L1 is too small to hold what is on its way
//   sum               of all lanes, by halves: (16 ->) 8 -> 4 -> 2 -> 1
//   sum4              four sums at once, each with the bits of `sum`
#pragma once
#include "weight.h"

#include <immintrin.h>
#include <math.h>

namespace {

constexpr size_t LANES = 16;
constexpr int TILE_ROWS = 6, TILE_COLS = 4; // 24 sums + 4 weights + 1 of x: 29 of the 32 registers
constexpr int MIX_ROWS = 6, MIX_SUMS = 24;   // rows of p and sums at once when p is mixed with v: 24 + 4 of v + 1 of p

struct F32V { __m512 v; };
struct MaskV { __mmask16 m; };
struct PairV { __m512i v; }; // LANES pairs of bf16

inline __mmask16 first(size_t n) { return (__mmask16)((1u << n) - 1); }

inline F32V zero() { return {_mm512_setzero_ps()}; }
inline F32V splat(float x) { return {_mm512_set1_ps(x)}; }

inline F32V load(const float *p) { return {_mm512_loadu_ps(p)}; }
inline F32V load_n(const float *p, size_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline F32V load_or(const float *p, size_t n, float other) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(other), first(n), p)};
}
inline void store(float *p, F32V a) { _mm512_storeu_ps(p, a.v); }
inline void store_n(float *p, F32V a, size_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }

inline F32V widen_bf16(__m256i halves) { // one move across lanes, every other word zeroed, for a widening and a shift
  const __m512i twice = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, //
                                         7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
  return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, twice, _mm512_castsi256_si512(halves)))};
}
inline F32V load(const F32 *p) { return {_mm512_loadu_ps(p)}; }
inline F32V load(const Bf16 *p) { return widen_bf16(_mm256_loadu_si256((const __m256i *)p)); }
inline F32V load(const F16 *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))}; }
inline F32V load_n(const F32 *p, size_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline F32V load_n(const Bf16 *p, size_t n) { return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
inline F32V load_n(const F16 *p, size_t n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))}; }
inline PairV load_pairs(const Bf16 *p) { return {_mm512_loadu_si512(p)}; }
inline PairV load_pairs_n(const Bf16 *p, size_t n) { return {_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p)}; }
inline void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

inline F32V add(F32V a, F32V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32V sub(F32V a, F32V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32V mul(F32V a, F32V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32V div(F32V a, F32V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32V fma(F32V a, F32V b, F32V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32V dot_pairs(PairV a, PairV b, F32V c) {
#ifdef __AVX512BF16__
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
  const auto even = [](PairV p) { return _mm512_castsi512_ps(_mm512_slli_epi32(p.v, 16)); };
  const auto odd = [](PairV p) { return _mm512_castsi512_ps(_mm512_and_si512(p.v, _mm512_set1_epi32((int)0xffff0000))); };
  return {_mm512_fmadd_ps(odd(a), odd(b), _mm512_fmadd_ps(even(a), even(b), c.v))};
#endif
}
inline F32V neg(F32V a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
inline F32V abs(F32V a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
inline F32V copysign(F32V a, F32V sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, a.v), _mm512_and_ps(bit, sign.v))};
}
inline F32V max(F32V a, F32V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32V min(F32V a, F32V b) { return {_mm512_min_ps(a.v, b.v)}; }

inline MaskV less(F32V a, F32V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline MaskV equal(F32V a, F32V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline F32V select(MaskV m, F32V a, F32V b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
inline bool any(MaskV m) { return m.m != 0; }

inline F32V times_pow2(F32V a, F32V n) { return {_mm512_scalef_ps(a.v, n.v)}; }

inline float sum(F32V a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(F32V a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// A step of sum's tree for two vectors at once: the low part of the result is a's, the high one b's. Halves, quarters of each
/// half, and pairs of each quarter. One shuffle a step, not two: shuffles take turns with fma (Zen 4), blends do not.
inline __m512 fold8(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b),
                       _mm512_castsi512_ps(_mm512_alignr_epi64(_mm512_castps_si512(b), _mm512_castps_si512(a), 4)));
}
inline __m512 fold4(__m512 a, __m512 b) {
  const __m512 other = _mm512_mask_blend_ps(0xf0f0, b, a);
  return _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_shuffle_f32x4(other, other, 0xb1));
}
inline __m512 fold2(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}
inline __m512 fold1(__m512 a) { return _mm512_add_ps(a, _mm512_permute_ps(a, 0xb1)); }

inline void sum4(float *out, F32V a, F32V b, F32V c, F32V d) {
  const __m512 four = fold4(fold8(a.v, b.v), fold8(c.v, d.v)); // a c b d, four lanes each
  const __m512 one = fold1(_mm512_add_ps(four, _mm512_permute_ps(four, 0x4e)));
  const __m512i corner = _mm512_setr_epi32(0, 8, 4, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(corner, one)));
}
inline void sum8(float *low, float *high, F32V a, F32V b, F32V c, F32V d, F32V e, F32V f, F32V g, F32V h) {
  const __m512 acbd = fold4(fold8(a.v, b.v), fold8(c.v, d.v));
  const __m512 egfh = fold4(fold8(e.v, f.v), fold8(g.v, h.v));
  const __m512i order = _mm512_setr_epi32(0, 8, 4, 12, 2, 10, 6, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256 sums = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, fold1(fold2(acbd, egfh))));
  _mm_storeu_ps(low, _mm256_castps256_ps128(sums));
  _mm_storeu_ps(high, _mm256_extractf128_ps(sums, 1));
}

} // namespace
