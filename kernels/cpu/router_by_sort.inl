// The router's choice, of any number of keys and with any ties.
//
// Plan, for k = n_top, without looking at all n_keys^2 pairs:
//  1. Sort each side, better first. Rank pairs (a, b), from 1, with a * b > k have at least k pairs no worse than themselves
//     (all ranks up to a and b), so the k-th best score T is found among the pairs with a * b <= k: 280 for k = 64.
//  2. Sort those by (score, id) and take the first k. All pairs with a score above T are among them.
//  3. Pairs that equal T may also lie outside, since x + y rounds: different keys can give one sum. If a pair just outside
//     equals T, walk the keys of x in ascending order, find each one's run of y that gives T by bisection (rounding is
//     monotone, so it is a run of ranks), and take the lowest ids.
// Sorting is done on 64-bit words, score above index, so one merge sort serves all. Cost: O(n_keys log n_keys + k log^2 k).
#pragma once

namespace {

/// A word that is smaller for a larger score. `score` is neither NaN nor -0.
inline uint64_t descending(float score, uint32_t index) {
  const uint32_t bits = bits_of_float(score);
  const uint32_t ascending = bits & 0x80000000 ? ~bits : bits | 0x80000000;
  return (uint64_t)~ascending << 32 | index;
}

inline float score_of(uint64_t word) {
  const uint32_t ascending = ~(uint32_t)(word >> 32);
  return float_of_bits(ascending & 0x80000000 ? ascending & 0x7fffffff : ~ascending);
}

/// One key's value as it is compared: -0 counts as +0; NaN as -infinity, so that order and sums stay monotone.
inline float ordered(float x) { return x == x ? x + 0.0f : -INFINITY; }

/// x + y of ordered values; infinity - infinity counts as -infinity.
inline float pair_score(float x, float y) { return ordered(x + y); }

/// Ascending merge sort, bottom up; `spare` has room for n words too.
inline void sort(uint64_t *words, uint64_t *spare, size_t n) {
  uint64_t *from = words, *to = spare;
  for (size_t run = 1; run < n; run *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * run) {
      const size_t middle = begin + run < n ? begin + run : n, end = middle + run < n ? middle + run : n;
      size_t left = begin, right = middle;
      for (size_t i = begin; i < end; ++i) {
        const bool take_left = right == end || (left < middle && from[left] <= from[right]);
        to[i] = from[take_left ? left : right];
        left += take_left;
        right += !take_left;
      }
    }
    uint64_t *sorted = to;
    to = from;
    from = sorted;
  }
  if (from != words) memcpy(words, from, n * sizeof *words);
}

/// The first rank whose sum with x is at most (or_equal) or below `limit`.
inline size_t first_rank(const uint64_t *y, size_t n, float x, float limit, bool or_equal) {
  size_t low = 0, high = n;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const float score = pair_score(x, score_of(y[middle]));
    if (score < limit || (or_equal && score == limit)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/// Step 3: the `need` lowest ids of the pairs that score exactly `limit`. `spare` has room for 2 * n words.
inline void lowest_ties(uint64_t *out, size_t need, const float *x, const uint64_t *y, size_t n, float limit,
                        uint64_t *spare) {
  for (size_t i = 0; i < n && need > 0; ++i) {
    const float xi = ordered(x[i]);
    const size_t begin = first_rank(y, n, xi, limit, true), run = first_rank(y, n, xi, limit, false) - begin;
    for (size_t b = 0; b < run; ++b) spare[b] = (uint32_t)y[begin + b];
    if (run > need) sort(spare, spare + n, run);
    const size_t taken = run < need ? run : need;
    for (size_t b = 0; b < taken; ++b) *out++ = descending(limit, (uint32_t)(i * n + spare[b]));
    need -= taken;
  }
}

/// Expert and its score, in the order of the ids. Gives the best score.
inline float choose_by_sort(const DogeRouterArgs *args) {
  const size_t n = args->n_keys, k = args->n_top;
  uint64_t *x = (uint64_t *)args->scratch, *y = x + n, *best = y + n;
  for (size_t i = 0; i < n; ++i) {
    x[i] = descending(ordered(args->x[i]), (uint32_t)i);
    y[i] = descending(ordered(args->y[i]), (uint32_t)i);
  }
  sort(x, best, n);
  sort(y, best, n);

  size_t count = 0;
  float outside = -INFINITY; // the best score of the pairs that are left out
  for (size_t a = 0; a < n && a <= k; ++a) {
    const size_t inside = k / (a + 1);
    const float xa = score_of(x[a]);
    const uint64_t row = (uint64_t)(uint32_t)x[a] * n;
    for (size_t b = 0; b < n && b < inside; ++b) {
      best[count++] = descending(pair_score(xa, score_of(y[b])), (uint32_t)(row + (uint32_t)y[b]));
    }
    if (inside < n) {
      const float score = pair_score(xa, score_of(y[inside]));
      if (score > outside) outside = score;
    }
  }
  uint64_t *spare = best + count;
  sort(best, spare, count);

  const float limit = score_of(best[k - 1]);
  if (outside >= limit) {
    size_t above = 0;
    while (score_of(best[above]) > limit) ++above;
    lowest_ties(best + above, k - above, args->x, y, n, limit, spare);
  }

  const float largest = score_of(best[0]);
  for (size_t e = 0; e < k; ++e) best[e] = best[e] << 32 | best[e] >> 32; // id above score
  sort(best, spare, k);
  for (size_t e = 0; e < k; ++e) {
    args->expert[e] = (uint32_t)(best[e] >> 32);
    args->weight[e] = score_of(best[e] << 32);
  }
  return largest;
}

} // namespace
