// q/k norm and rotation of one head by a whole warp. A lane holds pairs (c, c + head_dim / 2).
#pragma once
#include "device.h"

/// Of a head of `row`, from `x` to `out`, which may be the same; where `is_some`.
DOGE_DEVICE void rotate(const DogeCudaRopeArgs &a, uint32_t row, const float *x, const float *weight, float *out, bool is_some) {
  const uint32_t half = a.head_dim / 2;
  float squares = 0.0f;
#pragma unroll 4
  for (uint32_t c = dev::lane(); c < a.head_dim; c += 32) squares = dev::fma(x[c], x[c], squares);
  const float scale = 1.0f / sqrtf(dev::warp_sum(squares) / (float)a.head_dim + a.eps);
  if (!is_some) return;
  const size_t table = (size_t)(a.at->place - a.at->table_place + row) * half;
#pragma unroll 2
  for (uint32_t c = dev::lane(); c < half; c += 32) {
    float low = x[c], high = x[c + half];
    if (weight != nullptr) low = weight[c] * (low * scale), high = weight[c + half] * (high * scale);
    const float cos = a.cos[table + c], sin = a.sin[table + c];
    out[c] = dev::fma(low, cos, -(high * sin));
    out[c + half] = dev::fma(high, cos, low * sin);
  }
}
