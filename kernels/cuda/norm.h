// rms_norm of one row by a block of threads (spec 4.1). A thread takes quads of neighbouring columns in turn and sums their squares
// in ascending columns; lanes and warps are folded by a fixed tree: one order, whoever norms the row.
#pragma once
#include "device.h"

namespace row_norm {

constexpr uint32_t THREADS = DOGE_CUDA_THREADS, WARPS = THREADS / 32, QUAD = 4;

/// What the row is multiplied with, of each thread's sum of squares. `part` is shared; barriers inside.
DOGE_DEVICE float scale(float (&part)[WARPS], float squares, uint32_t cols, float eps) {
  squares = dev::warp_sum(squares);
  if (dev::lane() == 0) part[dev::warp()] = squares;
  dev::sync();
  float sum = 0.0f;
  for (uint32_t i = 0; i < WARPS; ++i) sum += part[i];
  return 1.0f / sqrtf(sum / (float)cols + eps);
}

/// Adds a quad's squares, in ascending columns.
DOGE_DEVICE float add_squares(float squares, const dev::Words4 &quad) {
#pragma unroll
  for (uint32_t j = 0; j < QUAD; ++j) {
    const float value = dev::from_bits(quad.w[j]);
    squares = dev::fma(value, value, squares);
  }
  return squares;
}

/// A quad of the normed row.
DOGE_DEVICE dev::Words4 normed(const dev::Words4 &weight, const dev::Words4 &quad, float by) {
  dev::Words4 y;
#pragma unroll
  for (uint32_t j = 0; j < QUAD; ++j) y.w[j] = dev::bits(dev::from_bits(weight.w[j]) * (dev::from_bits(quad.w[j]) * by));
  return y;
}

/// A row that a projection norms itself.
struct Row {
  float part[WARPS];
  alignas(16) float x[DOGE_CUDA_NORM_COLS_MAX];
};

/// A thread's quads of a row, or of its weight, with the row's padding.
struct Quads {
  static constexpr uint32_t N = DOGE_CUDA_NORM_COLS_MAX / (QUAD * THREADS);
  dev::Words4 quad[N];
  DOGE_DEVICE void load(const float *row, uint32_t cols) {
#pragma unroll
    for (uint32_t i = 0; i < N; ++i) {
      const uint32_t c = (dev::thread() + i * THREADS) * QUAD;
      if (c < cols) quad[i] = dev::load16(row + c);
    }
  }
};

/// The normed row `mine`, with its padding. Barriers inside, one at the end.
DOGE_DEVICE const float *apply(Row &row, const Quads &weight, const Quads &mine, uint32_t cols, float eps) {
  float squares = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < Quads::N; ++i) {
    if ((dev::thread() + i * THREADS) * QUAD < cols) squares = add_squares(squares, mine.quad[i]);
  }
  const float by = scale(row.part, squares, cols, eps);
  // Padding is zero, and stays so.
#pragma unroll
  for (uint32_t i = 0; i < Quads::N; ++i) {
    const uint32_t c = (dev::thread() + i * THREADS) * QUAD;
    if (c < cols) dev::store16(row.x + c, normed(weight.quad[i], mine.quad[i], by));
  }
  for (uint32_t c = (cols + QUAD - 1) / QUAD * QUAD + dev::thread(); c < (cols + DOGE_CUDA_PAD - 1) / DOGE_CUDA_PAD * DOGE_CUDA_PAD; c += THREADS) {
    row.x[c] = 0.0f;
  }
  dev::sync();
  return row.x;
}

}  // namespace row_norm
