// out[o] = dot(weight[o], x) (+ bias[o]), o in [begin, end)
//
// Plan: the rows in four equal runs, and one row of each run side by side, each its own chain of the one sum
// (dot_tile.inl); x stays in the L1 cache. Every weight is read once and used once, so the cost is the memory. The idea:
// few, long streams. Neighbouring rows side by side are short ones, often two in one page, which hardware prefetchers
// lose: half of the speed for rows of 2 KiB (Zen 4, huge pages; with small pages it is worse), where four runs of 256 KiB
// are as fast as a plain read and eight a tenth slower.
#pragma once

namespace {

constexpr size_t STREAMS = 4;

template <class W, class X>
void gemv_of(float *out, const void *weight, const X *x, const float *bias, size_t cols, size_t begin, size_t end) {
  const W *w = (const W *)weight;
  const size_t run = begin < end ? (end - begin) / STREAMS : 0;
  for (size_t i = 0; i < run; ++i) {
    const W *rows[STREAMS];
    for (size_t s = 0; s < STREAMS; ++s) rows[s] = w + (begin + s * run + i) * cols;
    dot_tile<1, STREAMS>(out + begin + i, 0, run, &x, rows, cols);
  }
  for (size_t o = begin + STREAMS * run; o < end; ++o) {
    const W *row = w + o * cols;
    dot_tile<1, 1>(out + o, 0, 1, &x, &row, cols);
  }
  if (bias) {
    for (size_t o = begin; o < end; ++o) out[o] += bias[o];
  }
}

template <class W>
void gemv(float *out, const void *weight, const float *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of<W>(out, weight, x, bias, cols, begin, end);
}

void gemv_bf16(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of<Bf16>(out, weight, (const Bf16 *)x, bias, cols, begin, end);
}

} // namespace
