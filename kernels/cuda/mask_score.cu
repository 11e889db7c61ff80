// s of a key, for every mask head: a warp for each (row, mask head).
#include "activation.h"
#include "weight.h"

DOGE_KERNEL(doge_mask_score, DOGE_CUDA_THREADS, DogeCudaMaskScoreArgs) {
  const uint32_t index = dev::block_x() * (DOGE_CUDA_THREADS / 32) + dev::warp();
  const bool is_some = index < a.n_rows * a.n_heads;
  const uint32_t row = is_some ? index / a.n_heads : 0, head = is_some ? index % a.n_heads : 0;
  const float *const v = a.v + (size_t)row * a.v_stride, *const w = a.dt_weight + (size_t)head * a.v_stride;
  float dt = 0.0f;
  for (uint32_t c = dev::lane() * weight::CHUNK; c < a.v_stride; c += 32 * weight::CHUNK) {
    const weight::Chunk x = weight::load_floats(v + c), y = weight::load_floats(w + c);
    for (uint32_t i = 0; i < weight::CHUNK; ++i) dt = dev::fma(x.x[i], y.x[i], dt);
  }
  dt = dev::warp_sum(dt);
  if (!is_some || dev::lane() != 0) return;
  if (a.bias != nullptr) dt += a.bias[head];
  a.out[(size_t)row * a.n_heads + head] = expf(a.A[head] * activation::softplus(dt));
}
