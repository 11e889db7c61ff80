// rms_norm:           out[i] = weight[i] * x[i] / sqrt(mean(x^2) + eps)
// residual_rms_norm:  x[i] = gate[i] * x[i] + branch[i], then out = rms_norm(x)
// qk_norm:            rms_norm of each head's row, one weight for all, in place
//
// Plan: one pass for the sum of squares, one to scale. Cost: two reads of x, which stays in the L1 cache. The idea: four
// chains of squares, so that a short row isn't bound by the latency of fma.
#pragma once

namespace {

inline float sum_of_squares(const float *x, size_t n) {
  F32V a = zero(), b = zero(), c = zero(), d = zero();
  size_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    const F32V xa = load(x + i), xb = load(x + i + LANES), xc = load(x + i + 2 * LANES), xd = load(x + i + 3 * LANES);
    a = fma(xa, xa, a);
    b = fma(xb, xb, b);
    c = fma(xc, xc, c);
    d = fma(xd, xd, d);
  }
  for (; i < n; i += LANES) {
    const F32V xa = i + LANES <= n ? load(x + i) : load_n(x + i, n - i);
    a = fma(xa, xa, a);
  }
  return sum(add(add(a, b), add(c, d)));
}

void rms_norm(float *out, const float *x, const float *weight, size_t n, float eps) {
  const F32V scale = splat(1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps));
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, mul(load(weight + i), mul(load(x + i), scale)));
  if (i < n) store_n(out + i, mul(load_n(weight + i, n - i), mul(load_n(x + i, n - i), scale)), n - i);
}

void residual_rms_norm(float *out, float *x, const float *gate, const float *branch, const float *weight, size_t n,
                       float eps) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) store(x + i, fma(load(gate + i), load(x + i), load(branch + i)));
  if (i < n) store_n(x + i, fma(load_n(gate + i, n - i), load_n(x + i, n - i), load_n(branch + i, n - i)), n - i);
  rms_norm(out, x, weight, n, eps);
}

void qk_norm(float *x, const float *weight, size_t n_heads, size_t head_dim, float eps) {
  for (size_t h = 0; h < n_heads; ++h) rms_norm(x + h * head_dim, x + h * head_dim, weight, head_dim, eps);
}

} // namespace
