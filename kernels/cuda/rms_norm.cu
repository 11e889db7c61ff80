// rms_norm, alone or after the gated residual: one block a row. Each thread sums the squares of its columns, lanes and warps
// are folded by a fixed tree.
#include "device.h"

namespace {

constexpr uint32_t WARPS = DOGE_CUDA_THREADS / 32;

struct Shared {
  float part[WARPS];
};

}  // namespace

DOGE_KERNEL(doge_rms_norm, DOGE_CUDA_THREADS, DogeCudaNormArgs) {
  Shared &shared = dev::shared<Shared>();
  const size_t row = (size_t)dev::block_x() * a.stride;
  float *const x = a.x + row;
  float squares = 0.0f;
  for (uint32_t c = dev::thread(); c < a.cols; c += DOGE_CUDA_THREADS) {
    float value = x[c];
    if (a.gate != nullptr) {
      value = dev::fma(a.gate[c], value, a.branch[row + c]);
      x[c] = value;
    }
    squares = dev::fma(value, value, squares);
  }
  squares = dev::warp_sum(squares);
  if (dev::lane() == 0) shared.part[dev::warp()] = squares;
  dev::sync();
  float sum = 0.0f;
  for (uint32_t i = 0; i < WARPS; ++i) sum += shared.part[i];
  const float scale = 1.0f / sqrtf(sum / (float)a.cols + a.eps);
  for (uint32_t c = dev::thread(); c < a.cols; c += DOGE_CUDA_THREADS) {
    const float y = a.weight[c] * (x[c] * scale);
    a.out[row + c] = y;
    if (a.rounded != nullptr) a.rounded[row + c] = dev::to_bf16(y);
  }
}
