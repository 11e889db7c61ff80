// A single token's attention around its tiles: the token's queries and key before them, and its key put away after them. That is what
// decode_attention.cu, a launch of its own, and token.cu, a step of a launch, have in common.
#pragma once
#include "attention_tile.h"
#include "kept_commit.h"
#include "kept_token.h"
#include "mask_score.h"
#include "rope.h"

namespace decode_attention {

using namespace attention;

constexpr int ROWS = DOGE_CUDA_DECODE_HEADS;

struct Shared {
  Tile<ROWS, DOGE_CUDA_TILE> tile;
  alignas(16) float k[HEAD_DIM_MAX];
  kept::Commit<1> commit;
  kept::Offers offers;
  float mask;
};

/// The token as the projections left it.
struct Fresh {
  const float *q[ROWS], *k; // of a block's heads, and of its K/V head
  const float *v;           // of all K/V heads
};

/// Zeros beyond the heads' channels.
DOGE_DEVICE void clear(Shared &shared, uint32_t head_dim) {
  for (uint32_t c = head_dim + dev::thread(); c < HEAD_DIM_MAX; c += THREADS) {
    for (int r = 0; r < ROWS; ++r) shared.tile.q[r][c] = 0.0f;
    shared.k[c] = 0.0f;
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
