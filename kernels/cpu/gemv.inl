// out[o] = dot(weight[o], x) (+ bias[o]), o in [begin, end)
//
// Plan: the rows in GEMV_STREAMS equal runs, and one row of each run side by side, each its own chain of the one sum
// (dot_tile.inl); x stays in the L1 cache. Every weight is read once and used once, so the cost is the memory. The idea:
// few, long streams. Neighbouring rows side by side are short ones, often two in one page, which hardware prefetchers
// lose: half of the speed (Zen 4, huge pages; with small pages it is worse). A token of the 60M or the 320M is 3 to 13 %
// slower with six runs than with two there, 2 to 7 % with three, and with one a tenth at bf16, whose chain then waits for itself.
// Intel's prefetchers end at a page and like more streams: of what memory gives, two take 85 to 89 % at f32 and 89 to 93 at
// bf16, four 94 and 94 to 99, eight no more (Emerald Rapids; with AVX2 a token of the 320M at bf16 is 27 % faster with four than
// with two, and 10 % on Zen 3, where eight change nothing); so the lane headers say how many. Few chains have their price where
// the caches hold the weights: 16-bit rows, which widen as they go, lose a sixth with two.
#pragma once

namespace {

/// The N rows o, o + run, ... of the weight.
template <int N, class W, class X>
[[gnu::always_inline]] inline void gemv_rows(float *out, const W *weight, const X *x, size_t cols, size_t o, size_t run) {
  const W *rows[N];
  for (int n = 0; n < N; ++n) rows[n] = weight + (o + n * run) * cols;
  dot_tile<1, N>(out + o, 0, run, &x, rows, cols);
}

template <class W, class X>
void gemv_of(float *out, const void *weight, const X *x, const float *bias, size_t cols, size_t begin, size_t end) {
  const W *w = (const W *)weight;
  const size_t run = begin < end ? (end - begin) / GEMV_STREAMS : 0;
  for (size_t i = 0; i < run; ++i) gemv_rows<GEMV_STREAMS>(out, w, x, cols, begin + i, run);
  for (size_t o = begin + GEMV_STREAMS * run; o < end; ++o) gemv_rows<1>(out, w, x, cols, o, 1);
  if (bias) {
    for (size_t o = begin; o < end; ++o) out[o] += bias[o];
  }
}

template <class W>
void gemv(float *out, const void *weight, const float *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of<W>(out, weight, x, bias, cols, begin, end);
}

#ifndef __AMX_BF16__
void gemv_bf16(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of<Bf16>(out, weight, (const Bf16 *)x, bias, cols, begin, end);
}
#endif

} // namespace
