// dynamic_mask_attention_bf16 on AMX: a tile's scores and its sum of p * v, 16 (query, head) rows at a time.
//
//   scores  [16 keys][16 rows] = k, as it lies, times q by pairs of channels: 32 channels are one instruction
//   mixed   [16 rows][16 channels] = p times v by pairs of entries: 32 entries are one instruction
//
// The instruction adds its 32 products in an order of its own (linear_bf16_amx.inl), so the bits of a row depend on where among 32
// an entry stands: where it is counted among those that the row sees. Hence rows are taken together only if what each of them sees
// of the tile begins alike, as it does for queries one after another. Where some see a newcomer in the place of another key, the
// tile is gone through once for these and once for the others. Beyond what a row sees its p are 0, which add nothing; times an
// infinity they would, and such rows are parted too.
// Cost: 4 * head_dim flops per (row, entry), at 16 times the speed of fma, so that of a prompt's 512 they are a quarter of the time.
// Another quarter goes into exp, the rest into what leads in and out of the registers: rounding and turning q, laying out v.
#pragma once

#include "amx.h"

namespace {

using Bf16Rows = AttentionRows<Bf16, Bf16>;

constexpr size_t MIX_ENTRIES = 32, MIX_STEPS = 4; // of a step; steps whose p and v are laid out at a time

/// The entries of a tile that some of `rows` see, in order.
struct AmxEntries {
  uint32_t *at, *by; // which; a bit for each of the rows that see it
  size_t n, stride;  // entries; of a row in p, if there are few
  uint32_t rows;
  bool uniform; // each of the rows sees them all
};

inline __m512i counted() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

inline void collect(AmxEntries &list, const Bf16Rows &rows, size_t begin, size_t end) {
  const __m512i of_rows = _mm512_set1_epi32((int)list.rows);
  list.n = 0;
  list.uniform = true;
  SeenEntries seen;
  for (size_t place = 0; begin + place < end; place += SEEN_CHUNK) {
    find_seen(seen, rows, begin, end, place);
    for (size_t i = 0; i < seen.n; i += LANES) {
      const __mmask16 there = seen.n - i < LANES ? first(seen.n - i) : (__mmask16)-1;
      const __m512i by = _mm512_and_si512(_mm512_maskz_loadu_epi32(there, seen.rows + i), of_rows);
      const __mmask16 some = _mm512_test_epi32_mask(by, by);
      _mm512_mask_compressstoreu_epi32(list.at + list.n, some,
                                       _mm512_add_epi32(_mm512_set1_epi32((int)(seen.begin + i)), counted()));
      _mm512_mask_compressstoreu_epi32(list.by + list.n, some, by);
      list.uniform &= some == _mm512_cmpeq_epi32_mask(by, of_rows);
      list.n += (size_t)__builtin_popcount(some);
    }
  }
}

inline const Bf16 *row_at(const Bf16 *from, const DogeAttentionArgs *a, uint32_t at) { return from + a->row[at] * a->kv_stride; }

inline bool all_finite(const Bf16 *v, size_t n) {
  const __m512i infinite = _mm512_set1_epi16(0x7f80); // the bits of the exponent
  __mmask32 wrong = 0;
  for (size_t c = 0; c < n; c += 2 * LANES) {
    const size_t left = n - c;
    const __m512i values = _mm512_maskz_loadu_epi16(left < 32 ? ((__mmask32)1 << left) - 1 : (__mmask32)-1, v + c);
    wrong |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(values, infinite), infinite);
  }
  return !wrong;
}

/// Keeps of the list's rows the first, and those that can be taken together with it.
inline void part(AmxEntries &list, const Bf16Rows &rows, size_t begin, size_t end) {
  collect(list, rows, begin, end);
  for (size_t i = 0; i < list.n && !list.uniform; ++i) {
    const uint32_t by = list.by[i], newcomer = i + 1 < list.n ? list.by[i + 1] & ~by : 0;
    if (by == list.rows) continue;
    if (!newcomer && all_finite(row_at(rows.v, rows.args, list.at[i]), rows.args->head_dim)) continue;
    const uint32_t lowest = list.rows & (0 - list.rows);
    list.rows &= by & lowest ? by : ~by;
    collect(list, rows, begin, end);
    i = (size_t)-1; // from the beginning
  }
}

/// 16 rows of k, and the bytes from one to the next.
struct AmxKeys {
  const char *first;
  size_t stride;
};
/// Do those of the entries from the i-th on stand one after another, in whole steps?
inline bool stand_together(const Bf16Rows &rows, const AmxEntries &list, size_t i) {
  const DogeAttentionArgs *a = rows.args;
  if (list.n - i < AMX_ROWS || a->head_dim % AMX_COLS) return false;
  bool together = true;
  for (size_t j = 1; j < AMX_ROWS; ++j) together &= a->row[list.at[i + j]] == a->row[list.at[i]] + j;
  return together;
}
/// A copy of them, filled up with zeros.
inline AmxKeys copy_keys(const Bf16Rows &rows, const AmxEntries &list, size_t i, char *copies) {
  const DogeAttentionArgs *a = rows.args;
  const size_t n = list.n - i < AMX_ROWS ? list.n - i : AMX_ROWS, stride = rows.channels * sizeof(Bf16);
  memset(copies, 0, AMX_ROWS * stride);
  for (size_t j = 0; j < n; ++j) memcpy(copies + j * stride, row_at(rows.k, a, list.at[i + j]), a->head_dim * sizeof(Bf16));
  amx_see(copies);
  return {copies, stride};
}

/// 0 to 3 hold dots and 4 holds q, a column for each of n rows; 5 to 7 hold k.
inline void amx_configure_dots(size_t n) {
  AmxShapes shapes;
  for (int i = 0; i < 5; ++i) shapes.row_bytes[i] = (uint16_t)(4 * n), shapes.rows[i] = AMX_ROWS;
  for (int i = 5; i < 8; ++i) shapes.row_bytes[i] = LINE, shapes.rows[i] = AMX_ROWS;
  amx_configure(shapes);
}
/// 0 to 3 hold sums and 4 holds p, a row for each of n rows; 5 to 7 hold v.
inline void amx_configure_mix(size_t n) {
  AmxShapes shapes;
  for (int i = 0; i < 5; ++i) shapes.row_bytes[i] = LINE, shapes.rows[i] = (uint8_t)n;
  for (int i = 5; i < 8; ++i) shapes.row_bytes[i] = LINE, shapes.rows[i] = AMX_ROWS;
  amx_configure(shapes);
}

/// dots [16 blocks][n] of 16 keys a block with the n rows whose q are there.
inline void amx_dots(float *dots, const char *q, size_t n, const AmxKeys *k, size_t blocks, size_t steps) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t s = 0; s < steps; ++s) {
    _tile_loadd(4, q + s * AMX_ROWS * 4 * n, 4 * n);
    _tile_loadd(5, k[0].first + s * LINE, k[0].stride);
    _tile_dpbf16ps(0, 5, 4);
    if (blocks < 2) continue;
    _tile_loadd(6, k[1].first + s * LINE, k[1].stride);
    _tile_dpbf16ps(1, 6, 4);
    if (blocks < 3) continue;
    _tile_loadd(7, k[2].first + s * LINE, k[2].stride);
    _tile_dpbf16ps(2, 7, 4);
    if (blocks < 4) continue;
    _tile_loadd(5, k[3].first + s * LINE, k[3].stride);
    _tile_dpbf16ps(3, 5, 4);
  }
  _tile_stored(0, dots, 4 * n);
  if (blocks > 1) _tile_stored(1, dots + AMX_ROWS * n, 4 * n);
  if (blocks > 2) _tile_stored(2, dots + 2 * AMX_ROWS * n, 4 * n);
  if (blocks > 3) _tile_stored(3, dots + 3 * AMX_ROWS * n, 4 * n);
}

/// Scores of `count` entries from the i-th on, whose dots stand in p, [entry][16 rows]; `largest` is that of each row.
inline void amx_scores_many(F32V &largest, const Bf16Rows &rows, const AmxEntries &list, size_t i, size_t count) {
  const F32V scale = splat(rows.args->scale);
  for (size_t j = i; j < i + count; ++j) {
    float *const p = rows.p + j * DOGE_ATTENTION_ROWS;
    const F32V score = fma(load(p), scale, mask_of_rows(rows, list.at[j], 0));
    const F32V seen = select(lanes_of(list.by[j]), score, splat(-INFINITY));
    store(p, seen);
    largest = max(seen, largest);
  }
}
/// The same of few rows, whose dots stand in `dots`, [entry][n]; p is [n][entries].
inline void amx_scores_few(const Bf16Rows &rows, const AmxEntries &list, size_t i, size_t count, const float *dots) {
  const F32V scale = splat(rows.args->scale);
  const size_t n = (size_t)rows.n;
  for (size_t r = 0; r < n; ++r) {
    const float *const mask = rows.args->mask[(rows.first + r) % rows.args->n_heads];
    const __m512i every_nth = _mm512_mullo_epi32(_mm512_set1_epi32((int)n), counted());
    for (size_t j = 0; j < count; j += LANES) {
      const __mmask16 there = count - j < LANES ? first(count - j) : (__mmask16)-1;
      const __m512i at = _mm512_maskz_loadu_epi32(there, list.at + i + j), by = _mm512_maskz_loadu_epi32(there, list.by + i + j);
      const F32V dot = {_mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, every_nth, dots + j * n + r, 4)};
      const F32V s = {_mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, at, mask, 4)};
      const MaskV sees = {_mm512_test_epi32_mask(by, _mm512_set1_epi32(1 << r))};
      _mm512_mask_storeu_ps(rows.p + r * list.stride + i + j, there, select(sees, fma(dot, scale, s), splat(-INFINITY)).v);
    }
  }
}

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
    _tile_loadd(5, v[s][0], LINE);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, v[s][1], LINE);
    _tile_dpbf16ps(1, 4, 6);
    if (NT == 2) continue;
    _tile_loadd(7, v[s][NT - 2], LINE);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, v[s][NT - 1], LINE);
    _tile_dpbf16ps(3, 4, 5);
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

/// The entries of a tile for the rows of a list that can be taken together.
inline void attend_together(Bf16Rows &rows, AmxEntries &list) {
  const size_t n = rows.few ? (size_t)rows.n : (size_t)DOGE_ATTENTION_ROWS, steps = rows.channels / AMX_COLS;
  float maximum[DOGE_ATTENTION_ROWS], total[DOGE_ATTENTION_ROWS];
  F32V largest = splat(-INFINITY), sums = zero();

  amx_configure_dots(n);
  for (size_t i = 0; i < list.n;) {
    alignas(64) float dots[4 * AMX_ROWS * FEW_ROWS];
    AmxKeys k[4];
    size_t blocks = 0;
    while (blocks < 4 && i + blocks * AMX_ROWS < list.n && stand_together(rows, list, i + blocks * AMX_ROWS)) {
      k[blocks] = {(const char *)row_at(rows.k, rows.args, list.at[i + blocks * AMX_ROWS]), rows.args->kv_stride * sizeof(Bf16)};
      ++blocks;
    }
    if (!blocks) k[blocks++] = copy_keys(rows, list, i, (char *)rows.k_rows);
    const size_t keys = blocks * AMX_ROWS, count = list.n - i < keys ? list.n - i : keys;
    amx_dots(rows.few ? dots : rows.p + i * DOGE_ATTENTION_ROWS, (const char *)rows.q_columns, n, k, blocks, steps);
    if (rows.few) amx_scores_few(rows, list, i, count, dots);
    else amx_scores_many(largest, rows, list, i, count);
    i += keys;
  }
  if (rows.few) {
    for (size_t r = 0; r < n; ++r) {
      maximum[r] = weigh<Bf16>(rows.p + r * list.stride, list.n);
      total[r] = add_up(rows.p + r * list.stride, list.n);
    }
  }

  amx_configure_mix(n);
  for (size_t i = 0; i < list.n; i += MIX_STEPS * MIX_ENTRIES) {
    alignas(64) float p[MIX_STEPS][256];
    const size_t left = (list.n - i + MIX_ENTRIES - 1) / MIX_ENTRIES, some = left < MIX_STEPS ? left : MIX_STEPS;
    for (size_t s = 0; s < some; ++s) {
      if (rows.few) amx_weights_few(p[s], rows, list, i + s * MIX_ENTRIES);
      else amx_weights_many(p[s], sums, largest, rows, list, i + s * MIX_ENTRIES);
    }
    amx_see(p);
    const size_t channels = rows.channels;
    size_t c = 0;
    for (; c + 4 * LANES <= channels; c += 4 * LANES) amx_mix<4>(rows, list, p[0], i, some, c);
    if (c < channels) amx_mix<2>(rows, list, p[0], i, some, c);
  }
  untangle(rows);

  const uint32_t any = list.by[0]; // what the others see begins alike
  if (rows.few) {
    merge_few(rows, any, maximum, total);
  } else {
    store(maximum, largest);
    store(total, sums);
    merge_many(rows, any, maximum, total);
  }
  rows.started |= any;
}

inline void attend_tile(Bf16Rows &rows, size_t begin, size_t end) {
  AmxEntries list;
  list.at = rows.entries;
  list.by = rows.entries + rows.longest;
  list.stride = end - begin;
  for (uint32_t left = rows.all; left; left &= ~list.rows) {
    list.rows = left;
    part(list, rows, begin, end);
    if (list.n) attend_together(rows, list);
  }
}

/// q by pairs of channels, [pairs][n], 0 beyond head_dim.
inline void lay_out_q(Bf16Rows &rows) {
  const size_t n = rows.few ? (size_t)rows.n : (size_t)DOGE_ATTENTION_ROWS;
  if (!rows.few) {
    turn_q(rows);
  } else {
    for (size_t c = 0; c < rows.columns; ++c)
      for (size_t r = 0; r < n; ++r) memcpy(rows.q_columns + c * n + r, rows.q[r] + 2 * c, 4);
  }
  memset(rows.q_columns + rows.columns * n, 0, (rows.channels / 2 - rows.columns) * n * sizeof(float));
  amx_see(rows.q_columns);
}

} // namespace
