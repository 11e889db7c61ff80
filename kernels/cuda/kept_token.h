// The key of a single token and the sets (kept_offer.h has those of a block): which slot it takes is known before anything is
// changed, so attention and the change of state are one launch.
#pragma once
#include "kept_offer.h"

namespace kept {

/// What becomes of a set.
struct Choice {
  uint32_t slot;  // of the key, or DOGE_CUDA_NEVER
  uint32_t count; // slots in use afterwards
};

/// `count`: slots in use before.
DOGE_DEVICE Choice choose(const DogeCudaKept &kept, uint32_t m, uint32_t count, float mask, uint32_t place) {
  if (count < kept.n_slots) return {count, count + 1};
  const DogeCudaWeakest weakest = kept.weakest[m];
  // No places are equal: equal mask values are no tie here.
  return {weakest.strength < strength(mask, place) ? (uint32_t)weakest.slot : DOGE_CUDA_NEVER, count};
}

/// Puts the key into its slot, by one thread.
DOGE_DEVICE void take(const DogeCudaKept &kept, const DogeCudaKeyList &list, uint32_t m, Choice choice, float mask, uint32_t place) {
  const Set set = set_of(kept, m);
  const size_t left = (size_t)m * DOGE_CUDA_BLOCK;
  const uint32_t slot = choice.slot;
  const bool is_taken = slot < kept.count[m];
  if (is_taken) list.left_slot[left] = slot, list.left_row[left] = set.row[slot];
  if (slot != DOGE_CUDA_NEVER) set.row[slot] = DOGE_CUDA_NEW, set.place[slot] = place, set.mask[slot] = mask;
  list.n_left[m] = is_taken;
  kept.count[m] = choice.count;
}

/// Offers the token's key to the set of head `m`, of which `count` slots are in use, by a block of threads. Barriers inside.
DOGE_DEVICE void offer_token(const DogeCudaKept &kept, const DogeCudaKeyList &list, uint32_t m, uint32_t count, float mask, uint32_t place,
                             Offers &shared) {
  const Choice choice = choose(kept, m, count, mask, place);
  if (dev::thread() == 0) take(kept, list, m, choice, mask, place);
  dev::sync();
  if (choice.count == kept.n_slots && choice.slot != DOGE_CUDA_NEVER) find_weakest(kept, set_of(kept, m), m, shared);
}

}  // namespace kept
