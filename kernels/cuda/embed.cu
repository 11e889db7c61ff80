// out[r] = table[ids[r]]: one block a row, a thread for each chunk of eight columns.
#include "weight.h"

namespace {

template <class Weight> DOGE_DEVICE void embed(const DogeCudaEmbedArgs &a) {
  dev::launch_next();
  dev::wait_for_previous();
  const uint32_t row = dev::block_x();
  const auto *const from = static_cast<const uint8_t *>(a.table) + a.ids[row] * a.stride_bytes;
  float *const out = a.out + (size_t)row * a.out_stride;
  for (uint32_t c = dev::thread() * weight::CHUNK; c < a.cols; c += DOGE_CUDA_THREADS * weight::CHUNK) {
    const weight::Chunk x = Weight::load(from, c / weight::CHUNK);
    for (uint32_t i = 0; i < weight::CHUNK && c + i < a.cols; ++i) out[c + i] = x.x[i];
  }
}

template <bool INT4> DOGE_DEVICE void embed_int(const DogeCudaEmbedArgs &a) {
  using Tile = weight::IntTile<INT4>;
  dev::launch_next();
  dev::wait_for_previous();
  const uint32_t row = dev::block_x(), id = a.ids[row];
  const auto *const tile = static_cast<const uint8_t *>(a.table) + id / DOGE_TILE * a.stride_bytes;
  float *const out = a.out + (size_t)row * a.out_stride;
  for (uint32_t c = dev::thread(); c < a.cols; c += DOGE_CUDA_THREADS) {
    const uint32_t group = c / DOGE_GROUP, quad = c % DOGE_GROUP / 4;
    const uint32_t word = Tile::word(tile, id % DOGE_TILE, group, INT4 ? quad % 4 : quad);
    out[c] = Tile::quant(word, c % 4, quad >= 4) * Tile::scale(tile, id % DOGE_TILE, group);
  }
}

}  // namespace

DOGE_KERNEL(doge_embed_f32, DOGE_CUDA_THREADS, DogeCudaEmbedArgs) { embed<weight::F32>(a); }
DOGE_KERNEL(doge_embed_bf16, DOGE_CUDA_THREADS, DogeCudaEmbedArgs) { embed<weight::Bf16>(a); }
DOGE_KERNEL(doge_embed_f16, DOGE_CUDA_THREADS, DogeCudaEmbedArgs) { embed<weight::F16>(a); }
DOGE_KERNEL(doge_embed_int8, DOGE_CUDA_THREADS, DogeCudaEmbedArgs) { embed_int<false>(a); }
DOGE_KERNEL(doge_embed_int4, DOGE_CUDA_THREADS, DogeCudaEmbedArgs) { embed_int<true>(a); }
