// out[o] = dot(weight[o], x) (+ bias[o]), o in [begin, end), integer weights in tiles
//
// Plan: the tiles in INT_STREAMS equal runs, one tile of each run side by side (int_tile.inl): that many long streams of
// whole lines, and as many independent chains. Every weight is read once and used once; the cost is the memory. Four
// streams of 256 KiB are as fast as a plain read, eight 5 to 15 % slower (Zen 4).
#pragma once

namespace {

template <class Q, int NT>
inline void gemv_tiles(float *out, const unsigned char *weight, QuantizedRow x, const float *bias, size_t cols, const size_t *first,
                       size_t end) {
  const unsigned char *tiles[NT];
  for (int t = 0; t < NT; ++t) tiles[t] = weight + first[t] * Q::tile(cols);
  F32V sum[1][NT * UNITS];
  int_tile<Q, 1, NT>(sum, &x, tiles, blocks_of(cols));
  for (int t = 0; t < NT; ++t) store_tile(out, sum[0] + t * UNITS, bias, first[t] * TILE, end);
}

template <class Q>
void gemv_int(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  const unsigned char *w = (const unsigned char *)weight;
  const QuantizedRow row(x, blocks_of(cols));
  const size_t first = begin / TILE, last = (end + TILE - 1) / TILE;
  const size_t run = begin < end ? (last - first) / INT_STREAMS : 0;
  for (size_t i = 0; i < run; ++i) {
    size_t tiles[INT_STREAMS];
    for (size_t s = 0; s < INT_STREAMS; ++s) tiles[s] = first + s * run + i;
    gemv_tiles<Q, INT_STREAMS>(out, w, row, bias, cols, tiles, end);
  }
  for (size_t t = first + INT_STREAMS * run; t < last && begin < end; ++t) gemv_tiles<Q, 1>(out, w, row, bias, cols, &t, end);
}

} // namespace
