// Scores on AMX: [16 keys][16 rows] = k, as it lies, times q by pairs of channels. 32 channels are one instruction.
#pragma once

namespace {

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

/// dots [16 blocks][n] of 16 keys a block with the n rows whose q are there.
inline void amx_dots(float *dots, const char *q, size_t n, const AmxKeys *k, size_t blocks, size_t steps) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t s = 0; s < steps; ++s) {
    _tile_loadd(6, q + s * AMX_ROWS * 4 * n, 4 * n);
    _tile_loadd(4, k[0].first + s * LINE, k[0].stride);
    _tile_dpbf16ps(0, 4, 6);
    if (blocks < 2) continue;
    _tile_loadd(5, k[1].first + s * LINE, k[1].stride);
    _tile_dpbf16ps(1, 5, 6);
    if (blocks < 3) continue;
    _tile_loadd(4, k[2].first + s * LINE, k[2].stride);
    _tile_dpbf16ps(2, 4, 6);
    if (blocks < 4) continue;
    _tile_loadd(5, k[3].first + s * LINE, k[3].stride);
    _tile_dpbf16ps(3, 5, 6);
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

} // namespace
