// The roofs: what a kernel of this level could reach at best. Bandwidth by a loop that only reads, arithmetic by a loop that
// only multiplies and adds, in more independent chains than latency times ports, few enough to stay in registers.
//
// Nothing here can be optimised away: chains start from different numbers and end in the result, and their operands come
// from a volatile. Each chain is a variable of its own, held in a register by an empty asm: an array, or a free hand for the
// scheduler, and GCC 12 spills.
#pragma once

namespace {

#if defined(__AVX512F__)
struct Words { __m512i v; };
inline Words no_words() { return {_mm512_setzero_si512()}; }
inline Words words_at(const uint64_t *p) { return {_mm512_loadu_si512(p)}; }
inline Words xor_words(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
#elif defined(__AVX2__)
struct Words { __m256i v; };
inline Words no_words() { return {_mm256_setzero_si256()}; }
inline Words words_at(const uint64_t *p) { return {_mm256_loadu_si256((const __m256i *)p)}; }
inline Words xor_words(Words a, Words b) { return {_mm256_xor_si256(a.v, b.v)}; }
#else
struct Words { uint64_t v; };
inline Words no_words() { return {0}; }
inline Words words_at(const uint64_t *p) { return {*p}; }
inline Words xor_words(Words a, Words b) { return {a.v ^ b.v}; }
#endif
constexpr size_t WORDS = sizeof(Words) / sizeof(uint64_t);

inline uint64_t fold(Words a) {
  uint64_t words[WORDS], x = 0;
  memcpy(words, &a, sizeof a);
  for (size_t i = 0; i < WORDS; ++i) x ^= words[i];
  return x;
}

/// STREAMS equal runs side by side, a cache line of each in turn.
template <size_t STREAMS> uint64_t read_streams(const uint64_t *words, size_t n) {
  constexpr size_t LINE = 8, ACCS = 8;  // words of a cache line; chains, so that no load waits for another
  const size_t run = n / STREAMS / LINE * LINE;
  Words acc[ACCS];
  for (size_t i = 0; i < ACCS; ++i) acc[i] = no_words();
  constexpr size_t LINES = STREAMS > 1 ? 1 : ACCS; // of one stream several lines a turn, to fill the chains
  size_t at = 0;
  for (; at + LINE * LINES <= run; at += LINE * LINES)
    for (size_t i = 0; i < ACCS; ++i) {
      const uint64_t *line = words + (STREAMS > 1 ? i * run + at : at + i * LINE);
      for (size_t w = 0; w < LINE; w += WORDS) acc[i] = xor_words(acc[i], words_at(line + w));
    }
  Words all = acc[0];
  for (size_t i = 1; i < ACCS; ++i) all = xor_words(all, acc[i]);
  uint64_t x = fold(all);
  const size_t done = STREAMS > 1 ? STREAMS * run : at;
  for (size_t i = done; i < n; ++i) x ^= words[i];
  return x;
}

uint64_t read_words(const uint64_t *words, size_t n, size_t streams) {
  return streams == 8 ? read_streams<8>(words, n) : read_streams<1>(words, n);
}

#if defined(__AVX512F__)
#define DOGE_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)
#ifndef DOGE_IN_REGISTER // which tests/emulator/x86 has no such register for
#define DOGE_IN_REGISTER(x) __asm__ volatile("" : "+v"(x))
#endif
#elif defined(__AVX2__)
#define DOGE_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define DOGE_IN_REGISTER(x) __asm__ volatile("" : "+x"(x))
#else
#define DOGE_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define DOGE_IN_REGISTER(x) // any compiler, any target
#endif

/// Rounds of one step of every chain.
template <class Step> void chains(DogePeak *out, size_t rounds) {
  static volatile const int ONE = 1;
  const Step step(ONE);
  uint64_t result = 0, count = 0;
#define DOGE_START(i) typename Step::Acc a##i = Step::start(ONE + i);
#define DOGE_STEP(i) a##i = step(a##i); DOGE_IN_REGISTER(a##i);
#define DOGE_END(i) result ^= Step::first(a##i); ++count;
  DOGE_CHAINS(DOGE_START)
  for (size_t r = 0; r < rounds; ++r) { DOGE_CHAINS(DOGE_STEP) }
  DOGE_CHAINS(DOGE_END)
  out->instruction = Step::INSTRUCTION;
  out->operations = (uint64_t)rounds * count * Step::OPERATIONS;
  out->result = result;
}

#if defined(__AVX512F__)
struct FloatStep { // x/2 + 1/4: stays near 1/2
  static constexpr const char *INSTRUCTION = "vfmadd zmm";
  static constexpr int OPERATIONS = 2 * 16;
  using Acc = __m512;
  __m512 half, quarter;
  explicit FloatStep(int one) : half(_mm512_set1_ps(0.5f * one)), quarter(_mm512_set1_ps(0.25f * one)) {}
  static Acc start(int i) { return _mm512_set1_ps((float)i); }
  Acc operator()(Acc x) const { return _mm512_fmadd_ps(x, half, quarter); }
  static uint32_t first(Acc x) { return (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(_mm512_castps512_ps128(x))); }
};
inline void peak_f32(DogePeak *out, size_t rounds) { chains<FloatStep>(out, rounds); }
#elif defined(__AVX2__)
struct FloatStep {
  static constexpr const char *INSTRUCTION = "vfmadd ymm";
  static constexpr int OPERATIONS = 2 * 8;
  using Acc = __m256;
  __m256 half, quarter;
  explicit FloatStep(int one) : half(_mm256_set1_ps(0.5f * one)), quarter(_mm256_set1_ps(0.25f * one)) {}
  static Acc start(int i) { return _mm256_set1_ps((float)i); }
  Acc operator()(Acc x) const { return _mm256_fmadd_ps(x, half, quarter); }
  static uint32_t first(Acc x) { return (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(_mm256_castps256_ps128(x))); }
};
inline void peak_f32(DogePeak *out, size_t rounds) { chains<FloatStep>(out, rounds); }
#else
struct FloatStep {
  static constexpr const char *INSTRUCTION = "float multiply, add";
  static constexpr int OPERATIONS = 2;
  using Acc = float;
  float half, quarter;
  explicit FloatStep(int one) : half(0.5f * one), quarter(0.25f * one) {}
  static Acc start(int i) { return (float)i; }
  Acc operator()(Acc x) const { return x * half + quarter; }
  static uint32_t first(Acc x) { return bits_of_float(x); }
};
inline void peak_f32(DogePeak *out, size_t rounds) { chains<FloatStep>(out, rounds); }
#endif

#if defined(__AMX_BF16__)
/// Rounds of four instructions, each of 16 rows, 16 outputs and so many columns, on registers of zeros.
template <class Four> void peak_amx(DogePeak *out, const char *instruction, size_t cols, size_t rounds, Four four) {
  float result[AMX_ROWS][16];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(6);
  for (size_t r = 0; r < rounds; ++r) four();
  _tile_stored(0, result, sizeof result[0]);
  _tile_release();
  *out = {instruction, (uint64_t)rounds * 4 * 2 * AMX_ROWS * 16 * cols, bits_of_float(result[0][0])};
}

inline void peak_bf16(DogePeak *out, size_t rounds) {
  amx_configure_bf16(AMX_ROWS, 16);
  peak_amx(out, "tdpbf16ps tmm", AMX_COLS, rounds, [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(2, 4, 6);
    _tile_dpbf16ps(3, 4, 6);
  });
}
#elif defined(__AVX512BF16__)
struct Bf16Step {
  static constexpr const char *INSTRUCTION = "vdpbf16ps zmm";
  static constexpr int OPERATIONS = 2 * 32;
  using Acc = __m512;
  __m512bh a, b; // 1 and 2^-7
  explicit Bf16Step(int one)
      : a((__m512bh)_mm512_set1_epi16((short)(0x3f80 * one))), b((__m512bh)_mm512_set1_epi16((short)(0x3c00 * one))) {}
  static Acc start(int i) { return _mm512_set1_ps((float)i); }
  Acc operator()(Acc x) const { return _mm512_dpbf16_ps(x, a, b); }
  static uint32_t first(Acc x) { return (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(_mm512_castps512_ps128(x))); }
};
inline void peak_bf16(DogePeak *out, size_t rounds) { chains<Bf16Step>(out, rounds); }
#else
inline void peak_bf16(DogePeak *out, size_t rounds) { peak_f32(out, rounds); }
#endif

#if defined(__AMX_INT8__)
/// With registers that hold the 32 columns of a group, as the integer formats need them: half of what they could.
inline void peak_int8(DogePeak *out, size_t rounds) {
  amx_configure_int();
  peak_amx(out, "tdpbssd tmm of 32 columns", GROUP, rounds, [] {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 6);
    _tile_dpbssd(2, 4, 6);
    _tile_dpbssd(3, 4, 6);
  });
}
#elif defined(__AVX512VNNI__)
struct Int8Step {
  static constexpr const char *INSTRUCTION = "vpdpbusd zmm";
  static constexpr int OPERATIONS = 2 * 64;
  using Acc = __m512i;
  __m512i a, b;
  explicit Int8Step(int one) : a(_mm512_set1_epi8((char)(3 * one))), b(_mm512_set1_epi8((char)one)) {}
  static Acc start(int i) { return _mm512_set1_epi32(i); }
  Acc operator()(Acc x) const { return _mm512_dpbusd_epi32(x, a, b); }
  static uint32_t first(Acc x) { return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(x)); }
};
inline void peak_int8(DogePeak *out, size_t rounds) { chains<Int8Step>(out, rounds); }
#elif defined(__AVXVNNI__)
struct Int8Step {
  static constexpr const char *INSTRUCTION = "vpdpbusd ymm";
  static constexpr int OPERATIONS = 2 * 32;
  using Acc = __m256i;
  __m256i a, b;
  explicit Int8Step(int one) : a(_mm256_set1_epi8((char)(3 * one))), b(_mm256_set1_epi8((char)one)) {}
  static Acc start(int i) { return _mm256_set1_epi32(i); }
  Acc operator()(Acc x) const { return _mm256_dpbusd_avx_epi32(x, a, b); }
  static uint32_t first(Acc x) { return (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(x)); }
};
inline void peak_int8(DogePeak *out, size_t rounds) { chains<Int8Step>(out, rounds); }
#elif defined(__AVX2__)
struct Int8Step { // the sum is an input of the multiplication, which could else be moved out of the loop
  static constexpr const char *INSTRUCTION = "vpmaddubsw, vpaddw ymm";
  static constexpr int OPERATIONS = 2 * 32;
  using Acc = __m256i;
  __m256i a, b;
  explicit Int8Step(int one) : a(_mm256_set1_epi8((char)one)), b(_mm256_set1_epi16((short)one)) {}
  static Acc start(int i) { return _mm256_set1_epi32(i); }
  Acc operator()(Acc x) const { return _mm256_add_epi16(_mm256_maddubs_epi16(x, a), b); }
  static uint32_t first(Acc x) { return (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(x)); }
};
inline void peak_int8(DogePeak *out, size_t rounds) { chains<Int8Step>(out, rounds); }
#else
struct Int8Step {
  static constexpr const char *INSTRUCTION = "int multiply, add";
  static constexpr int OPERATIONS = 2;
  using Acc = uint32_t;
  uint32_t a, b;
  explicit Int8Step(int one) : a(3u * (uint32_t)one), b((uint32_t)one) {}
  static Acc start(int i) { return (uint32_t)i; }
  Acc operator()(Acc x) const { return x * a + b; }
  static uint32_t first(Acc x) { return x; }
};
inline void peak_int8(DogePeak *out, size_t rounds) { chains<Int8Step>(out, rounds); }
#endif

void peak(DogePeak *out, uint32_t kind, size_t rounds) {
  switch (kind) {
    case DOGE_PEAK_BF16: return peak_bf16(out, rounds);
    case DOGE_PEAK_INT8: return peak_int8(out, rounds);
    default: return peak_f32(out, rounds);
  }
}

} // namespace
