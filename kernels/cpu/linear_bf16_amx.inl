// gemv_bf16, gemm_bf16, gemv_split and gemm_split on AMX: 16 rows of x by 16 outputs by 32 columns are one instruction.
//
//   sum += even + odd, where even = the chain of fma over the 16 even columns of 32, from 0, and odd that over the others; then the
//   next 32 columns, or, where x is in parts, the next part of the same columns
//
// Plan of gemm: 32 outputs and a part of the columns are packed by pairs of columns, as the instruction wants one of its operands;
// all rows of x, the other as it lies, pass the packed panel, 32 at a time: four registers of sums for four of operands. Between
// parts the sums wait in out. Cost: a step, 64 cycles of the instruction, takes 4 KiB of operands from L2. x passes by L1, which so
// keeps more of the panel (steps are 7 % shorter). Packing is a tenth of the time at 256 rows, a fifth at 128.
// Plan of gemv: the weights are the operand that is taken as it lies, and x, one row of pairs, is the other: the same products, and so
// the same bits. The 16 rows of a register come from 16 runs of the weights, each a long stream to the prefetchers: 16 neighbours, of
// 1024 columns, were read at 82 instead of 98 % of the roof.
// An f32 x comes in three parts: a step of them is twelve instructions for eight registers of operands, where others are four for
// four, and the sums take the parts in turn.
// Ragged ends: fewer rows are another shape; missing columns and outputs are zeros.
#pragma once

#include "ahead.inl"
#include "amx.h"

namespace {

constexpr size_t AMX_COLS = 32; // of a step
constexpr size_t PANEL_STEPS = 32, STEP_BYTES = 1024, PANEL_BYTES = PANEL_STEPS * STEP_BYTES;

/// 0 to 3 hold sums, 4 and 5 rows of one operand as they lie, 6 and 7 the other by pairs of columns [16 pairs][n][2].
inline void amx_configure_bf16(int m, int n) {
  AmxShapes shapes;
  for (int i = 0; i < 4; ++i) shapes.row_bytes[i] = (uint16_t)(4 * n), shapes.rows[i] = (uint8_t)m;
  for (int i = 4; i < 6; ++i) shapes.row_bytes[i] = 2 * AMX_COLS, shapes.rows[i] = (uint8_t)m;
  for (int i = 6; i < 8; ++i) shapes.row_bytes[i] = (uint16_t)(4 * n), shapes.rows[i] = AMX_COLS / 2;
  amx_configure(shapes);
}

/// Rows of x: P parts of a row follow one another, part_bytes apart, then those of the next row.
template <int P> struct AmxRows {
  const char *x;
  size_t part_bytes;
};

/// `steps` steps of MT x NT registers of sums in out, from those that are there or from 0. Rows of out are out_bytes apart; the panel
/// of the next 16 outputs lies PANEL_BYTES after the one of the first.
template <int MT, int NT, int P>
inline void amx_steps(float *out, size_t out_bytes, const AmxRows<P> &rows, const char *panel, size_t steps, bool begun, Ahead &ahead) {
  const size_t x_bytes = P * rows.part_bytes;
  char *const sums = (char *)out, *const next_sums = sums + AMX_ROWS * out_bytes;
  if (begun) {
    _tile_loadd(0, sums, out_bytes);
    if (NT == 2) _tile_loadd(1, sums + 64, out_bytes);
    if (MT == 2) _tile_loadd(2, next_sums, out_bytes);
    if (MT == 2 && NT == 2) _tile_loadd(3, next_sums + 64, out_bytes);
  } else {
    _tile_zero(0);
    if (NT == 2) _tile_zero(1);
    if (MT == 2) _tile_zero(2);
    if (MT == 2 && NT == 2) _tile_zero(3);
  }
  for (size_t s = 0; s < steps; ++s) {
    ahead.fetch();
    const char *x = rows.x + s * 2 * AMX_COLS;
    for (int p = 0; p < P; ++p, x += rows.part_bytes) {
      _tile_stream_loadd(4, x, x_bytes);
      if (p == 0) _tile_loadd(6, panel + s * STEP_BYTES, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (NT == 2) {
        if (p == 0) _tile_loadd(7, panel + PANEL_BYTES + s * STEP_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (MT == 2) {
        _tile_stream_loadd(5, x + AMX_ROWS * x_bytes, x_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (NT == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, out_bytes);
  if (NT == 2) _tile_stored(1, sums + 64, out_bytes);
  if (MT == 2) _tile_stored(2, next_sums, out_bytes);
  if (MT == 2 && NT == 2) _tile_stored(3, next_sums + 64, out_bytes);
}

/// A step of 16 rows of weights, of which `outputs` and `cols` are there: panel[pair][output] = the pair of columns.
inline void amx_pack(char *panel, const Bf16 *weight, size_t stride, size_t outputs, size_t cols) {
  const __mmask32 there = cols < AMX_COLS ? ((__mmask32)1 << cols) - 1 : (__mmask32)-1;
  __m512i row[16], pair[16];
  for (size_t i = 0; i < 16; ++i) row[i] = i < outputs ? _mm512_maskz_loadu_epi16(there, weight + i * stride) : _mm512_setzero_si512();
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      row[i + 2 * j] = _mm512_unpacklo_epi64(pair[i + j], pair[i + j + 2]);
      row[i + 2 * j + 1] = _mm512_unpackhi_epi64(pair[i + j], pair[i + j + 2]);
    }
  }
  // row[4 g + c] holds pairs c, c + 4, c + 8, c + 12 of rows 4 g .. 4 g + 3, four lanes each.
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(row[c], row[4 + c], 0x44), low2 = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0x44);
    const __m512i high = _mm512_shuffle_i32x4(row[c], row[4 + c], 0xee), high2 = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0xee);
    _mm512_store_si512(panel + c * 64, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_store_si512(panel + (c + 4) * 64, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_store_si512(panel + (c + 8) * 64, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_store_si512(panel + (c + 12) * 64, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

/// What a pass over all rows is about: outputs o .. o + outputs, of columns begin .. end.
struct AmxPass {
  size_t o, outputs, begin, end;
};

/// `rows` rows of out from r on, at most 16 MT. The outputs are 16 NT, or fewer than 16: then the sums are made elsewhere.
template <int MT, int NT, int P>
inline void amx_rows(const DogeGemmBf16Args *a, const AmxPass &pass, size_t r, size_t rows, const char *panel, Ahead &ahead) {
  alignas(64) float edge[MT * AMX_ROWS][NT * 16];
  float *const out = a->out + r * a->out_stride + pass.o;
  const bool whole = pass.outputs == NT * 16;
  float *const sums = whole ? out : edge[0];
  const size_t stride = whole ? a->out_stride : NT * 16;
  const __mmask16 there = (__mmask16)((1u << (pass.outputs % 16)) - 1);
  if (!whole && pass.begin) {
    for (size_t i = 0; i < rows; ++i) _mm512_store_ps(edge[i], _mm512_maskz_loadu_ps(there, out + i * a->out_stride));
    amx_see(edge);
  }
  const Bf16 *const x = (const Bf16 *)a->x + r * P * a->cols + pass.begin;
  const size_t steps = (pass.end - pass.begin) / AMX_COLS, left = (pass.end - pass.begin) % AMX_COLS;
  const AmxRows<P> all = {(const char *)x, a->cols * sizeof(Bf16)};
  amx_steps<MT, NT>(sums, stride * sizeof(float), all, panel, steps, pass.begin, ahead);
  if (left) {
    alignas(64) Bf16 last[MT * AMX_ROWS * P][AMX_COLS];
    for (size_t i = 0; i < rows * P; ++i) {
      const __m512i part = _mm512_maskz_loadu_epi16(((__mmask32)1 << left) - 1, x + i * a->cols + steps * AMX_COLS);
      _mm512_store_si512(last[i], part);
    }
    amx_see(last);
    const AmxRows<P> few = {(const char *)last, sizeof last[0]};
    amx_steps<MT, NT>(sums, stride * sizeof(float), few, panel + steps * STEP_BYTES, 1, true, ahead);
  }
  const float *const bias = pass.end == a->cols && a->bias ? a->bias + pass.o : nullptr;
  if (whole && !bias) return;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t n = 0; n < pass.outputs; ++n) {
      const float sum = sums[i * stride + n];
      out[i * a->out_stride + n] = bias ? sum + bias[n] : sum;
    }
  }
}

/// All rows, 16 NT outputs or fewer than 16.
template <int NT, int P> inline void amx_pass(const DogeGemmBf16Args *a, const AmxPass &pass, char *panel, Ahead &ahead) {
  const Bf16 *const weight = (const Bf16 *)a->weight + pass.o * a->cols;
  for (size_t c = pass.begin; c < pass.end; c += AMX_COLS) {
    for (int t = 0; t < NT; ++t) {
      char *const step = panel + t * PANEL_BYTES + (c - pass.begin) / AMX_COLS * STEP_BYTES;
      amx_pack(step, weight + t * 16 * a->cols + c, a->cols, pass.outputs - t * 16, pass.end - c);
    }
  }
  amx_see(panel);
  size_t r = 0;
  if (a->n_rows >= AMX_ROWS) amx_configure_bf16(AMX_ROWS, 16);
  for (; r + 2 * AMX_ROWS <= a->n_rows; r += 2 * AMX_ROWS) amx_rows<2, NT, P>(a, pass, r, 2 * AMX_ROWS, panel, ahead);
  for (; r < a->n_rows; r += AMX_ROWS) {
    const size_t rows = a->n_rows - r < AMX_ROWS ? a->n_rows - r : AMX_ROWS;
    if (rows < AMX_ROWS) amx_configure_bf16((int)rows, 16);
    amx_rows<1, NT, P>(a, pass, r, rows, panel, ahead);
  }
}

/// The outputs 0, run, 2 run ... of `rows` <= 16 rows of weights, for one row of x.
template <int P> inline void amx_gemv(float *out, const Bf16 *weight, const Bf16 *x, size_t cols, size_t rows, size_t run) {
  const size_t steps = cols / AMX_COLS, left = cols % AMX_COLS, stride = run * cols;
  _tile_zero(0);
  for (size_t s = 0; s < steps; ++s) {
    _tile_loadd(4, weight + s * AMX_COLS, stride * sizeof(Bf16));
    for (int p = 0; p < P; ++p) {
      _tile_loadd(6, x + p * cols + s * AMX_COLS, 4);
      _tile_dpbf16ps(0, 4, 6);
    }
  }
  if (left) {
    alignas(64) Bf16 last[AMX_ROWS][AMX_COLS], last_x[P][AMX_COLS];
    const __mmask32 there = ((__mmask32)1 << left) - 1;
    for (size_t i = 0; i < rows; ++i) {
      _mm512_store_si512(last[i], _mm512_maskz_loadu_epi16(there, weight + i * stride + steps * AMX_COLS));
    }
    for (int p = 0; p < P; ++p) {
      _mm512_store_si512(last_x[p], _mm512_maskz_loadu_epi16(there, x + p * cols + steps * AMX_COLS));
    }
    amx_see(last);
    amx_see(last_x);
    _tile_loadd(4, last, sizeof last[0]);
    for (int p = 0; p < P; ++p) {
      _tile_loadd(6, last_x[p], 4);
      _tile_dpbf16ps(0, 4, 6);
    }
  }
  _tile_stored(0, out, run * sizeof(float));
}

template <int P>
inline void gemv_of_parts(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  const Bf16 *const w = (const Bf16 *)weight;
  const size_t run = begin < end ? (end - begin) / AMX_ROWS : 0, ragged = begin + run * AMX_ROWS;
  if (run) amx_configure_bf16(AMX_ROWS, 1);
  for (size_t o = begin; o < begin + run; ++o) amx_gemv<P>(out + o, w + o * cols, (const Bf16 *)x, cols, AMX_ROWS, run);
  if (ragged < end) {
    amx_configure_bf16((int)(end - ragged), 1);
    amx_gemv<P>(out + ragged, w + ragged * cols, (const Bf16 *)x, cols, end - ragged, 1);
  }
  _tile_release();
  if (bias) {
    for (size_t o = begin; o < end; ++o) out[o] += bias[o];
  }
}

constexpr size_t AMX_FEW_ROWS = 4; // up to so many, to pack takes longer than to take the rows one by one, after the first from L2

/// All outputs of rows whose parts the L2 cache holds.
template <int P> inline void gemm_rows_of_parts(const DogeGemmBf16Args *a) {
  if (a->n_rows <= AMX_FEW_ROWS) {
    for (size_t r = 0; r < a->n_rows; ++r) {
      const Bf16 *const x = (const Bf16 *)a->x + r * P * a->cols;
      gemv_of_parts<P>(a->out + r * a->out_stride, a->weight, x, a->bias, a->cols, a->begin, a->end);
    }
    return;
  }
  alignas(64) char panel[2 * PANEL_BYTES];
  for (size_t o = a->begin, outputs; o < a->end; o += outputs) {
    const size_t left = a->end - o;
    outputs = left >= 32 ? 32 : left >= 16 ? 16 : left;
    const size_t next = left - outputs < 32 ? left - outputs : 32;
    Ahead ahead((const Bf16 *)a->weight + (o + outputs) * a->cols, next * a->cols * sizeof(Bf16),
                a->n_rows / (2 * AMX_ROWS) * (a->cols / AMX_COLS));
    for (size_t begin = 0; begin == 0 || begin < a->cols; begin += PANEL_STEPS * AMX_COLS) {
      const size_t end = a->cols - begin < PANEL_STEPS * AMX_COLS ? a->cols : begin + PANEL_STEPS * AMX_COLS;
      const AmxPass pass = {o, outputs, begin, end};
      outputs == 32 ? amx_pass<2, P>(a, pass, panel, ahead) : amx_pass<1, P>(a, pass, panel, ahead);
    }
  }
  _tile_release();
}

constexpr size_t X_BYTES = 1 << 20; // of rows that pass all panels: half of L2; 3 MiB took twice the time

template <int P> inline void gemm_of_parts(const DogeGemmBf16Args *a) {
  const size_t fit = X_BYTES / (P * a->cols * sizeof(Bf16) + 1), most = fit < 2 * AMX_ROWS ? 2 * AMX_ROWS : fit / AMX_ROWS * AMX_ROWS;
  const size_t blocks = (a->n_rows + most - 1) / most;
  for (size_t r = 0, block = 0, end; block < blocks; ++block, r = end) {
    end = (block + 1) * a->n_rows / blocks / AMX_ROWS * AMX_ROWS;
    if (block + 1 == blocks) end = a->n_rows;
    DogeGemmBf16Args some = *a;
    some.out += r * a->out_stride;
    some.x = (const Bf16 *)a->x + r * P * a->cols;
    some.n_rows = end - r;
    gemm_rows_of_parts<P>(&some);
  }
}

constexpr int SPLIT_PARTS = 3; // of 8 bits each, which are all that an f32 has

void gemv_bf16(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of_parts<1>(out, weight, x, bias, cols, begin, end);
}
void gemm_bf16(const DogeGemmBf16Args *a) { gemm_of_parts<1>(a); }

void gemv_split(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of_parts<SPLIT_PARTS>(out, weight, x, bias, cols, begin, end);
}
void gemm_split(const DogeGemmBf16Args *a) { gemm_of_parts<SPLIT_PARTS>(a); }

/// The bits of x that a bf16 holds. NaN stays NaN.
inline __m512 first_part(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), first = _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000));
  const __m512i nan = _mm512_or_si512(first, _mm512_set1_epi32(0x400000));
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(first, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), nan));
}

/// [3][n]: what a bf16 holds of x, what another holds of the rest, and what then is left: all of it, but of numbers next to the
/// denormals. Of what is not finite nothing is left.
void split_row(void *out, const float *x, size_t n) {
  uint16_t *const parts = (uint16_t *)out;
  for (size_t i = 0; i < n; i += LANES) {
    const __mmask16 there = n - i < LANES ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)-1;
    __m512 left = _mm512_maskz_loadu_ps(there, x + i);
    for (int p = 0; p < SPLIT_PARTS; ++p) {
      const __m512 part = first_part(left);
      const __m512i half = _mm512_srli_epi32(_mm512_castps_si512(part), 16);
      _mm256_mask_storeu_epi16(parts + p * n + i, there, _mm512_cvtepi32_epi16(half));
      const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(left), _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
      left = _mm512_maskz_sub_ps(finite, left, part);
    }
  }
}

} // namespace
