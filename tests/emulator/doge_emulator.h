// The device layer for a plain C++ compiler: one fibre for each CUDA thread. See README.md for what it does and does not show.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DOGE_DEVICE inline
#define DOGE_KERNEL(name, threads, Args) DOGE_KERNEL_OF(name, threads, 1, Args)
#define DOGE_TEAM_KERNEL(name, teams, Args) DOGE_KERNEL_OF(name, (teams) * DOGE_CUDA_THREADS, teams, Args)
#define DOGE_KERNEL_OF(name, threads, teams, Args)                                   \
  static void name(const Args &a);                                                   \
  static const emulator::Kernel name##_entry(#name, threads, teams, sizeof(Args), [](const void *args) { \
    name(*static_cast<const Args *>(args));                                          \
  });                                                                                \
  static void name(const Args &a)

// Where in the source a collective or a load stands.
#define DOGE_SITE const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE()

namespace emulator {

struct Grid {
  uint32_t x, y, z;
};

/// A kernel by its name. Every one registers itself when the library is loaded.
struct Kernel {
  Kernel(const char *name, uint32_t threads, uint32_t teams, size_t args, void (*body)(const void *));
  const char *name;
  uint32_t threads, teams;
  size_t args;
  void (*body)(const void *);
  const Kernel *next;
  static const Kernel *find(const char *name);
};

/// What can be broken on purpose, at one site of the source.
enum Fault : uint32_t {
  FAULT_NONE,
  FAULT_BARRIER,  // the barrier lets everyone through
  FAULT_WAIT,     // the wait for asynchronous copies does not wait
  FAULT_SHUFFLE,  // a lane gets its neighbour's value
  FAULT_LOAD,     // the words of a 16-byte load are one off
  FAULT_COPY,     // an asynchronous copy does not happen
  FAULT_MATRICES, // loaded matrices are one off
  FAULT_MMA,      // the two halves of b are exchanged
  FAULT_BALLOT,   // lane 0 does not count
  FAULT_ADD,      // nothing is added
  FAULT_LATE,     // breaks nothing: a thread's first look at a word is after others had many turns
  FAULT_COUNT // breaks nothing, counts sites
};

/// Runs every block of a grid, one after another or `together`, each with `ring` bytes of shared memory beside its own. NULL, or what
/// went wrong: a deadlock, lanes at different collectives, a misaligned load, writes beyond shared memory.
const char *launch(const Kernel &kernel, Grid grid, const void *args, uint32_t seed, size_t ring, bool together);

uint32_t thread(); // of its team
uint32_t team();
Grid block();
void *shared(size_t bytes);
void *ring();
/// The barrier of the first n teams, or with 0 of the thread's own.
void sync(uint32_t n, const char *file, uint32_t line);
/// Lets others run; a launch in which nobody does anything else is a deadlock.
void pause();
/// Lets others do what they can, for many turns; of a thread, once a launch.
void linger();

/// Bytes from memory to shared memory, counted where an arrival is expected.
struct Arrival {
  uint32_t rounds; // complete
  uint32_t expected;
};
void copy_bulk(void *to, const void *from, uint32_t bytes, Arrival *arrival, bool happens);
/// Is a round of that parity complete? Has what is on its way there.
bool is_complete(Arrival *arrival, uint32_t parity);

/// What a lane brings to a collective.
using Operand = unsigned char[48];
/// Waits for all 32 lanes, and gives what each brought; valid until this lane's next collective.
const Operand *exchange(const void *in, size_t bytes, const char *file, uint32_t line);

/// Sites are looked up only while something is broken or sites are counted.
extern thread_local bool watching;
bool broken_here(Fault fault, const char *file, uint32_t line);
inline bool broken(Fault fault, const char *file, uint32_t line) { return watching && broken_here(fault, file, line); }

void copy_async(void *to, const void *from, bool valid);
void copy_commit();
void copy_wait(uint32_t under_way);
[[noreturn]] void fail(const char *what, const char *file, uint32_t line);

}  // namespace emulator

namespace dev {

inline uint32_t thread() { return emulator::thread(); }
inline uint32_t block_x() { return emulator::block().x; }
inline uint32_t block_y() { return emulator::block().y; }
inline uint32_t block_z() { return emulator::block().z; }
template <class T> T &shared() { return *static_cast<T *>(emulator::shared(sizeof(T))); }

inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float larger(float a, float b) { return fmaxf(a, b); }
inline float infinity() { return INFINITY; }
inline uint32_t bits(float x) {
  uint32_t y;
  memcpy(&y, &x, 4);
  return y;
}
inline float from_bits(uint32_t x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}

inline void sync(DOGE_SITE) { emulator::sync(0, file, line); }
inline uint32_t team() { return emulator::team(); }
template <int N> void sync_teams(DOGE_SITE) { emulator::sync(N, file, line); }
inline uint8_t *ring() { return static_cast<uint8_t *>(emulator::ring()); }
inline void pause() { emulator::pause(); }
inline void prefetch(const void *) {}
inline void sync_warp(DOGE_SITE) { emulator::exchange(nullptr, 0, file, line); }

inline void publish(uint64_t *p, float x, uint32_t tag) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  *p = (uint64_t)tag << 32 | bits;
}
struct Words2 {
  uint64_t w[2];
};
inline uint64_t look1(const uint64_t *p, DOGE_SITE) {
  if (emulator::broken(emulator::FAULT_LATE, file, line)) emulator::linger();
  return *p;
}
inline Words2 look(const uint64_t *p, DOGE_SITE) {
  if (emulator::broken(emulator::FAULT_LATE, file, line)) emulator::linger();
  if ((uintptr_t)p % 16 != 0) emulator::fail("a look at an address that is no multiple of 16", file, line);
  return {{p[0], p[1]}};
}

inline emulator::Arrival *arrival(uint64_t *a) { return reinterpret_cast<emulator::Arrival *>(a); }
inline void begin_arrivals(uint64_t *a) { *arrival(a) = {0, 0}; }
inline void expect(uint64_t *a, uint32_t bytes) {
  if (bytes == 0) ++arrival(a)->rounds;
  else arrival(a)->expected = bytes;
}
inline void copy_bulk(void *to, const void *from, uint32_t bytes, uint64_t *a, DOGE_SITE) {
  if ((uintptr_t)to % 16 != 0 || (uintptr_t)from % 16 != 0 || bytes % 16 != 0) emulator::fail("a misaligned bulk copy", file, line);
  emulator::copy_bulk(to, from, bytes, arrival(a), !emulator::broken(emulator::FAULT_COPY, file, line));
}
inline void arrive(uint64_t *a) { ++arrival(a)->rounds; }
inline bool is_complete(uint64_t *a, uint32_t parity, DOGE_SITE) {
  return emulator::broken(emulator::FAULT_WAIT, file, line) || emulator::is_complete(arrival(a), parity);
}
inline void wait(uint64_t *a, uint32_t parity, DOGE_SITE) {
  if (emulator::broken(emulator::FAULT_WAIT, file, line)) return;
  while (!emulator::is_complete(arrival(a), parity)) emulator::pause();
}
inline void fence_async() {}
/// Launches run one after another here, blocks too.
inline void launch_next() {}
inline void wait_for_previous() {}
inline void fence() {}
inline uint32_t add(uint32_t *to, uint32_t x, DOGE_SITE) {
  const uint32_t before = *to;
  if (!emulator::broken(emulator::FAULT_ADD, file, line)) *to += x;
  return before;
}

template <class T> T shuffle(T x, uint32_t mask, const char *file, uint32_t line) {
  const emulator::Operand *const all = emulator::exchange(&x, sizeof x, file, line);
  const uint32_t off = emulator::broken(emulator::FAULT_SHUFFLE, file, line);
  T y;
  memcpy(&y, all[((emulator::thread() ^ mask) + off) % 32], sizeof y);
  return y;
}
inline float shuffle_xor(float x, uint32_t mask, DOGE_SITE) { return shuffle(x, mask, file, line); }
inline uint64_t shuffle_xor(uint64_t x, uint32_t mask, DOGE_SITE) { return shuffle(x, mask, file, line); }

inline uint32_t ballot(bool x, DOGE_SITE) {
  const emulator::Operand *const all = emulator::exchange(&x, sizeof x, file, line);
  uint32_t votes = 0;
  for (uint32_t lane = emulator::broken(emulator::FAULT_BALLOT, file, line); lane < 32; ++lane) votes |= (all[lane][0] & 1u) << lane;
  return votes;
}
inline uint32_t count_bits(uint32_t x) { return (uint32_t)__builtin_popcount(x); }

struct alignas(16) Words4 {
  uint32_t w[4];
};

inline Words4 load16(const void *p, DOGE_SITE) {
  if ((uintptr_t)p % 16 != 0) emulator::fail("a 16-byte load from an address that is no multiple of 16", file, line);
  Words4 x;
  memcpy(&x, p, 16);
  if (emulator::broken(emulator::FAULT_LOAD, file, line)) return {{x.w[1], x.w[2], x.w[3], x.w[0]}};
  return x;
}

inline void store16(void *p, const Words4 &x, DOGE_SITE) {
  if ((uintptr_t)p % 16 != 0) emulator::fail("a 16-byte store to an address that is no multiple of 16", file, line);
  memcpy(p, &x, 16);
}

inline float from_f16(uint16_t x) {
  const uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
  return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}
inline uint16_t to_bf16(float x) {
  const uint32_t u = bits(x);
  if (x != x) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline uint32_t to_bf16(float low, float high) { return to_bf16(low) | (uint32_t)to_bf16(high) << 16; }

inline void copy16_async(void *to, const void *from, bool valid, DOGE_SITE) {
  if ((uintptr_t)to % 16 != 0 || (uintptr_t)from % 16 != 0) emulator::fail("a misaligned asynchronous copy", file, line);
  if (!emulator::broken(emulator::FAULT_COPY, file, line)) emulator::copy_async(to, from, valid);
}
inline void copy_commit() { emulator::copy_commit(); }
template <int N> void copy_wait(DOGE_SITE) {
  if (!emulator::broken(emulator::FAULT_WAIT, file, line)) emulator::copy_wait(N);
}

/// Element `half` of a lane's word is that of row lane / 4 and column 2 (lane % 4) + half; the other way around if transposed.
inline Words4 load_matrices(const void *row, bool transposed, const char *file, uint32_t line) {
  if ((uintptr_t)row % 16 != 0) emulator::fail("a misaligned matrix row", file, line);
  Words4 mine;
  memcpy(&mine, row, 16);
  const emulator::Operand *const all = emulator::exchange(&mine, 16, file, line);
  const uint32_t lane = emulator::thread() % 32, off = emulator::broken(emulator::FAULT_MATRICES, file, line);
  Words4 r;
  for (uint32_t m = 0; m < 4; ++m) {
    uint16_t halves[2];
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t group = lane / 4, pair = lane % 4 * 2 + half, at = transposed ? pair : group;
      memcpy(&halves[half], all[(m + off) % 4 * 8 + at] + 2 * (transposed ? group : pair), 2);
    }
    memcpy(&r.w[m], halves, 4);
  }
  return r;
}
inline Words4 load_matrices(const void *row, DOGE_SITE) { return load_matrices(row, false, file, line); }
inline Words4 load_matrices_transposed(const void *row, DOGE_SITE) { return load_matrices(row, true, file, line); }

inline void mma_bf16(float (&c)[4], const Words4 &a, uint32_t b0, uint32_t b1, DOGE_SITE) {
  struct {
    Words4 a;
    uint32_t b[2];
  } in = {a, {b0, b1}};
  const emulator::Operand *const all = emulator::exchange(&in, 24, file, line);
  const uint32_t off = emulator::broken(emulator::FAULT_MMA, file, line);
  const uint32_t lane = emulator::thread() % 32, group = lane / 4, quad = lane % 4;
  // Element (row, k) of a, and (k, column) of b, as the PTX manual spreads them.
  const auto element = [&](uint32_t owner, uint32_t word, uint32_t half) {
    uint16_t x;
    memcpy(&x, all[owner] + 4 * word + 2 * half, 2);
    return from_bits((uint32_t)x << 16);
  };
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = group + 8 * (i / 2), column = 2 * quad + i % 2;
    for (uint32_t k = 0; k < 16; ++k) {
      const uint32_t a_word = row / 8 + 2 * (k / 8), pair = k % 8 / 2;
      const float x = element(row % 8 * 4 + pair, a_word, k % 2);
      const float y = element(column * 4 + pair, 4 + (k / 8 + off) % 2, k % 2);
      c[i] += x * y;
    }
  }
}

}  // namespace dev
