// The kept keys of a block of several tokens. Those of a single one: decode.cu.
#include "kept_commit.h"
#include "kept_offer.h"

/// Grid: mask heads.
DOGE_KERNEL(doge_kept_offer, DOGE_CUDA_THREADS, DogeCudaOfferArgs) {
  kept::offer(a, dev::shared<kept::Offers>(), dev::block_x());
}

/// Grid: K/V heads.
DOGE_KERNEL(doge_kept_commit, DOGE_CUDA_THREADS, DogeCudaCommitArgs) {
  kept::commit(a, dev::shared<kept::Commit>(), dev::block_x());
}
