// The sequence one place further: the end of a decode step, by one thread.
#pragma once
#include "device.h"

namespace next {

DOGE_DEVICE bool is_finite(float x) { return (dev::bits(x) & 0x7f800000u) != 0x7f800000u; }

DOGE_DEVICE void take(const DogeCudaNextArgs &a, uint32_t token, bool any_non_finite) {
  DogeCudaPlace &at = *a.at;
  if (at.stopped != 0 || at.step >= DOGE_CUDA_STEPS_MAX) return;
  if (any_non_finite && at.non_finite == 0) at.non_finite = 1 + at.place;
  a.ids[0] = token;
  a.chosen[at.step] = token;
  for (uint32_t i = 0; i < a.n_eos; ++i) at.stopped |= a.eos[i] == token;
  ++at.place;
  ++at.step;
}

}  // namespace next
