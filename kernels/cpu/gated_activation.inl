// out[i] = act(gate[i]) * up[i]; act is a DogeActivation (formulas: doge_kernels.h)
//
// Plan: one loop, instantiated per activation, so that the choice is made once per call. Cost: two reads and one write; the
// polynomial of the activation (vec_math.inl) hides behind them for rows that aren't in the L1 cache.
#pragma once

namespace {

template <DogeActivation> inline F32V activate(F32V x);

template <> inline F32V activate<DOGE_SILU>(F32V x) { return mul(x, sigmoid(x)); }
template <> inline F32V activate<DOGE_GELU>(F32V x) {
  return mul(mul(x, splat(0.5f)), add(splat(1.0f), erf(mul(x, splat(0.707106781f)))));
}
template <> inline F32V activate<DOGE_GELU_TANH>(F32V x) { // 1 + tanh(y) = 2 sigmoid(2y), without the cancellation
  const F32V cubic = fma(mul(mul(x, x), x), splat(0.044715f), x);
  return mul(x, sigmoid(mul(splat(2.0f * 0.797884561f), cubic)));
}
template <> inline F32V activate<DOGE_RELU>(F32V x) { return max(zero(), x); }
template <> inline F32V activate<DOGE_RELU2>(F32V x) {
  const F32V y = max(zero(), x);
  return mul(y, y);
}
template <> inline F32V activate<DOGE_SIGMOID>(F32V x) { return sigmoid(x); }
template <> inline F32V activate<DOGE_TANH>(F32V x) { return tanh(x); }
template <> inline F32V activate<DOGE_QUICK_GELU>(F32V x) { return mul(x, sigmoid(mul(splat(1.702f), x))); }
template <> inline F32V activate<DOGE_MISH>(F32V x) { // tanh(ln(1 + e)) = w / (w + 2), w = e^2 + 2e; 1 in f32 from x = 9 on
  const F32V e = exp(min(splat(20.0f), x)), w = mul(e, add(e, splat(2.0f)));
  return mul(x, div(w, add(w, splat(2.0f))));
}
template <> inline F32V activate<DOGE_LINEAR>(F32V x) { return x; }

template <DogeActivation act> void gated(float *out, const float *gate, const float *up, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, mul(activate<act>(load(gate + i)), load(up + i)));
  if (i < n) store_n(out + i, mul(activate<act>(load_n(gate + i, n - i)), load_n(up + i, n - i)), n - i);
}

void gated_activation(float *out, const float *gate, const float *up, size_t n, uint32_t act) {
  switch ((DogeActivation)act) {
  case DOGE_SILU: return gated<DOGE_SILU>(out, gate, up, n);
  case DOGE_GELU: return gated<DOGE_GELU>(out, gate, up, n);
  case DOGE_GELU_TANH: return gated<DOGE_GELU_TANH>(out, gate, up, n);
  case DOGE_RELU: return gated<DOGE_RELU>(out, gate, up, n);
  case DOGE_RELU2: return gated<DOGE_RELU2>(out, gate, up, n);
  case DOGE_SIGMOID: return gated<DOGE_SIGMOID>(out, gate, up, n);
  case DOGE_TANH: return gated<DOGE_TANH>(out, gate, up, n);
  case DOGE_QUICK_GELU: return gated<DOGE_QUICK_GELU>(out, gate, up, n);
  case DOGE_MISH: return gated<DOGE_MISH>(out, gate, up, n);
  case DOGE_LINEAR: return gated<DOGE_LINEAR>(out, gate, up, n);
  case DOGE_ACTIVATION_COUNT: return; // not an activation; the contract excludes it
  }
}

} // namespace
