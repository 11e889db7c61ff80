// Linear layers of f32, bf16 and f16 weights for one row, as a decode step has them: bound by the bytes of the weights, and by
// how long a launch waits for the one before.
//
// The sums are those of linear.cu, bit for bit. But the first AHEAD chunks of a lane's weight rows are asked for before the
// previous launch is done, and each chunk that is used up asks for the one AHEAD turns later: memory is never idle. What stands
// before and after the projection, a norm and the gated residual, happens here too, so that neither is a launch of its own.
#include "projection.h"
#include "weight.h"

namespace {

using weight::CHUNK;
using weight::Chunk;

/// A warp makes OUTPUTS outputs; of gate and up, half as many of each.
template <class Weight, uint32_t AHEAD, int OUTPUTS, bool GATED> DOGE_DEVICE void linear_row(const DogeCudaLinearArgs &a) {
  row_norm::Row &row = dev::shared<row_norm::Row>();
  dev::launch_next();
  const uint32_t first = (dev::block_x() * (DOGE_CUDA_THREADS / 32) + dev::warp()) * (GATED ? OUTPUTS / 2 : OUTPUTS);
  const uint32_t chunks = (a.cols + CHUNK - 1) / CHUNK;
  uint32_t outputs = a.projection[0].out_features;
  if (!GATED) outputs += a.projection[1].out_features + a.projection[2].out_features;
  const uint8_t *weights[OUTPUTS];
  typename Weight::Raw ahead[AHEAD][OUTPUTS];
#pragma unroll
  for (int o = 0; o < OUTPUTS; ++o) {
    // Beyond the end the last row is read once more and nothing is written: every lane stays for the collectives.
    uint32_t output = dev::least(GATED ? first + o / 2 : first + o, outputs - 1);
    const DogeCudaProjection &p = GATED ? a.projection[o % 2] : projection::find(a.projection, output);
    weights[o] = static_cast<const uint8_t *>(p.weight) + output * a.stride_bytes;
  }
#pragma unroll
  for (uint32_t i = 0; i < AHEAD; ++i) {
    const uint32_t chunk = dev::lane() + 32 * i;
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o) {
      if (chunk < chunks) ahead[i][o] = Weight::fetch(weights[o], chunk);
    }
  }
  const float *const x = projection::input(row, a);

  float sum[OUTPUTS] = {};
  for (uint32_t turn = dev::lane(); turn < chunks; turn += 32 * AHEAD) {
#pragma unroll
    for (uint32_t i = 0; i < AHEAD; ++i) {
      const uint32_t chunk = turn + 32 * i, later = chunk + 32 * AHEAD;
      if (chunk >= chunks) continue;
      const Chunk y = weight::load_floats(x + chunk * CHUNK);
#pragma unroll
      for (int o = 0; o < OUTPUTS; ++o) {
        const Chunk w = Weight::widen(ahead[i][o]);
        if (later < chunks) ahead[i][o] = Weight::fetch(weights[o], later);
#pragma unroll
        for (uint32_t c = 0; c < CHUNK; ++c) sum[o] = dev::fma(w.x[c], y.x[c], sum[o]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; ++o) sum[o] = dev::warp_sum(sum[o]);
  if (dev::lane() != 0) return;
#pragma unroll
  for (int o = 0; o < OUTPUTS; o += GATED ? 2 : 1) {
    uint32_t output = GATED ? first + o / 2 : first + o;
    if (output >= outputs) continue;
    if (GATED) {
      projection::write_gated(a, output, sum[o], sum[GATED ? o + 1 : o]);
    } else {
      const DogeCudaProjection &p = projection::find(a.projection, output);
      projection::write(a, p, output, sum[o]);
    }
  }
}

}  // namespace

DOGE_KERNEL(doge_linear_f32_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_row<weight::F32, 4, 2, false>(a); }
DOGE_KERNEL(doge_linear_bf16_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_row<weight::Bf16, 8, 2, false>(a); }
DOGE_KERNEL(doge_linear_f16_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_row<weight::F16, 8, 2, false>(a); }
DOGE_KERNEL(doge_linear_gated_f32_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_row<weight::F32, 4, 4, true>(a); }
DOGE_KERNEL(doge_linear_gated_bf16_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_row<weight::Bf16, 4, 4, true>(a); }
DOGE_KERNEL(doge_linear_gated_f16_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_row<weight::F16, 4, 4, true>(a); }
