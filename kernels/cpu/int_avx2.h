// The integer lanes of AVX2: maddubs. int_avx512.h says what each name means.
#pragma once
#include "int_avx2_common.h"

namespace {

/// Keeps a sum where it is. Compilers reorder integer sums, hold every product of a group at once, and run out of registers.
inline __m256i pinned(__m256i sum) {
  __asm__("" : "+x"(sum));
  return sum;
}

/// The sum of the four products of each lane of two vectors of pairs.
inline __m256i add_pairs(__m256i sum, __m256i pairs) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/// |q| by x with the sign of q: two products of at most 127 * 127 fit 16 bits, where (q + 128) by x would saturate.
struct Int8 : IntLayout<8> {
  static constexpr int QUADS = 1, LINES = 8, STREAMS = INT8_STREAMS;
  struct Dot { __m256i v; };
  struct Quad { __m256i v; };
  struct Signed { __m256i magnitude, sign; };
  struct Line { Signed quad[QUADS]; };
  static Dot begin(const int32_t *) { return {_mm256_setzero_si256()}; }
  static Line load(const unsigned char *p) {
    const __m256i q = _mm256_loadu_si256((const __m256i *)p);
    return {{{_mm256_abs_epi8(q), q}}};
  }
  static Quad broadcast(const int8_t *x) { return {broadcast_quad(x)}; }
  static Dot dot(Dot sum, Signed w, Quad x) {
    return {pinned(add_pairs(sum.v, _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(x.v, w.sign))))};
  }
  static F32V finish(Dot sum, const int32_t *) { return {_mm256_cvtepi32_ps(sum.v)}; }
};

/// The nibble is quant + 8, at most 15: the pairs of all eight quads fit 16 bits together (8 * 2 * 15 * 127 = 30480).
struct Int4 : IntLayout<4> {
  static constexpr int QUADS = 2, LINES = 4, STREAMS = INT4_STREAMS;
  struct Dot { __m256i pairs; };
  using Quad = Int8::Quad;
  struct Line { __m256i quad[QUADS]; };
  static Dot begin(const int32_t *) { return {_mm256_setzero_si256()}; }
  static Line load(const unsigned char *p) { return {{low_nibbles(p), high_nibbles(p)}}; }
  static Quad broadcast(const int8_t *x) { return Int8::broadcast(x); }
  static Dot dot(Dot sum, __m256i w, Quad x) {
    return {pinned(_mm256_add_epi16(sum.pairs, _mm256_maddubs_epi16(w, x.v)))};
  }
  static F32V finish(Dot sum, const int32_t *offset) {
    return {_mm256_cvtepi32_ps(add_pairs(_mm256_srai_epi32(_mm256_set1_epi32(*offset), 4), sum.pairs))};
  }
};

} // namespace
