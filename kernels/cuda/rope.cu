// q/k norm and rotation: a warp for each head of q and k of a row.
#include "rope.h"

DOGE_KERNEL(doge_rope, DOGE_CUDA_THREADS, DogeCudaRopeArgs) {
  const uint32_t heads = a.q_heads + a.k_heads, index = dev::block_x() * (DOGE_CUDA_THREADS / 32) + dev::warp();
  const bool is_some = index < a.n_rows * heads;
  rope(a, is_some ? index / heads : 0, is_some ? index % heads : 0, is_some);
}
