// The device layer: every instruction a kernel uses beyond plain C++, once for nvcc and once for the host emulator
// (tests/emulator). A kernel includes this and nothing else, so the source that is tested is the source that ships.
//
//   DOGE_KERNEL(name, threads, Args) { ... a.field ... }   one by-value struct, `threads` threads a block
//   dev::shared<T>()      the block's shared memory, once in a kernel; its contents are undefined at the start
//   dev::sync()           the block's barrier
//   dev::shuffle_xor(x, mask)   collective: all 32 lanes of a warp must come
//   dev::launch_next()    the next launch may begin, as far as its wait; a kernel that says so waits itself, in all threads
//   dev::wait_for_previous()    until all launches before are done; constants may be read before, nothing else, and nothing written
//   dev::fence()          what the block wrote before it (and a barrier) is seen by whoever sees what the thread writes after it
//   dev::add(p, x)        to a number that threads or blocks share, at once; gives what was there
//
// A kernel whose blocks all stay (DOGE_TEAM_KERNEL, after #define DOGE_TEAMS) has several teams of DOGE_CUDA_THREADS a block: thread()
// and sync() are then a team's.
//
//   dev::team()           the number of the thread's team
//   dev::sync_teams<N>()  the barrier of the first N teams
//   dev::sync_warp()      what a lane's copies brought (after copy_wait) is there for all lanes
//   dev::ring()           shared memory beside shared<T>(), as many bytes as the launch gave
//   dev::publish(p, x, tag)     a word for other blocks, whole at once
//   dev::look(p)          two words, each as it is now; p is a multiple of 16
//   dev::pause()          between two looks
#pragma once
#include "../doge_cuda.h"

#ifdef __CUDACC__
#include "device_nvcc.h"
#else
#include <doge_emulator.h>
#endif

namespace dev {

/// The sum over the 32 lanes, the same bits in each: a fixed tree.
DOGE_DEVICE float warp_sum(float x) {
  for (uint32_t mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

DOGE_DEVICE float warp_max(float x) {
  for (uint32_t mask = 16; mask > 0; mask /= 2) x = larger(x, shuffle_xor(x, mask));
  return x;
}

DOGE_DEVICE uint32_t warp() { return thread() / 32; }
DOGE_DEVICE uint32_t lane() { return thread() % 32; }
DOGE_DEVICE uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
DOGE_DEVICE uint32_t most(uint32_t a, uint32_t b) { return a > b ? a : b; }

/// A copy of a struct by `threads` threads, of which this is number `thread`: 4 bytes each.
template <class T> DOGE_DEVICE void copy_words(T &to, const T &from, uint32_t thread, uint32_t threads) {
#pragma unroll 1
  for (uint32_t i = thread; i < sizeof(T) / 4; i += threads) {
    reinterpret_cast<uint32_t *>(&to)[i] = reinterpret_cast<const uint32_t *>(&from)[i];
  }
}

}  // namespace dev
