// What the integer lanes of avx2 and avxvnni share. int_avx512.h says what each name means.
#pragma once
#include "int_inverse.h"
#include "int_layout.h"

namespace {

constexpr int INT_ROWS = 3, INT_TILES = 1; // 6 sums in integers, up to 4 lines, 1 quad; those in floats in memory
constexpr int INT_UNROLL = 4;
constexpr int INT8_STREAMS = 4, INT4_STREAMS = 4;

inline F32V load_int8(const unsigned char *p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)))};
}
inline F32V nibbles(__m128i n) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_and_si128(n, _mm_set1_epi8(15)));
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(8)))};
}
inline F32V load_low(const unsigned char *p) { return nibbles(_mm_loadl_epi64((const __m128i *)p)); }
inline F32V load_high(const unsigned char *p) { return nibbles(_mm_srli_epi16(_mm_loadl_epi64((const __m128i *)p), 4)); }

inline void quantize_group(int8_t *q, float *scale, int32_t *offset, const float *x) {
  const __m256i sign = _mm256_set1_epi32(INT32_MIN);
  __m256i most = _mm256_setzero_si256(); // as integers, since then NaN is the largest of all
  for (int i = 0; i < 4; ++i) {
    most = _mm256_max_epi32(most, _mm256_andnot_si256(sign, _mm256_loadu_si256((const __m256i *)(x + 8 * i))));
  }
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  const float inverse = inverse_of((uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
  __m256i n[4];
  for (int i = 0; i < 4; ++i) n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(inverse)));
  // The packs work within halves of 128 bits: quads come out as 0 2 4 6 1 3 5 7.
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, order));
  const __m256i sums = _mm256_add_epi32(_mm256_add_epi32(n[0], n[1]), _mm256_add_epi32(n[2], n[3]));
  const __m128i sum4 = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  const __m128i sum2 = _mm_add_epi32(sum4, _mm_shuffle_epi32(sum4, 0x4e));
  *scale = 1.0f / inverse;
  *offset = (int32_t)(-128u * (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(sum2, _mm_shuffle_epi32(sum2, 0xb1))));
}

inline __m256i broadcast_quad(const int8_t *x) {
  int32_t quad;
  memcpy(&quad, x, 4);
  return _mm256_set1_epi32(quad);
}
inline __m256i low_nibbles(const unsigned char *p) {
  return _mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi8(15));
}
inline __m256i high_nibbles(const unsigned char *p) {
  return _mm256_and_si256(_mm256_srli_epi16(_mm256_loadu_si256((const __m256i *)p), 4), _mm256_set1_epi8(15));
}

} // namespace
