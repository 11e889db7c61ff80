// Activations that blocks of one launch hand each other: words of a float and a tag (doge_cuda.h). A word is whole at once, so whoever
// sees the tag has the float: there is no barrier over the grid, no fence, and nobody waits for more than it reads.
#pragma once
#include "device.h"

namespace words {

DOGE_DEVICE bool is_here(uint64_t word, uint32_t tag) { return (uint32_t)(word >> 32) == tag; }
DOGE_DEVICE float value(uint64_t word) { return dev::from_bits((uint32_t)word); }

/// One word, when it is there.
DOGE_DEVICE float await(const uint64_t *p, uint32_t tag) {
  uint64_t word;
  while (!is_here(word = dev::look1(p), tag)) dev::pause();
  return value(word);
}

/// Until a word was there. One of a later tag says so too: for who does not need what it says, and may come when it is overwritten.
/// The tags of a word follow each other so closely that their difference has a sign, also where they begin anew; before the first
/// launch there is 0, which none is.
DOGE_DEVICE void await_writer(const uint64_t *p, uint32_t tag) {
  while ((int32_t)((uint32_t)(dev::look1(p) >> 32) - tag) < 0) dev::pause();
}

/// The words c .. c + 3 of a row, for each of N quads of neighbouring columns that lie `step` columns apart, when all are there. Beyond
/// the row, whose length is a multiple of 4, are zeros. By a whole warp: until one word that it needs is there it looks at no other,
/// for a look of all is as many bytes of L2 as all blocks' inputs.
template <int N> DOGE_DEVICE void await(dev::Words4 (&to)[N], const uint64_t *row, uint32_t first, uint32_t step, uint32_t cols, uint32_t tag) {
  if (dev::lane() == 0 && first < cols) await(row + first, tag);
  dev::sync_warp();
  bool all;
  do {
    all = true;
    dev::Words2 low[N] = {}, high[N] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (first + i * step < cols) low[i] = dev::look(row + first + i * step), high[i] = dev::look(row + first + i * step + 2);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (first + i * step < cols) all = all && is_here(low[i].w[0], tag) && is_here(low[i].w[1], tag) && is_here(high[i].w[0], tag) && is_here(high[i].w[1], tag);
      to[i] = {{(uint32_t)low[i].w[0], (uint32_t)low[i].w[1], (uint32_t)high[i].w[0], (uint32_t)high[i].w[1]}};
    }
    if (!all) dev::pause();
  } while (!all);
}

}  // namespace words
