// Moves the keys of a block that stayed into the arena, after its attention: until then the block's own rows serve, and no key
// that an early query of the block still sees is overwritten.
#pragma once
#include "kept_offer.h"

namespace kept {

/// ROWS: of the block at most.
template <uint32_t ROWS> struct Commit {
  uint32_t stays[ROWS], row[ROWS], free[ROWS];
  uint64_t part[WARPS];
};

/// Rows of the arena that no set names, for the keys of the block that some set names.
template <uint32_t ROWS> DOGE_DEVICE void find_rows(const DogeCudaCommitArgs &a, Commit<ROWS> &shared, uint32_t kv_head) {
  const uint32_t heads = a.kept.mask_heads / a.kept.kv_heads;
  uint32_t *const mark = a.mark + (size_t)kv_head * a.kept.n_arena;
  const size_t base = (size_t)kv_head * heads * a.kept.n_slots;
  for (uint32_t r = dev::thread(); r < a.kept.n_arena; r += DOGE_CUDA_THREADS) mark[r] = 0;
  for (uint32_t t = dev::thread(); t < a.n_rows; t += DOGE_CUDA_THREADS) shared.stays[t] = 0;
  dev::sync();
  for (uint32_t j = 0; j < heads; ++j) {
    const uint32_t count = a.kept.count[kv_head * heads + j];
    for (uint32_t s = dev::thread(); s < count; s += DOGE_CUDA_THREADS) {
      const uint32_t row = a.kept.row[base + (size_t)j * a.kept.n_slots + s];
      if (row & DOGE_CUDA_NEW) shared.stays[row & ~DOGE_CUDA_NEW] = 1; // whoever writes writes the same
      else mark[row] = 1;
    }
  }
  dev::sync();
  if (a.n_rows == 1) {
    // Of a single key every thread looks for the lowest: a decode step waits for this.
    uint64_t lowest = NONE;
#pragma unroll 8
    for (uint32_t r = dev::thread(); r < a.kept.n_arena; r += DOGE_CUDA_THREADS) {
      if (mark[r] == 0 && r < lowest) lowest = r;
    }
    lowest = least_of_block(lowest, shared.part);
    if (dev::thread() == 0) shared.free[0] = (uint32_t)lowest;
  } else if (dev::warp() == 0) {
    for (uint32_t r0 = 0, found = 0; r0 < a.kept.n_arena && found < a.n_rows; r0 += 32) {
      const uint32_t r = r0 + dev::lane();
      const bool is_free = r < a.kept.n_arena && mark[r] == 0;
      const uint32_t votes = dev::ballot(is_free), rank = found + dev::count_bits(votes & ((1u << dev::lane()) - 1));
      if (is_free && rank < a.n_rows) shared.free[rank] = r;
      found += dev::count_bits(votes);
    }
  }
  dev::sync();
  if (dev::warp() == 0) {
    for (uint32_t t0 = 0, found = 0; t0 < a.n_rows; t0 += 32) {
      const uint32_t t = t0 + dev::lane();
      const bool stays = t < a.n_rows && shared.stays[t] != 0;
      const uint32_t votes = dev::ballot(stays), rank = found + dev::count_bits(votes & ((1u << dev::lane()) - 1));
      if (t < a.n_rows) shared.row[t] = stays ? shared.free[rank] : DOGE_CUDA_NEVER;
      found += dev::count_bits(votes);
    }
  }
  dev::sync();
  for (uint32_t j = 0; j < heads; ++j) {
    const uint32_t count = a.kept.count[kv_head * heads + j];
    for (uint32_t s = dev::thread(); s < count; s += DOGE_CUDA_THREADS) {
      uint32_t &row = a.kept.row[base + (size_t)j * a.kept.n_slots + s];
      if (row & DOGE_CUDA_NEW) row = shared.row[row & ~DOGE_CUDA_NEW];
    }
  }
}

/// `k` and `v` are the block's first rows of this K/V head.
template <uint32_t ROWS>
DOGE_DEVICE void commit(const DogeCudaCommitArgs &a, Commit<ROWS> &shared, uint32_t kv_head, const float *k, const float *v) {
  if (a.at->stopped != 0) return;
  const uint32_t heads = a.kept.mask_heads / a.kept.kv_heads, m = kv_head * heads;
  uint32_t *const row = a.kept.row + (size_t)m * a.kept.n_slots;
  const uint32_t count = a.kept.count[m], n_left = a.list.n_left[m];
  // Sets fill in step, so where the last token took a free slot, all did, and nothing was ever dropped: row = slot.
  const bool fills = n_left == 0 && count > 0 && row[count - 1] == (DOGE_CUDA_NEW | (a.n_rows - 1));
  dev::sync();
  if (fills) {
    for (uint32_t t = dev::thread(); t < a.n_rows; t += DOGE_CUDA_THREADS) {
      shared.row[t] = count - a.n_rows + t;
      for (uint32_t j = 0; j < heads; ++j) row[(size_t)j * a.kept.n_slots + count - a.n_rows + t] = shared.row[t];
    }
  } else if (heads == 1 && a.n_rows == 1) {
    // The row of the key that it replaced.
    if (n_left == 0) return;
    if (dev::thread() == 0) {
      shared.row[0] = a.list.left_row[(size_t)m * DOGE_CUDA_BLOCK];
      row[a.list.left_slot[(size_t)m * DOGE_CUDA_BLOCK]] = shared.row[0];
    }
  } else {
    find_rows(a, shared, kv_head);
  }
  dev::sync();
  for (uint32_t i = dev::thread(); i < a.n_rows * a.head_dim; i += DOGE_CUDA_THREADS) {
    const uint32_t t = i / a.head_dim, c = i % a.head_dim;
    if (shared.row[t] == DOGE_CUDA_NEVER) continue;
    const size_t to = ((size_t)kv_head * a.kept.n_arena + shared.row[t]) * a.kept.kv_row + c;
    const size_t from = (size_t)t * a.kv_stride + c;
    a.kept.k[to] = k[from];
    a.kept.v[to] = v[from];
  }
}

}  // namespace kept
