// Linear layers of int8 and int4 weights in tiles of 16 rows (doge_kernels.h), activations in f32, for many rows. One row:
// linear_int_row.cu.
//
// A block makes the 16 outputs of a tile for ROWS rows. A half warp reads a line of 64 bytes: lane i % 16 is an output, so
// nothing is summed across outputs. The eight half warps take groups of 32 columns in turn; each sums its groups in
// ascending order, sum = fma(dot, scale, sum) with dot in f32 over a group's columns, and the eight sums are added in order.
#include "projection.h"
#include "weight.h"

namespace {

constexpr uint32_t PARTS = DOGE_CUDA_THREADS / DOGE_TILE;

template <int ROWS> struct Shared {
  float part[2][PARTS][ROWS][DOGE_TILE];
};

/// One tile's outputs of ROWS rows of x, this thread's groups of them.
template <bool INT4, int ROWS>
DOGE_DEVICE void groups(float (&sum)[ROWS], const uint8_t *tile, const float *x, uint32_t x_stride, uint32_t cols, uint32_t rows) {
  using Tile = weight::IntTile<INT4>;
  const uint32_t output = dev::thread() % DOGE_TILE, part = dev::thread() / DOGE_TILE;
  const uint32_t whole = (cols + DOGE_GROUP - 1) / DOGE_GROUP;
  for (uint32_t group = part; group < whole; group += PARTS) {
    uint32_t words[INT4 ? 4 : 8];
#pragma unroll
    for (uint32_t line = 0; line < (INT4 ? 4 : 8); ++line) words[line] = Tile::word(tile, output, group, line);
    const float scale = Tile::scale(tile, output, group);
    // Columns beyond the row's padding would be another row's; their quants are zero.
    const uint32_t quads = dev::least(8, (x_stride - group * DOGE_GROUP) / 4);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float *const from = x + (size_t)dev::least(r, rows - 1) * x_stride + group * DOGE_GROUP;
      float dot = 0.0f;
#pragma unroll
      for (uint32_t quad = 0; quad < 8; ++quad) {
        if (quad >= quads) continue;
        const dev::Words4 y = dev::load16(from + 4 * quad);
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          dot = dev::fma(Tile::quant(words[INT4 ? quad % 4 : quad], i, quad >= 4), dev::from_bits(y.w[i]), dot);
        }
      }
      sum[r] = dev::fma(dot, scale, sum[r]);
    }
  }
}

template <bool INT4, int ROWS, bool GATED> DOGE_DEVICE void linear_int(const DogeCudaLinearArgs &a) {
  Shared<ROWS> &shared = dev::shared<Shared<ROWS>>();
  dev::launch_next();
  dev::wait_for_previous();
  const uint32_t output = dev::thread() % DOGE_TILE, part = dev::thread() / DOGE_TILE;
  const uint32_t row0 = dev::block_y() * ROWS, rows = a.n_rows - row0;
  const float *const x = a.x + (size_t)row0 * a.x_stride;
  uint32_t tile = dev::block_x();
  const DogeCudaProjection &p = GATED ? a.projection[0] : projection::find(a.projection, tile, DOGE_TILE);
#pragma unroll
  for (uint32_t side = 0; side < (GATED ? 2 : 1); ++side) {
    float sum[ROWS] = {};
    const auto *const weights = static_cast<const uint8_t *>(side == 0 ? p.weight : a.projection[1].weight);
    groups<INT4, ROWS>(sum, weights + tile * a.stride_bytes, x, a.x_stride, a.cols, rows);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) shared.part[side][part][r][output] = sum[r];
  }
  dev::sync();
  const uint32_t o = tile * DOGE_TILE + output, r = part;
  if (r >= ROWS || r >= rows || o >= p.out_features) return;
  float total[2] = {};
#pragma unroll
  for (uint32_t side = 0; side < (GATED ? 2 : 1); ++side) {
    for (uint32_t i = 0; i < PARTS; ++i) total[side] += shared.part[side][i][r][output];
    const float *const bias = side == 0 ? p.bias : a.projection[1].bias;
    if (bias != nullptr) total[side] += bias[o];
  }
  const float y = GATED ? activation::activate(a.act, total[0]) * total[1] : total[0];
  p.out[(size_t)(row0 + r) * p.out_stride + o] = y;
}

}  // namespace

DOGE_KERNEL(doge_linear_int8_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int<false, 8, false>(a); }
DOGE_KERNEL(doge_linear_int4_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int<true, 8, false>(a); }
DOGE_KERNEL(doge_linear_gated_int8_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int<false, 8, true>(a); }
DOGE_KERNEL(doge_linear_gated_int4_8, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int<true, 8, true>(a); }
