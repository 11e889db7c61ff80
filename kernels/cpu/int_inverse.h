// What all levels do alike to quantise a group.
#pragma once
#include "weight.h"

#include <float.h>

namespace {

/// 127 / max, and FLT_MAX where that is beyond f32; NaN for NaN. `max_bits` are the bits of the largest magnitude.
inline float inverse_of(uint32_t max_bits) {
  const float inverse = 127.0f / float_of_bits(max_bits);
  return FLT_MAX < inverse ? FLT_MAX : inverse;
}

} // namespace
