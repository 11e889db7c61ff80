// Everything between the projections of a single token in one launch (spec 4.2 to 4.4): a decode step of a small model is a chain
// of launches, and a launch a chain of trips to memory (docs/cuda.md). The sums are those of a prompt, bit for bit.
//
// Grid: tiles of slots, mask heads, groups of heads. The state is that of the step before, which is done: so each block loads the keys
// and values of its tile before it waits for the launch before. Then it scores the token's own key, rotates its queries and that key, and
// knows from the state which slot the key takes. What a block leaves, the last one to come merges in ascending order; so nobody
// waits, and the order is fixed. The last block of a K/V head, when all have read its state, changes it.
#include "decode_attention.h"

namespace {

using namespace decode_attention;

constexpr uint32_t PASSES = DOGE_CUDA_TILE / KEYS_AT_ONCE;

struct Shared : decode_attention::Shared {
  uint32_t is_last_of_heads, is_last_of_kv_head;
};

/// What a thread takes of a tile: of two keys, one in each pass, a lane's share; of each value, its channels.
template <int COLUMNS> struct Mine {
  static constexpr uint32_t STEPS = 4 * COLUMNS; // of four channels a lane
  dev::Words4 k[PASSES][STEPS];
  float mask[PASSES];
  float v[DOGE_CUDA_TILE][COLUMNS];
};

/// The row of entry t in the arena.
DOGE_DEVICE uint32_t row_of(const DogeCudaAttentionArgs &a, const Keys &keys, uint32_t t) {
  return a.seen != nullptr ? t % a.kept.n_slots : keys.row[t];
}

/// Loads the entries begin .. end, as many as there are before the token's own.
template <int COLUMNS> DOGE_DEVICE void load(Mine<COLUMNS> &mine, const DogeCudaAttentionArgs &a, const Keys &keys, uint32_t begin, uint32_t end) {
#pragma unroll
  for (uint32_t pass = 0; pass < PASSES; ++pass) {
    const uint32_t t = begin + pass * KEYS_AT_ONCE + dev::thread() / LANES_A_KEY;
    if (t >= end) continue;
    const uint32_t row = row_of(a, keys, t);
    mine.mask[pass] = keys.mask[a.seen != nullptr ? row : t];
#pragma unroll
    for (uint32_t step = 0; step < Mine<COLUMNS>::STEPS; ++step) {
      const uint32_t c = 4 * (dev::thread() % LANES_A_KEY + step * LANES_A_KEY);
      if (c < a.head_dim) mine.k[pass][step] = dev::load16(keys.arena_k + (size_t)row * a.kept.kv_row + c);
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < DOGE_CUDA_TILE; ++i) {
    if (begin + i >= end) continue;
    const float *const v = keys.arena_v + (size_t)row_of(a, keys, begin + i) * a.kept.kv_row;
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const uint32_t c = dev::thread() + j * THREADS;
      mine.v[i][j] = c < a.head_dim ? v[c] : 0.0f;
    }
  }
}

/// The token's own key: its entry, its mask value, and the thread's channels of its value.
template <int COLUMNS> struct Newcomer {
  uint32_t entry; // or DOGE_CUDA_NEVER
  float mask;
  float v[COLUMNS];
};

/// Adds the entries begin .. end to `sums`, as add_tile does.
template <int COLUMNS>
DOGE_DEVICE void add(Shared &shared, const Mine<COLUMNS> &mine, const DogeCudaAttentionArgs &a, const Rows &rows, const Newcomer<COLUMNS> &newcomer,
                     uint32_t begin, uint32_t end, Sums<ROWS, COLUMNS> &sums) {
  const uint32_t part = dev::thread() % LANES_A_KEY, n = end - begin;
#pragma unroll
  for (uint32_t pass = 0; pass < PASSES; ++pass) {
    const uint32_t i = pass * KEYS_AT_ONCE + dev::thread() / LANES_A_KEY;
    const bool is_newcomer = begin + i == newcomer.entry;
    float dot[ROWS] = {};
#pragma unroll
    for (uint32_t step = 0; step < Mine<COLUMNS>::STEPS; ++step) {
      const uint32_t c = 4 * (part + step * LANES_A_KEY);
      if (c >= a.head_dim || i >= n) continue;
      const dev::Words4 x = is_newcomer ? dev::load16(shared.k + c) : mine.k[pass][step];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) dot[r] = dev::fma(shared.tile.q[r][c + j], dev::from_bits(x.w[j]), dot[r]);
      }
    }
    const float mask = is_newcomer ? newcomer.mask : mine.mask[pass];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float sum = dot[r];
      for (uint32_t lanes = LANES_A_KEY / 2; lanes > 0; lanes /= 2) sum += dev::shuffle_xor(sum, lanes);
      if (part != (uint32_t)r || i >= n) continue;
      const bool sees = a.seen == nullptr || (seen_of_tile(a, 0, rows.m, begin) >> i & 1) != 0;
      shared.tile.p[r][i] = sees ? dev::fma(sum, a.scale, mask) : -dev::infinity();
    }
  }
  dev::sync();
  weigh<ROWS>(shared.tile, n);
  dev::sync();
  float sum[ROWS] = {}, out[ROWS][COLUMNS] = {};
#pragma unroll
  for (uint32_t i = 0; i < DOGE_CUDA_TILE; ++i) {
    if (i >= n) continue;
    const bool is_newcomer = begin + i == newcomer.entry;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float p = shared.tile.p[r][i];
      sum[r] += p;
      for (int j = 0; j < COLUMNS; ++j) out[r][j] = dev::fma(p, is_newcomer ? newcomer.v[j] : mine.v[i][j], out[r][j]);
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    merge(sums.largest[r], sums.sum[r], sums.out[r], COLUMNS, shared.tile.largest[r], sum[r], out[r]);
  }
}

/// Merges the tiles of a head, in ascending order.
DOGE_DEVICE void merge_tiles(const DogeCudaDecodeArgs &d, uint32_t head, uint32_t tiles) {
  const DogeCudaAttentionArgs &a = d.attention;
  for (uint32_t c = dev::thread(); c < a.head_dim; c += THREADS) {
    float largest = -dev::infinity(), sum = 0.0f, out = 0.0f;
#pragma unroll 16
    for (uint32_t i = 0; i < tiles; ++i) {
      const float *const partial = d.partial + ((size_t)head * d.tiles + i) * (2 + a.head_dim);
      merge(largest, sum, &out, 1, partial[0], partial[1], partial + 2 + c);
    }
    a.out[(size_t)head * a.head_dim + c] = quotient(out, sum);
  }
}

template <int COLUMNS> DOGE_DEVICE void decode(const DogeCudaDecodeArgs &d) {
  const DogeCudaAttentionArgs &a = d.attention;
  Shared &shared = dev::shared<Shared>();
  dev::launch_next();
  const uint32_t tile = dev::block_x(), m = dev::block_y(), heads = a.q_heads / a.kept.mask_heads;
  const uint32_t masks = a.kept.mask_heads / a.kept.kv_heads, kv_head = m / masks;
  const Rows rows = {dev::block_z() * ROWS, heads, heads, m};
  const Keys keys = keys_of(a, m, false);
  const bool is_ring = a.seen != nullptr;
  const uint32_t place = a.at->place, stopped = a.at->stopped, count = is_ring ? 0 : a.kept.count[m];
  const uint32_t first = is_ring ? window_first(a, 0) / DOGE_CUDA_TILE * DOGE_CUDA_TILE : 0, end = is_ring ? place + 1 : count;
  const uint32_t begin = first + tile * DOGE_CUDA_TILE;
  Mine<COLUMNS> mine = {};
  load(mine, a, keys, begin, dev::least(begin + DOGE_CUDA_TILE, end));
  dev::wait_for_previous();

  Newcomer<COLUMNS> newcomer = {DOGE_CUDA_NEVER, 0.0f, {}};
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    const uint32_t c = dev::thread() + j * THREADS;
    newcomer.v[j] = c < a.head_dim ? a.v[(size_t)kv_head * a.head_dim + c] : 0.0f;
  }
  uint32_t end_after = end;
  if (is_ring) {
    load_queries<ROWS>(shared.tile, a, rows);
    dev::sync();
  } else {
    Fresh fresh = {{}, a.k + (size_t)kv_head * a.head_dim, a.v};
#pragma unroll
    for (int r = 0; r < ROWS; ++r) fresh.q[r] = a.q + (size_t)rows.head(r) * a.head_dim;
    clear(shared, a.head_dim);
    begin_token(shared, d, fresh, m);
    dev::sync();
    const kept::Choice choice = kept::choose(a.kept, m, count, shared.mask, place);
    newcomer.entry = choice.slot, newcomer.mask = shared.mask;
    end_after = choice.count;
    if (tile == 0 && dev::block_z() == 0 && dev::thread() == 0) d.score.out[m] = shared.mask;
  }
  const uint32_t tiles = (end_after - first + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
  if (tile < tiles) {
    Sums<ROWS, COLUMNS> sums;
    begin_sums(sums);
    add(shared, mine, a, rows, newcomer, begin, dev::least(begin + DOGE_CUDA_TILE, end_after), sums);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      if (rows.first + r >= rows.end) continue;
      float *const partial = d.partial + ((size_t)rows.head(r) * d.tiles + tile) * (2 + a.head_dim);
      if (dev::thread() == 0) partial[0] = sums.largest[r], partial[1] = sums.sum[r];
      for (int j = 0; j < COLUMNS; ++j) {
        const uint32_t c = dev::thread() + j * THREADS;
        if (c < a.head_dim) partial[2 + c] = sums.out[r][j];
      }
    }
  }
  dev::sync();
  if (dev::thread() == 0) {
    // The state was read and the tile is written: the block counts itself in, once for its heads and once for its K/V head.
    uint32_t *const of_heads = d.arrived + rows.head(0), *const of_kv_head = d.arrived + a.q_heads + kv_head;
    const uint32_t blocks = d.tiles * masks * ((heads + ROWS - 1) / ROWS);
    dev::fence();
    const uint32_t before = tile < tiles ? dev::add(of_heads, 1) : DOGE_CUDA_NEVER, all_before = dev::add(of_kv_head, 1);
    dev::fence();
    shared.is_last_of_heads = before == tiles - 1, shared.is_last_of_kv_head = all_before == blocks - 1;
    if (before == tiles - 1) *of_heads = 0; // for the next launch
    if (all_before == blocks - 1) *of_kv_head = 0;
  }
  dev::sync();
  if (shared.is_last_of_heads != 0) {
    for (int r = 0; r < ROWS && rows.first + r < rows.end; ++r) merge_tiles(d, rows.head(r), tiles);
  }
  // In a ring the key is there already.
  if (shared.is_last_of_kv_head != 0 && !is_ring && stopped == 0) keep(shared, d, a.v + (size_t)kv_head * a.head_dim, kv_head, count, place);
}

}  // namespace

// Heads of up to 128 channels, and up to 256. Every published model has two heads or one to a mask head.
DOGE_KERNEL(doge_attention_decode_128, DOGE_CUDA_THREADS, DogeCudaDecodeArgs) { decode<1>(a); }
DOGE_KERNEL(doge_attention_decode_256, DOGE_CUDA_THREADS, DogeCudaDecodeArgs) { decode<2>(a); }
