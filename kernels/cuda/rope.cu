// q/k norm and rotation in place: a warp for each head of q and k of a row.
#include "rope.h"

DOGE_KERNEL(doge_rope, DOGE_CUDA_THREADS, DogeCudaRopeArgs) {
  const uint32_t heads = a.q_heads + a.k_heads, index = dev::block_x() * (DOGE_CUDA_THREADS / 32) + dev::warp();
  const bool is_some = index < a.n_rows * heads;
  const uint32_t row = is_some ? index / heads : 0, head = is_some ? index % heads : 0;
  const bool is_q = head < a.q_heads;
  float *const x = is_q ? a.q + (size_t)row * a.q_stride + head * a.head_dim
                        : a.k + (size_t)row * a.k_stride + (head - a.q_heads) * a.head_dim;
  rotate(a, row, x, is_q ? a.q_weight : a.k_weight, x, is_some);
}
