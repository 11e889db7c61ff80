// Which keys each mask head keeps (spec 8): fixed slots, overwritten in place. src/model/kept_set.rs is the same on the CPU,
// and puts the same key into the same slot.
//
// doge_kept_offer offers a block's keys, one after another, since each decision needs the one before: every thread knows
// the weakest of its own slots, so a step is one minimum over the block. doge_kept_commit, after attention, moves the keys
// that stayed into the arena: until then the block's own rows serve, and no key that an early query of the block still
// sees is overwritten.
#include "device.h"

namespace {

constexpr uint32_t THREADS = DOGE_CUDA_THREADS, WARPS = THREADS / 32;
constexpr uint64_t NONE = ~(uint64_t)0;

/// Smaller is weaker: a smaller mask value, or an equal one and a later place. Mask values are not negative, so their bits
/// are in order.
DOGE_DEVICE uint64_t strength(float mask, uint32_t place) { return (uint64_t)dev::bits(mask) << 32 | ~place; }

struct Offers {
  uint64_t part[2][WARPS];
};

struct Set {
  uint32_t *row, *place;
  float *mask;
};

/// The weakest of this thread's slots.
DOGE_DEVICE uint64_t weakest_of_mine(const Set &set, uint32_t n_slots, uint32_t &slot) {
  uint64_t weakest = NONE;
  for (uint32_t s = dev::thread(); s < n_slots; s += THREADS) {
    const uint64_t key = strength(set.mask[s], set.place[s]);
    if (key < weakest) weakest = key, slot = s;
  }
  return weakest;
}

/// Keys that left a slot below `slot`, or up to it.
DOGE_DEVICE uint32_t left_below(const uint32_t *left_slot, uint32_t n_left, uint32_t slot) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < n_left; ++i) n += left_slot[i] < slot;
  return n;
}

/// The list of a block of several tokens: by slot, in each slot in order of time.
DOGE_DEVICE void write_list(const DogeCudaKeyList &list, const Set &set, uint32_t m, uint32_t count, uint32_t n_left) {
  const size_t base = (size_t)m * list.room, left = (size_t)m * DOGE_CUDA_BLOCK;
  const uint32_t *const left_slot = list.left_slot + left;
  for (uint32_t s = dev::thread(); s < count; s += THREADS) {
    const size_t to = base + s + left_below(left_slot, n_left, s + 1);
    list.row[to] = set.row[s];
    list.mask[to] = set.mask[s];
    list.seen_from[to] = set.place[s];
    list.seen_until[to] = DOGE_CUDA_NEVER;
  }
  for (uint32_t i = dev::thread(); i < n_left; i += THREADS) {
    uint32_t before = left_below(left_slot, n_left, left_slot[i]);
    for (uint32_t j = 0; j < i; ++j) before += left_slot[j] == left_slot[i];
    const size_t to = base + left_slot[i] + before;
    list.row[to] = list.left_row[left + i];
    list.mask[to] = list.left_mask[left + i];
    list.seen_from[to] = list.left_from[left + i];
    list.seen_until[to] = list.left_until[left + i];
  }
  const uint32_t tiles = (count + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
  for (uint32_t i = dev::thread(); i <= tiles; i += THREADS) {
    const uint32_t slot = dev::least(i * DOGE_CUDA_TILE, count);
    list.tile_begin[(size_t)m * list.tiles_room + i] = slot + left_below(left_slot, n_left, slot);
  }
}

}  // namespace

DOGE_KERNEL(doge_kept_offer, DOGE_CUDA_THREADS, DogeCudaOfferArgs) {
  Offers &shared = dev::shared<Offers>();
  if (a.at->stopped != 0) return;
  const uint32_t m = dev::block_x(), n_slots = a.kept.n_slots, place0 = a.at->place;
  const size_t base = (size_t)m * n_slots, left = (size_t)m * DOGE_CUDA_BLOCK;
  const Set set = {a.kept.row + base, a.kept.place + base, a.kept.mask + base};
  const uint32_t count = a.kept.count[m], fill = dev::least(a.n_rows, n_slots - count);
  for (uint32_t t = dev::thread(); t < fill; t += THREADS) {
    set.row[count + t] = DOGE_CUDA_NEW | t;
    set.place[count + t] = place0 + t;
    set.mask[count + t] = a.mask[(size_t)t * a.kept.mask_heads + m];
  }
  dev::sync();
  uint32_t n_left = 0;
  if (fill < a.n_rows) {
    uint32_t slot = 0;
    uint64_t mine = weakest_of_mine(set, n_slots, slot);
    for (uint32_t t = fill; t < a.n_rows; ++t) {
      uint64_t weakest = mine;
      for (uint32_t mask = 16; mask > 0; mask /= 2) {
        const uint64_t other = dev::shuffle_xor(weakest, mask);
        weakest = other < weakest ? other : weakest;
      }
      // Two sets of parts in turn: one barrier a token is enough.
      if (dev::lane() == 0) shared.part[t % 2][dev::warp()] = weakest;
      dev::sync();
      for (uint32_t i = 0; i < WARPS; ++i) {
        const uint64_t other = shared.part[t % 2][i];
        weakest = other < weakest ? other : weakest;
      }
      const float mask = a.mask[(size_t)t * a.kept.mask_heads + m];
      const bool is_better = weakest < strength(mask, place0 + t); // no places are equal: equal mask values are no tie here
      if (is_better && mine == weakest) {
        a.list.left_slot[left + n_left] = slot;
        a.list.left_row[left + n_left] = set.row[slot];
        a.list.left_mask[left + n_left] = set.mask[slot];
        a.list.left_from[left + n_left] = set.place[slot];
        a.list.left_until[left + n_left] = place0 + t;
        set.row[slot] = DOGE_CUDA_NEW | t;
        set.place[slot] = place0 + t;
        set.mask[slot] = mask;
        mine = weakest_of_mine(set, n_slots, slot);
      }
      n_left += is_better;
    }
  }
  dev::sync();
  if (a.n_rows > 1) write_list(a.list, set, m, count + fill, n_left);
  if (dev::thread() == 0) {
    a.list.n_left[m] = n_left;
    a.kept.count[m] = count + fill;
  }
}

namespace {

struct Commit {
  uint32_t stays[DOGE_CUDA_BLOCK];
  uint32_t row[DOGE_CUDA_BLOCK];
  uint32_t free[DOGE_CUDA_BLOCK];
};

/// Rows of the arena that no set names, for the keys of the block that some set names.
DOGE_DEVICE void find_rows(const DogeCudaCommitArgs &a, Commit &shared, uint32_t kv_head) {
  const uint32_t heads = a.kept.mask_heads / a.kept.kv_heads;
  uint32_t *const mark = a.mark + (size_t)kv_head * a.kept.n_arena;
  const size_t base = (size_t)kv_head * heads * a.kept.n_slots;
  for (uint32_t r = dev::thread(); r < a.kept.n_arena; r += THREADS) mark[r] = 0;
  for (uint32_t t = dev::thread(); t < DOGE_CUDA_BLOCK; t += THREADS) shared.stays[t] = 0;
  dev::sync();
  for (uint32_t j = 0; j < heads; ++j) {
    const uint32_t count = a.kept.count[kv_head * heads + j];
    for (uint32_t s = dev::thread(); s < count; s += THREADS) {
      const uint32_t row = a.kept.row[base + (size_t)j * a.kept.n_slots + s];
      if (row & DOGE_CUDA_NEW) shared.stays[row & ~DOGE_CUDA_NEW] = 1; // whoever writes writes the same
      else mark[row] = 1;
    }
  }
  dev::sync();
  if (dev::warp() == 0) {
    for (uint32_t r0 = 0, found = 0; r0 < a.kept.n_arena && found < a.n_rows; r0 += 32) {
      const uint32_t r = r0 + dev::lane();
      const bool is_free = r < a.kept.n_arena && mark[r] == 0;
      const uint32_t votes = dev::ballot(is_free), rank = found + dev::count_bits(votes & ((1u << dev::lane()) - 1));
      if (is_free && rank < a.n_rows) shared.free[rank] = r;
      found += dev::count_bits(votes);
    }
  }
  dev::sync();
  if (dev::warp() == 0) {
    for (uint32_t t0 = 0, found = 0; t0 < a.n_rows; t0 += 32) {
      const uint32_t t = t0 + dev::lane();
      const bool stays = t < a.n_rows && shared.stays[t] != 0;
      const uint32_t votes = dev::ballot(stays), rank = found + dev::count_bits(votes & ((1u << dev::lane()) - 1));
      if (t < a.n_rows) shared.row[t] = stays ? shared.free[rank] : DOGE_CUDA_NEVER;
      found += dev::count_bits(votes);
    }
  }
  dev::sync();
  for (uint32_t j = 0; j < heads; ++j) {
    const uint32_t count = a.kept.count[kv_head * heads + j];
    for (uint32_t s = dev::thread(); s < count; s += THREADS) {
      uint32_t &row = a.kept.row[base + (size_t)j * a.kept.n_slots + s];
      if (row & DOGE_CUDA_NEW) row = shared.row[row & ~DOGE_CUDA_NEW];
    }
  }
}

}  // namespace

DOGE_KERNEL(doge_kept_commit, DOGE_CUDA_THREADS, DogeCudaCommitArgs) {
  Commit &shared = dev::shared<Commit>();
  if (a.at->stopped != 0) return;
  const uint32_t kv_head = dev::block_x(), heads = a.kept.mask_heads / a.kept.kv_heads, m = kv_head * heads;
  uint32_t *const row = a.kept.row + (size_t)m * a.kept.n_slots;
  const uint32_t count = a.kept.count[m], n_left = a.list.n_left[m];
  // Sets fill in step, so where the last token took a free slot, all did, and nothing was ever dropped: row = slot.
  const bool fills = n_left == 0 && count > 0 && row[count - 1] == (DOGE_CUDA_NEW | (a.n_rows - 1));
  dev::sync();
  if (fills) {
    for (uint32_t t = dev::thread(); t < a.n_rows; t += THREADS) {
      shared.row[t] = count - a.n_rows + t;
      for (uint32_t j = 0; j < heads; ++j) row[(size_t)j * a.kept.n_slots + count - a.n_rows + t] = shared.row[t];
    }
  } else if (heads == 1 && a.n_rows == 1) {
    // The row of the key that it replaced.
    if (n_left == 0) return;
    if (dev::thread() == 0) {
      shared.row[0] = a.list.left_row[(size_t)m * DOGE_CUDA_BLOCK];
      row[a.list.left_slot[(size_t)m * DOGE_CUDA_BLOCK]] = shared.row[0];
    }
  } else {
    find_rows(a, shared, kv_head);
  }
  dev::sync();
  for (uint32_t i = dev::thread(); i < a.n_rows * a.head_dim; i += THREADS) {
    const uint32_t t = i / a.head_dim, c = i % a.head_dim;
    if (shared.row[t] == DOGE_CUDA_NEVER) continue;
    const size_t to = ((size_t)kv_head * a.kept.n_arena + shared.row[t]) * a.kept.kv_row + c;
    const size_t from = (size_t)t * a.kv_stride + kv_head * a.head_dim + c;
    a.kept.k[to] = a.k[from];
    a.kept.v[to] = a.v[from];
  }
}
