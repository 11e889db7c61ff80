// Dynamic mask attention of a prompt (spec 4.4): softmax over the kept keys of q * k * scale + s, tile by tile (attention_tile.h).
//
// A prompt's blocks of rows pass by the tiles of which they see nothing, and where they see all they do not ask key by key. A
// tile that is passed by adds nothing to any sum, so the bits stay.
//
// With sliding_window the tiles are of neighbouring places, out of the ring, and a bit says which query sees which key.
#include "attention_tile.h"

namespace {

using namespace attention;

// A slot may have had a key more for every token of the block.
constexpr uint32_t ENTRIES_MAX = DOGE_CUDA_TILE + DOGE_CUDA_BLOCK;

/// Grid: groups of ROWS rows, mask heads.
template <int ROWS, int COLUMNS> DOGE_DEVICE void prefill(const DogeCudaAttentionArgs &a) {
  Tile<ROWS, ENTRIES_MAX> &shared = dev::shared<Tile<ROWS, ENTRIES_MAX>>();
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

}  // namespace

// Heads of up to 128 channels, and up to 256.
DOGE_KERNEL(doge_attention_prefill_128, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<8, 1>(a); }
DOGE_KERNEL(doge_attention_prefill_256, DOGE_CUDA_THREADS, DogeCudaAttentionArgs) { prefill<8, 2>(a); }
