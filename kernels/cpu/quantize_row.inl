// A row of x in int8, a scale and an offset for each group of 32 (doge_kernels.h, "Activations for integer weights").
//
// Cost: one pass, and two divisions a group. An op of its own, since several linear layers read the same row.
#pragma once

namespace {

void quantize_row(void *out, const float *x, size_t n) {
  const size_t blocks = blocks_of(n);
  int8_t *q = (int8_t *)out;
  float *scale = (float *)(q + blocks * BLOCK_COLS);
  int32_t *offset = (int32_t *)(scale + blocks * 2);
  size_t g = 0;
  for (; (g + 1) * GROUP <= n; ++g) quantize_group(q + g * GROUP, scale + g, offset + g, x + g * GROUP);
  for (; g < 2 * blocks; ++g) {
    float padded[GROUP] = {};
    for (size_t i = g * GROUP; i < n; ++i) padded[i - g * GROUP] = x[i];
    quantize_group(q + g * GROUP, scale + g, offset + g, padded);
  }
}

} // namespace
