// Weights as they are stored. A checkpoint is used in place from a memory map, so a weight may stand at any address: the
// element types have alignment 1, and only the loads of the lane headers look inside them.
#pragma once
#include "../doge_kernels.h"

#include <string.h>

namespace {

struct F32 { unsigned char bytes[4]; };
struct Bf16 { unsigned char bytes[2]; }; // the upper half of an f32
struct F16 { unsigned char bytes[2]; };  // IEEE binary16: 1 sign, 5 exponent, 10 fraction bits

inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

} // namespace
