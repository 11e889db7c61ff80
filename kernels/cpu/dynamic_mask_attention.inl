// score = dot(q, k) * scale + mask[t];  out = sum_t softmax(score)_t v_t over the entries t that the query sees
//
// Plan: the (query, head) rows of the block in groups of DOGE_ATTENTION_ROWS, so that one pass over the keys serves them all.
// Per group and tile of keys:
//   seen     per entry one bit a row: from <= place < until is an interval of places, so an interval of rows
//   score    tiles of the one sum (dot_tile.inl) along head_dim; then scale and mask, and -infinity where not seen
//   weigh    the tile's maximum, p = exp(score - maximum), its sum in entry order
//   mix      o[c] = fma(p_t, v_t[c], o[c]), entry after entry, channels in lanes; an unseen entry is passed over, not added
//            as 0 * v, which could be NaN or turn a -0 into +0
//   merge    the running (maximum, total, o) of the row and the tile's, both scaled to the larger maximum
// Every step works on one row as if it were alone: hence the bits don't depend on the block. The running o stands in `out`.
// k and v are widened as they are read; everything else is f32.
// Cost: 4 * head_dim flops per (row, entry), and one read of k and v per group.
#pragma once

#include "attention_rows.inl"

namespace {

/// dot(q, k) of some <= MR rows from r on, known at run time. Everything inlined: a call for each tile of these short sums,
/// which then go through memory, cost a third.
template <int MR, class KV> void row_dots(const AttentionRows<KV> &rows, const SeenEntries &seen, int r, int some) {
  if constexpr (MR > 1) {
    if (some < MR) return row_dots<MR - 1>(rows, seen, r, some);
  }
  const EntryRows<false, KV> entries(rows.k, rows.args, seen);
  const size_t stride = seen.stride, head_dim = rows.args->head_dim;
  const uint32_t mine = ((1u << MR) - 1) << r;
  float *p = rows.p + r * stride + seen.place;
  size_t i = 0;
  for (; i + TILE_COLS <= seen.n; i += TILE_COLS) {
    const KV *k[TILE_COLS];
    uint32_t by = 0;
    for (int j = 0; j < TILE_COLS; ++j) {
      by |= seen.rows[i + j];
      k[j] = entries[i + j];
    }
    if (by & mine) dot_tile<MR, TILE_COLS>(p + i, stride, 1, rows.q + r, k, head_dim);
  }
  for (; i < seen.n; ++i) {
    const KV *k = entries[i];
    if (seen.rows[i] & mine) dot_tile<MR, 1>(p + i, stride, 1, rows.q + r, &k, head_dim);
  }
}

/// The same for MR = rows.n rows, entry after entry: k is read once and in order, as memory likes it best.
template <int MR, bool plain, class KV>
inline void entry_dots_in_order(const AttentionRows<KV> &rows, const SeenEntries &seen) {
  const EntryRows<plain, KV> k(rows.k, rows.args, seen);
  const size_t n = seen.n, stride = seen.stride, head_dim = rows.args->head_dim;
  float *p = rows.p + seen.place;
  for (size_t i = 0; i < n; ++i) {
    fetch_ahead<true>(rows, seen, i);
    const KV *row = k[i];
    dot_tile<MR, 1>(p + i, stride, 0, rows.q, &row, head_dim);
  }
}

template <class KV> inline void score(const AttentionRows<KV> &rows, const SeenEntries &seen) {
  size_t i = 0;
  if (!seen.any) {
    for (int r = 0; r < rows.n; ++r)
      for (i = 0; i < seen.n; ++i) rows.p[r * seen.stride + seen.place + i] = -INFINITY;
    return;
  }
  if (rows.n <= FEW_ROWS) {
    if (seen.plain) rows.n == 1 ? entry_dots_in_order<1, true>(rows, seen) : entry_dots_in_order<FEW_ROWS, true>(rows, seen);
    else rows.n == 1 ? entry_dots_in_order<1, false>(rows, seen) : entry_dots_in_order<FEW_ROWS, false>(rows, seen);
  } else {
    for (int r = 0; r < rows.n; r += TILE_ROWS) {
      row_dots<TILE_ROWS>(rows, seen, r, rows.n - r < TILE_ROWS ? rows.n - r : TILE_ROWS);
    }
  }

  const F32V scale = splat(rows.args->scale);
  for (int r = 0; r < rows.n; ++r) {
    const float *mask = rows.args->mask[(rows.first + r) % rows.args->n_heads] + seen.begin;
    float *p = rows.p + r * seen.stride + seen.place;
    for (i = 0; i + LANES <= seen.n; i += LANES) store(p + i, fma(load(p + i), scale, load(mask + i)));
    if (i < seen.n) store_n(p + i, fma(load_n(p + i, seen.n - i), scale, load_n(mask + i, seen.n - i)), seen.n - i);
    if (seen.every >> r & 1) continue;
    for (i = 0; i < seen.n; ++i) p[i] = seen.rows[i] >> r & 1 ? p[i] : -INFINITY;
  }
}

/// p = exp(p - maximum) of a row of n scores; returns the maximum.
inline float weigh(float *p, size_t n) {
  F32V lanes = splat(-INFINITY);
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) lanes = max(load(p + i), lanes);
  if (i < n) lanes = max(load_or(p + i, n - i, -INFINITY), lanes);
  const float maximum = max_lane(lanes);
  const F32V largest = splat(maximum);
  for (i = 0; i + LANES <= n; i += LANES) store(p + i, exp(sub(load(p + i), largest)));
  if (i < n) store_n(p + i, exp(sub(load_n(p + i, n - i), largest)), n - i);
  return maximum;
}

/// The sums of NR rows of p, one entry after another: so unseen entries, which are 0, change nothing. The rows side by side,
/// since one alone is bound by the latency of an addition.
template <int NR> inline void add_up(float *total, const float *p, size_t n) {
  float sums[NR] = {}; // not in `total`, which p might be for all the compiler knows
  for (size_t i = 0; i < n; ++i)
    for (int r = 0; r < NR; ++r) sums[r] += p[r * n + i];
  for (int r = 0; r < NR; ++r) total[r] = sums[r];
}

/// mixed[r..r+MR][c..c+channels] += p * v over a run of entries; channels = NV * LANES, or fewer than LANES and NV = 1.
template <int MR, int NV, bool plain, class KV>
inline void mix_tile(const AttentionRows<KV> &rows, const SeenEntries &seen, int r, size_t c, size_t channels) {
  const DogeAttentionArgs *a = rows.args;
  const bool whole = channels == NV * LANES;
  const float *p = rows.p + r * seen.stride + seen.place;
  float *o = rows.mixed + r * a->head_dim + c;
  F32V acc[MR][NV];
  for (int m = 0; m < MR; ++m)
    for (int j = 0; j < NV; ++j) {
      const float *from = o + m * a->head_dim + j * LANES;
      acc[m][j] = whole ? load(from) : load_n(from, channels);
    }

  constexpr uint32_t ALL = (1u << MR) - 1;
  const EntryRows<plain, KV> v_rows(rows.v, a, seen);
  for (size_t i = 0; i < seen.n; ++i) {
    const uint32_t by = plain ? ALL : seen.rows[i] >> r & ALL;
    if constexpr (MR <= FEW_ROWS) {
      if (rows.n == MR && c == 0) fetch_ahead<false>(rows, seen, i);
    }
    if (!by) continue;
    const KV *v = v_rows[i] + c;
    F32V vs[NV];
    for (int j = 0; j < NV; ++j) vs[j] = whole ? load(v + j * LANES) : load_n(v, channels);
    if (by == ALL) {
      for (int m = 0; m < MR; ++m) {
        const F32V ps = splat(p[m * seen.stride + i]);
        for (int j = 0; j < NV; ++j) acc[m][j] = fma(ps, vs[j], acc[m][j]);
      }
    } else {
      for (int m = 0; m < MR; ++m) {
        if (!(by >> m & 1)) continue;
        const F32V ps = splat(p[m * seen.stride + i]);
        for (int j = 0; j < NV; ++j) acc[m][j] = fma(ps, vs[j], acc[m][j]);
      }
    }
  }

  for (int m = 0; m < MR; ++m)
    for (int j = 0; j < NV; ++j) {
      if (whole) store(o + m * a->head_dim + j * LANES, acc[m][j]);
      else store_n(o + m * a->head_dim, acc[m][j], channels);
    }
}

/// All channels from c on, NV vectors at a time, the rest by fewer.
template <int MR, int NV, bool plain, class KV>
inline void mix_channels(const AttentionRows<KV> &rows, const SeenEntries &seen, int r, size_t c) {
  const size_t head_dim = rows.args->head_dim;
  for (; c + NV * LANES <= head_dim; c += NV * LANES) mix_tile<MR, NV, plain>(rows, seen, r, c, NV * LANES);
  if constexpr (NV > 1) mix_channels<MR, NV / 2, plain>(rows, seen, r, c);
  else if (c < head_dim) mix_tile<MR, 1, plain>(rows, seen, r, c, head_dim - c);
}

/// All channels of some <= MR rows, known at run time.
template <int MR, class KV> inline void mix_rows(const AttentionRows<KV> &rows, const SeenEntries &seen, int r, int some) {
  constexpr int NV = MIX_SUMS / MR >= 8 ? 8 : MIX_SUMS / MR >= 4 ? 4 : 2;
  if constexpr (MR <= FEW_ROWS) {
    if (some == MR && seen.plain) return mix_channels<MR, NV, true>(rows, seen, r, 0);
  }
  if (some == MR) return mix_channels<MR, NV, false>(rows, seen, r, 0);
  if constexpr (MR > 1) mix_rows<MR - 1>(rows, seen, r, some);
}

/// o = o * old + mixed * now, or a copy of the first tile.
template <class KV> inline void merge(AttentionRows<KV> &rows, int r, float maximum, float total) {
  const size_t head_dim = rows.args->head_dim;
  const float *mixed = rows.mixed + r * head_dim;
  float *o = rows.o[r];
  if (!(rows.started >> r & 1)) {
    rows.started |= 1u << r;
    rows.largest[r] = maximum;
    rows.total[r] = total;
    memcpy(o, mixed, head_dim * sizeof *o);
    return;
  }
  const F32V before = splat(rows.largest[r]), tile = splat(maximum), larger = max(before, tile);
  const F32V old = exp(sub(before, larger)), now = exp(sub(tile, larger));
  rows.largest[r] = max_lane(larger);
  rows.total[r] = max_lane(fma(splat(rows.total[r]), old, mul(splat(total), now)));
  size_t c = 0;
  for (; c + LANES <= head_dim; c += LANES) store(o + c, fma(load(o + c), old, mul(load(mixed + c), now)));
  if (c < head_dim) {
    const size_t n = head_dim - c;
    store_n(o + c, fma(load_n(o + c, n), old, mul(load_n(mixed + c, n), now)), n);
  }
}

template <class KV> inline void attend_tile(AttentionRows<KV> &rows, size_t begin, size_t end) {
  const DogeAttentionArgs *a = rows.args;
  SeenEntries seen;
  uint32_t any = 0;
  for (size_t place = 0; begin + place < end; place += SEEN_CHUNK) {
    find_seen(seen, rows, begin, end, place);
    score(rows, seen);
    any |= seen.any;
  }
  if (!any) return;

  float maximum[DOGE_ATTENTION_ROWS], total[DOGE_ATTENTION_ROWS];
  const size_t length = end - begin;
  for (int r = 0; r < rows.n; ++r) maximum[r] = weigh(rows.p + r * length, length);
  int r = 0;
  for (; r + 8 <= rows.n; r += 8) add_up<8>(total + r, rows.p + r * length, length);
  for (; r < rows.n; ++r) add_up<1>(total + r, rows.p + r * length, length);

  memset(rows.mixed, 0, rows.n * a->head_dim * sizeof(float));
  for (size_t place = 0; begin + place < end; place += SEEN_CHUNK) {
    if (end - begin > SEEN_CHUNK) find_seen(seen, rows, begin, end, place); // else it is still at hand
    for (r = 0; r < rows.n; r += MIX_ROWS) {
      mix_rows<MIX_ROWS>(rows, seen, r, rows.n - r < MIX_ROWS ? rows.n - r : MIX_ROWS);
    }
  }
  for (r = 0; r < rows.n; ++r) {
    if (any >> r & 1) merge(rows, r, maximum[r], total[r]);
  }
}

template <class KV> void dynamic_mask_attention(const DogeAttentionArgs *a) {
  size_t longest = 0;
  for (size_t i = 0; i < a->n_tiles; ++i) {
    const size_t length = a->tile_begin[i + 1] - a->tile_begin[i];
    if (length > longest) longest = length;
  }
  const size_t n_rows = a->n_queries * a->n_heads;
  for (size_t first = 0; first < n_rows; first += DOGE_ATTENTION_ROWS) {
    AttentionRows<KV> rows;
    rows.args = a;
    rows.k = (const KV *)a->k;
    rows.v = (const KV *)a->v;
    rows.first = first;
    rows.n = n_rows - first < DOGE_ATTENTION_ROWS ? (int)(n_rows - first) : DOGE_ATTENTION_ROWS;
    rows.all = (1u << rows.n) - 1;
    rows.started = 0;
    rows.mixed = a->scratch;
    rows.p = a->scratch + DOGE_ATTENTION_ROWS * a->head_dim;
    for (int r = 0; r < rows.n; ++r) {
      const size_t query = (first + r) / a->n_heads, head = (first + r) % a->n_heads;
      rows.q[r] = a->q + query * a->q_stride + head * a->head_dim;
      rows.o[r] = a->out + query * a->out_stride + head * a->head_dim;
    }
    for (size_t i = 0; i < a->n_tiles; ++i) attend_tile(rows, a->tile_begin[i], a->tile_begin[i + 1]);

    for (int r = 0; r < rows.n; ++r) {
      const bool sees = rows.started >> r & 1;
      const F32V total = splat(sees ? rows.total[r] : 1.0f);
      for (size_t c = 0; c < a->head_dim; c += LANES) {
        const size_t n = a->head_dim - c < LANES ? a->head_dim - c : LANES;
        store_n(rows.o[r] + c, sees ? div(load_n(rows.o[r] + c, n), total) : zero(), n);
      }
    }
  }
}

} // namespace
