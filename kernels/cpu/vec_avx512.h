// The lanes of the AVX-512 levels: 16 floats in a __m512 (F, BW, DQ, VL).
//
// A lane header is all that an op knows of its ISA. The three have the same functions in the same order:
//   load_n, store_n   the first n elements, 1 <= n <= LANES; the other lanes are 0; nothing beyond is touched
//   load_or           the other lanes are `other`
//   max, min          a > b ? a : b and a < b ? a : b; so b where either is NaN
//   add_if            a + b where m holds; elsewhere a, or +0 for -0
//   times_pow2        a * 2^n, n whole, |n| <= 250, rounded once; overflows to infinity, underflows through the denormals
//   load_pairs, dot_pairs   LANES pairs of bf16; c + the products of each pair, as the contract says of round_row's gemv
//   splat_pair        a pair for all lanes
//   pairs_of, first_of, second_of   pairs of floats that have been rounded, or of two rows, and back; dot_pairs adds the first one's
//                     product first, rounds, then the second one's
//   round_bf16        to a float that is a bf16, to nearest, ties to even
//   transpose         LANES vectors: lane j of vector i becomes lane i of vector j
//   lanes_of          the lanes whose bits are set, from bit 0 on
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
constexpr int SCORE_KEYS = 4, SCORE_VECTORS = 1;
#ifdef __AVX512BF16__
constexpr int GEMV_STREAMS = 2; // for AMD's CPUs; on Intel's the level is not chosen
#else
constexpr int GEMV_STREAMS = 4; // only Intel's CPUs end here
#endif

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

/// 16-bit elements into the upper halves of the lanes, beside what is in the lower ones: one move across lanes for a widening, a
/// shift and a blend.
inline __m512i upper_halves(__m512i lower, __m256i halves) {
  const __m512i twice = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, //
                                         7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
  return _mm512_mask_permutexvar_epi16(lower, 0xaaaaaaaa, twice, _mm512_castsi256_si512(halves));
}
inline F32V widen_bf16(__m256i halves) { return {_mm512_castsi512_ps(upper_halves(_mm512_setzero_si512(), halves))}; }
inline F32V load(const F32 *p) { return {_mm512_loadu_ps(p)}; }
inline F32V load(const Bf16 *p) { return widen_bf16(_mm256_loadu_si256((const __m256i *)p)); }
inline F32V load(const F16 *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))}; }
inline F32V load_n(const F32 *p, size_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline F32V load_n(const Bf16 *p, size_t n) { return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
inline F32V load_n(const F16 *p, size_t n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))}; }
inline PairV load_pairs(const Bf16 *p) { return {_mm512_loadu_si512(p)}; }
inline PairV load_pairs_n(const Bf16 *p, size_t n) { return {_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p)}; }
inline PairV splat_pair(const Bf16 *p) {
  int32_t both;
  memcpy(&both, p, 4);
  return {_mm512_set1_epi32(both)};
}
#ifdef __AVX512BF16__
constexpr bool ODD_FIRST = true; // vdpbf16ps adds the product of the odd halves, rounds, then that of the even ones
#else
constexpr bool ODD_FIRST = false;
#endif
inline F32V odd_of(PairV a) { return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32((int)0xffff0000)))}; }
inline F32V even_of(PairV a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
inline F32V first_of(PairV a) { return ODD_FIRST ? odd_of(a) : even_of(a); }
inline F32V second_of(PairV a) { return ODD_FIRST ? even_of(a) : odd_of(a); }
inline PairV pairs_of(F32V first, F32V second) {
  const __m512i a = _mm512_castps_si512(first.v), b = _mm512_castps_si512(second.v), odd = ODD_FIRST ? a : b;
  return {_mm512_mask_blend_epi16(0x55555555, odd, _mm512_srli_epi32(ODD_FIRST ? b : a, 16))};
}
inline PairV pairs_of(__m256i first, __m256i second) {
  return {upper_halves(_mm512_cvtepu16_epi32(ODD_FIRST ? second : first), ODD_FIRST ? first : second)};
}
inline PairV pairs_of(const Bf16 *first, const Bf16 *second) {
  return pairs_of(_mm256_loadu_si256((const __m256i *)first), _mm256_loadu_si256((const __m256i *)second));
}
inline PairV pairs_of_n(const Bf16 *first_row, const Bf16 *second_row, size_t n) {
  return pairs_of(_mm256_maskz_loadu_epi16(first(n), first_row), _mm256_maskz_loadu_epi16(first(n), second_row));
}
inline void store_pairs(float *p, PairV a) { _mm512_storeu_si512(p, a.v); }
inline PairV load_pairs(const float *p) { return {_mm512_loadu_si512(p)}; }
/// GCC takes loops and functions out that do nothing but _mm_prefetch.
inline void prefetch(const void *p) { __asm__ volatile("prefetcht1 %0" ::"m"(*(const char *)p)); }

inline F32V add(F32V a, F32V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32V sub(F32V a, F32V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32V mul(F32V a, F32V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32V div(F32V a, F32V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32V fma(F32V a, F32V b, F32V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32V dot_pairs(PairV a, PairV b, F32V c) {
#ifdef __AVX512BF16__
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
  return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), c));
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

inline MaskV lanes_of(uint32_t bits) { return {(__mmask16)bits}; }
inline MaskV less(F32V a, F32V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline MaskV equal(F32V a, F32V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline F32V select(MaskV m, F32V a, F32V b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
inline F32V add_if(MaskV m, F32V a, F32V b) { return {_mm512_mask_add_ps(a.v, m.m, a.v, b.v)}; }
inline bool any(MaskV m) { return m.m != 0; }

inline F32V round_bf16(F32V a) {
  const __m512i bits = _mm512_castps_si512(a.v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512 rounded = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xffff0000)));
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), rounded, _mm512_set1_ps(NAN))};
}
inline F32V times_pow2(F32V a, F32V n) { return {_mm512_scalef_ps(a.v, n.v)}; }

inline void transpose(F32V (&a)[16]) {
  for (int i = 0; i < 16; i += 4) { // 4 x 4 in each quarter
    const __m512 low01 = _mm512_unpacklo_ps(a[i].v, a[i + 1].v), high01 = _mm512_unpackhi_ps(a[i].v, a[i + 1].v);
    const __m512 low23 = _mm512_unpacklo_ps(a[i + 2].v, a[i + 3].v), high23 = _mm512_unpackhi_ps(a[i + 2].v, a[i + 3].v);
    a[i].v = _mm512_shuffle_ps(low01, low23, 0x44);
    a[i + 1].v = _mm512_shuffle_ps(low01, low23, 0xee);
    a[i + 2].v = _mm512_shuffle_ps(high01, high23, 0x44);
    a[i + 3].v = _mm512_shuffle_ps(high01, high23, 0xee);
  }
  for (int i = 0; i < 4; ++i) { // then the quarters
    const __m512 even01 = _mm512_shuffle_f32x4(a[i].v, a[i + 4].v, 0x88), odd01 = _mm512_shuffle_f32x4(a[i].v, a[i + 4].v, 0xdd);
    const __m512 even23 = _mm512_shuffle_f32x4(a[i + 8].v, a[i + 12].v, 0x88);
    const __m512 odd23 = _mm512_shuffle_f32x4(a[i + 8].v, a[i + 12].v, 0xdd);
    a[i].v = _mm512_shuffle_f32x4(even01, even23, 0x88);
    a[i + 4].v = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    a[i + 8].v = _mm512_shuffle_f32x4(even01, even23, 0xdd);
    a[i + 12].v = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
  }
}

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
