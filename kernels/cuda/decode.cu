// Between the projections of a decode step: what does not wait for each other goes in one launch, since a step of a small model
// is a chain of launches (docs/cuda.md). The same device functions as for a prompt, so the same bits.
#include "attention.h"
#include "kept_commit.h"
#include "kept_offer.h"
#include "mask_score.h"
#include "rope.h"

/// A block for each mask head scores the key and offers it; the others rotate the heads of q and k, a warp each. Offering a key
/// looks at its score alone. Grid: mask heads, then heads of q and k by the warps of a block.
DOGE_KERNEL(doge_decode_offer, DOGE_CUDA_THREADS, DogeCudaDecodeOfferArgs) {
  kept::Offers &shared = dev::shared<kept::Offers>();
  const uint32_t m = dev::block_x(), heads = a.rope.q_heads + a.rope.k_heads;
  if (m >= a.score.n_heads) {
    const uint32_t head = (m - a.score.n_heads) * (DOGE_CUDA_THREADS / 32) + dev::warp();
    rope(a.rope, 0, head < heads ? head : 0, head < heads);
    return;
  }
  if (dev::warp() == 0) {
    const float s = mask_score(a.score, 0, m);
    // The thread that puts the key into a free slot; where it takes another's slot, barriers of `offer` come first.
    if (dev::lane() == 0) a.score.out[m] = s;
  }
  kept::offer(a.offer, shared, m);
}

/// Merges each head's tiles, and moves the key into the arena, which no merge looks at. Grid: heads, then K/V heads; without the
/// latter under sliding_window, where the keys are in the ring.
DOGE_KERNEL(doge_decode_merge, DOGE_CUDA_THREADS, DogeCudaDecodeMergeArgs) {
  kept::Commit &shared = dev::shared<kept::Commit>();
  const uint32_t head = dev::block_x(), heads = a.attention.q_heads;
  if (head < heads) attention::merge_tiles(a.attention, head);
  else kept::commit(a.commit, shared, head - heads);
}
