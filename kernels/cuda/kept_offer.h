// Which keys each mask head keeps (spec 8): fixed slots, overwritten in place. src/model/kept_set.rs is the same on the CPU,
// and puts the same key into the same slot.
#pragma once
#include "device.h"

namespace kept {

constexpr uint32_t THREADS = DOGE_CUDA_THREADS, WARPS = THREADS / 32;
constexpr uint64_t NONE = ~(uint64_t)0;

/// Smaller is weaker: a smaller mask value, or an equal one and a later place. Mask values are not negative, so their bits
/// are in order.
DOGE_DEVICE uint64_t strength(float mask, uint32_t place) { return (uint64_t)dev::bits(mask) << 32 | ~place; }

struct Offers {
  uint64_t part[2][WARPS];
};

/// Of a block of several tokens.
struct OffersOfBlock {
  Offers offers;
  uint32_t left_slot[DOGE_CUDA_BLOCK]; // of the keys that left one, ascending
};

/// The least of all threads. A barrier inside.
DOGE_DEVICE uint64_t least_of_block(uint64_t mine, uint64_t (&part)[WARPS]) {
  uint64_t least = mine;
  for (uint32_t mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = dev::shuffle_xor(least, mask);
    least = other < least ? other : least;
  }
  if (dev::lane() == 0) part[dev::warp()] = least;
  dev::sync();
  for (uint32_t i = 0; i < WARPS; ++i) least = part[i] < least ? part[i] : least;
  return least;
}

struct Set {
  uint32_t *row, *place;
  float *mask;
};

DOGE_DEVICE Set set_of(const DogeCudaKept &kept, uint32_t m) {
  const size_t base = (size_t)m * kept.n_slots;
  return {kept.row + base, kept.place + base, kept.mask + base};
}

/// The weakest of this thread's slots.
DOGE_DEVICE uint64_t weakest_of_mine(const Set &set, uint32_t n_slots, uint32_t &slot) {
  uint64_t weakest = NONE;
#pragma unroll 8
  for (uint32_t s = dev::thread(); s < n_slots; s += THREADS) {
    const uint64_t key = strength(set.mask[s], set.place[s]);
    if (key < weakest) weakest = key, slot = s;
  }
  return weakest;
}

/// Notes the weakest of a full set of head `m`. A barrier inside.
DOGE_DEVICE void find_weakest(const DogeCudaKept &kept, const Set &set, uint32_t m, Offers &shared) {
  uint32_t slot = 0;
  const uint64_t mine = weakest_of_mine(set, kept.n_slots, slot);
  if (mine == least_of_block(mine, shared.part[0]) && mine != NONE) kept.weakest[m] = {mine, slot};
}

/// Of n slots, ascending: how many are below `slot`.
DOGE_DEVICE uint32_t below(const uint32_t *slots, uint32_t n, uint32_t slot) {
  uint32_t first = 0;
  while (n > 0) {
    const uint32_t half = n / 2;
    if (slots[first + half] < slot) first += half + 1, n -= half + 1;
    else n = half;
  }
  return first;
}

/// The list of a block of several tokens: by slot, in each slot in order of time.
DOGE_DEVICE void write_list(const DogeCudaKeyList &list, const Set &set, uint32_t (&left_slot)[DOGE_CUDA_BLOCK], uint32_t m,
                            uint32_t count, uint32_t n_left) {
  const size_t base = (size_t)m * list.room, left = (size_t)m * DOGE_CUDA_BLOCK;
  for (uint32_t i = dev::thread(); i < n_left; i += THREADS) {
    const uint32_t slot = list.left_slot[left + i];
    uint32_t before = 0;
    for (uint32_t j = 0; j < n_left; ++j) {
      const uint32_t other = list.left_slot[left + j];
      before += other < slot || (other == slot && j < i);
    }
    left_slot[before] = slot;
    const size_t to = base + slot + before;
    list.row[to] = list.left_row[left + i];
    list.mask[to] = list.left_mask[left + i];
    list.seen_from[to] = list.left_from[left + i];
    list.seen_until[to] = list.left_until[left + i];
  }
  dev::sync();
  for (uint32_t s = dev::thread(); s < count; s += THREADS) {
    const size_t to = base + s + below(left_slot, n_left, s + 1);
    list.row[to] = set.row[s];
    list.mask[to] = set.mask[s];
    list.seen_from[to] = set.place[s];
    list.seen_until[to] = DOGE_CUDA_NEVER;
  }
  const uint32_t tiles = (count + DOGE_CUDA_TILE - 1) / DOGE_CUDA_TILE;
  for (uint32_t i = dev::thread(); i <= tiles; i += THREADS) {
    const uint32_t slot = dev::least(i * DOGE_CUDA_TILE, count);
    list.tile_begin[(size_t)m * list.tiles_room + i] = slot + below(left_slot, n_left, slot);
  }
  dev::sync();
  for (uint32_t i = dev::thread(); i < tiles; i += THREADS) {
    const size_t tile = (size_t)m * list.tiles_room + i;
    uint32_t first_from = DOGE_CUDA_NEVER, last_from = 0, first_until = DOGE_CUDA_NEVER, last_until = 0;
    for (size_t t = base + list.tile_begin[tile]; t < base + list.tile_begin[tile + 1]; ++t) {
      const uint32_t from = list.seen_from[t], until = list.seen_until[t];
      first_from = dev::least(first_from, from), last_from = dev::most(last_from, from);
      first_until = dev::least(first_until, until), last_until = dev::most(last_until, until);
    }
    uint32_t *const seen = list.tile_seen + 4 * tile;
    seen[0] = first_from, seen[1] = last_from, seen[2] = first_until, seen[3] = last_until;
  }
}

/// Offers a block's keys to the set of mask head `m`, one after another, since each decision needs the one before: every thread
/// knows the weakest of its own slots, so a step is one minimum over the block.
DOGE_DEVICE void offer(const DogeCudaOfferArgs &a, OffersOfBlock &shared, uint32_t m) {
  if (a.at->stopped != 0) return;
  const uint32_t n_slots = a.kept.n_slots, place0 = a.at->place;
  const size_t left = (size_t)m * DOGE_CUDA_BLOCK;
  const Set set = set_of(a.kept, m);
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
      // Two sets of parts in turn: one barrier a token is enough.
      const uint64_t weakest = least_of_block(mine, shared.offers.part[t % 2]);
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
  if (count + fill == n_slots) find_weakest(a.kept, set, m, shared.offers);
  write_list(a.list, set, shared.left_slot, m, count + fill, n_left);
  if (dev::thread() == 0) {
    a.list.n_left[m] = n_left;
    a.kept.count[m] = count + fill;
  }
}

}  // namespace kept
