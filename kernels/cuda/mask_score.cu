// s of a key, for every mask head: a warp for each (row, mask head).
#include "mask_score.h"

DOGE_KERNEL(doge_mask_score, DOGE_CUDA_THREADS, DogeCudaMaskScoreArgs) {
  const uint32_t index = dev::block_x() * (DOGE_CUDA_THREADS / 32) + dev::warp();
  const bool is_some = index < a.n_rows * a.n_heads;
  const uint32_t row = is_some ? index / a.n_heads : 0, head = is_some ? index % a.n_heads : 0;
  const float s = mask_score(a, a.v + (size_t)row * a.v_stride, head);
  if (is_some && dev::lane() == 0) a.out[index] = s;
}
