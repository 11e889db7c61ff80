// The router's choice where it is clear: few keys, all different, and no tie between the last pair chosen and the first one left.
//
// Plan: nothing is sorted, for of a sort of 128 keys 900 branches cannot be foreseen. A key's rank is the number of better ones,
// counted with a key in each lane. Among the pairs of ranks that may be chosen (router_by_sort.inl) a bar is found by bisection
// that exactly k of them are above. Those are put in the order of their ids by rank, too.
// Ids, ranks and counts are floats, exact below 2^24. Cost: 2 n_keys^2 + k^2 comparisons and some 12 for each pair, LANES at a time.
#pragma once

namespace {

constexpr size_t RANKED = 32 * LANES; // numbers at most: more are sorted in less time
constexpr size_t RANK_BLOCK = 4 * LANES;

inline size_t rank_room(size_t n) { return (n + RANK_BLOCK - 1) / RANK_BLOCK * RANK_BLOCK; }

/// rank[i] = how many of the n numbers are larger than x[i]. Both have room for rank_room(n).
inline void rank_all(float *rank, const float *x, size_t n) {
  for (size_t begin = 0; begin < n; begin += RANK_BLOCK) {
    F32V mine[4], larger[4]; // four chains: an addition takes as long as four comparisons
    for (int i = 0; i < 4; ++i) mine[i] = load(x + begin + i * LANES), larger[i] = zero();
    for (size_t j = 0; j < n; ++j) {
      const F32V other = splat(x[j]);
      for (int i = 0; i < 4; ++i) larger[i] = add_if(less(mine[i], other), larger[i], splat(1.0f));
    }
    for (int i = 0; i < 4; ++i) store(rank + begin + i * LANES, larger[i]);
  }
}

/// The keys of a side, best first: their values, and as floats where they were. LANES more may be read.
struct Side {
  float *value, *index;
};

/// Takes room for 4 * rank_room(n) floats, and needs the latter half of it no longer afterwards. False if two keys are equal.
inline bool rank_side(Side &side, const float *keys, size_t n, float *room) {
  const size_t some = rank_room(n);
  side = {room, room + some};
  float *const value = room + 2 * some, *const rank = room + 3 * some;
  for (size_t i = 0; i < n; i += LANES) {
    const F32V key = load_or(keys + i, n - i < LANES ? n - i : LANES, -INFINITY);
    store(value + i, select(equal(key, key), key, splat(-INFINITY)));
    store(side.index + i, splat(-1.0f));
  }
  rank_all(rank, value, n);
  for (size_t i = 0; i < n; ++i) {
    side.value[(size_t)rank[i]] = value[i];
    side.index[(size_t)rank[i]] = (float)i;
  }
  bool all = true; // equal keys have one rank, and leave the next one free
  for (size_t i = 0; i < n; ++i) all &= side.index[i] >= 0.0f;
  return all;
}

/// Pairs of keys.
struct Pairs {
  float *score, *id;
  size_t n;

  /// Of key `one` with keys begin..end of `others`: an id is base + step * index. LANES more may be written.
  void add_all(float one, const Side &others, size_t begin, size_t end, float base, float step) {
    for (size_t i = begin; i < end; i += LANES) {
      const size_t some = end - i < LANES ? end - i : LANES;
      store(score + n, add(load_n(others.value + i, some), splat(one)));
      store(id + n, fma(load_n(others.index + i, some), splat(step), splat(base)));
      n += some;
    }
  }
};

/// How many of n numbers are above a bar; LANES behind them are -infinity.
inline size_t count_above(const float *x, size_t n, float bar) {
  F32V above[2] = {zero(), zero()};
  for (size_t i = 0; i < n; i += LANES) above[i / LANES % 2] = add_if(less(splat(bar), load(x + i)), above[i / LANES % 2], splat(1.0f));
  return (size_t)sum(add(above[0], above[1]));
}

/// A bar between low and high that k of n numbers are above. False if there is none.
inline bool find_bar(float &bar, const float *x, size_t n, size_t k, float low, float high) {
  for (;;) {
    bar = low + (high - low) * 0.5f;
    if (!(low < bar && bar < high)) return false;
    const size_t above = count_above(x, n, bar);
    if (above == k) return true;
    (above > k ? low : high) = bar;
  }
}

/// Expert and its score, in the order of the ids, and the best score. False where the choice is not as clear as that.
inline bool choose_by_rank(const DogeRouterArgs *args, float &best) {
  const size_t n = args->n_keys, k = args->n_top;
  if (n > RANKED || k > RANKED) return false;
  float *const room = (float *)args->scratch;
  Side x, y;
  if (!rank_side(x, args->x, n, room) || !rank_side(y, args->y, n, room + 2 * rank_room(n))) return false;

  // Pairs (a, b) of ranks, from 0, with (a + 1) * (b + 1) <= k: those whose a is below the root of k in rows, the others in columns.
  float *const scores = room + 4 * rank_room(n);
  size_t root = 1;
  while (root * root < k) ++root; // <= n, for k <= n^2
  Pairs pairs = {scores, scores + 32 * k + LANES, 0};
  float outside = -INFINITY; // the best of those that are left out
  for (size_t a = 0; a < root; ++a) {
    const size_t inside = k / (a + 1), end = inside < n ? inside : n;
    pairs.add_all(x.value[a], y, 0, end, x.index[a] * (float)n, 1.0f);
    pairs.add_all(y.value[a], x, root, end, y.index[a], (float)n);
    if (inside < n) {
      const float row = x.value[a] + y.value[inside], column = x.value[inside] + y.value[a];
      outside = row > outside ? row : outside;
      outside = column > outside ? column : outside;
    }
  }
  store(pairs.score + pairs.n, splat(-INFINITY));

  // At least root^2 >= k pairs are no worse than that of the last ranks below the root.
  best = x.value[0] + y.value[0];
  const float least = x.value[root - 1] + y.value[root - 1];
  float bar;
  if (!find_bar(bar, pairs.score, pairs.n, k, least - (best - least) * 0.125f, best) || outside > bar) return false;

  Pairs chosen = {pairs.id + 32 * k + LANES, pairs.id + 32 * k + LANES + rank_room(k + 1), 0};
  for (size_t i = 0; i < pairs.n; ++i) {
    chosen.score[chosen.n] = pairs.score[i];
    chosen.id[chosen.n] = -pairs.id[i];
    chosen.n += pairs.score[i] > bar;
  }
  float *const rank = chosen.id + rank_room(k + 1);
  rank_all(rank, chosen.id, k); // ids are all different, and the largest of their negatives is the lowest
  for (size_t e = 0; e < k; ++e) {
    args->expert[(size_t)rank[e]] = (uint32_t)-chosen.id[e];
    args->weight[(size_t)rank[e]] = chosen.score[e];
  }
  return true;
}

} // namespace
