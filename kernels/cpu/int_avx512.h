// The integer lanes of the AVX-512 levels (VNNI).
//
// An integer lane header is all that the integer ops know of their ISA. The four have the same names:
//   load_int8, load_low, load_high   LANES quants of a row's group as floats: int8, and the nibbles minus 8
//   quantize_group                   32 floats to int8 (doge_kernels.h, "Activations for integer weights")
//   INT8_STREAMS, INT4_STREAMS       runs of tiles that gemv reads side by side
//   Int8, Int4                       how a group of a tile meets a group of x, LANES outputs at a time:
//     Dot       the integer sum of LANES outputs; `begin` starts it, `finish` makes floats of it
//     Line      LANES outputs of a line, as QUADS vectors of one quad of columns each: quad l, and for int4 quad l + 4
//     Quad      one quad of x in every lane
#pragma once
#include "int_inverse.h"
#include "int_layout.h"

namespace {

constexpr int INT_ROWS = 6, INT_TILES = 2; // 12 sums in integers, 12 in floats, 2 lines, 1 quad: 27 of the 32 registers
constexpr int INT_UNROLL = 8;              // lines of the inner loop: a whole group without a jump or a register copied
#ifdef __AVX512BF16__
constexpr int INT8_STREAMS = 1, INT4_STREAMS = 2; // for AMD's CPUs; on Intel's the level is not chosen
#else
constexpr int INT8_STREAMS = 4, INT4_STREAMS = 4; // only Intel's CPUs end here
#endif

inline F32V load_int8(const unsigned char *p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)))};
}
inline F32V nibbles(__m128i n) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_and_si128(n, _mm_set1_epi8(15)));
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(wide, _mm512_set1_epi32(8)))};
}
inline F32V load_low(const unsigned char *p) { return nibbles(_mm_loadu_si128((const __m128i *)p)); }
inline F32V load_high(const unsigned char *p) { return nibbles(_mm_srli_epi16(_mm_loadu_si128((const __m128i *)p), 4)); }

inline void quantize_group(int8_t *q, float *scale, int32_t *offset, const float *x) {
  const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
  // As integers, since then NaN is the largest of all.
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  const __m512i bits = _mm512_max_epi32(_mm512_andnot_si512(sign, _mm512_castps_si512(a)), _mm512_andnot_si512(sign, _mm512_castps_si512(b)));
  const float inverse = inverse_of((uint32_t)_mm512_reduce_max_epi32(bits));
  // Of what is not finite INT_MIN is made: q would be -128, and the offset not the one of that.
  const __m512i least = _mm512_set1_epi32(-128);
  const __m512i qa = _mm512_max_epi32(least, _mm512_cvtps_epi32(_mm512_mul_ps(a, _mm512_set1_ps(inverse))));
  const __m512i qb = _mm512_max_epi32(least, _mm512_cvtps_epi32(_mm512_mul_ps(b, _mm512_set1_ps(inverse))));
  _mm_storeu_si128((__m128i *)q, _mm512_cvtsepi32_epi8(qa));
  _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtsepi32_epi8(qb));
  *scale = 1.0f / inverse;
  *offset = (int32_t)(-128u * (uint32_t)_mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb)));
}

/// dpbusd takes unsigned by signed: quants + 128 by x, the sum begun at -128 * sum of x.
struct Int8 : IntLayout<8> {
  static constexpr int QUADS = 1, LINES = 8, STREAMS = INT8_STREAMS;
  struct Dot { __m512i v; };
  struct Quad { __m512i v; };
  struct Line { __m512i quad[QUADS]; };
  static Dot begin(const int32_t *offset) { return {_mm512_set1_epi32(*offset)}; }
  static Line load(const unsigned char *p) {
    return {{_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)0x80))}};
  }
  static Quad broadcast(const int8_t *x) {
    int32_t quad;
    memcpy(&quad, x, 4);
    return {_mm512_set1_epi32(quad)};
  }
  static Dot dot(Dot sum, __m512i w, Quad x) { return {_mm512_dpbusd_epi32(sum.v, w, x.v)}; }
  static F32V finish(Dot sum, const int32_t *) { return {_mm512_cvtepi32_ps(sum.v)}; }
};

/// The nibble is quant + 8: the sum begins at -8 * sum of x.
struct Int4 : IntLayout<4> {
  static constexpr int QUADS = 2, LINES = 4, STREAMS = INT4_STREAMS;
  using Dot = Int8::Dot;
  using Quad = Int8::Quad;
  struct Line { __m512i quad[QUADS]; };
  static Dot begin(const int32_t *offset) { return {_mm512_srai_epi32(_mm512_set1_epi32(*offset), 4)}; }
  static Line load(const unsigned char *p) {
    const __m512i both = _mm512_loadu_si512(p), low = _mm512_set1_epi8(15);
    return {{_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16(both, 4), low)}};
  }
  static Quad broadcast(const int8_t *x) { return Int8::broadcast(x); }
  static Dot dot(Dot sum, __m512i w, Quad x) { return Int8::dot(sum, w, x); }
  static F32V finish(Dot sum, const int32_t *offset) { return Int8::finish(sum, offset); }
};

} // namespace
