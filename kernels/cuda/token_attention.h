// Attention of a token in one launch (token.cu, from sm_90 on): what the third team of each block does. It has a tile's keys and values
// in shared memory before the token's own are there; what it leaves of a tile are words, and whoever merges a head waits for them.
#pragma once
#include "decode_attention.h"
#include "words.h"

namespace token_attention {

using namespace decode_attention;

struct Shared {
  decode_attention::Shared decode;
  DogeCudaTokenAttention at;
  alignas(16) float q[ROWS][THREADS], k[THREADS], v[DOGE_CUDA_TOKEN_KV_MAX];
  // Of the tile at hand, whose k and v are in `Tiles`.
  uint32_t row[DOGE_CUDA_TILE];
  float mask[DOGE_CUDA_TILE];
  alignas(8) uint64_t arrival;
};

/// In the shared memory of the launch, before the rings.
struct Tiles {
  alignas(16) float k[DOGE_CUDA_TILE * THREADS], v[DOGE_CUDA_TILE * THREADS]; // [DOGE_CUDA_TILE][kv_row]
};

/// Attention's words of one head, when all of its tiles are there, merged in ascending order.
DOGE_DEVICE void merge_tiles(const DogeCudaTokenAttention &t, uint32_t head, uint32_t tiles, uint32_t tag) {
  constexpr uint32_t AT_ONCE = 4;
  const uint32_t head_dim = t.decode.attention.head_dim, c = dev::thread(), size = 2 + head_dim;
  if (c >= head_dim) return;
  const uint64_t *const partial = t.partial + (size_t)head * t.decode.tiles * size;
  float largest = -dev::infinity(), sum = 0.0f, out = 0.0f;
  for (uint32_t first = 0; first < tiles; first += AT_ONCE) {
    uint64_t word[AT_ONCE][3];
    bool all;
    do {
#pragma unroll
      for (uint32_t i = 0; i < AT_ONCE; ++i) {
        const uint64_t *const of_tile = partial + dev::least(first + i, tiles - 1) * size;
        word[i][0] = dev::look1(of_tile), word[i][1] = dev::look1(of_tile + 1), word[i][2] = dev::look1(of_tile + 2 + c);
      }
      all = true;
#pragma unroll
      for (uint32_t i = 0; i < 3 * AT_ONCE; ++i) all = all && words::is_here(word[i / 3][i % 3], tag);
      if (!all) dev::pause();
    } while (!all);
#pragma unroll
    for (uint32_t i = 0; i < AT_ONCE; ++i) {
      const float x = words::value(word[i][2]);
      if (first + i < tiles) merge(largest, sum, &out, 1, words::value(word[i][0]), words::value(word[i][1]), &x);
    }
  }
  dev::publish(t.out + (size_t)head * head_dim + c, quotient(out, sum), tag);
}

/// The token's q of the unit's heads, k of its K/V head, and v, in shared memory. Barriers of the team inside.
DOGE_DEVICE Fresh fetch(Shared &shared, const DogeCudaTokenAttention &t, const Rows &rows, uint32_t kv_head, uint32_t tag) {
  const DogeCudaAttentionArgs &a = t.decode.attention;
  const uint32_t c = 4 * dev::lane(), d = a.head_dim;
  dev::sync(); // what stood there was read
  if (dev::warp() <= ROWS) {
    const bool is_q = dev::warp() < ROWS;
    dev::Words4 quad[1];
    words::await(quad, is_q ? t.q + rows.head((int)dev::warp()) * d : t.k + kv_head * d, c, 0, d, tag);
    dev::store16((is_q ? shared.q[dev::warp()] : shared.k) + c, quad[0]);
  }
  const uint32_t v_cols = a.kept.kv_heads * d, v_stride = t.decode.score.v_stride;
  for (uint32_t first = 0; first < v_stride; first += 4 * THREADS) {
    const uint32_t i = first + 4 * dev::thread();
    dev::Words4 quad[1];
    words::await(quad, t.v, i, 0, v_cols, tag);
    if (i < v_stride) dev::store16(shared.v + i, quad[0]);
  }
  dev::sync();
  Fresh fresh = {{}, shared.k, shared.v};
#pragma unroll
  for (int r = 0; r < ROWS; ++r) fresh.q[r] = shared.q[r];
  return fresh;
}

/// Has the keys of a tile brought, begin .. end. Barriers of the team inside.
DOGE_DEVICE void bring(Shared &shared, Tiles &tiles, const DogeCudaAttentionArgs &a, uint32_t m, uint32_t begin, uint32_t end) {
  const Keys keys = keys_of(a, m, false);
  const uint32_t t = dev::lane(), row_bytes = a.kept.kv_row * sizeof(float);
  dev::fence_async(); // what stood there was read, and written to
  dev::sync();
  if (dev::thread() == 0) dev::expect(&shared.arrival, (end - begin) * 2 * row_bytes);
  dev::sync();
  if (begin + t >= end) return;
  if (dev::warp() == 0) {
    const uint32_t row = keys.row[begin + t];
    dev::copy_bulk(tiles.k + t * a.kept.kv_row, keys.arena_k + (size_t)row * a.kept.kv_row, row_bytes, &shared.arrival);
    dev::copy_bulk(tiles.v + t * a.kept.kv_row, keys.arena_v + (size_t)row * a.kept.kv_row, row_bytes, &shared.arrival);
  } else if (dev::warp() == 1) {
    shared.mask[t] = keys.mask[begin + t];
  }
}

/// One tile of a mask head's keys under some of its heads.
DOGE_DEVICE void attend(Shared &shared, Tiles &tiles, const DogeCudaTokenAttention &t, uint32_t tile,
                        const Rows &rows, uint32_t count, uint32_t place, uint32_t &parity, uint32_t base) {
  const DogeCudaAttentionArgs &a = t.decode.attention;
  const uint32_t m = rows.m, kv_head = m / (a.kept.mask_heads / a.kept.kv_heads), begin = tile * DOGE_CUDA_TILE;
  bring(shared, tiles, a, m, begin, dev::least(begin + DOGE_CUDA_TILE, count));
  const Fresh fresh = fetch(shared, t, rows, kv_head, base + t.tag_of_words);
  begin_token(shared.decode, t.decode, fresh, m);
  dev::wait(&shared.arrival, parity);
  parity ^= 1;
  dev::sync();
  const kept::Choice choice = kept::choose(a.kept, m, count, shared.decode.mask, place);
  const uint32_t c = dev::thread(), own = choice.slot - begin, n = dev::least(DOGE_CUDA_TILE, choice.count - begin);
  if (own < n) {
    const uint32_t at = own * a.kept.kv_row + c;
    if (c < a.head_dim) tiles.k[at] = shared.decode.k[c], tiles.v[at] = shared.v[kv_head * a.head_dim + c];
    if (c == 0) shared.mask[own] = shared.decode.mask;
  }
  dev::sync();
  const Keys keys = {shared.row, nullptr, nullptr, shared.mask, tiles.k, tiles.v, nullptr, nullptr};
  Sums<ROWS, 1> sums;
  begin_sums(sums);
  add_tile(shared.decode.tile, a, keys, rows, ALL, 0, n, sums);
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    if (rows.first + r >= rows.end) continue;
    uint64_t *const partial = t.partial + ((size_t)rows.head(r) * t.decode.tiles + tile) * (2 + a.head_dim);
    if (c == 0) dev::publish(partial, sums.largest[r], base + t.tag), dev::publish(partial + 1, sums.sum[r], base + t.tag);
    if (c < a.head_dim) dev::publish(partial + 2 + c, sums.out[r][0], base + t.tag);
  }
}

/// The token's key into the sets of a K/V head, when all have looked at them.
DOGE_DEVICE void put_away(Shared &shared, const DogeCudaTokenAttention &t, uint32_t kv_head, uint32_t count, uint32_t place, uint32_t base) {
  const DogeCudaAttentionArgs &a = t.decode.attention;
  const uint32_t masks = a.kept.mask_heads / a.kept.kv_heads, heads = a.q_heads / a.kept.kv_heads, d = a.head_dim;
  // Other teams merge these heads, and those of the next layer into the same words, without waiting for this one.
  for (uint32_t h = dev::thread(); h < heads; h += THREADS) {
    words::await_writer(t.out + (size_t)(kv_head * heads + h) * d, base + t.tag);
  }
  const Rows rows = {0, 1, a.q_heads / a.kept.mask_heads, kv_head * masks};
  const Fresh fresh = fetch(shared, t, rows, kv_head, base + t.tag_of_words);
  for (uint32_t m = kv_head * masks; m < (kv_head + 1) * masks; ++m) {
    begin_token(shared.decode, t.decode, fresh, m);
    if (dev::thread() == 0) t.decode.score.out[m] = shared.decode.mask; // which it wrote itself
    dev::sync();
  }
  keep(shared.decode, t.decode, shared.v + kv_head * d, kv_head, count, place);
}

/// What the third team of each block does: a layer's units are tiles of all its mask heads.
DOGE_DEVICE void attend(const DogeCudaTokenArgs &a, Shared &shared, uint32_t base) {
  Tiles &tiles_of = *reinterpret_cast<Tiles *>(dev::ring());
  uint32_t parity = 0;
  clear(shared.decode, 0);
  if (dev::thread() < DOGE_CUDA_TILE) shared.row[dev::thread()] = dev::thread();
  if (dev::thread() == 0) dev::begin_arrivals(&shared.arrival);
#pragma unroll 1
  for (uint32_t layer = 0; layer < a.n_layers; ++layer) {
    dev::sync();
    dev::copy_words(shared.at, a.attentions[layer], dev::thread(), THREADS);
    dev::sync();
    {
      const DogeCudaDecodeArgs &d = shared.at.decode;
      const uint32_t stride = d.score.v_stride;
      for (uint32_t i = dev::thread() * 32; i < stride * d.score.n_heads; i += THREADS * 32) dev::prefetch(d.score.dt_weight + i);
      if (d.rope.q_weight != nullptr) dev::prefetch(d.rope.q_weight + dev::lane() * 4);
      if (d.rope.k_weight != nullptr) dev::prefetch(d.rope.k_weight + dev::lane() * 4);
      dev::prefetch(d.score.A);
    }
    const DogeCudaTokenAttention &t = shared.at;
    const DogeCudaKept &kept = t.decode.attention.kept;
    // Every token is offered to every set, so this is how many slots are in use.
    const uint32_t place = t.decode.attention.at->place, count = dev::least(place, kept.n_slots);
    const uint32_t tiles = (dev::least(count + 1, kept.n_slots) + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
    const uint32_t heads = t.decode.attention.q_heads / kept.mask_heads, groups = (heads + ROWS - 1) / ROWS;
    const uint32_t all = kept.mask_heads * groups;
    const auto rows_of = [&](uint32_t i) { return Rows{i % groups * ROWS, heads, heads, i / groups}; };
    for (uint32_t u = dev::block_x(); u < tiles * all; u += a.n_blocks) attend(shared, tiles_of, t, u / all, rows_of(u % all), count, place, parity, base);
    for (uint32_t i = dev::block_x(); i < all; i += a.n_blocks) {
      const Rows rows = rows_of(i);
      for (int r = 0; r < ROWS && rows.first + r < rows.end; ++r) merge_tiles(t, rows.head(r), tiles, base + t.tag);
    }
    if (t.decode.attention.at->stopped != 0) continue;
    for (uint32_t kv_head = dev::block_x(); kv_head < kept.kv_heads; kv_head += a.n_blocks) put_away(shared, t, kv_head, count, place, base);
  }
}

}  // namespace token_attention
