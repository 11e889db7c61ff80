// mixed += p * v on AMX: [16 rows][16 channels] = p times v by pairs of entries. 32 entries are one instruction.
#pragma once

namespace {

constexpr size_t MIX_ENTRIES = 32, MIX_STEPS = 4; // of a step; steps whose p and v are laid out at a time

/// p of a step's entries for the product with v, [rows][32 entries] of bf16, 0 beyond the last entry; and their sums.
inline void amx_weights_many(float *to, F32V &total, F32V largest, const Bf16Rows &rows, const AmxEntries &list, size_t i) {
  const auto weight = [&](size_t j) {
    if (j >= list.n) return zero();
    const F32V w = weight_of<Bf16>(load(rows.p + j * DOGE_ATTENTION_ROWS), largest);
    total = add(total, w);
    return w;
  };
  F32V block[LANES];
  for (size_t j = 0; j < LANES; ++j) {
    const F32V even = weight(i + 2 * j), odd = weight(i + 2 * j + 1);
    block[j] = {_mm512_castsi512_ps(pairs_of(even, odd).v)};
  }
  transpose(block);
  for (size_t r = 0; r < LANES; ++r) store(to + r * LANES, block[r]);
}
inline void amx_weights_few(float *to, const Bf16Rows &rows, const AmxEntries &list, size_t i) {
  for (size_t r = 0; r < (size_t)rows.n; ++r) {
    for (size_t half = 0; half < 2; ++half) {
      const size_t at = i + half * LANES, n = at >= list.n ? 0 : list.n - at < LANES ? list.n - at : LANES;
      const __m512i p = _mm512_castps_si512(load_n(rows.p + r * list.stride + at, n).v);
      _mm256_store_si256((__m256i *)(to + r * LANES + half * LANES / 2), _mm512_cvtepi32_epi16(_mm512_srli_epi32(p, 16)));
    }
  }
}

/// v of 32 entries from the i-th on and 16 NT channels from c on by pairs of entries, [NT][16 pairs][16 channels][2]; of 32 channels
/// every second four stand in a register of their own, as untangle knows. whole: all of them are there.
template <int NT, bool whole> inline void amx_lay_out_v(float *to, const Bf16Rows &rows, const AmxEntries &list, size_t i, size_t c) {
  const size_t head_dim = rows.args->head_dim;
  for (size_t pair = 0; pair < AMX_ROWS; ++pair) {
    const size_t even = i + 2 * pair, odd = even + 1;
    const bool has_even = whole || even < list.n, has_odd = whole || odd < list.n;
    const Bf16 *const first = has_even ? row_at(rows.v, rows.args, list.at[even]) : rows.v;
    const Bf16 *const second = has_odd ? row_at(rows.v, rows.args, list.at[odd]) : rows.v;
    for (size_t t = 0, at = c; t < NT; t += 2, at += 2 * LANES) {
      const __mmask32 there = whole || at + 32 <= head_dim ? (__mmask32)-1 : at < head_dim ? ((__mmask32)1 << (head_dim - at)) - 1 : 0;
      const __m512i a = _mm512_maskz_loadu_epi16(has_even ? there : 0, first + at);
      const __m512i b = _mm512_maskz_loadu_epi16(has_odd ? there : 0, second + at);
      _mm512_store_si512(to + t * 256 + pair * LANES, _mm512_unpacklo_epi16(a, b));
      _mm512_store_si512(to + (t + 1) * 256 + pair * LANES, _mm512_unpackhi_epi16(a, b));
    }
  }
}

/// mixed [n][stride] of 16 NT channels from c on += p * v over the steps of a part of the entries, the first of which is the i-th.
template <int NT>
inline void amx_mix(const Bf16Rows &rows, const AmxEntries &list, const float *p, size_t i, size_t steps, size_t c) {
  alignas(64) float v[MIX_STEPS][NT][256];
  for (size_t s = 0, at = i; s < steps; ++s, at += MIX_ENTRIES) {
    if (at + MIX_ENTRIES <= list.n && c + NT * LANES <= rows.args->head_dim) amx_lay_out_v<NT, true>(v[s][0], rows, list, at, c);
    else amx_lay_out_v<NT, false>(v[s][0], rows, list, at, c);
  }
  amx_see(v);
  float *const sums = rows.mixed + c;
  const size_t stride = rows.channels * sizeof(float);
  if (i == 0) {
    _tile_zero(0);
    _tile_zero(1);
    if (NT > 2) _tile_zero(2);
    if (NT > 2) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, stride);
    _tile_loadd(1, sums + LANES, stride);
    if (NT > 2) _tile_loadd(2, sums + 2 * LANES, stride);
    if (NT > 2) _tile_loadd(3, sums + 3 * LANES, stride);
  }
  for (size_t s = 0; s < steps; ++s) {
    _tile_loadd(4, p + s * 256, LINE);
    _tile_loadd(6, v[s][0], LINE);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, v[s][1], LINE);
    _tile_dpbf16ps(1, 4, 7);
    if (NT == 2) continue;
    _tile_loadd(6, v[s][NT - 2], LINE);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, v[s][NT - 1], LINE);
    _tile_dpbf16ps(3, 4, 7);
  }
  _tile_stored(0, sums, stride);
  _tile_stored(1, sums + LANES, stride);
  if (NT > 2) _tile_stored(2, sums + 2 * LANES, stride);
  if (NT > 2) _tile_stored(3, sums + 3 * LANES, stride);
}

/// The sums in the order of the channels, [n][head_dim].
inline void untangle(const Bf16Rows &rows) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const size_t head_dim = rows.args->head_dim, stride = rows.channels;
  for (size_t r = 0; r < (size_t)rows.n; ++r) {
    const float *const from = rows.mixed + r * stride;
    float *const to = rows.mixed + r * head_dim; // never behind what is still to be read
    for (size_t c = 0; c < head_dim; c += 2 * LANES) {
      const __m512 a = _mm512_loadu_ps(from + c), b = _mm512_loadu_ps(from + c + LANES);
      const size_t left = head_dim - c;
      store_n(to + c, {_mm512_permutex2var_ps(a, low, b)}, left < LANES ? left : LANES);
      if (left > LANES) store_n(to + c + LANES, {_mm512_permutex2var_ps(a, high, b)}, left < 2 * LANES ? left - LANES : LANES);
    }
  }
}

} // namespace
