// rms_norm:           out[i] = weight[i] * x[i] / sqrt(mean(x^2) + eps), row after row
// residual_rms_norm:  x[i] = gate[i] * x[i] + branch[i], then out = rms_norm(x), row after row
// qk_norm:            rms_norm of each head's row, one weight for all, in place
//
// Plan: the squares of a row are summed, then the row is scaled; while one row is scaled the squares of the next are summed,
// so that nobody waits for a square root. Cost: two reads of x, the second from the L1 cache. Four chains of squares, so
// that a short row isn't bound by the latency of fma.
#pragma once

namespace {

/// The rows of x as they are.
struct PlainRows {
  const float *x;
  F32V take(size_t i) const { return load(x + i); }
  F32V take_n(size_t i, size_t n) const { return load_n(x + i, n); }
  PlainRows after(size_t n) const { return {x + n}; }
};

/// The rows of x after the gated residual, which is written as it is taken.
struct ResidualRows {
  float *x;
  const float *gate, *branch;
  F32V take(size_t i) const {
    const F32V sum = fma(load(gate + i), load(x + i), load(branch + i));
    store(x + i, sum);
    return sum;
  }
  F32V take_n(size_t i, size_t n) const {
    const F32V sum = fma(load_n(gate + i, n), load_n(x + i, n), load_n(branch + i, n));
    store_n(x + i, sum, n);
    return sum;
  }
  ResidualRows after(size_t n) const { return {x + n, gate, branch + n}; }
};

/// Scales row x if `scales`; takes row `next` and returns its sum of squares if `sums`.
template <bool scales, bool sums, class Rows>
inline float pass(float *out, const float *x, const float *weight, F32V scale, Rows next, size_t n) {
  F32V chain[4] = {zero(), zero(), zero(), zero()};
  auto step = [&](size_t i, F32V &squares) {
    if constexpr (sums) {
      const F32V xs = next.take(i);
      squares = fma(xs, xs, squares);
    }
    if constexpr (scales) store(out + i, mul(load(weight + i), mul(load(x + i), scale)));
  };
  size_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    for (int j = 0; j < 4; ++j) step(i + j * LANES, chain[j]);
  }
  for (; i + LANES <= n; i += LANES) step(i, chain[0]);
  if (i < n) {
    if constexpr (sums) {
      const F32V xs = next.take_n(i, n - i);
      chain[0] = fma(xs, xs, chain[0]);
    }
    if constexpr (scales) store_n(out + i, mul(load_n(weight + i, n - i), mul(load_n(x + i, n - i), scale)), n - i);
  }
  return sums ? sum(add(add(chain[0], chain[1]), add(chain[2], chain[3]))) : 0.0f;
}

template <class Rows> inline void norm_rows(float *out, Rows rows, const float *weight, size_t n_rows, size_t n, float eps) {
  if (n_rows == 0) return;
  float squares = pass<false, true>(nullptr, nullptr, nullptr, zero(), rows, n);
  for (; n_rows > 0; --n_rows, out += n) {
    const F32V scale = splat(1.0f / sqrtf(squares / (float)n + eps));
    const float *x = rows.x;
    rows = rows.after(n);
    if (n_rows > 1) squares = pass<true, true>(out, x, weight, scale, rows, n);
    else pass<true, false>(out, x, weight, scale, rows, n);
  }
}

void rms_norm(float *out, const float *x, const float *weight, size_t n_rows, size_t n, float eps) {
  norm_rows(out, PlainRows{x}, weight, n_rows, n, eps);
}

void residual_rms_norm(float *out, float *x, const float *gate, const float *branch, const float *weight, size_t n_rows, size_t n,
                       float eps) {
  norm_rows(out, ResidualRows{x, gate, branch}, weight, n_rows, n, eps);
}

void qk_norm(float *x, const float *weight, size_t n_heads, size_t head_dim, float eps) {
  rms_norm(x, x, weight, n_heads, head_dim, eps);
}

} // namespace
