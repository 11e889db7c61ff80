// out[m] = exp(A[m] * softplus(dot(dt_weight[m], v) + bias[m])), m < n_heads
//
// Plan: the dots by gemv, then the pointwise part over the heads in lanes. s is stored once and compared ever after (which
// key is kept), so it must have the same bits for one token and for many: gemv's chains see to that.
#pragma once

namespace {

void mask_score(float *out, const float *dt_weight, const float *bias, const float *A, const float *v, size_t n_heads,
                size_t n) {
  gemv<F32>(out, dt_weight, v, bias, n, 0, n_heads);
  for (size_t m = 0; m < n_heads; m += LANES) {
    const size_t some = n_heads - m < LANES ? n_heads - m : LANES;
    store_n(out + m, exp(mul(load_n(A + m, some), softplus(load_n(out + m, some)))), some);
  }
}

} // namespace
