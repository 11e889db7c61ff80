// Dynamic mask attention (spec 4.4) of a prompt on tensor cores: q, k, v and the weights rounded to bf16, sums in f32.
//
// A block of four warps serves 64 rows (queries times the heads of one mask head), each warp 16, which hold their rounded
// queries and their sums in registers. Keys come 32 at a time, gathered and rounded into shared memory; values are on their way
// while scores are made, the next keys while values are summed. A warp makes its 16 x 32 scores, in f32 their scale, mask and
// exponentials, and hands them on as they lie: the layout in which a product leaves the tensor cores is the one in which its
// rows enter them, so the weights need no shared memory.
//
// Chunks of 32 go through the whole key list, across its tiles: a block's keys lengthen a tile by one or two, and a chunk of
// two keys would cost what one of 32 costs. While no key was dropped chunks are tiles. A chunk of which the rows see nothing is
// passed by; it would have added nothing, exactly.
#include "attention_keys.h"

namespace {
using namespace attention;

constexpr uint32_t ROWS = 64, KEYS = 32;
static_assert(KEYS == DOGE_CUDA_TILE && ROWS == 2 * KEYS, "a chunk of the ring is a word of bits; queries give way to keys and values");

template <uint32_t CHANNELS> struct Shared {
  // Eight channels an element: the queries at first, then a chunk's keys and behind them its values. A row is 16 bytes longer
  // than it need be, so that the eight rows that ldmatrix reads at once stand in different banks.
  dev::Words4 rows[ROWS][CHANNELS / 8 + 1];
  float mask[KEYS];
  uint32_t seen_from[KEYS], seen_until[KEYS];
};

struct Piece { float x[2][4]; };

/// Eight channels of a row, from c on; zeros beyond the head.
DOGE_DEVICE Piece piece_of(const float *row, uint32_t c, uint32_t head_dim) {
  Piece piece = {};
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    if (c + 4 * i < head_dim) load4(piece.x[i], row, c + 4 * i, head_dim);
  }
  return piece;
}

DOGE_DEVICE dev::Words4 rounded(const Piece &piece) {
  dev::Words4 words;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) words.w[i] = dev::to_bf16(piece.x[i / 2][i % 2 * 2], piece.x[i / 2][i % 2 * 2 + 1]);
  return words;
}

/// A thread's part of the keys, or of the values, of a chunk: read early, rounded into shared memory when the room is free. Wide
/// heads leave no registers for that: they are read when they are wanted.
template <uint32_t CHANNELS> struct Ahead {
  static constexpr uint32_t PIECES = CHANNELS / 8, MINE = KEYS * PIECES / DOGE_CUDA_THREADS;
  static constexpr bool IS_EARLY = CHANNELS <= 128;
  static_assert(DOGE_CUDA_THREADS % PIECES == 0, "a thread's pieces stand in one column");
  Piece piece[IS_EARLY ? MINE : 1];

  template <class Row> DOGE_DEVICE void begin(uint32_t head_dim, const Row &row) {
    if constexpr (IS_EARLY) {
      // All addresses first: each waits for the number of its row.
      const float *from[MINE];
#pragma unroll
      for (uint32_t j = 0; j < MINE; ++j) from[j] = row((dev::thread() + j * DOGE_CUDA_THREADS) / PIECES);
#pragma unroll
      for (uint32_t j = 0; j < MINE; ++j) piece[j] = piece_of(from[j], dev::thread() % PIECES * 8, head_dim);
    }
  }
  template <class Row> DOGE_DEVICE void end(dev::Words4 (*to)[PIECES + 1], uint32_t head_dim, const Row &row) const {
    const uint32_t column = dev::thread() % PIECES;
#pragma unroll(IS_EARLY ? MINE : 1)
    for (uint32_t j = 0; j < MINE; ++j) {
      const uint32_t i = (dev::thread() + j * DOGE_CUDA_THREADS) / PIECES;
      to[i][column] = rounded(IS_EARLY ? piece[j] : piece_of(row(i), column * 8, head_dim));
    }
  }
};

/// The keys that a block goes through: entries begin .. end of its list, of its slots if it has a single query, or of the ring.
struct Entries {
  uint32_t begin, end;
  const uint32_t *tile_begin; // of a list only
};

DOGE_DEVICE Entries entries_of(const DogeCudaAttentionArgs &a, const Rows &rows) {
  if (a.seen != nullptr) {
    const uint32_t begin = window_first(a, rows.query(0)) / DOGE_CUDA_TILE * DOGE_CUDA_TILE;
    return {begin, a.at->place + rows.query(ROWS - 1) + 1, nullptr};
  }
  const uint32_t count = a.kept.count[rows.m];
  if (a.n_rows == 1) return {0, count, nullptr};
  const uint32_t *const tile_begin = a.list.tile_begin + (size_t)rows.m * a.list.tiles_room;
  return {0, tile_begin[(count + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE], tile_begin};
}

/// A chunk of which some row sees something; `n` is 0 behind the last.
struct Chunk {
  uint32_t begin, n;
  Sight sight;
  uint32_t tile; // that of its last entry; of a list only
};

/// The first such chunk from entry `begin` on, where `tile` ends or which it holds.
DOGE_DEVICE Chunk next_chunk(const DogeCudaAttentionArgs &a, const Rows &rows, const Entries &all, uint32_t begin, uint32_t tile) {
  for (; begin < all.end; begin += KEYS) {
    const uint32_t n = dev::least(KEYS, all.end - begin);
    if (all.tile_begin == nullptr) return {begin, n, ALL, 0};
    if (all.tile_begin[tile + 1] == begin) ++tile;
    Sight sight = sight_of_list<ROWS>(a, rows, tile);
    while (all.tile_begin[tile + 1] < begin + n) {
      if (sight_of_list<ROWS>(a, rows, ++tile) != sight) sight = SOME;
    }
    if (sight != NOTHING) return {begin, n, sight, tile};
  }
  return {all.end, 0, NOTHING, tile};
}

/// Where the keys of a mask head begin: offsets, for eight pointers are registers that wide heads do not leave.
struct Offsets { size_t entry, arena, fresh; };

DOGE_DEVICE Offsets offsets_of(const DogeCudaAttentionArgs &a, uint32_t m) {
  const uint32_t kv_head = m / (a.kept.mask_heads / a.kept.kv_heads);
  const size_t room = a.seen == nullptr && a.n_rows > 1 ? a.list.room : a.kept.n_slots;
  return {m * room, (size_t)kv_head * a.kept.n_arena * a.kept.kv_row, (size_t)kv_head * a.head_dim};
}

/// Row i of a chunk, of keys or of values. Behind its last stands that again: nobody sees it there.
DOGE_DEVICE const float *row_of(const DogeCudaAttentionArgs &a, const Offsets &offset, const Chunk &chunk, uint32_t i,
                                const float *arena, const float *fresh) {
  const uint32_t entry = chunk.begin + dev::least(i, chunk.n - 1);
  const uint32_t *const rows = a.n_rows > 1 ? a.list.row : a.kept.row;
  const uint32_t row = a.seen != nullptr ? entry % a.kept.n_slots : rows[offset.entry + entry];
  if ((row & DOGE_CUDA_NEW) != 0) return fresh + offset.fresh + (size_t)(row & ~DOGE_CUDA_NEW) * a.kv_stride;
  return arena + offset.arena + (size_t)row * a.kept.kv_row;
}

/// What a chunk's keys have beside their channels.
template <class Block>
DOGE_DEVICE void load_entries(Block &shared, const DogeCudaAttentionArgs &a, const Offsets &offset, const Chunk &chunk) {
  const uint32_t i = dev::thread();
  if (i >= KEYS) return;
  const uint32_t entry = chunk.begin + dev::least(i, chunk.n - 1);
  const bool is_list = a.seen == nullptr && a.n_rows > 1;
  const size_t at = offset.entry + (a.seen != nullptr ? entry % a.kept.n_slots : entry);
  shared.mask[i] = (is_list ? a.list.mask : a.kept.mask)[at];
  if (is_list) shared.seen_from[i] = a.list.seen_from[at], shared.seen_until[i] = a.list.seen_until[at];
}

/// The keys of a chunk that a query sees, a bit each; where it is asked key by key, of this lane's own keys alone.
template <class Block>
DOGE_DEVICE uint32_t seen_of_chunk(const Block &shared, const DogeCudaAttentionArgs &a, const Rows &rows, const Chunk &chunk,
                                   uint32_t query) {
  if (a.seen != nullptr) return seen_of_tile(a, query, rows.m, chunk.begin);
  uint32_t seen = ~0u >> (KEYS - chunk.n);
  if (chunk.sight == ALL) return seen;
  const uint32_t place = a.at->place + query;
#pragma unroll
  for (uint32_t j = 0; j < KEYS / 4; ++j) {
    const uint32_t i = 8 * (j / 2) + dev::lane() % 4 * 2 + j % 2;
    if (shared.seen_from[i] > place || shared.seen_until[i] <= place) seen &= ~(1u << i);
  }
  return seen;
}

/// Of a lane's two rows, lane / 4 and 8 below it, of the warp's 16. `sum` is of this lane's keys alone.
struct Softmax {
  uint32_t query[2];
  float largest[2], sum[2];
};

/// Scores of a chunk, 16 rows x 32 keys, to weights, the rows of the next product. `keep` is what earlier sums are worth now.
DOGE_DEVICE void weigh(float (&score)[KEYS / 8][4], dev::Words4 (&weight)[KEYS / 16], float (&keep)[2], Softmax &softmax,
                       const uint32_t (&seen)[2], const float *mask, float scale) {
  float top[2] = {softmax.largest[0], softmax.largest[1]};
#pragma unroll
  for (uint32_t j = 0; j < KEYS / 8; ++j) {
#pragma unroll
    for (uint32_t e = 0; e < 4; ++e) {
      const uint32_t i = 8 * j + dev::lane() % 4 * 2 + e % 2, h = e / 2;
      score[j][e] = (seen[h] >> i & 1) != 0 ? dev::fma(score[j][e], scale, mask[i]) : -dev::infinity();
      top[h] = dev::larger(top[h], score[j][e]);
    }
  }
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    for (uint32_t lanes = 2; lanes > 0; lanes /= 2) top[h] = dev::larger(top[h], dev::shuffle_xor(top[h], lanes));
    // A row that has seen nothing so far has nothing to subtract.
    const float base = top[h] == -dev::infinity() ? 0.0f : top[h];
    keep[h] = expf(softmax.largest[h] - base);
    softmax.largest[h] = top[h];
    float sum = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < KEYS / 8; ++j) {
      const uint32_t pair = dev::to_bf16(expf(score[j][2 * h] - base), expf(score[j][2 * h + 1] - base));
      weight[j / 2].w[j % 2 * 2 + h] = pair;
      // Of the rounded weights: so they add up to one.
      sum += dev::from_bits(pair << 16) + dev::from_bits(pair & 0xffff0000u);
    }
    softmax.sum[h] = dev::fma(softmax.sum[h], keep[h], sum);
  }
}

/// Grid: groups of ROWS rows, mask heads.
template <uint32_t CHANNELS> DOGE_DEVICE void prefill(const DogeCudaAttentionArgs &a) {
  constexpr uint32_t STEPS = CHANNELS / 16;
  Shared<CHANNELS> &shared = dev::shared<Shared<CHANNELS>>();
  const uint32_t m = dev::block_y(), heads = a.q_heads / a.kept.mask_heads, lane = dev::lane(), d = a.head_dim;
  const Rows rows = {dev::block_x() * ROWS, a.n_rows * heads, heads, m};
  const Offsets offset = offsets_of(a, m);
  const auto query_row = [&](uint32_t r) { return a.q + (size_t)rows.query(r) * a.q_stride + (size_t)rows.head(r) * d; };
  for (uint32_t half = 0; half < ROWS; half += KEYS) {
    const auto row = [&](uint32_t r) { return query_row(half + r); };
    Ahead<CHANNELS> queries;
    queries.begin(d, row);
    queries.end(shared.rows + half, d, row);
  }
  dev::sync();
  dev::Words4 q[STEPS];
#pragma unroll
  for (uint32_t k = 0; k < STEPS; ++k) {
    if (16 * k < d) q[k] = dev::load_matrices(&shared.rows[16 * dev::warp() + lane % 16][2 * k + lane / 16]);
  }
  const uint32_t first_row = 16 * dev::warp() + lane / 4;
  Softmax softmax;
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    softmax.query[h] = rows.query(first_row + 8 * h);
    softmax.largest[h] = -dev::infinity(), softmax.sum[h] = 0.0f;
  }
  float out[2 * STEPS][4] = {};
  const Entries all = entries_of(a, rows);
  Chunk chunk = next_chunk(a, rows, all, all.begin, 0);
  const auto key_row = [&](uint32_t i) { return row_of(a, offset, chunk, i, a.kept.k, a.k); };
  const auto value_row = [&](uint32_t i) { return row_of(a, offset, chunk, i, a.kept.v, a.v); };
  Ahead<CHANNELS> ahead;
  if (chunk.n > 0) {
    ahead.begin(d, key_row);
    dev::sync(); // all warps have their queries
    ahead.end(shared.rows, d, key_row);
    load_entries(shared, a, offset, chunk);
    dev::sync();
  }
  while (chunk.n > 0) {
    ahead.begin(d, value_row);
    float score[KEYS / 8][4] = {};
#pragma unroll
    for (uint32_t k = 0; k < STEPS; ++k) {
      if (16 * k >= d) continue;
#pragma unroll
      for (uint32_t j = 0; j < KEYS / 16; ++j) {
        const dev::Words4 key = dev::load_matrices(&shared.rows[16 * j + lane / 16 * 8 + lane % 8][2 * k + lane / 8 % 2]);
        dev::mma_bf16(score[2 * j], q[k], key.w[0], key.w[1]);
        dev::mma_bf16(score[2 * j + 1], q[k], key.w[2], key.w[3]);
      }
    }
    const auto seen_by = [&](uint32_t query) { return seen_of_chunk(shared, a, rows, chunk, query); };
    const uint32_t seen[2] = {seen_by(softmax.query[0]), seen_by(softmax.query[1])};
    dev::Words4 weight[KEYS / 16];
    float keep[2];
    weigh(score, weight, keep, softmax, seen, shared.mask, a.scale);
    ahead.end(shared.rows + KEYS, d, value_row);
    chunk = next_chunk(a, rows, all, chunk.begin + chunk.n, chunk.tile);
    if (chunk.n > 0) ahead.begin(d, key_row);
    dev::sync(); // all values are there, and all warps are through with the keys
#pragma unroll
    for (uint32_t c = 0; c < STEPS; ++c) {
      if (16 * c >= d) continue;
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) out[2 * c][e] *= keep[e / 2], out[2 * c + 1][e] *= keep[e / 2];
#pragma unroll
      for (uint32_t j = 0; j < KEYS / 16; ++j) {
        const dev::Words4 v = dev::load_matrices_transposed(&shared.rows[KEYS + 16 * j + lane % 16][2 * c + lane / 16]);
        dev::mma_bf16(out[2 * c], weight[j], v.w[0], v.w[1]);
        dev::mma_bf16(out[2 * c + 1], weight[j], v.w[2], v.w[3]);
      }
    }
    if (chunk.n == 0) break;
    ahead.end(shared.rows, d, key_row);
    load_entries(shared, a, offset, chunk);
    dev::sync(); // all keys are there, and all warps are through with the values
  }
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    for (uint32_t lanes = 2; lanes > 0; lanes /= 2) softmax.sum[h] += dev::shuffle_xor(softmax.sum[h], lanes);
    const uint32_t r = first_row + 8 * h;
    if (rows.first + r >= rows.end) continue;
    float *const to = a.out + (size_t)rows.query(r) * a.q_stride + (size_t)rows.head(r) * d;
#pragma unroll
    for (uint32_t c = 0; c < 2 * STEPS; ++c) {
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t channel = 8 * c + lane % 4 * 2 + e;
        if (channel < d) to[channel] = quotient(out[c][2 * h + e], softmax.sum[h]);
      }
    }
  }
}

}  // namespace

// Heads of up to 128 channels, and up to 256.
DOGE_KERNEL(doge_attention_prefill_bf16_tensor_128, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<128>(a); }
DOGE_KERNEL(doge_attention_prefill_bf16_tensor_256, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<256>(a); }
