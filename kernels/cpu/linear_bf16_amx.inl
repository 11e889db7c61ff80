// gemv_bf16, gemm_bf16, gemv_split and gemm_split on AMX: 16 rows of x by 16 outputs by 32 columns are one instruction.
//
//   sum += even + odd, where even = the chain of fma over the 16 even columns of 32, from 0, and odd that over the others; then the
//   next 32 columns, or, where x is in parts, the next part of the same columns
//
// Plan of gemm: 32 outputs and a part of the columns are packed by pairs of columns, as the instruction wants one of its operands;
// all rows of x, the other as it lies, pass the packed panel, 32 at a time: four registers of sums for four of operands. The panel
// stays in L1; x comes from L2 and passes by L1: 2 KiB a step of 64 cycles. Sums wait between parts in a place of their own, and
// are stored to out once, whose lines were asked for: rows of out are often 4 KiB apart, so 16 of them share one set of L1, which
// holds 12 lines, and the same of x (see bf16_row in ops/input.rs). With sums in out a step took 1.1 times as long, with rows of x
// 2 KiB apart 1.07 times, and 1.5 times where they are in parts. To pack takes a fifth of the time at 256 rows.
// Plan of gemv: the weights are the operand that is taken as it lies, and x, one row of pairs, is the other: the same products, and so
// the same bits. The 16 rows of a register come from 16 runs of the weights, each a long stream to the prefetchers: 16 neighbours, of
// 1024 columns, were read at 82 instead of 98 % of the roof.
// An f32 x comes in three parts: a step of them is twelve instructions for eight registers of operands, where others are four for
// four, and the sums take the parts in turn.
// Ragged ends: fewer rows are another shape; missing columns and outputs are zeros.
#pragma once

#include "ahead.inl"
#include "amx.h"
#include "split_row_amx.inl"

namespace {

constexpr size_t AMX_COLS = 32; // of a step
constexpr size_t PANEL_STEPS = 16, STEP_BYTES = 1024, PANEL_BYTES = PANEL_STEPS * STEP_BYTES; // two panels fit L1
constexpr size_t BLOCK_ROWS = 512, WAITING = 32; // rows of a block, and the sums of a row that wait

/// 0 to 3 hold sums, 4 and 5 rows of one operand as they lie, 6 and 7 the other by pairs of columns [16 pairs][n][2].
inline void amx_configure_bf16(int m, int n) {
  AmxShapes shapes;
  for (int i = 0; i < 4; ++i) shapes.row_bytes[i] = (uint16_t)(4 * n), shapes.rows[i] = (uint8_t)m;
  for (int i = 4; i < 6; ++i) shapes.row_bytes[i] = 2 * AMX_COLS, shapes.rows[i] = (uint8_t)m;
  for (int i = 6; i < 8; ++i) shapes.row_bytes[i] = (uint16_t)(4 * n), shapes.rows[i] = AMX_COLS / 2;
  amx_configure(shapes);
}

/// Rows of x, and the parts of each.
struct AmxRows {
  const char *x;
  size_t row_bytes, part_bytes; // from one to the next
};

/// Where sums lie, rows `bytes` apart.
struct AmxSums {
  float *at;
  size_t bytes;
  char *row(int r) const { return (char *)at + r * bytes; }
};

/// The line of `p`, to be written to.
inline void ask_to_write(const void *p) { __asm__ volatile("prefetchw %0" ::"m"(*(const char *)p)); }

/// `steps` steps of MT x NT registers of sums, which begin as those of `from`, or as 0, and go to `to`. The panel of the next 16
/// outputs lies PANEL_BYTES after the one of the first.
template <int MT, int NT, int P>
inline void amx_steps(const AmxSums *from, const AmxSums &to, const AmxRows &rows, const char *panel, size_t steps, Ahead &ahead) {
  if (from) {
    _tile_loadd(0, from->row(0), from->bytes);
    if (NT == 2) _tile_loadd(1, from->row(0) + LINE, from->bytes);
    if (MT == 2) _tile_loadd(2, from->row(AMX_ROWS), from->bytes);
    if (MT == 2 && NT == 2) _tile_loadd(3, from->row(AMX_ROWS) + LINE, from->bytes);
  } else {
    _tile_zero(0);
    if (NT == 2) _tile_zero(1);
    if (MT == 2) _tile_zero(2);
    if (MT == 2 && NT == 2) _tile_zero(3);
  }
  for (size_t s = 0; s < steps; ++s) {
    ahead.fetch();
    for (int i = 0; i < MT && s < AMX_ROWS; ++i) {
      for (int t = 0; t < NT; ++t) ask_to_write(to.row(i * AMX_ROWS + s) + t * LINE);
    }
    const char *x = rows.x + s * 2 * AMX_COLS;
    for (int p = 0; p < P; ++p, x += rows.part_bytes) {
      _tile_stream_loadd(4, x, rows.row_bytes);
      if (p == 0) _tile_loadd(6, panel + s * STEP_BYTES, LINE);
      _tile_dpbf16ps(0, 4, 6);
      if (NT == 2) {
        if (p == 0) _tile_loadd(7, panel + PANEL_BYTES + s * STEP_BYTES, LINE);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (MT == 2) {
        _tile_stream_loadd(5, x + AMX_ROWS * rows.row_bytes, rows.row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (NT == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, to.row(0), to.bytes);
  if (NT == 2) _tile_stored(1, to.row(0) + LINE, to.bytes);
  if (MT == 2) _tile_stored(2, to.row(AMX_ROWS), to.bytes);
  if (MT == 2 && NT == 2) _tile_stored(3, to.row(AMX_ROWS) + LINE, to.bytes);
}

/// A step of 16 rows of weights, of which `outputs` and `cols` are there: panel[pair][output] = the pair of columns.
inline void amx_pack(char *panel, const Bf16 *weight, size_t stride, size_t outputs, size_t cols) {
  alignas(64) Bf16 edge[16][AMX_COLS];
  if (outputs < 16 || cols < AMX_COLS) {
    const __mmask32 there = cols < AMX_COLS ? ((__mmask32)1 << cols) - 1 : (__mmask32)-1;
    for (size_t i = 0; i < 16; ++i) {
      _mm512_store_si512(edge[i], i < outputs ? _mm512_maskz_loadu_epi16(there, weight + i * stride) : _mm512_setzero_si512());
    }
    weight = edge[0], stride = AMX_COLS;
  }
  for (int half = 0; half < 2; ++half, weight += AMX_COLS / 2) {
    __m512i pair[2][4]; // [g][c]: pairs c and c + 4 of this half, of rows 8 g .. 8 g + 3, then of rows 8 g + 4 .. 8 g + 7
    for (int g = 0; g < 2; ++g) {
      __m512i row[4];
      for (int i = 0; i < 4; ++i) {
        const Bf16 *const first = weight + (8 * g + i) * stride, *const second = first + 4 * stride;
        const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)first));
        row[i] = _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)second), 1);
      }
      const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]), high01 = _mm512_unpackhi_epi32(row[0], row[1]);
      const __m512i low23 = _mm512_unpacklo_epi32(row[2], row[3]), high23 = _mm512_unpackhi_epi32(row[2], row[3]);
      pair[g][0] = _mm512_unpacklo_epi64(low01, low23), pair[g][1] = _mm512_unpackhi_epi64(low01, low23);
      pair[g][2] = _mm512_unpacklo_epi64(high01, high23), pair[g][3] = _mm512_unpackhi_epi64(high01, high23);
    }
    for (int c = 0; c < 4; ++c) {
      _mm512_store_si512(panel + (8 * half + c) * LINE, _mm512_shuffle_i32x4(pair[0][c], pair[1][c], 0x88));
      _mm512_store_si512(panel + (8 * half + c + 4) * LINE, _mm512_shuffle_i32x4(pair[0][c], pair[1][c], 0xdd));
    }
  }
}

/// What a pass over all rows is about: outputs o .. o + outputs, of columns begin .. end.
struct AmxPass {
  size_t o, outputs, begin, end;
};

/// `rows` rows from r on, at most 16 MT. The outputs are 16 NT, or fewer than 16. Their sums wait in `waiting` between parts, and go
/// from there to out where they are not all that is missing.
template <int MT, int NT, int P>
inline void amx_rows(const DogeGemmBf16Args *a, const AmxPass &pass, size_t r, size_t rows, const char *panel, float *waiting,
                     Ahead &ahead) {
  const bool last = pass.end == a->cols, direct = last && pass.outputs == NT * 16 && !a->bias;
  const AmxSums between = {waiting + r * WAITING, WAITING * sizeof(float)};
  const AmxSums out = {a->out + r * a->out_stride + pass.o, a->out_stride * sizeof(float)};
  const Bf16 *const x = (const Bf16 *)a->x + r * a->x_stride + pass.begin;
  const size_t steps = (pass.end - pass.begin) / AMX_COLS, left = (pass.end - pass.begin) % AMX_COLS;
  const AmxRows all = {(const char *)x, a->x_stride * sizeof(Bf16), a->cols * sizeof(Bf16)};
  amx_steps<MT, NT, P>(pass.begin ? &between : nullptr, direct && !left ? out : between, all, panel, steps, ahead);
  if (left) {
    alignas(64) Bf16 end[MT * AMX_ROWS * P][AMX_COLS];
    for (size_t i = 0; i < rows * P; ++i) {
      const Bf16 *const part = x + i / P * a->x_stride + i % P * a->cols + steps * AMX_COLS;
      _mm512_store_si512(end[i], _mm512_maskz_loadu_epi16(((__mmask32)1 << left) - 1, part));
    }
    amx_see(end);
    const AmxRows few = {(const char *)end, P * sizeof end[0], sizeof end[0]};
    amx_steps<MT, NT, P>(&between, direct ? out : between, few, panel + steps * STEP_BYTES, 1, ahead);
  }
  if (!last || direct) return;
  amx_see(waiting);
  for (size_t o = 0; o < pass.outputs; o += LANES) {
    const __mmask16 there = pass.outputs - o < LANES ? (__mmask16)((1u << (pass.outputs - o)) - 1) : (__mmask16)-1;
    const __m512 bias = a->bias ? _mm512_maskz_loadu_ps(there, a->bias + pass.o + o) : _mm512_setzero_ps();
    for (size_t i = 0; i < rows; ++i) {
      const __m512 sum = _mm512_load_ps(between.at + i * WAITING + o);
      _mm512_mask_storeu_ps(out.at + i * a->out_stride + o, there, a->bias ? _mm512_add_ps(sum, bias) : sum);
    }
  }
}

/// All rows, 16 NT outputs or fewer than 16.
template <int NT, int P>
inline void amx_pass(const DogeGemmBf16Args *a, const AmxPass &pass, char *panel, float *waiting, Ahead &ahead) {
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
  for (; r + 2 * AMX_ROWS <= a->n_rows; r += 2 * AMX_ROWS) amx_rows<2, NT, P>(a, pass, r, 2 * AMX_ROWS, panel, waiting, ahead);
  for (; r < a->n_rows; r += AMX_ROWS) {
    const size_t rows = a->n_rows - r < AMX_ROWS ? a->n_rows - r : AMX_ROWS;
    if (rows < AMX_ROWS) amx_configure_bf16((int)rows, 16);
    amx_rows<1, NT, P>(a, pass, r, rows, panel, waiting, ahead);
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
      const Bf16 *const x = (const Bf16 *)a->x + r * a->x_stride;
      gemv_of_parts<P>(a->out + r * a->out_stride, a->weight, x, a->bias, a->cols, a->begin, a->end);
    }
    return;
  }
  alignas(64) char panel[2 * PANEL_BYTES];
  alignas(64) float waiting[BLOCK_ROWS * WAITING];
  for (size_t o = a->begin, outputs; o < a->end; o += outputs) {
    const size_t left = a->end - o;
    outputs = left >= 32 ? 32 : left >= 16 ? 16 : left;
    const size_t next = left - outputs < 32 ? left - outputs : 32;
    Ahead ahead((const Bf16 *)a->weight + (o + outputs) * a->cols, next * a->cols * sizeof(Bf16),
                a->n_rows / (2 * AMX_ROWS) * (a->cols / AMX_COLS));
    for (size_t begin = 0; begin == 0 || begin < a->cols; begin += PANEL_STEPS * AMX_COLS) {
      const size_t end = a->cols - begin < PANEL_STEPS * AMX_COLS ? a->cols : begin + PANEL_STEPS * AMX_COLS;
      const AmxPass pass = {o, outputs, begin, end};
      outputs == 32 ? amx_pass<2, P>(a, pass, panel, waiting, ahead) : amx_pass<1, P>(a, pass, panel, waiting, ahead);
    }
  }
  _tile_release();
}

constexpr size_t X_BYTES = 3 << 19; // of rows that pass all panels: three quarters of L2; 3 MiB took twice the time

template <int P> inline void gemm_of_parts(const DogeGemmBf16Args *a) {
  const size_t fit = X_BYTES / (P * a->cols * sizeof(Bf16) + 1), many = fit < BLOCK_ROWS ? fit : BLOCK_ROWS;
  const size_t most = many < 2 * AMX_ROWS ? 2 * AMX_ROWS : many / AMX_ROWS * AMX_ROWS;
  const size_t blocks = a->n_rows <= most ? 1 : (a->n_rows - 1) / most + 1;
  // As equal as they can be; never more than `most`, which is a multiple of AMX_ROWS too.
  const size_t block = ((a->n_rows + blocks - 1) / blocks + AMX_ROWS - 1) / AMX_ROWS * AMX_ROWS;
  for (size_t r = 0; r < a->n_rows; r += block) {
    DogeGemmBf16Args some = *a;
    some.out += r * a->out_stride;
    some.x = (const Bf16 *)a->x + r * a->x_stride;
    some.n_rows = a->n_rows - r < block ? a->n_rows - r : block;
    gemm_rows_of_parts<P>(&some);
  }
}

void gemv_bf16(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of_parts<1>(out, weight, x, bias, cols, begin, end);
}
void gemm_bf16(const DogeGemmBf16Args *a) { gemm_of_parts<1>(a); }

void gemv_split(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end) {
  gemv_of_parts<SPLIT_PARTS>(out, weight, x, bias, cols, begin, end);
}
void gemm_split(const DogeGemmBf16Args *a) { gemm_of_parts<SPLIT_PARTS>(a); }

} // namespace
