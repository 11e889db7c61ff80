// s of a key (spec 4.4), by a whole warp.
#pragma once
#include "activation.h"
#include "weight.h"

/// Of one row of v. Lane 0 has it.
DOGE_DEVICE float mask_score(const DogeCudaMaskScoreArgs &a, const float *v, uint32_t head) {
  const float *const w = a.dt_weight + (size_t)head * a.v_stride;
  // Asked for now, needed at the end.
  const float bias = a.bias != nullptr ? a.bias[head] : 0.0f, A = a.A[head];
  float dt = 0.0f;
#pragma unroll 2
  for (uint32_t c = dev::lane() * weight::CHUNK; c < a.v_stride; c += 32 * weight::CHUNK) {
    const weight::Chunk x = weight::load_floats(v + c), y = weight::load_floats(w + c);
    for (uint32_t i = 0; i < weight::CHUNK; ++i) dt = dev::fma(x.x[i], y.x[i], dt);
  }
  dt = dev::warp_sum(dt);
  if (a.bias != nullptr) dt += bias;
  return expf(A * activation::softplus(dt));
}
