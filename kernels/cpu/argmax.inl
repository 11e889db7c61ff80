// The lowest index of the largest element; NaN is never the largest.
//
// Plan: the maximum first, in four chains of lanes, then the first place that holds it. Two passes are cheaper than carrying
// indices through the lanes, and make the tie rule obvious. Cost: at most two reads of x.
#pragma once

namespace {

size_t argmax(const float *x, size_t n) {
  // max gives its second operand where one is NaN: a NaN of x never enters.
  const F32V lowest = splat(-INFINITY);
  F32V a = lowest, b = lowest, c = lowest, d = lowest;
  size_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    a = max(load(x + i), a);
    b = max(load(x + i + LANES), b);
    c = max(load(x + i + 2 * LANES), c);
    d = max(load(x + i + 3 * LANES), d);
  }
  for (; i + LANES <= n; i += LANES) a = max(load(x + i), a);
  if (i < n) a = max(load_or(x + i, n - i, -INFINITY), a);
  const float largest = max_lane(max(max(a, b), max(c, d)));

  for (i = 0; i + LANES <= n && !any(equal(load(x + i), splat(largest)));) i += LANES;
  for (; i < n; ++i) {
    if (x[i] == largest) return i;
  }
  return 0;
}

} // namespace
