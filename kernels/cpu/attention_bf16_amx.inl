// dynamic_mask_attention_bf16 on AMX: a tile's scores and its sum of p * v are matrix products, of 16 (query, head) rows at a time.
//
// The instruction adds its 32 products in an order of its own (linear_bf16_amx.inl). That of a row must not depend on the rows beside
// it: attention_rows_amx.inl says which go together. Few rows take the same instructions, with as many columns as they are.
// Cost: 4 * head_dim flops per (row, entry), at 16 times the speed of fma, so that of a prompt's 512 they are a quarter of the time.
// Another quarter goes into exp, the rest into what leads in and out of the registers: rounding and turning q, laying out v.
#pragma once

#include "linear_bf16_amx.inl" // how the registers are shaped

#include "attention_rows_amx.inl"

#include "attention_score_amx.inl"

#include "attention_mix_amx.inl"

namespace {

/// The entries of a tile for the rows of a list that can be taken together.
inline void attend_together(Bf16Rows &rows, AmxEntries &list) {
  const size_t n = rows.few ? (size_t)rows.n : (size_t)DOGE_ATTENTION_ROWS, steps = rows.channels / AMX_COLS;
  float maximum[DOGE_ATTENTION_ROWS], total[DOGE_ATTENTION_ROWS];
  F32V largest = splat(-INFINITY), sums = zero();

  amx_configure_bf16(AMX_ROWS, (int)n);
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

  amx_configure_bf16((int)n, AMX_ROWS);
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
