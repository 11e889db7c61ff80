// The lanes of the AVX2 levels: 8 floats in a __m256 (AVX2, FMA, F16C).
//
// The three lane headers have the same functions in the same order; vec_avx512.h says what each means.
#pragma once
#include "weight.h"

#include <immintrin.h>
#include <math.h>

namespace {

constexpr size_t LANES = 8;
constexpr int TILE_ROWS = 4, TILE_COLS = 3; // 12 sums + 3 weights + 1 of x = the 16 registers
constexpr int MIX_ROWS = 6, MIX_SUMS = 12;   // 12 sums + 2 of v + 1 of p
constexpr int SCORE_KEYS = 3, SCORE_VECTORS = 2;
constexpr int GEMV_STREAMS = 4; // for Intel's CPUs and Zen 3; on Zen 4, which has a better level, two are a little faster

struct F32V { __m256 v; };
struct MaskV { __m256 m; };
struct PairV { __m256i v; }; // LANES pairs of bf16

/// The first n lanes: all ones. 0 <= n <= 8.
inline __m256i first(size_t n) {
  static constexpr int32_t ONES_ZEROS[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256((const __m256i *)(ONES_ZEROS + 8 - n));
}

inline F32V zero() { return {_mm256_setzero_ps()}; }
inline F32V splat(float x) { return {_mm256_set1_ps(x)}; }

inline F32V load(const float *p) { return {_mm256_loadu_ps(p)}; }
inline F32V load_n(const float *p, size_t n) { return {_mm256_maskload_ps(p, first(n))}; }
inline F32V load_or(const float *p, size_t n, float other) {
  const __m256i mask = first(n);
  return {_mm256_blendv_ps(_mm256_set1_ps(other), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask))};
}
inline void store(float *p, F32V a) { _mm256_storeu_ps(p, a.v); }
inline void store_n(float *p, F32V a, size_t n) { _mm256_maskstore_ps(p, first(n), a.v); }

inline F32V load(const F32 *p) { return {_mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)p))}; }
inline F32V load(const Bf16 *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline F32V load(const F16 *p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p))}; }
template <class W> inline F32V load_n(const W *p, size_t n) { // AVX2 has no masked load of 16-bit elements
  W padded[LANES] = {};
  for (size_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
inline PairV load_pairs(const Bf16 *p) { return {_mm256_loadu_si256((const __m256i *)p)}; }
inline PairV load_pairs_n(const Bf16 *p, size_t n) {
  Bf16 padded[2 * LANES] = {};
  for (size_t i = 0; i < n; ++i) padded[i] = p[i];
  return load_pairs(padded);
}
inline PairV splat_pair(const Bf16 *p) {
  int32_t both;
  memcpy(&both, p, 4);
  return {_mm256_set1_epi32(both)};
}
inline PairV pairs_of(F32V first, F32V second) {
  return {_mm256_blend_epi16(_mm256_castps_si256(second.v), _mm256_srli_epi32(_mm256_castps_si256(first.v), 16), 0x55)};
}
inline PairV pairs_of(const Bf16 *first, const Bf16 *second) { return pairs_of(load(first), load(second)); }
inline PairV pairs_of_n(const Bf16 *first, const Bf16 *second, size_t n) {
  return pairs_of(load_n(first, n), load_n(second, n));
}
inline F32V first_of(PairV a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(a.v, 16))}; }
inline F32V second_of(PairV a) { return {_mm256_castsi256_ps(_mm256_and_si256(a.v, _mm256_set1_epi32((int)0xffff0000)))}; }
inline void store_pairs(float *p, PairV a) { _mm256_storeu_si256((__m256i *)p, a.v); }
inline PairV load_pairs(const float *p) { return {_mm256_loadu_si256((const __m256i *)p)}; }
/// GCC takes loops and functions out that do nothing but _mm_prefetch.
inline void prefetch(const void *p) { __asm__ volatile("prefetcht1 %0" ::"m"(*(const char *)p)); }

inline F32V add(F32V a, F32V b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32V sub(F32V a, F32V b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32V mul(F32V a, F32V b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32V div(F32V a, F32V b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F32V fma(F32V a, F32V b, F32V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F32V dot_pairs(PairV a, PairV b, F32V c) {
  return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), c));
}
inline F32V neg(F32V a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
inline F32V abs(F32V a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline F32V copysign(F32V a, F32V sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, a.v), _mm256_and_ps(bit, sign.v))};
}
inline F32V max(F32V a, F32V b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F32V min(F32V a, F32V b) { return {_mm256_min_ps(a.v, b.v)}; }

inline MaskV lanes_of(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane))};
}
inline MaskV less(F32V a, F32V b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline MaskV equal(F32V a, F32V b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline F32V select(MaskV m, F32V a, F32V b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
inline F32V add_if(MaskV m, F32V a, F32V b) { return {_mm256_add_ps(a.v, _mm256_and_ps(b.v, m.m))}; }
inline bool any(MaskV m) { return _mm256_movemask_ps(m.m) != 0; }

inline F32V round_bf16(F32V a) {
  const __m256i bits = _mm256_castps_si256(a.v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 rounded = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xffff0000)));
  return {_mm256_blendv_ps(rounded, _mm256_set1_ps(NAN), _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
}
inline F32V times_pow2(F32V a, F32V n) { // two factors, since 2^n alone may over- or underflow
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high))};
}

inline void transpose(F32V (&a)[8]) {
  for (int i = 0; i < 8; i += 4) { // 4 x 4 in each half
    const __m256 low01 = _mm256_unpacklo_ps(a[i].v, a[i + 1].v), high01 = _mm256_unpackhi_ps(a[i].v, a[i + 1].v);
    const __m256 low23 = _mm256_unpacklo_ps(a[i + 2].v, a[i + 3].v), high23 = _mm256_unpackhi_ps(a[i + 2].v, a[i + 3].v);
    a[i].v = _mm256_shuffle_ps(low01, low23, 0x44);
    a[i + 1].v = _mm256_shuffle_ps(low01, low23, 0xee);
    a[i + 2].v = _mm256_shuffle_ps(high01, high23, 0x44);
    a[i + 3].v = _mm256_shuffle_ps(high01, high23, 0xee);
  }
  for (int i = 0; i < 4; ++i) { // then the halves
    const __m256 low = a[i].v, high = a[i + 4].v;
    a[i].v = _mm256_permute2f128_ps(low, high, 0x20);
    a[i + 4].v = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

inline float sum(F32V a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(F32V a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline void sum4(float *out, F32V a, F32V b, F32V c, F32V d) { // sum's tree, four at a time
  const __m256 ac = _mm256_add_ps(_mm256_permute2f128_ps(a.v, c.v, 0x20), _mm256_permute2f128_ps(a.v, c.v, 0x31));
  const __m256 bd = _mm256_add_ps(_mm256_permute2f128_ps(b.v, d.v, 0x20), _mm256_permute2f128_ps(b.v, d.v, 0x31));
  const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee)); // aabb ccdd
  const __m128 ab = _mm256_castps256_ps128(two), cd = _mm256_extractf128_ps(two, 1);
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
}
inline void sum8(float *low, float *high, F32V a, F32V b, F32V c, F32V d, F32V e, F32V f, F32V g, F32V h) {
  sum4(low, a, b, c, d);
  sum4(high, e, f, g, h);
}

} // namespace
