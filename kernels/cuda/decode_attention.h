// A single token's attention, tile by tile: what decode_attention.cu, a launch of its own, and token.cu, a step of a launch, have in
// common. The sums are those of a prompt, bit for bit.
#pragma once
#include "attention_tile.h"
#include "kept_commit.h"
#include "kept_token.h"
#include "mask_score.h"
#include "rope.h"

namespace decode_attention {

using namespace attention;

constexpr int ROWS = DOGE_CUDA_DECODE_HEADS;
constexpr uint32_t PASSES = DOGE_CUDA_TILE / KEYS_AT_ONCE;

struct Shared {
  Tile<ROWS, DOGE_CUDA_TILE> tile;
  alignas(16) float k[HEAD_DIM_MAX];
  kept::Commit commit;
  kept::Offers offers;
  float mask;
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

/// The token as the projections left it.
struct Fresh {
  const float *q[ROWS], *k; // of a block's heads, and of its K/V head
  const float *v;           // of all K/V heads
};

/// Zeros beyond the heads' channels.
DOGE_DEVICE void clear(Shared &shared, uint32_t head_dim) {
  for (uint32_t i = dev::thread(); i < (ROWS + 1) * HEAD_DIM_MAX; i += THREADS) {
    const uint32_t c = i % HEAD_DIM_MAX;
    if (c >= head_dim) (i / HEAD_DIM_MAX < ROWS ? shared.tile.q[i / HEAD_DIM_MAX] : shared.k)[c] = 0.0f;
  }
}

/// The rotated queries of the block's heads and the rotated key, a warp each, and the key's mask value.
DOGE_DEVICE void begin_token(Shared &shared, const DogeCudaDecodeArgs &d, const Fresh &fresh, uint32_t m) {
  if (dev::warp() == 0) {
    const float mask = d.score.dt_weight != nullptr ? mask_score(d.score, fresh.v, m) : d.score.out[m];
    if (dev::lane() == 0) shared.mask = mask;
    return;
  }
  for (uint32_t i = dev::warp() - 1; i <= ROWS; i += THREADS / 32 - 1) {
    const bool is_q = i < (uint32_t)ROWS;
    const float *from = fresh.k;
#pragma unroll
    for (uint32_t r = 0; r < ROWS; ++r) {
      if (i == r) from = fresh.q[r];
    }
    rotate(d.rope, 0, from, is_q ? d.rope.q_weight : d.rope.k_weight, is_q ? shared.tile.q[i] : shared.k, true);
  }
}

/// The token's key into the sets of a K/V head, and into its arena. `count`: slots in use before.
DOGE_DEVICE void keep(Shared &shared, const DogeCudaDecodeArgs &d, const float *v, uint32_t kv_head, uint32_t count, uint32_t place) {
  const DogeCudaAttentionArgs &a = d.attention;
  const uint32_t heads = a.kept.mask_heads / a.kept.kv_heads, first = kv_head * heads;
  if (count + 1 < a.kept.n_slots) {
    // Sets fill in step and nothing was ever dropped: row = slot.
    const size_t to = ((size_t)kv_head * a.kept.n_arena + count) * a.kept.kv_row;
    for (uint32_t c = dev::thread(); c < a.head_dim; c += THREADS) a.kept.k[to + c] = shared.k[c], a.kept.v[to + c] = v[c];
    for (uint32_t m = first + dev::thread(); m < first + heads; m += THREADS) {
      const kept::Set set = kept::set_of(a.kept, m);
      set.row[count] = count, set.place[count] = place, set.mask[count] = d.score.out[m];
      a.kept.count[m] = count + 1;
    }
    return;
  }
  for (uint32_t m = first; m < first + heads; ++m) {
    kept::offer_token(a.kept, a.list, m, count, d.score.out[m], place, shared.offers);
  }
  const DogeCudaCommitArgs commit = {a.kept, a.list, d.mark, a.k, a.v, a.at, 1, a.head_dim, a.kv_stride};
  kept::commit(commit, shared.commit, kv_head, shared.k, v);
}

}  // namespace decode_attention
