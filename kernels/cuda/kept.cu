// The kept keys of a block of several tokens. That of a single one: decode_attention.cu.
#include "kept_commit.h"
#include "kept_offer.h"

/// Grid: mask heads.
DOGE_KERNEL(doge_kept_offer, DOGE_CUDA_THREADS, DogeCudaOfferArgs) {
  kept::offer(a, dev::shared<kept::OffersOfBlock>(), dev::block_x());
}

/// Grid: K/V heads.
DOGE_KERNEL(doge_kept_commit, DOGE_CUDA_THREADS, DogeCudaCommitArgs) {
  const uint32_t kv_head = dev::block_x(), first = kv_head * a.head_dim;
  kept::commit(a, dev::shared<kept::Commit<DOGE_CUDA_BLOCK>>(), kv_head, a.k + first, a.v + first);
}
