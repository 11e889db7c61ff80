// Parts of dynamic mask attention (dynamic_mask_attention.cu) that decode.cu needs too.
#pragma once
#include "device.h"

namespace attention {

/// Joins two parts of a softmax. The sum of one that is not empty is at least 1.
DOGE_DEVICE void merge(float &largest, float &sum, float *out, int columns, float other_largest, float other_sum, const float *other) {
  if (other_sum == 0.0f) return;
  const float top = dev::larger(largest, other_largest);
  const float mine = expf(largest - top), others = expf(other_largest - top);
  largest = top;
  sum = dev::fma(sum, mine, other_sum * others);
  for (int i = 0; i < columns; ++i) out[i] = dev::fma(out[i], mine, other[i] * others);
}

/// With sliding_window: the first key that a query sees, if it is kept.
DOGE_DEVICE uint32_t window_first(const DogeCudaAttentionArgs &a, uint32_t query) {
  const uint32_t place = a.at->place + query;
  return place - dev::least(place, a.window - 1);
}

/// The keys of a single query: slots, or whole tiles of places up to its own.
struct Range {
  uint32_t begin, end;
};

DOGE_DEVICE Range range(const DogeCudaAttentionArgs &a, uint32_t m) {
  if (a.seen == nullptr) return {0, a.kept.count[m]};
  return {window_first(a, 0) / DOGE_CUDA_TILE * DOGE_CUDA_TILE, a.at->place + 1};
}

/// A query that sees nothing gets zeros.
DOGE_DEVICE float quotient(float out, float sum) { return sum > 0.0f ? out / sum : (sum == 0.0f ? 0.0f : sum); }

/// Merges the tiles of one query and head, in ascending order.
DOGE_DEVICE void merge_tiles(const DogeCudaAttentionArgs &a, uint32_t head) {
  const uint32_t m = head / (a.q_heads / a.kept.mask_heads);
  const Range all = range(a, m);
  const uint32_t tiles = (all.end - all.begin + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
  for (uint32_t c = dev::thread(); c < a.head_dim; c += DOGE_CUDA_THREADS) {
    float largest = -dev::infinity(), sum = 0.0f, out = 0.0f;
#pragma unroll 4
    for (uint32_t i = 0; i < tiles; ++i) {
      const float *const partial = a.partial + ((size_t)head * a.partial_tiles + i) * (2 + a.head_dim);
      merge(largest, sum, &out, 1, partial[0], partial[1], partial + 2 + c);
    }
    a.out[(size_t)head * a.head_dim + c] = quotient(out, sum);
  }
}

}  // namespace attention
