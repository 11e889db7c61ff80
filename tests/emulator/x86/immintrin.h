// AVX-512, AVX-VNNI and AMX for a CPU that has AVX2: in the place of the compiler's header of this name, what kernels/cpu uses of them.
//
// AVX2's part is the compiler's own. What a feature adds is written from Intel's description of each instruction, an element at a
// time where AVX2 has no instruction for a half. Stricter than a CPU: aligned accesses trap elsewhere, masked ones touch nothing
// that is masked off, and tile instructions trap whose shapes do not fit, or which come before there are any. Slower, of course.
#pragma once

#define _IMMINTRIN_H_INCLUDED // the headers below ask for it
#include <mmintrin.h>
#include <xmmintrin.h>
#include <emmintrin.h>
#include <pmmintrin.h>
#include <tmmintrin.h>
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// build.rs names the features of the level; the compiler's flags would have set these.
#ifdef EMULATE_avx512f
#define __AVX512F__ 1
#define DOGE_IN_REGISTER(x) __asm__ volatile("" : "+m"(x)) // of kernels/cpu/roof.inl
#endif
#ifdef EMULATE_avx512vnni
#define __AVX512VNNI__ 1
#endif
#ifdef EMULATE_avx512bf16
#define __AVX512BF16__ 1
#endif
#ifdef EMULATE_avxvnni
#define __AVXVNNI__ 1
#endif
#ifdef EMULATE_amx_bf16
#define __AMX_BF16__ 1
#endif
#ifdef EMULATE_amx_int8
#define __AMX_INT8__ 1
#endif

namespace {

struct alignas(64) __m512 { __m256 half[2]; };
struct alignas(64) __m512i { __m256i half[2]; };
using __m512bh = __m512i;
using __mmask16 = uint16_t;
using __mmask32 = uint32_t;

/// The 64 bytes of a vector as elements, and back.
template <class T> struct Elements { T at[64 / sizeof(T)]; };
template <class T, class V> inline Elements<T> elements_of(const V &v) {
  static_assert(sizeof(V) == 64, "a vector");
  Elements<T> out;
  memcpy(&out, &v, 64);
  return out;
}
template <class V, class T> inline V vector_of(const Elements<T> &elements) {
  V out;
  memcpy(&out, &elements, 64);
  return out;
}
/// T at(i) for each element i of a vector.
template <class V, class T, class At> inline V each(At at) {
  Elements<T> out;
  for (size_t i = 0; i < 64 / sizeof(T); ++i) out.at[i] = at(i);
  return vector_of<V>(out);
}
inline bool bit(uint64_t mask, size_t i) { return mask >> i & 1; }
inline void must(bool holds) {
  if (!holds) __builtin_trap();
}
inline void must_be_aligned(const void *p) { must((uintptr_t)p % 64 == 0); }

// What AVX2 has an instruction for, of each half.
#define HALVES(V, name, half_name) \
  inline V _mm512_##name(V a, V b) { return {{_mm256_##half_name(a.half[0], b.half[0]), _mm256_##half_name(a.half[1], b.half[1])}}; }
#define SHIFT(name) \
  inline __m512i _mm512_##name(__m512i a, unsigned n) { return {{_mm256_##name(a.half[0], (int)n), _mm256_##name(a.half[1], (int)n)}}; }
HALVES(__m512, add_ps, add_ps)
HALVES(__m512, sub_ps, sub_ps)
HALVES(__m512, mul_ps, mul_ps)
HALVES(__m512, div_ps, div_ps)
HALVES(__m512, max_ps, max_ps)
HALVES(__m512, min_ps, min_ps)
HALVES(__m512, and_ps, and_ps)
HALVES(__m512, or_ps, or_ps)
HALVES(__m512, xor_ps, xor_ps)
HALVES(__m512, andnot_ps, andnot_ps)
HALVES(__m512, unpacklo_ps, unpacklo_ps)
HALVES(__m512, unpackhi_ps, unpackhi_ps)
HALVES(__m512i, and_si512, and_si256)
HALVES(__m512i, or_si512, or_si256)
HALVES(__m512i, xor_si512, xor_si256)
HALVES(__m512i, andnot_si512, andnot_si256)
HALVES(__m512i, add_epi32, add_epi32)
HALVES(__m512i, sub_epi32, sub_epi32)
HALVES(__m512i, sub_epi8, sub_epi8)
HALVES(__m512i, mullo_epi32, mullo_epi32)
HALVES(__m512i, max_epi32, max_epi32)
HALVES(__m512i, unpacklo_epi16, unpacklo_epi16)
HALVES(__m512i, unpackhi_epi16, unpackhi_epi16)
HALVES(__m512i, unpacklo_epi32, unpacklo_epi32)
HALVES(__m512i, unpackhi_epi32, unpackhi_epi32)
HALVES(__m512i, unpacklo_epi64, unpacklo_epi64)
HALVES(__m512i, unpackhi_epi64, unpackhi_epi64)
SHIFT(slli_epi32)
SHIFT(srli_epi32)
SHIFT(srai_epi32)
SHIFT(srli_epi16)
#undef HALVES
#undef SHIFT
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return {{_mm256_fmadd_ps(a.half[0], b.half[0], c.half[0]), _mm256_fmadd_ps(a.half[1], b.half[1], c.half[1])}};
}

inline __m512 _mm512_setzero_ps() { return {{_mm256_setzero_ps(), _mm256_setzero_ps()}}; }
inline __m512i _mm512_setzero_si512() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
inline __m512 _mm512_set1_ps(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
inline __m512i _mm512_set1_epi8(char x) { return {{_mm256_set1_epi8(x), _mm256_set1_epi8(x)}}; }
inline __m512i _mm512_set1_epi16(short x) { return {{_mm256_set1_epi16(x), _mm256_set1_epi16(x)}}; }
inline __m512i _mm512_set1_epi32(int x) { return {{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
template <class... Int> inline __m512i _mm512_setr_epi32(Int... x) { return vector_of<__m512i>(Elements<int32_t>{{x...}}); }
/// The highest first.
template <class... Int> inline __m512i _mm512_set_epi16(Int... x) {
  const Elements<int16_t> falling = {{(int16_t)x...}};
  return each<__m512i, int16_t>([&](size_t i) { return falling.at[31 - i]; });
}

inline __m512i _mm512_castps_si512(__m512 a) { return {{_mm256_castps_si256(a.half[0]), _mm256_castps_si256(a.half[1])}}; }
inline __m512 _mm512_castsi512_ps(__m512i a) { return {{_mm256_castsi256_ps(a.half[0]), _mm256_castsi256_ps(a.half[1])}}; }
inline __m256 _mm512_castps512_ps256(__m512 a) { return a.half[0]; }
inline __m128 _mm512_castps512_ps128(__m512 a) { return _mm256_castps256_ps128(a.half[0]); }
inline __m128i _mm512_castsi512_si128(__m512i a) { return _mm256_castsi256_si128(a.half[0]); }
/// The upper half is undefined: here it is something that shows.
inline __m512i _mm512_castsi256_si512(__m256i a) { return {{a, _mm256_set1_epi8(0x5a)}}; }
inline __m256 _mm512_extractf32x8_ps(__m512 a, int i) { return a.half[i]; }
inline __m512i _mm512_inserti64x4(__m512i a, __m256i b, int i) { return i ? __m512i{{a.half[0], b}} : __m512i{{b, a.half[1]}}; }

inline __m512 _mm512_loadu_ps(const void *p) { return {{_mm256_loadu_ps((const float *)p), _mm256_loadu_ps((const float *)p + 8)}}; }
inline __m512i _mm512_loadu_si512(const void *p) { return {{_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)}}; }
inline void _mm512_storeu_ps(void *p, __m512 a) { memcpy(p, &a, 64); }
inline void _mm512_storeu_si512(void *p, __m512i a) { memcpy(p, &a, 64); }
inline __m512 _mm512_load_ps(const void *p) { return must_be_aligned(p), _mm512_loadu_ps(p); }
inline __m512i _mm512_load_si512(const void *p) { return must_be_aligned(p), _mm512_loadu_si512(p); }
inline void _mm512_store_si512(void *p, __m512i a) { must_be_aligned(p), _mm512_storeu_si512(p, a); }

/// Elements of `p` where the mask says so, else those of `other`; no other byte is touched.
template <class T> inline T masked(const void *p, uint64_t mask, size_t i, T other) {
  if (bit(mask, i)) memcpy(&other, (const char *)p + i * sizeof(T), sizeof(T));
  return other;
}
template <class T> inline void store_masked(void *p, uint64_t mask, const T *from, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (bit(mask, i)) memcpy((char *)p + i * sizeof(T), &from[i], sizeof(T));
  }
}
inline __m512 _mm512_mask_loadu_ps(__m512 other, __mmask16 m, const void *p) {
  const auto others = elements_of<float>(other);
  return each<__m512, float>([&](size_t i) { return masked(p, m, i, others.at[i]); });
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 m, const void *p) { return _mm512_mask_loadu_ps(_mm512_setzero_ps(), m, p); }
inline __m512i _mm512_maskz_loadu_epi32(__mmask16 m, const void *p) {
  return each<__m512i, int32_t>([&](size_t i) { return masked(p, m, i, 0); });
}
inline __m512i _mm512_maskz_loadu_epi16(__mmask32 m, const void *p) {
  return each<__m512i, int16_t>([&](size_t i) { return masked(p, m, i, (int16_t)0); });
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 m, const void *p) { return _mm512_maskz_loadu_epi16(m, p).half[0]; }
inline void _mm512_mask_storeu_ps(void *p, __mmask16 m, __m512 a) { store_masked(p, m, elements_of<float>(a).at, 16); }
inline void _mm256_mask_storeu_epi16(void *p, __mmask16 m, __m256i a) {
  int16_t from[16];
  memcpy(from, &a, sizeof from);
  store_masked(p, m, from, 16);
}
inline void _mm512_mask_compressstoreu_epi32(void *p, __mmask16 m, __m512i a) {
  const auto from = elements_of<int32_t>(a);
  char *to = (char *)p;
  for (size_t i = 0; i < 16; ++i) {
    if (bit(m, i)) memcpy(to, &from.at[i], 4), to += 4;
  }
}
inline __m512 _mm512_mask_i32gather_ps(__m512 other, __mmask16 m, __m512i at, const void *p, int scale) {
  const auto others = elements_of<float>(other);
  const auto index = elements_of<int32_t>(at);
  return each<__m512, float>([&](size_t i) { return masked((const char *)p + (ptrdiff_t)index.at[i] * scale - 4 * i, m, i, others.at[i]); });
}

/// Elements of `yes` where the mask says so.
template <class T, class V> inline V choose(uint64_t m, const V &yes, const V &no) {
  const auto a = elements_of<T>(yes), b = elements_of<T>(no);
  return each<V, T>([&](size_t i) { return bit(m, i) ? a.at[i] : b.at[i]; });
}
inline __m512 _mm512_mask_blend_ps(__mmask16 m, __m512 no, __m512 yes) { return choose<float>(m, yes, no); }
inline __m512i _mm512_mask_blend_epi16(__mmask32 m, __m512i no, __m512i yes) { return choose<int16_t>(m, yes, no); }
inline __m512i _mm512_mask_mov_epi32(__m512i no, __mmask16 m, __m512i yes) { return choose<int32_t>(m, yes, no); }
inline __m512 _mm512_mask_add_ps(__m512 no, __mmask16 m, __m512 a, __m512 b) { return choose<float>(m, _mm512_add_ps(a, b), no); }
inline __m512 _mm512_maskz_sub_ps(__mmask16 m, __m512 a, __m512 b) { return choose<float>(m, _mm512_sub_ps(a, b), _mm512_setzero_ps()); }

template <class T, class V, class Holds> inline uint32_t mask_of(const V &va, const V &vb, Holds holds) {
  const auto a = elements_of<T>(va), b = elements_of<T>(vb);
  uint32_t out = 0;
  for (size_t i = 0; i < 64 / sizeof(T); ++i) out |= (uint32_t)holds(a.at[i], b.at[i]) << i;
  return out;
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
  return (__mmask16)mask_of<float>(a, b, [&](float x, float y) {
    must(how == _CMP_LT_OQ || how == _CMP_EQ_OQ || how == _CMP_UNORD_Q);
    return how == _CMP_LT_OQ ? x < y : how == _CMP_EQ_OQ ? x == y : x != x || y != y;
  });
}
inline __mmask16 _mm512_cmpeq_epi32_mask(__m512i a, __m512i b) {
  return (__mmask16)mask_of<int32_t>(a, b, [](int32_t x, int32_t y) { return x == y; });
}
inline __mmask32 _mm512_cmpeq_epi16_mask(__m512i a, __m512i b) {
  return mask_of<int16_t>(a, b, [](int16_t x, int16_t y) { return x == y; });
}
inline __mmask16 _mm512_test_epi32_mask(__m512i a, __m512i b) {
  return (__mmask16)mask_of<int32_t>(a, b, [](int32_t x, int32_t y) { return (x & y) != 0; });
}

inline __m512 _mm512_abs_ps(__m512 a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
inline __m512 _mm512_cvtepi32_ps(__m512i a) { return {{_mm256_cvtepi32_ps(a.half[0]), _mm256_cvtepi32_ps(a.half[1])}}; }
inline __m512i _mm512_cvtps_epi32(__m512 a) { return {{_mm256_cvtps_epi32(a.half[0]), _mm256_cvtps_epi32(a.half[1])}}; }
inline __m512 _mm512_cvtph_ps(__m256i a) {
  return {{_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))}};
}
inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  return {{_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1))}};
}
inline __m512i _mm512_cvtepu8_epi32(__m128i a) { return {{_mm256_cvtepu8_epi32(a), _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8))}}; }
inline __m512i _mm512_cvtepi8_epi32(__m128i a) { return {{_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8))}}; }
inline __m128i _mm512_cvtsepi32_epi8(__m512i a) {
  const auto from = elements_of<int32_t>(a);
  int8_t out[16];
  for (size_t i = 0; i < 16; ++i) out[i] = (int8_t)(from.at[i] < -128 ? -128 : from.at[i] > 127 ? 127 : from.at[i]);
  return _mm_loadu_si128((const __m128i *)out);
}
inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  const auto from = elements_of<int32_t>(a);
  return each<__m512i, int16_t>([&](size_t i) { return (int16_t)from.at[i % 16]; }).half[0];
}
inline int _mm512_reduce_max_epi32(__m512i a) {
  const auto from = elements_of<int32_t>(a);
  int32_t out = from.at[0];
  for (int32_t x : from.at) out = x > out ? x : out;
  return out;
}
inline int _mm512_reduce_add_epi32(__m512i a) {
  uint32_t out = 0;
  for (uint32_t x : elements_of<uint32_t>(a).at) out += x;
  return (int)out;
}
/// a * 2^floor(b), rounded once: in doubles, which hold every step but the last.
inline __m512 _mm512_scalef_ps(__m512 va, __m512 vb) {
  const auto a = elements_of<float>(va), b = elements_of<float>(vb);
  return each<__m512, float>([&](size_t i) {
    const float most = 400; // doubles go further
    const float n = b.at[i] > most ? most : b.at[i] < -most ? -most : b.at[i];
    if (n != n) return n;
    double out = a.at[i];
    for (int left = (int)floorf(n); left != 0; left += left < 0 ? 1 : -1) out *= left < 0 ? 0.5 : 2.0;
    return (float)out;
  });
}

inline __m512 _mm512_permutexvar_ps(__m512i at, __m512 a) {
  const auto index = elements_of<uint32_t>(at);
  const auto from = elements_of<float>(a);
  return each<__m512, float>([&](size_t i) { return from.at[index.at[i] % 16]; });
}
inline __m512 _mm512_permutex2var_ps(__m512 va, __m512i at, __m512 vb) {
  const auto index = elements_of<uint32_t>(at);
  const auto a = elements_of<float>(va), b = elements_of<float>(vb);
  return each<__m512, float>([&](size_t i) { return index.at[i] & 16 ? b.at[index.at[i] % 16] : a.at[index.at[i] % 16]; });
}
inline __m512i _mm512_mask_permutexvar_epi16(__m512i other, __mmask32 m, __m512i at, __m512i a) {
  const auto index = elements_of<uint16_t>(at), from = elements_of<uint16_t>(a), others = elements_of<uint16_t>(other);
  return each<__m512i, uint16_t>([&](size_t i) { return bit(m, i) ? from.at[index.at[i] % 32] : others.at[i]; });
}
/// Of each four floats two of a, then two of b.
inline __m512 _mm512_shuffle_ps(__m512 va, __m512 vb, int which) {
  const auto a = elements_of<float>(va), b = elements_of<float>(vb);
  return each<__m512, float>([&](size_t i) { return (i & 2 ? b : a).at[(i & ~(size_t)3) + (which >> 2 * (i & 3) & 3)]; });
}
inline __m512 _mm512_permute_ps(__m512 a, int which) { return _mm512_shuffle_ps(a, a, which); }
/// Two quarters of a, then two of b.
inline __m512 _mm512_shuffle_f32x4(__m512 va, __m512 vb, int which) {
  const auto a = elements_of<float>(va), b = elements_of<float>(vb);
  return each<__m512, float>([&](size_t i) { return (i & 8 ? b : a).at[4 * (which >> 2 * (i / 4) & 3) + (i & 3)]; });
}
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int which) {
  return _mm512_castps_si512(_mm512_shuffle_f32x4(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), which));
}
/// From the n-th word of b on, and then of a.
inline __m512i _mm512_alignr_epi64(__m512i va, __m512i vb, int n) {
  const auto a = elements_of<int64_t>(va), b = elements_of<int64_t>(vb);
  return each<__m512i, int64_t>([&](size_t i) { return i + n < 8 ? b.at[i + n] : a.at[i + n - 8]; });
}

// --- AVX-512 VNNI and AVX-VNNI: unsigned by signed bytes.

inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i va, __m512i vb) {
  const auto from = elements_of<uint32_t>(sum);
  const auto a = elements_of<uint8_t>(va);
  const auto b = elements_of<int8_t>(vb);
  return each<__m512i, uint32_t>([&](size_t i) {
    uint32_t out = from.at[i];
    for (size_t j = 4 * i; j < 4 * i + 4; ++j) out += (uint32_t)(a.at[j] * b.at[j]);
    return out;
  });
}
inline __m256i _mm256_dpbusd_avx_epi32(__m256i sum, __m256i a, __m256i b) {
  return _mm512_dpbusd_epi32({{sum, sum}}, {{a, a}}, {{b, b}}).half[0];
}

// --- bf16: denormals count as zero, before and after.

inline float flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
inline float of_bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float out;
  memcpy(&out, &wide, 4);
  return flush(out);
}
inline float add_product(float sum, uint16_t a, uint16_t b) { return flush(fmaf(of_bf16(a), of_bf16(b), sum)); }

/// The odd halves first.
inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh va, __m512bh vb) {
  const auto from = elements_of<float>(sum);
  const auto a = elements_of<uint16_t>(va), b = elements_of<uint16_t>(vb);
  return each<__m512, float>([&](size_t i) {
    return add_product(add_product(flush(from.at[i]), a.at[2 * i + 1], b.at[2 * i + 1]), a.at[2 * i], b.at[2 * i]);
  });
}

// --- AMX

struct Tiles {
  struct Shape { size_t rows, row_bytes; } shape[8];
  uint8_t bytes[8][16][64];
  bool configured;
};
thread_local Tiles tiles;

inline Tiles::Shape shape_of(int tile) {
  must(tiles.configured && tiles.shape[tile].rows);
  return tiles.shape[tile];
}
/// Element `col` of row `row`.
template <class T> inline T tile_at(int tile, size_t row, size_t col) {
  T out;
  memcpy(&out, &tiles.bytes[tile][row][col * sizeof(T)], sizeof(T));
  return out;
}
template <class T> inline void set_tile_at(int tile, size_t row, size_t col, T x) {
  memcpy(&tiles.bytes[tile][row][col * sizeof(T)], &x, sizeof(T));
}

inline void _tile_loadconfig(const void *config) {
  const uint8_t *const bytes = (const uint8_t *)config; // palette, start row, 14 zeros, 16 bytes of rows as words, 16 rows
  must(bytes[0] == 1 && bytes[1] == 0);
  memset(&tiles, 0, sizeof tiles);
  for (int i = 0; i < 16; ++i) {
    const size_t row_bytes = bytes[16 + 2 * i] + 256u * bytes[17 + 2 * i], rows = bytes[48 + i];
    must(row_bytes <= 64 && rows <= 16 && (row_bytes == 0) == (rows == 0) && (i < 8 || !rows));
    if (i < 8) tiles.shape[i] = {rows, row_bytes};
  }
  tiles.configured = true;
}
inline void _tile_release() { memset(&tiles, 0, sizeof tiles); }
inline void _tile_zero(int tile) { shape_of(tile), memset(tiles.bytes[tile], 0, sizeof tiles.bytes[tile]); }
inline void _tile_loadd(int tile, const void *base, size_t stride) {
  const Tiles::Shape shape = shape_of(tile);
  _tile_zero(tile);
  for (size_t r = 0; r < shape.rows; ++r) memcpy(tiles.bytes[tile][r], (const char *)base + r * stride, shape.row_bytes);
}
inline void _tile_stream_loadd(int tile, const void *base, size_t stride) { _tile_loadd(tile, base, stride); }
inline void _tile_stored(int tile, void *base, size_t stride) {
  const Tiles::Shape shape = shape_of(tile);
  for (size_t r = 0; r < shape.rows; ++r) memcpy((char *)base + r * stride, tiles.bytes[tile][r], shape.row_bytes);
}
/// [rows of a][a's bytes / 4] by [that many rows][columns of the sums]; the number of the latter two.
inline Tiles::Shape shape_of_product(int sum, int a, int b) {
  const Tiles::Shape s = shape_of(sum), x = shape_of(a), y = shape_of(b);
  must(s.rows == x.rows && s.row_bytes == y.row_bytes && x.row_bytes == 4 * y.rows && sum != a && sum != b && a != b);
  return {y.rows, s.row_bytes / 4};
}
inline void _tile_dpbf16ps(int sum, int a, int b) {
  const Tiles::Shape shape = shape_of_product(sum, a, b);
  for (size_t m = 0; m < tiles.shape[sum].rows; ++m) {
    for (size_t n = 0; n < shape.row_bytes; ++n) {
      float even = 0, odd = 0;
      for (size_t k = 0; k < shape.rows; ++k) {
        even = add_product(even, tile_at<uint16_t>(a, m, 2 * k), tile_at<uint16_t>(b, k, 2 * n));
        odd = add_product(odd, tile_at<uint16_t>(a, m, 2 * k + 1), tile_at<uint16_t>(b, k, 2 * n + 1));
      }
      set_tile_at(sum, m, n, flush(flush(tile_at<float>(sum, m, n)) + flush(even + odd)));
    }
  }
}
inline void _tile_dpbssd(int sum, int a, int b) {
  const Tiles::Shape shape = shape_of_product(sum, a, b);
  for (size_t m = 0; m < tiles.shape[sum].rows; ++m) {
    for (size_t n = 0; n < shape.row_bytes; ++n) {
      uint32_t out = tile_at<uint32_t>(sum, m, n);
      for (size_t k = 0; k < shape.rows; ++k) {
        for (size_t j = 0; j < 4; ++j) out += (uint32_t)(tile_at<int8_t>(a, m, 4 * k + j) * tile_at<int8_t>(b, k, 4 * n + j));
      }
      set_tile_at(sum, m, n, out);
    }
  }
}

} // namespace
