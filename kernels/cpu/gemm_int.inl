// out[r][o] = sum_c weight[o][c] * x[r][c] (+ bias[o]), r < n_rows, o in [begin, end), integer weights in tiles
//
// Plan: INT_TILES tiles at a time stay in the L1 cache while a block of x rows that fits the L2 cache passes INT_ROWS rows
// at a time (int_tile.inl), all but the first asking for the next tiles: each weight is read from memory once per block, and
// for up to X_BLOCK_BYTES of x once at all.
// The lines of out are asked for before the sums, or a store would wait for each: 67 -> 73 % of the peak where out is larger
// than the L2 cache (512 x 1024 x 2048, Zen 4).
#pragma once

#include "ahead.inl"

namespace {

constexpr size_t X_BLOCK_BYTES = 256 * 1024; // a quarter to a half of a current L2

template <class Q, int MR, int NT>
inline void gemm_int_rows(int rows, const DogeGemmIntArgs *a, size_t r, size_t o, size_t blocks) {
  if constexpr (MR > 1) {
    if (rows < MR) return gemm_int_rows<Q, MR - 1, NT>(rows, a, r, o, blocks);
  }
  QuantizedRow x[MR];
  const unsigned char *tiles[NT];
  for (int m = 0; m < MR; ++m) x[m] = QuantizedRow((const char *)a->x + (r + m) * blocks * QUANTIZED_BLOCK, blocks);
  for (int t = 0; t < NT; ++t) tiles[t] = (const unsigned char *)a->weight + (o / TILE + t) * blocks * Q::BLOCK;
  F32V sum[MR][NT * UNITS];
  for (int m = 0; m < MR; ++m)
    for (int t = 0; t < NT; ++t) prefetch(a->out + (r + m) * a->out_stride + o + t * TILE);
  int_tile<Q, MR, NT>(sum, x, tiles, blocks);
  for (int m = 0; m < MR; ++m)
    for (int t = 0; t < NT; ++t) store_tile(a->out + (r + m) * a->out_stride, sum[m] + t * UNITS, a->bias, o + t * TILE, a->end);
}

/// Rows r0..r1, in passes of equal height.
template <class Q, int NT> inline void gemm_int_tiles(const DogeGemmIntArgs *a, size_t r0, size_t r1, size_t o, size_t blocks) {
  size_t passes = (r1 - r0 + INT_ROWS - 1) / INT_ROWS;
  const size_t next = o / TILE + NT, tiles = (a->end + TILE - 1) / TILE, left = tiles < next ? 0 : tiles - next;
  Ahead ahead((const char *)a->weight + next * blocks * Q::BLOCK, (left < NT ? left : NT) * blocks * Q::BLOCK, passes - 1);
  for (size_t r = r0; r < r1; --passes) {
    const int rows = (int)((r1 - r + passes - 1) / passes);
    if (r > r0) ahead.fetch();
    gemm_int_rows<Q, INT_ROWS, NT>(rows, a, r, o, blocks);
    r += rows;
  }
}

} // namespace

#ifdef __AMX_INT8__
#include "gemm_int_amx.inl"
#endif

namespace {

template <class Q> void gemm_int(const DogeGemmIntArgs *a) {
  const size_t blocks = blocks_of(a->cols);
  size_t first = 0;
#ifdef __AMX_INT8__
  first = gemm_int_amx<Q>(a, blocks);
#endif
  const size_t fit = X_BLOCK_BYTES / (blocks * QUANTIZED_BLOCK + 1) / INT_ROWS;
  const size_t x_block = (fit ? fit : 1) * INT_ROWS;
  for (size_t r0 = first; r0 < a->n_rows; r0 += x_block) {
    const size_t r1 = a->n_rows - r0 < x_block ? a->n_rows : r0 + x_block;
    size_t o = a->begin;
    for (; o + (INT_TILES - 1) * TILE < a->end; o += INT_TILES * TILE) gemm_int_tiles<Q, INT_TILES>(a, r0, r1, o, blocks);
    for (; o < a->end; o += TILE) gemm_int_tiles<Q, 1>(a, r0, r1, o, blocks);
  }
}

} // namespace
