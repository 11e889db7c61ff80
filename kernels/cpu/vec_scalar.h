// The lanes of the scalar level: one. Plain C++ that any target compiles; the reference for nothing, but the same bodies run
// on it as on the wide levels, so every loop and tail is checked on every machine.
//
// The three lane headers have the same functions in the same order; vec_avx512.h says what each means.
#pragma once
#include "weight.h"

#include <math.h>

namespace {

constexpr size_t LANES = 1;
constexpr int TILE_ROWS = 4, TILE_COLS = 2; // 8 sums, for register files of 16
constexpr int MIX_ROWS = 2, MIX_SUMS = 16;
constexpr int SCORE_KEYS = 3, SCORE_VECTORS = 8;
constexpr int GEMV_STREAMS = 6; // a single lane is bound by the latency of its chains, not by memory

struct F32V { float v; };
struct MaskV { bool m; };
struct PairV { F32V even, odd; };

inline F32V zero() { return {0.0f}; }
inline F32V splat(float x) { return {x}; }

inline F32V load(const float *p) { return {*p}; }
inline F32V load_n(const float *p, size_t) { return {*p}; }
inline F32V load_or(const float *p, size_t, float) { return {*p}; }
inline void store(float *p, F32V a) { *p = a.v; }
inline void store_n(float *p, F32V a, size_t) { *p = a.v; }

inline F32V load(const F32 *p) {
  float x;
  memcpy(&x, p, 4);
  return {x};
}
inline F32V load(const Bf16 *p) {
  uint16_t half;
  memcpy(&half, p, 2);
  return {float_of_bits((uint32_t)half << 16)};
}
inline F32V load(const F16 *p) {
  uint16_t half;
  memcpy(&half, p, 2);
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
  if (exponent == 0) { // zero or subnormal: fraction * 2^-24, exact in f32
    return {float_of_bits(sign | bits_of_float((float)fraction * 0x1p-24f))};
  }
  if (exponent == 31) { // infinity or NaN, which comes out quiet as from the hardware
    return {float_of_bits(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0))};
  }
  return {float_of_bits(sign | (exponent + 112) << 23 | fraction << 13)};
}
template <class W> inline F32V load_n(const W *p, size_t) { return load(p); }
inline PairV load_pairs(const Bf16 *p) { return {load(p), load(p + 1)}; }
inline PairV load_pairs_n(const Bf16 *p, size_t) { return {load(p), zero()}; }
inline PairV splat_pair(const Bf16 *p) { return load_pairs(p); }
inline PairV pairs_of(F32V first, F32V second) { return {first, second}; }
inline PairV pairs_of(const Bf16 *first, const Bf16 *second) { return {load(first), load(second)}; }
inline PairV pairs_of_n(const Bf16 *first, const Bf16 *second, size_t) { return pairs_of(first, second); }
inline F32V first_of(PairV a) { return a.even; }
inline F32V second_of(PairV a) { return a.odd; }
inline void store_pairs(float *p, PairV a) { *p = float_of_bits(bits_of_float(a.odd.v) | bits_of_float(a.even.v) >> 16); }
inline PairV load_pairs(const float *p) {
  const uint32_t bits = bits_of_float(*p);
  return {{float_of_bits(bits << 16)}, {float_of_bits(bits & 0xffff0000)}};
}
inline void prefetch(const void *) {}

inline F32V add(F32V a, F32V b) { return {a.v + b.v}; }
inline F32V sub(F32V a, F32V b) { return {a.v - b.v}; }
inline F32V mul(F32V a, F32V b) { return {a.v * b.v}; }
inline F32V div(F32V a, F32V b) { return {a.v / b.v}; }
#ifdef __FP_FAST_FMAF
inline F32V fma(F32V a, F32V b, F32V c) { return {fmaf(a.v, b.v, c.v)}; }
#else // two roundings: fmaf in software is some 50 times slower
inline F32V fma(F32V a, F32V b, F32V c) { return {a.v * b.v + c.v}; }
#endif
inline F32V dot_pairs(PairV a, PairV b, F32V c) { return fma(a.odd, b.odd, fma(a.even, b.even, c)); }
inline F32V neg(F32V a) { return {-a.v}; }
inline F32V abs(F32V a) { return {float_of_bits(bits_of_float(a.v) & 0x7fffffff)}; }
inline F32V copysign(F32V a, F32V sign) {
  return {float_of_bits((bits_of_float(a.v) & 0x7fffffff) | (bits_of_float(sign.v) & 0x80000000))};
}
inline F32V max(F32V a, F32V b) { return {a.v > b.v ? a.v : b.v}; }
inline F32V min(F32V a, F32V b) { return {a.v < b.v ? a.v : b.v}; }

inline MaskV lanes_of(uint32_t bits) { return {(bits & 1) != 0}; }
inline MaskV less(F32V a, F32V b) { return {a.v < b.v}; }
inline MaskV equal(F32V a, F32V b) { return {a.v == b.v}; }
inline F32V select(MaskV m, F32V a, F32V b) { return m.m ? a : b; }
inline F32V add_if(MaskV m, F32V a, F32V b) { return m.m ? F32V{a.v + b.v} : a; }
inline bool any(MaskV m) { return m.m; }

inline F32V round_bf16(F32V a) {
  const uint32_t bits = bits_of_float(a.v);
  return a.v == a.v ? F32V{float_of_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000)} : F32V{float_of_bits(0x7fc00000)};
}
inline F32V times_pow2(F32V a, F32V n) {
  const int whole = n.v == n.v ? (int)n.v : 0, half = whole / 2; // two factors, since 2^n alone may over- or underflow
  return {a.v * float_of_bits((uint32_t)(half + 127) << 23) * float_of_bits((uint32_t)(whole - half + 127) << 23)};
}

inline void transpose(F32V (&)[1]) {}

inline float sum(F32V a) { return a.v; }
inline float max_lane(F32V a) { return a.v; }
inline void sum4(float *out, F32V a, F32V b, F32V c, F32V d) {
  out[0] = a.v;
  out[1] = b.v;
  out[2] = c.v;
  out[3] = d.v;
}
inline void sum8(float *low, float *high, F32V a, F32V b, F32V c, F32V d, F32V e, F32V f, F32V g, F32V h) {
  sum4(low, a, b, c, d);
  sum4(high, e, f, g, h);
}

} // namespace
