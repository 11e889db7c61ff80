// Linear layers of f32, bf16 and f16 weights for many rows: the exact path of a prompt. One row: linear_row.cu.
//
// A warp makes OUTPUTS outputs of ROWS rows. Lane i reads chunks i, i + 32, … of the weight rows (eight columns each, so a
// warp reads 512 or 1024 bytes side by side), multiplies them with the same chunks of x, in ascending columns into one sum,
// and the 32 sums are folded by a fixed tree. So an output's bits depend on the format and the columns alone.
// More rows a warp only reuse what it loaded: eight rows by four outputs take eight times fewer bytes a product than one.
#include "projection.h"
#include "weight.h"

namespace {

using projection::find;
using weight::CHUNK;
using weight::Chunk;

template <class Weight, int ROWS, int OUTPUTS, bool GATED> DOGE_DEVICE void linear(const DogeCudaLinearArgs &a) {
  dev::launch_next();
  dev::wait_for_previous();
  const uint32_t first = (dev::block_x() * (DOGE_CUDA_THREADS / 32) + dev::warp()) * (GATED ? OUTPUTS / 2 : OUTPUTS);
  const uint32_t row0 = dev::block_y() * ROWS;
  const float *const x = a.x + (size_t)row0 * a.x_stride;
  const uint8_t *weights[OUTPUTS];
  float sum[OUTPUTS][ROWS] = {};
  uint32_t outputs = a.projection[0].out_features;
  if (!GATED) outputs += a.projection[1].out_features + a.projection[2].out_features;
#pragma unroll
  for (int o = 0; o < OUTPUTS; ++o) {
    // Beyond the end the last row is read once more and nothing is written: every lane stays for the collectives.
    uint32_t output = dev::least(GATED ? first + o / 2 : first + o, outputs - 1);
    const DogeCudaProjection &p = GATED ? a.projection[o % 2] : find(a.projection, output);
    weights[o] = static_cast<const uint8_t *>(p.weight) + output * a.stride_bytes;
  }
  const uint32_t rows = a.n_rows - row0;
  const uint32_t chunks = (a.cols + CHUNK - 1) / CHUNK;
#pragma unroll 2
  for (uint32_t chunk = dev::lane(); chunk < chunks; chunk += 32) {
    Chunk w[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o) w[o] = Weight::load(weights[o], chunk);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const Chunk y = weight::load_floats(x + (size_t)dev::least(r, rows - 1) * a.x_stride + chunk * CHUNK);
#pragma unroll
      for (int o = 0; o < OUTPUTS; ++o) {
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) sum[o][r] = dev::fma(w[o].x[i], y.x[i], sum[o][r]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; ++o) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sum[o][r] = dev::warp_sum(sum[o][r]);
  }
  if (dev::lane() != 0) return;
#pragma unroll
  for (int o = 0; o < OUTPUTS; o += GATED ? 2 : 1) {
    uint32_t output = GATED ? first + o / 2 : first + o;
    if (output >= outputs) continue;
    const DogeCudaProjection &p = GATED ? a.projection[0] : find(a.projection, output);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      if ((uint32_t)r >= rows) continue;
      float y = sum[o][r] + (p.bias != nullptr ? p.bias[output] : 0.0f);
      if (GATED) {
        const float *const bias = a.projection[1].bias;
        const float up = sum[GATED ? o + 1 : o][r] + (bias != nullptr ? bias[output] : 0.0f);
        y = activation::activate(a.act, y) * up;
      }
      p.out[(size_t)(row0 + r) * p.out_stride + output] = y;
    }
  }
}

}  // namespace

DOGE_KERNEL(doge_linear_f32_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear<weight::F32, 8, 4, false>(a); }
DOGE_KERNEL(doge_linear_bf16_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear<weight::Bf16, 8, 4, false>(a); }
DOGE_KERNEL(doge_linear_f16_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear<weight::F16, 8, 4, false>(a); }
DOGE_KERNEL(doge_linear_gated_f32_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear<weight::F32, 8, 4, true>(a); }
DOGE_KERNEL(doge_linear_gated_bf16_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear<weight::Bf16, 8, 4, true>(a); }
DOGE_KERNEL(doge_linear_gated_f16_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear<weight::F16, 8, 4, true>(a); }
