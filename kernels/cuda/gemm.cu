// Linear layers of bf16 weights on tensor cores, for prompts: out = x * weight^T with x rounded to bf16 (round_bf16).
//
// A block of four warps makes 64 rows by 64 outputs, each warp 32 by 32 as 2 x 4 tiles of mma 16 x 8 x 16. Tiles of 32
// columns come by asynchronous copies, two in flight. A row of a tile is 80 bytes in shared memory, so that the eight rows
// that ldmatrix reads at once stand in different banks.
#include "device.h"

namespace {

constexpr uint32_t TILE_ROWS = 64, TILE_OUTPUTS = 64, TILE_COLS = 32, STAGES = 2, STRIDE = TILE_COLS + 8;

struct Shared {
  alignas(16) uint16_t x[STAGES][TILE_ROWS][STRIDE];
  alignas(16) uint16_t w[STAGES][TILE_OUTPUTS][STRIDE];
};

/// Copies columns c0 .. c0 + 32 of 64 rows; zeros beyond the last row and the last column.
DOGE_DEVICE void copy_tile(uint16_t (&to)[TILE_ROWS][STRIDE], const uint8_t *from, size_t stride_bytes, uint32_t rows, uint32_t cols, uint32_t c0) {
  constexpr uint32_t PIECES = TILE_COLS / 8;
  for (uint32_t i = dev::thread(); i < TILE_ROWS * PIECES; i += DOGE_CUDA_THREADS) {
    const uint32_t r = i / PIECES, c = c0 + i % PIECES * 8;
    const bool valid = r < rows && c < cols;
    dev::copy16_async(&to[r][i % PIECES * 8], from + (valid ? r * stride_bytes + (size_t)c * 2 : 0), valid);
  }
}

}  // namespace

DOGE_KERNEL(doge_gemm_bf16_tensor, DOGE_CUDA_THREADS, DogeCudaGemmArgs) {
  Shared &shared = dev::shared<Shared>();
  uint32_t tile = dev::block_x(), which = 0;
  while (which + 1 < DOGE_CUDA_PROJECTIONS && tile >= (a.projection[which].out_features + TILE_OUTPUTS - 1) / TILE_OUTPUTS) {
    tile -= (a.projection[which++].out_features + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
  }
  const DogeCudaProjection &p = a.projection[which];
  const uint32_t row0 = dev::block_y() * TILE_ROWS, output0 = tile * TILE_OUTPUTS;
  const auto *const x = reinterpret_cast<const uint8_t *>(a.x) + (size_t)row0 * a.x_stride * 2;
  const auto *const w = static_cast<const uint8_t *>(p.weight) + output0 * a.stride_bytes;
  const auto copy = [&](uint32_t step) {
    copy_tile(shared.x[step % STAGES], x, (size_t)a.x_stride * 2, a.n_rows - row0, a.cols, step * TILE_COLS);
    copy_tile(shared.w[step % STAGES], w, a.stride_bytes, p.out_features - output0, a.cols, step * TILE_COLS);
    dev::copy_commit();
  };

  const uint32_t lane = dev::lane(), warp_row = dev::warp() / 2 * 32, warp_output = dev::warp() % 2 * 32;
  const uint32_t steps = (a.cols + TILE_COLS - 1) / TILE_COLS;
  float sum[2][4][4] = {};
  if (steps > 0) copy(0);
  for (uint32_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      copy(step + 1);
      dev::copy_wait<1>();
    } else {
      dev::copy_wait<0>();
    }
    dev::sync();
    const auto &tile_x = shared.x[step % STAGES];
    const auto &tile_w = shared.w[step % STAGES];
#pragma unroll
    for (uint32_t k = 0; k < TILE_COLS; k += 16) {
      dev::Words4 rows[2], outputs[2];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        rows[i] = dev::load_matrices(&tile_x[warp_row + 16 * i + lane % 16][k + lane / 16 * 8]);
        outputs[i] = dev::load_matrices(&tile_w[warp_output + 16 * i + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) dev::mma_bf16(sum[i][j], rows[i], outputs[j / 2].w[j % 2 * 2], outputs[j / 2].w[j % 2 * 2 + 1]);
      }
    }
    dev::sync();
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) {
        const uint32_t row = row0 + warp_row + 16 * i + lane / 4 + e / 2 * 8;
        const uint32_t output = output0 + warp_output + 8 * j + lane % 4 * 2 + e % 2;
        if (row >= a.n_rows || output >= p.out_features) continue;
        p.out[(size_t)row * p.out_stride + output] = sum[i][j][e] + (p.bias != nullptr ? p.bias[output] : 0.0f);
      }
    }
  }
}

/// x rounded to bf16, a thread for eight elements.
DOGE_KERNEL(doge_round_bf16, DOGE_CUDA_THREADS, DogeCudaRoundArgs) {
  const size_t i = ((size_t)dev::block_x() * DOGE_CUDA_THREADS + dev::thread()) * 8;
  for (size_t j = i; j < i + 8 && j < a.n; ++j) a.out[j] = dev::to_bf16(a.x[j]);
}
