// What a device can do at best: a loop that only reads, loops that only multiply. Nothing else calls them.
#include "device.h"

namespace {

constexpr uint32_t CHAINS = 8;

}  // namespace

/// out[thread of all] = the exclusive or of the words that the thread reads, 16 bytes at a time, `rounds` times over all of
/// them. A block reads another part in each round, so that no L1 cache answers for the next one.
DOGE_KERNEL(doge_roof_read, DOGE_CUDA_THREADS, DogeCudaRoofArgs) {
  const size_t step = (size_t)a.n_blocks * DOGE_CUDA_THREADS * 4;
  uint32_t x = 0;
  for (uint32_t round = 0; round < a.rounds; ++round) {
    const uint32_t block = (dev::block_x() + round) % a.n_blocks;
#pragma unroll 4
    for (size_t i = ((size_t)block * DOGE_CUDA_THREADS + dev::thread()) * 4; i < a.n_words; i += step) {
      const dev::Words4 words = dev::load16(a.words + i);
      x ^= words.w[0] ^ words.w[1] ^ words.w[2] ^ words.w[3];
    }
  }
  a.out[dev::block_x() * DOGE_CUDA_THREADS + dev::thread()] = x;
}

/// Eight chains of fma, `rounds` links each: x = x * words[0] + words[1], from 0, 1, … 7 on; out is the bits of their sum.
DOGE_KERNEL(doge_roof_fma, DOGE_CUDA_THREADS, DogeCudaRoofArgs) {
  const float factor = dev::from_bits(a.words[0]), term = dev::from_bits(a.words[1]);
  float x[CHAINS];
#pragma unroll
  for (uint32_t i = 0; i < CHAINS; ++i) x[i] = (float)i;
#pragma unroll 4
  for (uint32_t round = 0; round < a.rounds; ++round) {
#pragma unroll
    for (uint32_t i = 0; i < CHAINS; ++i) x[i] = dev::fma(x[i], factor, term);
  }
  float sum = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < CHAINS; ++i) sum += x[i];
  a.out[dev::block_x() * DOGE_CUDA_THREADS + dev::thread()] = dev::bits(sum);
}

/// Eight sums of products of matrices a warp, `rounds` products each: of 16 x 16 by 16 x 8 elements, which are all words[0]
/// (two of bf16); out is the bits of what the thread has of them, summed.
DOGE_KERNEL(doge_roof_mma, DOGE_CUDA_THREADS, DogeCudaRoofArgs) {
  const uint32_t pair = a.words[0];
  const dev::Words4 x = {{pair, pair, pair, pair}};
  float sums[CHAINS][4] = {};
#pragma unroll 2
  for (uint32_t round = 0; round < a.rounds; ++round) {
#pragma unroll
    for (uint32_t i = 0; i < CHAINS; ++i) dev::mma_bf16(sums[i], x, pair, pair);
  }
  float sum = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < CHAINS; ++i) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  a.out[dev::block_x() * DOGE_CUDA_THREADS + dev::thread()] = dev::bits(sum);
}
