// Linear layers of bf16 weights on tensor cores, for prompts: out = x * weight^T with x rounded to bf16.
//
// A block of four warps makes 64 rows by 64 outputs, each warp 32 by 32 as 2 x 4 tiles of mma 16 x 8 x 16. Tiles of 32
// columns come by asynchronous copies, three under way while a fourth is multiplied. A row of a tile is 80 bytes in shared
// memory, so that the eight rows that ldmatrix reads at once stand in different banks.
//
// The gated kernel makes 32 outputs of gate and up each: their weights stand in the tile in turn, eight rows and eight
// rows, so that the thread that has gate's sum has up's too. What it writes is rounded, as the next layer reads it.
#include "activation.h"

namespace {

constexpr uint32_t TILE = DOGE_CUDA_GEMM_TILE, TILE_COLS = 32, STAGES = 4, STRIDE = TILE_COLS + 8;

struct Shared {
  alignas(16) uint16_t x[STAGES][TILE][STRIDE];
  alignas(16) uint16_t w[STAGES][TILE][STRIDE];
};

/// Copies columns c0 .. c0 + 32 of the rows that begin at `row(r)`; zeros where that is null, and beyond the last column.
template <class Row> DOGE_DEVICE void copy_tile(uint16_t (&to)[TILE][STRIDE], uint32_t c0, uint32_t cols, const void *any, const Row &row) {
  constexpr uint32_t PIECES = TILE_COLS / 8;
  for (uint32_t i = dev::thread(); i < TILE * PIECES; i += DOGE_CUDA_THREADS) {
    const uint32_t r = i / PIECES, c = c0 + i % PIECES * 8;
    const uint8_t *const from = row(r);
    const bool valid = from != nullptr && c < cols;
    dev::copy16_async(&to[r][i % PIECES * 8], valid ? from + (size_t)c * 2 : any, valid);
  }
}

DOGE_DEVICE float biased(float sum, const DogeCudaProjection &p, uint32_t output) {
  return sum + (p.bias != nullptr ? p.bias[output] : 0.0f);
}

template <bool GATED> DOGE_DEVICE void gemm(const DogeCudaGemmArgs &a) {
  Shared &shared = dev::shared<Shared>();
  constexpr uint32_t OUTPUTS = GATED ? TILE / 2 : TILE;
  uint32_t tile = dev::block_x(), which = 0;
  while (!GATED && which + 1 < DOGE_CUDA_PROJECTIONS && tile >= (a.projection[which].out_features + TILE - 1) / TILE) {
    tile -= (a.projection[which++].out_features + TILE - 1) / TILE;
  }
  const DogeCudaProjection &p = a.projection[which];
  const uint32_t row0 = dev::block_y() * TILE, output0 = tile * OUTPUTS;
  const auto row_of_x = [&](uint32_t r) {
    return row0 + r < a.n_rows ? reinterpret_cast<const uint8_t *>(a.x + (size_t)(row0 + r) * a.x_stride) : nullptr;
  };
  const auto row_of_w = [&](uint32_t r) {
    const uint32_t output = output0 + (GATED ? r / 16 * 8 + r % 8 : r);
    const auto *const weight = static_cast<const uint8_t *>((GATED ? a.projection[r / 8 % 2] : p).weight);
    return output < p.out_features ? weight + output * a.stride_bytes : nullptr;
  };
  const uint32_t steps = (a.cols + TILE_COLS - 1) / TILE_COLS;
  const auto copy = [&](uint32_t step) {
    if (step < steps) {
      copy_tile(shared.x[step % STAGES], step * TILE_COLS, a.cols, a.x, row_of_x);
      copy_tile(shared.w[step % STAGES], step * TILE_COLS, a.cols, a.x, row_of_w);
    }
    dev::copy_commit(); // also of nothing, so that a wait always leaves as many under way
  };

  const uint32_t lane = dev::lane(), warp_row = dev::warp() / 2 * 32, warp_column = dev::warp() % 2 * 32;
  float sum[2][4][4] = {};
  for (uint32_t step = 0; step + 1 < STAGES; ++step) copy(step);
  for (uint32_t step = 0; step < steps; ++step) {
    dev::copy_wait<STAGES - 2>();
    dev::sync(); // this step's tiles are there, and nobody reads those of the step before
    copy(step + STAGES - 1);
    const auto &tile_x = shared.x[step % STAGES];
    const auto &tile_w = shared.w[step % STAGES];
#pragma unroll
    for (uint32_t k = 0; k < TILE_COLS; k += 16) {
      dev::Words4 rows[2], outputs[2];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        rows[i] = dev::load_matrices(&tile_x[warp_row + 16 * i + lane % 16][k + lane / 16 * 8]);
        outputs[i] = dev::load_matrices(&tile_w[warp_column + 16 * i + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) dev::mma_bf16(sum[i][j], rows[i], outputs[j / 2].w[j % 2 * 2], outputs[j / 2].w[j % 2 * 2 + 1]);
      }
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 4; j += GATED ? 2 : 1) {
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) {
        const uint32_t row = row0 + warp_row + 16 * i + lane / 4 + e / 2 * 8, column = warp_column + 8 * j;
        const uint32_t output = output0 + (GATED ? column / 2 : column) + lane % 4 * 2 + e % 2;
        if (row >= a.n_rows || output >= p.out_features) continue;
        const size_t at = (size_t)row * p.out_stride + output;
        const float y = biased(sum[i][j][e], p, output);
        if (GATED) {
          const float up = biased(sum[i][j + GATED][e], a.projection[1], output);
          a.gated[at] = dev::to_bf16(activation::activate(a.act, y) * up);
        } else {
          p.out[at] = y;
        }
      }
    }
  }
}

}  // namespace

DOGE_KERNEL(doge_gemm_bf16_tensor, DOGE_CUDA_THREADS, DogeCudaGemmArgs) { gemm<false>(a); }
DOGE_KERNEL(doge_gemm_gated_bf16_tensor, DOGE_CUDA_THREADS, DogeCudaGemmArgs) { gemm<true>(a); }

/// x rounded to bf16, a thread for eight elements.
DOGE_KERNEL(doge_round_bf16, DOGE_CUDA_THREADS, DogeCudaRoundArgs) {
  const size_t i = ((size_t)dev::block_x() * DOGE_CUDA_THREADS + dev::thread()) * 8;
  for (size_t j = i; j < i + 8 && j < a.n; ++j) a.out[j] = dev::to_bf16(a.x[j]);
}
