// rms_norm, alone or after the gated residual: one block a row.
#include "norm.h"

namespace {

using row_norm::QUAD;

struct Shared {
  float part[row_norm::WARPS];
};

}  // namespace

DOGE_KERNEL(doge_rms_norm, DOGE_CUDA_THREADS, DogeCudaNormArgs) {
  Shared &shared = dev::shared<Shared>();
  dev::launch_next();
  dev::wait_for_previous();
  const size_t row = (size_t)dev::block_x() * a.stride;
  float *const x = a.x + row;
  float squares = 0.0f;
  for (uint32_t quad = dev::thread() * QUAD; quad < a.cols; quad += DOGE_CUDA_THREADS * QUAD) {
    for (uint32_t c = quad; c < dev::least(quad + QUAD, a.cols); ++c) {
      float value = x[c];
      if (a.gate != nullptr) {
        value = dev::fma(a.gate[c], value, a.branch[row + c]);
        x[c] = value;
      }
      squares = dev::fma(value, value, squares);
    }
  }
  const float scale = row_norm::scale(shared.part, squares, a.cols, a.eps);
  for (uint32_t quad = dev::thread() * QUAD; quad < a.cols; quad += DOGE_CUDA_THREADS * QUAD) {
    for (uint32_t c = quad; c < dev::least(quad + QUAD, a.cols); ++c) {
      const float y = a.weight[c] * (x[c] * scale);
      a.out[row + c] = y;
      if (a.rounded != nullptr) a.rounded[row + c] = dev::to_bf16(y);
    }
  }
}
