// The next token, greedily, and the sequence one place further: the last kernel of a decode step. One block.
#include "next_token.h"
#include "weight.h"

namespace {

constexpr uint32_t THREADS = DOGE_CUDA_ARGMAX_THREADS, WARPS = THREADS / 32;

struct Shared {
  uint64_t best[WARPS];
  uint32_t non_finite[WARPS];
};

/// Larger for a larger value, then for a lower index; NaN is 0, below everything.
DOGE_DEVICE uint64_t rank(float x, uint32_t index) {
  if (x != x) return 0;
  const uint32_t bits = dev::bits(x + 0.0f); // -0 counts as +0
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (uint64_t)ascending << 32 | ~index;
}

}  // namespace

DOGE_KERNEL(doge_argmax, THREADS, DogeCudaNextArgs) {
  Shared &shared = dev::shared<Shared>();
  dev::launch_next();
  dev::wait_for_previous();
  uint64_t best = 0;
  bool non_finite = false;
  for (uint32_t first = dev::thread() * weight::CHUNK; first < a.n; first += THREADS * weight::CHUNK) {
    const weight::Chunk x = weight::load_floats(a.logits + first);
    for (uint32_t i = 0; i < weight::CHUNK; ++i) {
      if (first + i >= a.n) continue;
      const uint64_t key = rank(x.x[i], first + i);
      best = key > best ? key : best;
      non_finite |= !next::is_finite(x.x[i]);
    }
  }
  for (uint32_t mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = dev::shuffle_xor(best, mask);
    best = other > best ? other : best;
  }
  const uint32_t votes = dev::ballot(non_finite);
  if (dev::lane() == 0) shared.best[dev::warp()] = best, shared.non_finite[dev::warp()] = votes;
  dev::sync();
  if (dev::thread() != 0) return;
  uint32_t any = 0;
  for (uint32_t i = 0; i < WARPS; ++i) {
    best = shared.best[i] > best ? shared.best[i] : best;
    any |= shared.non_finite[i];
  }
  const uint32_t token = best == 0 ? 0 : ~(uint32_t)best;
  next::take(a, token, any != 0);
}
