// The choice of a row's experts (spec 4.6), by one block of threads: no score leaves the chip.
//
//  1. Sort both sides by counting who is better. 2. The best n_top lie among the rank pairs (a, b), from 1, with a * b <= n_top.
//  The host lists them by a * b; none of the best is below the least of the first n_top of that list. 3. Rank the others by
//  counting. 4. Sums round, so pairs outside can equal the last one kept; if one does, look at all pairs for the lowest ids.
//  5. Softmax, in ascending order of id.
//
// Loops over what a block's threads have in one turn are not unrolled: code that runs once costs what fetching it costs.
// What is compared is one number: the value's order in the upper half, and below it the index, so that the lower one is better.
#pragma once
#include "device.h"

namespace router {

constexpr uint32_t THREADS = DOGE_CUDA_EXPERT_THREADS, HALF = THREADS / 2, WARPS = THREADS / 32;
// Keys of a side that are ranked out of shared memory; more are ranked where they lie.
constexpr uint32_t NEAR_KEYS_MAX = 512;
static_assert(DOGE_CUDA_TOP_MAX <= THREADS, "a thread has one of the first n_top pairs");

/// Rank pairs (a, b), from 1, with a * b <= n_top.
constexpr uint32_t pairs_of(uint32_t n_top) {
  uint32_t pairs = 0;
  for (uint32_t a = 1; a <= n_top; ++a) pairs += n_top / a;
  return pairs;
}
// The best of a side, and the first one that is left out. The other keys stay where they are, so there may be many.
constexpr uint32_t PAIRS_MAX = pairs_of(DOGE_CUDA_TOP_MAX), RANKS_MAX = DOGE_CUDA_TOP_MAX + 1;

struct Scratch {
  uint64_t sorted[2][RANKS_MAX];
  union {
    uint64_t near[2][NEAR_KEYS_MAX];
    uint64_t pair[PAIRS_MAX];
  };
  uint64_t best[DOGE_CUDA_TOP_MAX];
  uint32_t ranks[PAIRS_MAX];
  float least[WARPS];
  uint32_t n_pairs, tie;
};

/// Ascending by id; the weight of each is its power by the sum of all.
struct Chosen {
  uint32_t expert[DOGE_CUDA_TOP_MAX];
  float power[DOGE_CUDA_TOP_MAX];
};

/// One value as it is compared: -0 counts as +0, NaN as -infinity, so that order and sums stay monotone.
DOGE_DEVICE float ordered(float x) { return x == x ? x + 0.0f : -dev::infinity(); }

/// The larger the better.
DOGE_DEVICE uint64_t order_of(float value, uint32_t index) {
  const uint32_t bits = dev::bits(ordered(value)), rising = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return (uint64_t)rising << 32 | (uint32_t)~index;
}
DOGE_DEVICE float value_of(uint64_t order) {
  const uint32_t rising = (uint32_t)(order >> 32);
  return dev::from_bits(rising >> 31 != 0 ? rising & 0x7fffffffu : ~rising);
}
DOGE_DEVICE uint32_t index_of(uint64_t order) { return ~(uint32_t)order; }

/// How many of n are better.
DOGE_DEVICE uint32_t rank_of(uint64_t mine, const uint64_t *all, uint32_t n) {
  uint32_t rank = 0;
#pragma unroll 8
  for (uint32_t j = 0; j < n; ++j) rank += all[j] > mine;
  return rank;
}

/// The score of a pair of ranks, from 0.
DOGE_DEVICE float score_of(const Scratch &s, uint32_t a, uint32_t b) {
  return ordered(value_of(s.sorted[0][a]) + value_of(s.sorted[1][b]));
}

/// The rank pairs, which no launch before has written.
DOGE_DEVICE void load_ranks(Scratch &s, const DogeCudaExpertsArgs &a) {
#pragma unroll 1
  for (uint32_t i = dev::thread(); i < a.n_pairs; i += THREADS) s.ranks[i] = a.pairs[i];
}

/// The best `n_top + 1` of each side, each by half of the block's threads.
DOGE_DEVICE void sort_sides(Scratch &s, const float *x, const float *y, uint32_t n_keys, uint32_t n_top) {
  const uint32_t side = dev::thread() / HALF, first = dev::thread() % HALF;
  const float *const from = side == 0 ? x : y;
  const bool are_near = n_keys <= NEAR_KEYS_MAX;
  if (are_near) {
#pragma unroll 1
    for (uint32_t i = first; i < n_keys; i += HALF) s.near[side][i] = order_of(from[i], i);
  }
  dev::sync();
#pragma unroll 1
  for (uint32_t i = first; i < n_keys; i += HALF) {
    const uint64_t mine = are_near ? s.near[side][i] : order_of(from[i], i);
    uint32_t rank = 0;
    if (are_near) {
      rank = rank_of(mine, s.near[side], n_keys);
    } else {
#pragma unroll 4
      for (uint32_t j = 0; j < n_keys; ++j) rank += order_of(from[j], j) > mine;
    }
    if (rank <= n_top) s.sorted[side][rank] = mine;
  }
}

/// All pairs by ascending id, for those that equal the last one kept. By one thread.
DOGE_DEVICE void keep_lowest(Scratch &s, const float *x, const float *y, uint32_t n_keys, uint32_t n_top) {
  const float last = value_of(s.best[n_top - 1]), best_y = value_of(s.sorted[1][0]);
  uint32_t n = 0;
  while (n < n_top && value_of(s.best[n]) > last) ++n;
  for (uint32_t i = 0; n < n_top && i < n_keys; ++i) {
    if (ordered(ordered(x[i]) + best_y) < last) continue; // not even its best pair
    for (uint32_t j = 0; n < n_top && j < n_keys; ++j) {
      if (ordered(ordered(x[i]) + ordered(y[j])) == last) s.best[n++] = order_of(last, i * n_keys + j);
    }
  }
}

/// Chooses a row's experts. Gives the sum of their powers, the same to each thread.
DOGE_DEVICE float choose(Scratch &s, Chosen &chosen, const DogeCudaExpertsArgs &a, const float *x, const float *y) {
  const uint32_t n_keys = a.n_keys, n_top = a.n_top;
  if (dev::thread() == 0) s.n_pairs = 0, s.tie = 0;
  sort_sides(s, x, y, n_keys, n_top);
  dev::sync();
  const auto score = [&](uint32_t ranks) { return score_of(s, ranks >> 16, ranks & 0xffffu); };
  float least = dev::thread() < n_top ? score(s.ranks[dev::thread()]) : dev::infinity();
  least = -dev::warp_max(-least);
  if (dev::lane() == 0) s.least[dev::warp()] = least;
  dev::sync();
  for (uint32_t i = 0; i < WARPS; ++i) least = s.least[i] < least ? s.least[i] : least;
#pragma unroll 1
  for (uint32_t i = dev::thread(); i < a.n_pairs; i += THREADS) {
    const uint32_t ranks = s.ranks[i];
    if (score(ranks) < least) continue;
    const uint32_t id = index_of(s.sorted[0][ranks >> 16]) * n_keys + index_of(s.sorted[1][ranks & 0xffffu]);
    s.pair[dev::add(&s.n_pairs, 1)] = order_of(score(ranks), id); // in any order: they are ranked
  }
  dev::sync();
  const uint32_t pairs = s.n_pairs;
#pragma unroll 1
  for (uint32_t i = dev::thread(); i < pairs; i += THREADS) {
    const uint64_t mine = s.pair[i];
    const uint32_t rank = rank_of(mine, s.pair, pairs);
    if (rank < n_top) s.best[rank] = mine;
  }
  dev::sync();
  const float last = value_of(s.best[n_top - 1]);
#pragma unroll 1
  for (uint32_t i = dev::thread(); i < dev::least(n_top + 1, n_keys); i += THREADS) {
    const uint32_t j = n_top / (i + 1); // the first rank that is not listed with rank i
    if (j < n_keys && score_of(s, i, j) == last) s.tie = 1;
  }
  dev::sync();
  if (s.tie != 0) {
    if (dev::thread() == 0) keep_lowest(s, x, y, n_keys, n_top);
    dev::sync();
  }
  const float largest = value_of(s.best[0]);
#pragma unroll 1
  for (uint32_t i = dev::thread(); i < n_top; i += THREADS) {
    const uint32_t id = index_of(s.best[i]);
    const float mine = value_of(s.best[i]);
    uint32_t rank = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < n_top; ++j) rank += index_of(s.best[j]) < id;
    chosen.expert[rank] = id;
    chosen.power[rank] = mine == largest ? 1.0f : expf(mine - largest);
  }
  dev::sync();
  float sum = 0.0f;
#pragma unroll 8
  for (uint32_t i = 0; i < n_top; ++i) sum += chosen.power[i];
  return sum;
}

}  // namespace router
