// The integer lanes of the scalar level. int_avx512.h says what each name means.
#pragma once
#include "int_inverse.h"
#include "int_layout.h"

namespace {

constexpr int INT_ROWS = 1, INT_TILES = 1, INT_UNROLL = 1, INT8_STREAMS = 1, INT4_STREAMS = 1;

inline F32V load_int8(const unsigned char *p) { return {(float)(int8_t)*p}; }
inline F32V load_low(const unsigned char *p) { return {(float)((*p & 15) - 8)}; }
inline F32V load_high(const unsigned char *p) { return {(float)((*p >> 4) - 8)}; }

inline void quantize_group(int8_t *q, float *scale, int32_t *offset, const float *x) {
  uint32_t most = 0;
  for (size_t i = 0; i < GROUP; ++i) {
    const uint32_t bits = bits_of_float(x[i]) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  const float inverse = inverse_of(most);
  int32_t sum = 0;
  for (size_t i = 0; i < GROUP; ++i) {
    // Adding 1.5 * 2^23 rounds to the nearest whole number, ties to even, and leaves it in the low bits. Of NaN and infinity
    // some bits remain; the scale tells.
    const int32_t n = (int8_t)bits_of_float(x[i] * inverse + 12582912.0f);
    q[i] = (int8_t)n;
    sum += n;
  }
  *scale = 1.0f / inverse;
  *offset = -128 * sum;
}

struct Int8 : IntLayout<8> {
  static constexpr int QUADS = 1, LINES = 8, STREAMS = INT8_STREAMS;
  struct Dot { int32_t v; };
  struct Quad { const int8_t *x; };
  struct Line { int8_t quad[QUADS][4]; };
  static Dot begin(const int32_t *) { return {0}; }
  static Line load(const unsigned char *p) { return {{{(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]}}}; }
  static Quad broadcast(const int8_t *x) { return {x}; }
  static Dot dot(Dot sum, const int8_t *w, Quad x) {
    return {sum.v + w[0] * x.x[0] + w[1] * x.x[1] + w[2] * x.x[2] + w[3] * x.x[3]};
  }
  static F32V finish(Dot sum, const int32_t *) { return {(float)sum.v}; }
};

struct Int4 : IntLayout<4> {
  static constexpr int QUADS = 2, LINES = 4, STREAMS = INT4_STREAMS;
  using Dot = Int8::Dot;
  using Quad = Int8::Quad;
  struct Line { int8_t quad[QUADS][4]; };
  static Dot begin(const int32_t *) { return {0}; }
  static Line load(const unsigned char *p) {
    Line line;
    for (int i = 0; i < 4; ++i) {
      line.quad[0][i] = (int8_t)((p[i] & 15) - 8);
      line.quad[1][i] = (int8_t)((p[i] >> 4) - 8);
    }
    return line;
  }
  static Quad broadcast(const int8_t *x) { return {x}; }
  static Dot dot(Dot sum, const int8_t *w, Quad x) { return Int8::dot(sum, w, x); }
  static F32V finish(Dot sum, const int32_t *offset) { return Int8::finish(sum, offset); }
};

} // namespace
