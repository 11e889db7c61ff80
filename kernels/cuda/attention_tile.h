// One tile of keys under a block's rows: what prefill and decode (dynamic_mask_attention.cu, decode_attention.cu) have in common,
// so that they give a query the same bits.
//
// A block of threads serves up to ROWS rows (queries times the heads of one mask head; ROWS <= 8), which share the keys. It takes a
// tile of slots at a time: scores with eight lanes a key, the largest, the exponentials, then the weighted sum of v with a
// thread for each channel, keys one after another in the order of their slots. A key that a query does not see adds zero.
// Tiles are merged in ascending order by their maxima.
#pragma once
#include "attention_keys.h"

namespace attention {

constexpr uint32_t THREADS = DOGE_CUDA_THREADS;
constexpr uint32_t LANES_A_KEY = 8, KEYS_AT_ONCE = THREADS / LANES_A_KEY;
constexpr uint32_t HEAD_DIM_MAX = 256;

/// A block's queries, and what it knows of a tile. ENTRIES: keys of a tile at most.
template <int ROWS, uint32_t ENTRIES> struct Tile {
  float q[ROWS][HEAD_DIM_MAX];
  float p[ROWS][ENTRIES];
  const float *v[ENTRIES];
  float largest[ROWS];
};

/// What a query has summed so far. A thread has its own COLUMNS channels of `out`.
template <int ROWS, int COLUMNS> struct Sums {
  float largest[ROWS], sum[ROWS], out[ROWS][COLUMNS];
};

template <int ROWS, class Block> DOGE_DEVICE void load_queries(Block &shared, const DogeCudaAttentionArgs &a, const Rows &rows) {
  for (uint32_t i = dev::thread(); i < ROWS * HEAD_DIM_MAX; i += THREADS) {
    const int r = (int)(i / HEAD_DIM_MAX);
    const uint32_t c = i % HEAD_DIM_MAX;
    shared.q[r][c] = c < a.head_dim ? a.q[(size_t)rows.query(r) * a.q_stride + (size_t)rows.head(r) * a.head_dim + c] : 0.0f;
  }
}

/// Of the tile begin .. end of the ring.
template <int ROWS> DOGE_DEVICE Sight sight_of_ring(const DogeCudaAttentionArgs &a, const Rows &rows, uint32_t begin, uint32_t end) {
  uint32_t any = 0, all = ~0u;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const uint32_t seen = seen_of_tile(a, rows.query(r), rows.m, begin);
    any |= seen;
    all &= seen;
  }
  if (any == 0) return NOTHING;
  return all == ~0u >> (DOGE_CUDA_TILE - (end - begin)) ? ALL : SOME;
}

/// Turns the scores of a tile's n keys into what they weigh, beside the largest.
template <int ROWS, class Block> DOGE_DEVICE void weigh(Block &shared, uint32_t n) {
  for (uint32_t r = dev::warp(); r < ROWS; r += THREADS / 32) {
    float largest = -dev::infinity();
    for (uint32_t i = dev::lane(); i < n; i += 32) largest = dev::larger(largest, shared.p[r][i]);
    largest = dev::warp_max(largest);
    for (uint32_t i = dev::lane(); i < n; i += 32) {
      const float score = shared.p[r][i];
      shared.p[r][i] = score == -dev::infinity() ? 0.0f : expf(score - largest);
    }
    if (dev::lane() == 0) shared.largest[r] = largest;
  }
}

/// Adds the keys begin .. end, one tile of which the rows have the `sight`, to `sums`.
template <int ROWS, int COLUMNS, class Block>
DOGE_DEVICE void add_tile(Block &shared, const DogeCudaAttentionArgs &a, const Keys &keys, const Rows &rows, Sight sight, uint32_t begin,
                          uint32_t end, Sums<ROWS, COLUMNS> &sums) {
  if (sight == NOTHING) return;
  const bool asks_list = sight == SOME && a.seen == nullptr, asks_ring = sight == SOME && a.seen != nullptr;
  const uint32_t place0 = a.at->place, part = dev::thread() % LANES_A_KEY;
  for (uint32_t first = begin; first < end; first += KEYS_AT_ONCE) {
    const uint32_t entry = first + dev::thread() / LANES_A_KEY, t = dev::least(entry, end - 1);
    const uint32_t row = a.seen != nullptr ? t % a.kept.n_slots : keys.row[t];
    const bool is_new = (row & DOGE_CUDA_NEW) != 0;
    const size_t at = is_new ? (size_t)(row & ~DOGE_CUDA_NEW) * a.kv_stride : (size_t)row * a.kept.kv_row;
    const float *const k = (is_new ? keys.new_k : keys.arena_k) + at;
    float dot[ROWS] = {};
    for (uint32_t c = 4 * part; c < a.head_dim; c += 4 * LANES_A_KEY) {
      float x[4];
      load4(x, k, c, a.head_dim);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) dot[r] = dev::fma(shared.q[r][c + i], x[i], dot[r]);
      }
    }
    const float mask = keys.mask[a.seen != nullptr ? row : t];
    const uint32_t from = asks_list ? keys.seen_from[t] : 0, until = asks_list ? keys.seen_until[t] : DOGE_CUDA_NEVER;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float sum = dot[r];
      for (uint32_t lanes = LANES_A_KEY / 2; lanes > 0; lanes /= 2) sum += dev::shuffle_xor(sum, lanes);
      const uint32_t query = rows.query(r), place = place0 + query;
      const bool sees = asks_ring ? (seen_of_tile(a, query, rows.m, t) >> t % DOGE_CUDA_TILE & 1) != 0 : from <= place && place < until;
      if (part == (uint32_t)r && entry < end) shared.p[r][t - begin] = sees ? dev::fma(sum, a.scale, mask) : -dev::infinity();
    }
    if (part == 0 && entry < end) shared.v[t - begin] = (is_new ? keys.new_v : keys.arena_v) + at;
  }
  dev::sync();
  const uint32_t n = end - begin;
  weigh<ROWS>(shared, n);
  dev::sync();
  float sum[ROWS] = {}, out[ROWS][COLUMNS] = {};
#pragma unroll 8
  for (uint32_t i = 0; i < n; ++i) {
    float v[COLUMNS];
    for (int j = 0; j < COLUMNS; ++j) {
      const uint32_t c = dev::thread() + j * THREADS;
      v[j] = c < a.head_dim ? shared.v[i][c] : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float p = shared.p[r][i];
      sum[r] += p;
      for (int j = 0; j < COLUMNS; ++j) out[r][j] = dev::fma(p, v[j], out[r][j]);
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    merge(sums.largest[r], sums.sum[r], sums.out[r], COLUMNS, shared.largest[r], sum[r], out[r]);
  }
  dev::sync();
}

template <int ROWS, int COLUMNS> DOGE_DEVICE void begin_sums(Sums<ROWS, COLUMNS> &sums) {
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    sums.largest[r] = -dev::infinity();
    sums.sum[r] = 0.0f;
    for (int j = 0; j < COLUMNS; ++j) sums.out[r][j] = 0.0f;
  }
}

}  // namespace attention
