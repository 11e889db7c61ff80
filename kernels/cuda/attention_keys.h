// What the queries of a block look at: their rows, the keys of a mask head, and which of these they see. For both kernels that take
// prompts (dynamic_mask_attention.cu, dynamic_mask_attention_tensor.cu).
#pragma once
#include "attention.h"

namespace attention {

/// The keys of one mask head. Entry t of a list, or of the ring the key of place t.
struct Keys {
  const uint32_t *row, *seen_from, *seen_until; // the last two of a list only
  const float *mask;
  const float *arena_k, *arena_v; // of the K/V head
  const float *new_k, *new_v;
};

DOGE_DEVICE Keys keys_of(const DogeCudaAttentionArgs &a, uint32_t m, bool is_list) {
  const uint32_t kv_head = m / (a.kept.mask_heads / a.kept.kv_heads);
  const size_t arena = (size_t)kv_head * a.kept.n_arena * a.kept.kv_row, fresh = (size_t)kv_head * a.head_dim;
  Keys keys = {a.kept.row + (size_t)m * a.kept.n_slots, nullptr, nullptr, a.kept.mask + (size_t)m * a.kept.n_slots,
               a.kept.k + arena, a.kept.v + arena, a.k + fresh, a.v + fresh};
  if (is_list && a.seen == nullptr) {
    const size_t base = (size_t)m * a.list.room;
    keys.row = a.list.row + base;
    keys.mask = a.list.mask + base;
    keys.seen_from = a.list.seen_from + base;
    keys.seen_until = a.list.seen_until + base;
  }
  return keys;
}

/// With sliding_window: the keys that the query sees of the tile in which the key of `place` stands, a bit each.
DOGE_DEVICE uint32_t seen_of_tile(const DogeCudaAttentionArgs &a, uint32_t query, uint32_t m, uint32_t place) {
  const uint32_t tiles = a.kept.n_slots / DOGE_CUDA_TILE;
  return a.seen[((size_t)query * a.kept.mask_heads + m) * tiles + place / DOGE_CUDA_TILE % tiles];
}

/// Four channels; a head may begin at any even number of floats.
DOGE_DEVICE void load4(float (&x)[4], const float *head, uint32_t c, uint32_t head_dim) {
  if (head_dim % 4 == 0) {
    const dev::Words4 words = dev::load16(head + c);
    for (uint32_t i = 0; i < 4; ++i) x[i] = dev::from_bits(words.w[i]);
  } else {
    for (uint32_t i = 0; i < 4; ++i) x[i] = c + i < head_dim ? head[c + i] : 0.0f;
  }
}

/// The rows first_row .. of one mask head, as row = query * heads + head.
struct Rows {
  uint32_t first, end, heads, m;
  DOGE_DEVICE uint32_t query(int r) const { return dev::least(first + r, end - 1) / heads; }
  DOGE_DEVICE uint32_t head(int r) const { return m * heads + dev::least(first + r, end - 1) % heads; }
};

/// What the rows of a block see of a tile.
enum Sight { NOTHING, SOME, ALL };

/// Of tile `tile` of a key list.
template <int ROWS> DOGE_DEVICE Sight sight_of_list(const DogeCudaAttentionArgs &a, const Rows &rows, uint32_t tile) {
  const uint32_t first = a.at->place + rows.query(0), last = a.at->place + rows.query(ROWS - 1);
  // The least and the largest place that a key of it is seen from, then until.
  const dev::Words4 seen = dev::load16(a.list.tile_seen + ((size_t)rows.m * a.list.tiles_room + tile) * 4);
  if (seen.w[0] > last || seen.w[3] <= first) return NOTHING;
  return seen.w[1] <= first && last < seen.w[2] ? ALL : SOME;
}

}  // namespace attention
