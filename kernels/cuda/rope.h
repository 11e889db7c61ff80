// q/k norm and rotation of one head by a whole warp. A lane holds pairs (c, c + head_dim / 2).
#pragma once
#include "device.h"

/// Of `row`, where `is_some`: q's heads, then k's.
DOGE_DEVICE void rope(const DogeCudaRopeArgs &a, uint32_t row, uint32_t head, bool is_some) {
  const bool is_q = head < a.q_heads;
  float *const x = is_q ? a.q + (size_t)row * a.q_stride + head * a.head_dim
                        : a.k + (size_t)row * a.k_stride + (head - a.q_heads) * a.head_dim;
  const float *const weight = is_q ? a.q_weight : a.k_weight;
  const uint32_t half = a.head_dim / 2;

  float squares = 0.0f;
  for (uint32_t c = dev::lane(); c < a.head_dim; c += 32) squares = dev::fma(x[c], x[c], squares);
  const float scale = 1.0f / sqrtf(dev::warp_sum(squares) / (float)a.head_dim + a.eps);
  if (!is_some) return;
  const size_t table = (size_t)(a.at->place - a.at->table_place + row) * half;
  for (uint32_t c = dev::lane(); c < half; c += 32) {
    float low = x[c], high = x[c + half];
    if (weight != nullptr) low = weight[c] * (low * scale), high = weight[c + half] * (high * scale);
    const float cos = a.cos[table + c], sin = a.sin[table + c];
    x[c] = dev::fma(low, cos, -(high * sin));
    x[c + half] = dev::fma(high, cos, low * sin);
  }
}
