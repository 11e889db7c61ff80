// Weights that come next, asked for a few lines at a time while others are computed with.
//
// A gemm passes over a block of weights many times, and only the first time has to wait for memory: the first 6 rows of 128 use
// it at twice the speed at which it comes. The later passes ask for the next block meanwhile, so that there is no first time.
#pragma once

namespace {

constexpr size_t AHEAD_BYTES = 4096; // of a step at most: a burst of requests would keep the kernel's own loads waiting

struct Ahead {
  const char *next, *end;
  size_t step;

  Ahead(const void *from, size_t bytes, size_t steps)
      : next((const char *)from), end(next + bytes), step(steps ? (bytes / steps + LINE - 1) / LINE * LINE : 0) {
    if (step > AHEAD_BYTES) step = 0;
  }

  /// Asks for the lines of one of the steps.
  void fetch() {
    const char *until = end - next < (ptrdiff_t)step ? end : next + step;
    for (; next < until; next += LINE) prefetch(next);
  }
};

} // namespace
