// Dynamic mask attention of a prompt (spec 4.4): softmax over the kept keys of q * k * scale + s, tile by tile (attention_tile.h).
//
// A prompt's blocks of rows pass by the tiles of which they see nothing, and where they see all they do not ask key by key. A
// tile that is passed by adds nothing to any sum, so the bits stay.
//
// With sliding_window the tiles are of neighbouring places, out of the ring, and a bit says which query sees which key.
#include "attention_tile.h"

namespace {

using namespace attention;

/// What a block of threads knows of a tile: of its entries those that some of ROWS rows sees. In a slot these are the key that
/// the first row sees there, and one more for each token after it that took the slot.
template <int ROWS> struct Shared {
  static constexpr uint32_t ENTRIES = DOGE_CUDA_TILE + ROWS - 1;
  Tile<ROWS, ENTRIES> tile;
  uint32_t row[ENTRIES], seen_from[ENTRIES], seen_until[ENTRIES];
  float mask[ENTRIES];
};

/// Picks those of the entries begin .. end, one tile, in their order; how many they are. The others would add nothing, and may be
/// as many as the prompt's block has tokens. A barrier inside.
template <int ROWS>
DOGE_DEVICE uint32_t pick(Shared<ROWS> &shared, const DogeCudaAttentionArgs &a, const Keys &keys, const Rows &rows,
                          uint32_t begin, uint32_t end) {
  const uint32_t first = a.at->place + rows.query(0), last = a.at->place + rows.query(ROWS - 1);
  uint32_t n = 0;
  for (uint32_t t0 = begin; t0 < end; t0 += 32) {
    // All warps count, one writes.
    const uint32_t t = t0 + dev::lane();
    const uint32_t from = t < end ? keys.seen_from[t] : DOGE_CUDA_NEVER, until = t < end ? keys.seen_until[t] : 0;
    const bool is_seen = from <= last && first < until;
    const uint32_t votes = dev::ballot(is_seen), i = n + dev::count_bits(votes & ((1u << dev::lane()) - 1));
    if (is_seen && dev::warp() == 0) {
      shared.row[i] = keys.row[t], shared.mask[i] = keys.mask[t];
      shared.seen_from[i] = from, shared.seen_until[i] = until;
    }
    n += dev::count_bits(votes);
  }
  dev::sync();
  return n;
}

/// Grid: groups of ROWS rows, mask heads.
template <int ROWS, int COLUMNS> DOGE_DEVICE void prefill(const DogeCudaAttentionArgs &a) {
  Shared<ROWS> &shared = dev::shared<Shared<ROWS>>();
  const uint32_t m = dev::block_y(), heads = a.q_heads / a.kept.mask_heads;
  const Rows rows = {dev::block_x() * ROWS, a.n_rows * heads, heads, m};
  const Keys keys = keys_of(a, m, true);
  load_queries<ROWS>(shared.tile, a, rows);
  dev::sync();
  Sums<ROWS, COLUMNS> sums;
  begin_sums(sums);
  if (a.seen != nullptr) {
    const uint32_t end = a.at->place + rows.query(ROWS - 1) + 1;
    for (uint32_t begin = window_first(a, rows.query(0)) / DOGE_CUDA_TILE * DOGE_CUDA_TILE; begin < end; begin += DOGE_CUDA_TILE) {
      const uint32_t tile_end = dev::least(begin + DOGE_CUDA_TILE, end);
      add_tile(shared.tile, a, keys, rows, sight_of_ring<ROWS>(a, rows, begin, tile_end), begin, tile_end, sums);
    }
  } else {
    const uint32_t *const tile_begin = a.list.tile_begin + (size_t)m * a.list.tiles_room;
    const uint32_t tiles = (a.kept.count[m] + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
    Keys picked = keys;
    picked.row = shared.row, picked.mask = shared.mask;
    picked.seen_from = shared.seen_from, picked.seen_until = shared.seen_until;
    for (uint32_t i = 0; i < tiles; ++i) {
      const Sight sight = sight_of_list<ROWS>(a, rows, i);
      if (sight == NOTHING) continue;
      const uint32_t n = pick(shared, a, keys, rows, tile_begin[i], tile_begin[i + 1]);
      add_tile(shared.tile, a, picked, rows, sight, 0, n, sums);
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

}  // namespace

// Heads of up to 128 channels, and up to 256.
DOGE_KERNEL(doge_attention_prefill_128, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<8, 1>(a); }
DOGE_KERNEL(doge_attention_prefill_256, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<8, 2>(a); }
