// Parts of dynamic mask attention: sums, and how they are merged.
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

/// A query that sees nothing gets zeros.
DOGE_DEVICE float quotient(float out, float sum) { return sum > 0.0f ? out / sum : (sum == 0.0f ? 0.0f : sum); }

}  // namespace attention
