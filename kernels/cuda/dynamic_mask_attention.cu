// Dynamic mask attention (spec 4.4): softmax over the kept keys of q * k * scale + s, for decode and prefill with the same
// bits.
//
// A block of threads serves up to ROWS rows (queries times the heads of one mask head; ROWS <= 8), which share the keys. It takes a
// tile of slots at a time: scores with eight lanes a key, the largest, the exponentials, then the weighted sum of v with a
// thread for each channel, keys one after another in the order of their slots. A key that a query does not see adds zero.
// Tiles are merged in ascending order by their maxima. Prefill does that as it goes; decode spreads the tiles over the grid
// and merges in a kernel of its own, by the same function.
//
// A prompt's blocks of rows pass by the tiles of which they see nothing, and where they see all they do not ask key by key. A
// tile that is passed by adds nothing to any sum, so the bits stay.
//
// With sliding_window the tiles are of neighbouring places, out of the ring, and a bit says which query sees which key.
#include "attention_keys.h"

namespace {

using namespace attention;

constexpr uint32_t THREADS = DOGE_CUDA_THREADS;
constexpr uint32_t LANES_A_KEY = 8, KEYS_AT_ONCE = THREADS / LANES_A_KEY;
constexpr uint32_t HEAD_DIM_MAX = 256;
// In a prefill a slot may have had a key more for every token of the block.
constexpr uint32_t ENTRIES_MAX = DOGE_CUDA_TILE + DOGE_CUDA_BLOCK;

template <int ROWS, uint32_t ENTRIES> struct Shared {
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

/// Grid: groups of ROWS rows, mask heads.
template <int ROWS, int COLUMNS> DOGE_DEVICE void prefill(const DogeCudaAttentionArgs &a) {
  Shared<ROWS, ENTRIES_MAX> &shared = dev::shared<Shared<ROWS, ENTRIES_MAX>>();
  const uint32_t m = dev::block_y(), heads = a.q_heads / a.kept.mask_heads;
  const Rows rows = {dev::block_x() * ROWS, a.n_rows * heads, heads, m};
  const Keys keys = keys_of(a, m, true);
  load_queries<ROWS>(shared, a, rows);
  dev::sync();
  Sums<ROWS, COLUMNS> sums;
  begin_sums(sums);
  if (a.seen != nullptr) {
    const uint32_t end = a.at->place + rows.query(ROWS - 1) + 1;
    for (uint32_t begin = window_first(a, rows.query(0)) / DOGE_CUDA_TILE * DOGE_CUDA_TILE; begin < end; begin += DOGE_CUDA_TILE) {
      const uint32_t tile_end = dev::least(begin + DOGE_CUDA_TILE, end);
      add_tile(shared, a, keys, rows, sight_of_ring<ROWS>(a, rows, begin, tile_end), begin, tile_end, sums);
    }
  } else {
    const uint32_t *const tile_begin = a.list.tile_begin + (size_t)m * a.list.tiles_room;
    const uint32_t tiles = (a.kept.count[m] + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
    for (uint32_t i = 0; i < tiles; ++i) {
      add_tile(shared, a, keys, rows, sight_of_list<ROWS>(a, rows, i), tile_begin[i], tile_begin[i + 1], sums);
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    if (rows.first + r >= rows.end) continue;
    for (int j = 0; j < COLUMNS; ++j) {
      const uint32_t c = dev::thread() + j * THREADS;
      if (c >= a.head_dim) continue;
      a.out[(size_t)rows.query(r) * a.q_stride + (size_t)rows.head(r) * a.head_dim + c] = quotient(sums.out[r][j], sums.sum[r]);
    }
  }
}

/// Grid: tiles, mask heads, groups of ROWS heads.
template <int ROWS, int COLUMNS> DOGE_DEVICE void decode(const DogeCudaAttentionArgs &a) {
  Shared<ROWS, DOGE_CUDA_TILE> &shared = dev::shared<Shared<ROWS, DOGE_CUDA_TILE>>();
  const uint32_t m = dev::block_y(), tile = dev::block_x(), heads = a.q_heads / a.kept.mask_heads;
  const Range all = range(a, m);
  const uint32_t begin = all.begin + tile * DOGE_CUDA_TILE;
  if (begin >= all.end) return;
  const Rows rows = {dev::block_z() * ROWS, heads, heads, m};
  const Keys keys = keys_of(a, m, false);
  load_queries<ROWS>(shared, a, rows);
  dev::sync();
  Sums<ROWS, COLUMNS> sums;
  begin_sums(sums);
  // All slots are seen; of a ring some.
  add_tile(shared, a, keys, rows, a.seen != nullptr ? SOME : ALL, begin, dev::least(begin + DOGE_CUDA_TILE, all.end), sums);
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    if (rows.first + r >= rows.end) continue;
    float *const partial = a.partial + ((size_t)rows.head(r) * a.partial_tiles + tile) * (2 + a.head_dim);
    if (dev::thread() == 0) partial[0] = sums.largest[r], partial[1] = sums.sum[r];
    for (int j = 0; j < COLUMNS; ++j) {
      const uint32_t c = dev::thread() + j * THREADS;
      if (c < a.head_dim) partial[2 + c] = sums.out[r][j];
    }
  }
}

}  // namespace

// Heads of up to 128 channels, and up to 256. Every published model has two heads or one to a mask head.
DOGE_KERNEL(doge_attention_prefill_128, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<8, 1>(a); }
DOGE_KERNEL(doge_attention_prefill_256, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<8, 2>(a); }
DOGE_KERNEL(doge_attention_decode_128, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { decode<2, 1>(a); }
DOGE_KERNEL(doge_attention_decode_256, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { decode<2, 2>(a); }
