// The integer lanes of AVX-VNNI: dpbusd on 256 bits. int_avx512.h says what each name means.
#pragma once
#include "int_avx2_common.h"

namespace {

/// dpbusd takes unsigned by signed: quants + 128 by x, the sum begun at -128 * sum of x.
struct Int8 : IntLayout<8> {
  static constexpr int QUADS = 1, LINES = 8, STREAMS = INT8_STREAMS;
  struct Dot { __m256i v; };
  struct Quad { __m256i v; };
  struct Line { __m256i quad[QUADS]; };
  static Dot begin(const int32_t *offset) { return {_mm256_set1_epi32(*offset)}; }
  static Line load(const unsigned char *p) {
    return {{_mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi8((char)0x80))}};
  }
  static Quad broadcast(const int8_t *x) { return {broadcast_quad(x)}; }
  static Dot dot(Dot sum, __m256i w, Quad x) { return {_mm256_dpbusd_avx_epi32(sum.v, w, x.v)}; }
  static F32V finish(Dot sum, const int32_t *) { return {_mm256_cvtepi32_ps(sum.v)}; }
};

/// The nibble is quant + 8: the sum begins at -8 * sum of x.
struct Int4 : IntLayout<4> {
  static constexpr int QUADS = 2, LINES = 4, STREAMS = INT4_STREAMS;
  using Dot = Int8::Dot;
  using Quad = Int8::Quad;
  struct Line { __m256i quad[QUADS]; };
  static Dot begin(const int32_t *offset) { return {_mm256_srai_epi32(_mm256_set1_epi32(*offset), 4)}; }
  static Line load(const unsigned char *p) { return {{low_nibbles(p), high_nibbles(p)}}; }
  static Quad broadcast(const int8_t *x) { return Int8::broadcast(x); }
  static Dot dot(Dot sum, __m256i w, Quad x) { return Int8::dot(sum, w, x); }
  static F32V finish(Dot sum, const int32_t *offset) { return Int8::finish(sum, offset); }
};

} // namespace
