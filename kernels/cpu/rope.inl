// y[c] = x[c] cos[c] - x[c+half] sin[c];  y[c+half] = x[c+half] cos[c] + x[c] sin[c];  c < half = head_dim / 2
//
// Plan: the two halves of a head side by side, in place. Cost: one read and one write of x, four flops an element.
#pragma once

namespace {

void rope(float *x, const float *cos, const float *sin, size_t n_heads, size_t head_dim) {
  const size_t half = head_dim / 2;
  for (size_t h = 0; h < n_heads; ++h) {
    float *low = x + h * head_dim, *high = low + half;
    size_t c = 0;
    for (; c + LANES <= half; c += LANES) {
      const F32V a = load(low + c), b = load(high + c), co = load(cos + c), si = load(sin + c);
      store(low + c, fma(a, co, neg(mul(b, si))));
      store(high + c, fma(b, co, mul(a, si)));
    }
    if (c < half) {
      const size_t n = half - c;
      const F32V a = load_n(low + c, n), b = load_n(high + c, n), co = load_n(cos + c, n), si = load_n(sin + c, n);
      store_n(low + c, fma(a, co, neg(mul(b, si))), n);
      store_n(high + c, fma(b, co, mul(a, si)), n);
    }
  }
}

} // namespace
