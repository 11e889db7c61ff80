// The device layer for nvcc. See device.h.
#pragma once
#include <math_constants.h>

#define DOGE_DEVICE __device__ __forceinline__
// One block an SM is enough: ptxas then spills nothing for an occupancy that nobody asked for.
#define DOGE_KERNEL(name, threads, Args) extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Args a)

#define DOGE_TEAM_KERNEL(name, teams, Args) DOGE_KERNEL(name, (teams) * DOGE_CUDA_THREADS, Args)

namespace dev {

#ifdef DOGE_TEAMS
DOGE_DEVICE uint32_t thread() { return threadIdx.x % DOGE_CUDA_THREADS; }
DOGE_DEVICE uint32_t team() { return threadIdx.x / DOGE_CUDA_THREADS; }
DOGE_DEVICE void sync() { asm volatile("bar.sync %0, %1;" ::"r"(team() + 1), "n"((int)DOGE_CUDA_THREADS) : "memory"); }
template <int N> DOGE_DEVICE void sync_teams() { asm volatile("bar.sync %0, %1;" ::"n"(8 + N), "n"(N * (int)DOGE_CUDA_THREADS) : "memory"); }
DOGE_DEVICE void sync_warp() { __syncwarp(); }
DOGE_DEVICE uint8_t *ring() {
  extern __shared__ __align__(16) uint8_t bytes_of_launch[];
  return bytes_of_launch;
}
DOGE_DEVICE void publish(uint64_t *p, float x, uint32_t tag) {
  const uint64_t word = (uint64_t)tag << 32 | __float_as_uint(x);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(word) : "memory");
}
struct Words2 { uint64_t w[2]; };
DOGE_DEVICE Words2 look(const uint64_t *p) {
  Words2 r;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(r.w[0]), "=l"(r.w[1]) : "l"(p) : "memory");
  return r;
}
DOGE_DEVICE uint64_t look1(const uint64_t *p) {
  uint64_t r;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(r) : "l"(p) : "memory");
  return r;
}
DOGE_DEVICE void pause() { __nanosleep(64); }
DOGE_DEVICE void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
#if __CUDA_ARCH__ >= 900
DOGE_DEVICE uint32_t address(const void *shared) { return (uint32_t)__cvta_generic_to_shared(shared); }
DOGE_DEVICE void begin_arrivals(uint64_t *a) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1; fence.mbarrier_init.release.cluster;" ::"r"(address(a)) : "memory");
}
DOGE_DEVICE void expect(uint64_t *a, uint32_t bytes) {
  asm volatile("{ .reg .b64 s; mbarrier.arrive.expect_tx.shared::cta.b64 s, [%0], %1; }" ::"r"(address(a)), "r"(bytes) : "memory");
}
DOGE_DEVICE void copy_bulk(void *to, const void *from, uint32_t bytes, uint64_t *a) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(address(to)), "l"(from), "r"(bytes), "r"(address(a)) : "memory");
}
DOGE_DEVICE void arrive(uint64_t *a) {
  asm volatile("{ .reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [%0]; }" ::"r"(address(a)) : "memory");
}
DOGE_DEVICE bool is_complete(uint64_t *a, uint32_t parity) {
  uint32_t is;
  asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(is) : "r"(address(a)), "r"(parity) : "memory");
  return is != 0;
}
DOGE_DEVICE void wait(uint64_t *a, uint32_t parity) {
  asm volatile("{ .reg .pred p; L%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra L%=; }" ::"r"(address(a)), "r"(parity) : "memory");
}
DOGE_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif
#else
DOGE_DEVICE uint32_t thread() { return threadIdx.x; }
DOGE_DEVICE void sync() { __syncthreads(); }
#endif
DOGE_DEVICE uint32_t block_x() { return blockIdx.x; }
DOGE_DEVICE uint32_t block_y() { return blockIdx.y; }
DOGE_DEVICE uint32_t block_z() { return blockIdx.z; }

template <class T> DOGE_DEVICE T &shared() {
  __shared__ __align__(16) unsigned char bytes[sizeof(T)];
  return *reinterpret_cast<T *>(bytes);
}

DOGE_DEVICE void launch_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DOGE_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DOGE_DEVICE void fence() { __threadfence(); }
DOGE_DEVICE uint32_t add(uint32_t *to, uint32_t x) { return atomicAdd(to, x); }
DOGE_DEVICE float shuffle_xor(float x, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DOGE_DEVICE uint64_t shuffle_xor(uint64_t x, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, (unsigned long long)x, mask); }
DOGE_DEVICE uint32_t ballot(bool x) { return __ballot_sync(0xffffffffu, x); }
DOGE_DEVICE uint32_t count_bits(uint32_t x) { return __popc(x); }

// The build passes --fmad=false: a product and a sum are one rounding exactly where fma is written.
DOGE_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DOGE_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
DOGE_DEVICE float infinity() { return CUDART_INF_F; }
DOGE_DEVICE uint32_t bits(float x) { return __float_as_uint(x); }
DOGE_DEVICE float from_bits(uint32_t x) { return __uint_as_float(x); }

struct alignas(16) Words4 { uint32_t w[4]; };
/// 16 bytes; the address is a multiple of 16. No __ldg: what the kernel before has written is not constant (wait_for_previous).
DOGE_DEVICE Words4 load16(const void *p) {
  const uint4 x = *static_cast<const uint4 *>(p);
  return {{x.x, x.y, x.z, x.w}};
}

DOGE_DEVICE void store16(void *p, const Words4 &x) { *static_cast<uint4 *>(p) = make_uint4(x.w[0], x.w[1], x.w[2], x.w[3]); }

DOGE_DEVICE float from_f16(uint16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}
/// Rounds to nearest, ties to even; NaN stays NaN.
DOGE_DEVICE uint16_t to_bf16(float x) {
  uint16_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}

/// Two of them in a word, `low` in its low half.
DOGE_DEVICE uint32_t to_bf16(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

/// 16 bytes from global to shared memory, zeros where not `valid`; there after copy_wait and a barrier.
DOGE_DEVICE void copy16_async(void *to, const void *from, bool valid) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(to), bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
DOGE_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most N of the thread's groups are under way.
template <int N> DOGE_DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/// Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
DOGE_DEVICE Words4 load_matrices(const void *row) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  Words4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3])
               : "r"(address)
               : "memory");
  return r;
}
/// The same, each matrix transposed.
DOGE_DEVICE Words4 load_matrices_transposed(const void *row) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  Words4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3])
               : "r"(address)
               : "memory");
  return r;
}
/// c += a * b on tensor cores: a is 16 x 16, b 16 x 8 in bf16, c 16 x 8 in f32, spread over the warp as PTX has it.
DOGE_DEVICE void mma_bf16(float (&c)[4], const Words4 &a, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a.w[0]), "r"(a.w[1]), "r"(a.w[2]), "r"(a.w[3]), "r"(b0), "r"(b1));
}

}  // namespace dev
