// The ring of a layer with sliding_window (spec 4.4, 8): keys of the window expire, and ones that were dropped return, so all
// are kept and every query selects its own. The key of place p lies at row p % n_slots.
//
// doge_window_add writes a block's keys into the ring; doge_window_choose writes, for each query and mask head, one bit a
// key: does the query see it?
#include "device.h"

namespace {

constexpr uint32_t THREADS = DOGE_CUDA_THREADS, WARPS = THREADS / 32;

struct Counts {
  uint32_t part[2][WARPS];
};

/// Larger is stronger: a larger mask value, or an equal one and an earlier place. No two keys are equal. Mask values are not
/// negative, so their bits are in order.
DOGE_DEVICE uint64_t strength(float mask, uint32_t place) { return (uint64_t)dev::bits(mask) << 32 | ~place; }

}  // namespace

/// Grid: tokens, K/V heads.
DOGE_KERNEL(doge_window_add, DOGE_CUDA_THREADS, DogeCudaWindowAddArgs) {
  if (a.at->stopped != 0) return;
  const uint32_t t = dev::block_x(), kv_head = dev::block_y(), heads = a.kept.mask_heads / a.kept.kv_heads;
  const uint32_t row = (a.at->place + t) % a.kept.n_slots;
  const size_t to = ((size_t)kv_head * a.kept.n_arena + row) * a.kept.kv_row;
  const size_t from = (size_t)t * a.kv_stride + kv_head * a.head_dim;
  for (uint32_t c = dev::thread(); c < a.head_dim; c += THREADS) a.kept.k[to + c] = a.k[from + c], a.kept.v[to + c] = a.v[from + c];
  for (uint32_t m = kv_head * heads + dev::thread(); m < (kv_head + 1) * heads; m += THREADS) {
    a.kept.mask[(size_t)m * a.kept.n_slots + row] = a.mask[(size_t)t * a.kept.mask_heads + m];
  }
}

/// Grid: queries, mask heads.
DOGE_KERNEL(doge_window_choose, DOGE_CUDA_THREADS, DogeCudaWindowChooseArgs) {
  Counts &shared = dev::shared<Counts>();
  const uint32_t query = dev::block_x(), m = dev::block_y(), n_slots = a.kept.n_slots;
  const uint32_t last = a.at->place + query, first = last - dev::least(last, a.window - 1);
  const float *const mask = a.kept.mask + (size_t)m * n_slots;

  // The strength of the weakest key that is kept, bit by bit from the top: the largest that n_keep keys reach.
  uint64_t bound = 0;
  if (last - first + 1 > a.n_keep) {
    for (uint32_t bit = 0; bit < 64; ++bit) {
      const uint64_t next = bound | (uint64_t)1 << (63 - bit);
      uint64_t n = 0;
      for (uint32_t place = first + dev::thread(); place <= last; place += THREADS) n += strength(mask[place % n_slots], place) >= next;
      for (uint32_t lanes = 16; lanes > 0; lanes /= 2) n += dev::shuffle_xor(n, lanes);
      // Two sets of parts in turn: one barrier a bit is enough.
      if (dev::lane() == 0) shared.part[bit % 2][dev::warp()] = (uint32_t)n;
      dev::sync();
      uint32_t all = 0;
      for (uint32_t i = 0; i < WARPS; ++i) all += shared.part[bit % 2][i];
      if (all >= a.n_keep) bound = next;
      if (all == a.n_keep) break;
    }
  }
  const uint32_t tiles = n_slots / DOGE_CUDA_TILE, first_tile = first / DOGE_CUDA_TILE;
  uint32_t *const seen = a.seen + ((size_t)query * a.kept.mask_heads + m) * tiles;
  for (uint32_t i = dev::warp(); i < tiles; i += WARPS) {
    const uint32_t tile = first_tile + i, place = tile * DOGE_CUDA_TILE + dev::lane();
    const bool sees = first <= place && place <= last && strength(mask[place % n_slots], place) >= bound;
    const uint32_t votes = dev::ballot(sees);
    if (dev::lane() == 0) seen[tile % tiles] = votes;
  }
}
