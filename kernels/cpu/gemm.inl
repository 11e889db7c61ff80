// out[r][o] = sum_c weight[o][c] * x[r][c] (+ bias[o]), r < n_rows, o in [begin, end)
//
// Plan: tiles of TILE_ROWS x TILE_COLS sums (dot_tile.inl). A block of weight rows that fits the L2 cache meets all rows of
// x, a few rows of x at a time: these stay in the L1 cache while the block streams past them. Long rows come in parts, the
// block's columns a part at a time: six of 2048 floats would fill L1 (49 -> 58 % of the fma peak, Emerald Rapids). The idea: of
// the two streams of a tile, the weights are the smaller (4 rows to 6, or 3 to 4, and half the bytes if they are 16-bit), so
// they are the one that comes from L2. The larger the block, the fewer times x comes from beyond it.
// The first pass over a block, which brings it from memory, takes the columns of a tile from as many runs, for the long
// streams that gemv has; the later ones take neighbours, and ask for the next block: a prompt gains 3 to 5 % from that. The
// loop over the tiles of a few rows is one function with everything inlined: with a call for each tile, 256 columns ran at 73
// instead of 90 % of the fma peak. Each weight comes from memory once, x once per block.
// Cost: 2 * cols flops an output.
#pragma once

#include "ahead.inl"

namespace {

// Bytes: two blocks fit the L2 cache, of 1 MiB where there is AVX-512 (but for the 11th generation's desktops), of 256 KiB
// elsewhere.
constexpr size_t WEIGHT_BLOCK = LANES == 16 ? 384 * 1024 : 96 * 1024;
constexpr size_t ROW_PART = 4096; // bytes of a row of x at a time: TILE_ROWS of them fit the L1 cache beside a tile's weights
constexpr size_t PARTED_COLS = 96; // outputs of a block whose rows come in parts, for their sums wait on the stack

/// The columns of x and weight that a pass over a block takes.
struct Part {
  size_t begin, end;
};

/// The NR columns o, o + run, ... of MR rows of out from r on: a part of each sum, the first to begin it, the last to write it.
/// Between parts it waits in `sums`, lanes and all.
template <int MR, int NR, class W, class X, class Args>
[[gnu::always_inline]] inline void gemm_tile(const Args *a, const X *const *x, size_t r, size_t o, size_t run, Part part, float *sums) {
  const W *w[NR];
  for (int n = 0; n < NR; ++n) w[n] = (const W *)a->weight + (o + n * run) * a->cols;
  F32V acc[MR][NR];
  for (int m = 0; m < MR; ++m)
    for (int n = 0; n < NR; ++n) acc[m][n] = part.begin ? load(sums + (m * NR + n) * LANES) : zero();
  dot_steps(acc, x, w, part.begin, part.end);
  if (part.end < a->cols) {
    for (int m = 0; m < MR; ++m)
      for (int n = 0; n < NR; ++n) store(sums + (m * NR + n) * LANES, acc[m][n]);
    return;
  }
  float *out = a->out + r * a->out_stride + o;
  store_sums<0>(out, a->out_stride, run, acc);
  if (!a->bias) return;
  for (int m = 0; m < MR; ++m)
    for (int n = 0; n < NR; ++n) out[m * a->out_stride + n * run] += a->bias[o + n * run];
}

/// Columns begin..end of `rows` <= MR rows of out from r on, rows known at run time.
template <int MR, class W, class X, class Args>
void gemm_rows(int rows, const Args *a, const X *const *x, size_t r, size_t begin, size_t end, size_t part_cols, Ahead &ahead) {
  if constexpr (MR > 1) {
    if (rows < MR) return gemm_rows<MR - 1, W>(rows, a, x, r, begin, end, part_cols, ahead);
  }
  alignas(64) float sums[PARTED_COLS][MR * LANES];
  const size_t tiles = (end - begin) / TILE_COLS;
  Part part = {0, 0};
  do {
    part = {part.end, a->cols - part.end < part_cols ? a->cols : part.end + part_cols};
    const auto waiting = [&](size_t i) { return part_cols < a->cols ? sums[i] : nullptr; };
    for (size_t i = 0; i < tiles; ++i) {
      if (r == 0) {
        gemm_tile<MR, TILE_COLS, W>(a, x, r, begin + i, tiles, part, waiting(i * TILE_COLS));
      } else {
        ahead.fetch();
        gemm_tile<MR, TILE_COLS, W>(a, x, r, begin + i * TILE_COLS, 1, part, waiting(i * TILE_COLS));
      }
    }
    for (size_t o = begin + tiles * TILE_COLS; o < end; ++o) gemm_tile<MR, 1, W>(a, x, r, o, 1, part, waiting(o - begin));
  } while (part.end < a->cols);
}

template <class W, class X, class Args> inline void gemm_of(const Args *a, const X *all_x, size_t x_stride) {
  constexpr size_t COLS = Step<X>::COLS;
  const size_t parts = (a->cols * sizeof(X) + ROW_PART - 1) / ROW_PART;
  const size_t part_cols = parts > 1 ? ((a->cols - 1) / parts / COLS + 1) * COLS : a->cols;
  const size_t fit = WEIGHT_BLOCK / (a->cols * sizeof(W) + 1), most = parts > 1 && fit > PARTED_COLS ? PARTED_COLS : fit;
  const size_t block = most < 24 ? 24 : most / TILE_COLS * TILE_COLS;
  for (size_t begin = a->begin; begin < a->end; begin += block) {
    const size_t end = a->end - begin < block ? a->end : begin + block, next = a->end - end < block ? a->end - end : block;
    const size_t later_tiles = (a->n_rows - 1) / TILE_ROWS * ((end - begin) / TILE_COLS);
    Ahead ahead((const W *)a->weight + end * a->cols, next * a->cols * sizeof(W), later_tiles);
    for (size_t r = 0; r < a->n_rows; r += TILE_ROWS) {
      const int rows = a->n_rows - r < (size_t)TILE_ROWS ? (int)(a->n_rows - r) : TILE_ROWS;
      const X *x[TILE_ROWS];
      for (int m = 0; m < rows; ++m) x[m] = all_x + (r + m) * x_stride;
      gemm_rows<TILE_ROWS, W>(rows, a, x, r, begin, end, part_cols, ahead);
    }
  }
}

template <class W> void gemm(const DogeGemmArgs *a) { gemm_of<W>(a, a->x, a->x_stride); }

#ifndef __AMX_BF16__
void gemm_bf16(const DogeGemmBf16Args *a) { gemm_of<Bf16>(a, (const Bf16 *)a->x, a->x_stride); }
#endif

} // namespace
