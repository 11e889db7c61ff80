// out[o] = dot(weight[o], x) (+ bias[o]), o in [begin, end), integer weights in tiles
//
// Plan: the tiles in Q::STREAMS equal runs (int_tile.inl), each a stream of whole lines. Every weight is read once and used once;
// the cost is the memory. On Zen 4 that is one run of int8 and two of int4: where the caches hold the weights its unpacking takes
// as long as they do, and wants two chains. Four runs are 2 to 9 % slower there, two neighbouring tiles side by side 15 to 40 %
// (a token). Intel's prefetchers like four: a token of the 320M is 45 % faster than with one run of int8, 14 % than with two of
// int4 (Emerald Rapids; with AVX2, whose registers they overflow, 50 and 36 %; on Zen 3, with AVX2 too, 19 % than with one run of
// int8, 8 % than with two of int4).
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
  constexpr size_t STREAMS = Q::STREAMS;
  const size_t run = begin < end ? (last - first) / STREAMS : 0;
  for (size_t i = 0; i < run; ++i) {
    size_t tiles[STREAMS];
    for (size_t s = 0; s < STREAMS; ++s) tiles[s] = first + s * run + i;
    gemv_tiles<Q, STREAMS>(out, w, row, bias, cols, tiles, end);
  }
  for (size_t t = first + STREAMS * run; t < last && begin < end; ++t) gemv_tiles<Q, 1>(out, w, row, bias, cols, &t, end);
}

} // namespace
