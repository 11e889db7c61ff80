// Linear layers of int8 and int4 weights for one row: the sums of linear_int.cu, bit for bit, in the plan of linear_row.cu. A
// thread's first AHEAD groups are asked for before the previous launch is done.
#include "projection.h"
#include "weight.h"

namespace {

constexpr uint32_t PARTS = DOGE_CUDA_THREADS / DOGE_TILE, AHEAD = 4;

struct Shared {
  row_norm::Row row;
  float part[2][PARTS][DOGE_TILE];
};

/// One output's group as it is stored.
template <bool INT4> struct Group {
  static constexpr uint32_t LINES = INT4 ? 4 : 8;
  uint32_t words[LINES];
  float scale;
};

template <bool INT4> DOGE_DEVICE void fetch(Group<INT4> &to, const uint8_t *tile, uint32_t output, uint32_t group) {
  using Tile = weight::IntTile<INT4>;
#pragma unroll
  for (uint32_t line = 0; line < Group<INT4>::LINES; ++line) to.words[line] = Tile::word(tile, output, group, line);
  to.scale = Tile::scale(tile, output, group);
}

/// A block makes the outputs of a tile; of gate and up, of a tile of each.
template <bool INT4, bool GATED> DOGE_DEVICE void linear_int_row(const DogeCudaLinearArgs &a) {
  using Tile = weight::IntTile<INT4>;
  constexpr int SIDES = GATED ? 2 : 1;
  Shared &shared = dev::shared<Shared>();
  dev::launch_next();
  const uint32_t output = dev::thread() % DOGE_TILE, part = dev::thread() / DOGE_TILE;
  const uint32_t groups = (a.cols + DOGE_GROUP - 1) / DOGE_GROUP;
  uint32_t tile = dev::block_x();
  const DogeCudaProjection &p = GATED ? a.projection[0] : projection::find(a.projection, tile, DOGE_TILE);
  const uint8_t *tiles[SIDES];
  Group<INT4> ahead[AHEAD][SIDES];
#pragma unroll
  for (int side = 0; side < SIDES; ++side) {
    tiles[side] = static_cast<const uint8_t *>(side == 0 ? p.weight : a.projection[1].weight) + tile * a.stride_bytes;
  }
#pragma unroll
  for (uint32_t i = 0; i < AHEAD; ++i) {
    const uint32_t group = part + PARTS * i;
#pragma unroll
    for (int side = 0; side < SIDES; ++side) {
      if (group < groups) fetch(ahead[i][side], tiles[side], output, group);
    }
  }
  const float *const x = projection::input(shared.row, a);

  float sum[SIDES] = {};
  for (uint32_t turn = part; turn < groups; turn += PARTS * AHEAD) {
#pragma unroll
    for (uint32_t i = 0; i < AHEAD; ++i) {
      const uint32_t group = turn + PARTS * i, later = group + PARTS * AHEAD;
      if (group >= groups) continue;
      // Columns beyond the row's padding would be another row's; their quants are zero.
      const uint32_t quads = dev::least(8, (a.x_stride - group * DOGE_GROUP) / 4);
      float dot[SIDES] = {};
#pragma unroll
      for (uint32_t quad = 0; quad < 8; ++quad) {
        if (quad >= quads) continue;
        const dev::Words4 y = dev::load16(x + group * DOGE_GROUP + 4 * quad);
#pragma unroll
        for (uint32_t c = 0; c < 4; ++c) {
#pragma unroll
          for (int side = 0; side < SIDES; ++side) {
            const uint32_t word = ahead[i][side].words[INT4 ? quad % 4 : quad];
            dot[side] = dev::fma(Tile::quant(word, c, quad >= 4), dev::from_bits(y.w[c]), dot[side]);
          }
        }
      }
#pragma unroll
      for (int side = 0; side < SIDES; ++side) {
        sum[side] = dev::fma(dot[side], ahead[i][side].scale, sum[side]);
        if (later < groups) fetch(ahead[i][side], tiles[side], output, later);
      }
    }
  }
#pragma unroll
  for (int side = 0; side < SIDES; ++side) shared.part[side][part][output] = sum[side];
  dev::sync();
  const uint32_t o = tile * DOGE_TILE + output;
  if (part != 0 || o >= p.out_features) return;
  float total[2] = {};
#pragma unroll
  for (int side = 0; side < SIDES; ++side) {
    for (uint32_t i = 0; i < PARTS; ++i) total[side] += shared.part[side][i][output];
  }
  if (GATED) projection::write_gated(a, o, total[0], total[1]);
  else projection::write(a, p, o, total[0]);
}

}  // namespace

DOGE_KERNEL(doge_linear_int8_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int_row<false, false>(a); }
DOGE_KERNEL(doge_linear_int4_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int_row<true, false>(a); }
DOGE_KERNEL(doge_linear_gated_int8_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int_row<false, true>(a); }
DOGE_KERNEL(doge_linear_gated_int4_1, DOGE_CUDA_THREADS, DogeCudaLinearArgs) { linear_int_row<true, true>(a); }
