// score = dot(q, k) * scale + mask[t];  out = sum_t softmax(score)_t v_t over the entries t that the query sees
//
// Plan: the (query, head) rows of the block in groups of DOGE_ATTENTION_ROWS, so that one pass over the keys serves them all.
// Per group and tile of keys:
//   seen     per entry one bit a row: from <= place < until is an interval of places, so an interval of rows
//   score    the dots (attention_score.inl), then scale and mask, and -infinity where not seen
//   weigh    the tile's maximum, p = exp(score - maximum), its sum in entry order
//   mix      o[c] = fma(p_t, v_t[c], o[c]), entry after entry, channels in lanes; an unseen entry is passed over, not added
//            as 0 * v, which could be NaN or turn a -0 into +0
//   merge    the running (maximum, total, o) of the row and the tile's, both scaled to the larger maximum
// Many rows stand in the lanes from the score to the sum: then no step but the mix looks across lanes. Of few rows the entries
// do. Every step works on one row as if it were alone: hence the bits don't depend on the block. The running o stands in `out`.
// k and v are widened as they are read; everything else is f32. Or q, k, p and v are bf16, and each step of a sum takes a pair, or,
// on AMX, as many as attention_bf16_amx.inl says.
// Cost: 4 * head_dim flops per (row, entry), and one read of k and v per group.
#pragma once

#include "attention_rows.inl"

#include "attention_score.inl"

#include "attention_mix.inl"

namespace {

/// p as it is multiplied: as it is, or rounded to bf16.
template <class X> inline F32V weight_of(F32V score, F32V maximum) {
  const F32V p = exp(sub(score, maximum));
  if constexpr (Step<X>::COLS == LANES) return p;
  else return round_bf16(p);
}

/// p = exp(p - maximum) of a row of n scores; returns the maximum.
template <class X> inline float weigh(float *p, size_t n) {
  F32V lanes = splat(-INFINITY);
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) lanes = max(load(p + i), lanes);
  if (i < n) lanes = max(load_or(p + i, n - i, -INFINITY), lanes);
  const float maximum = max_lane(lanes);
  const F32V largest = splat(maximum);
  for (i = 0; i + LANES <= n; i += LANES) store(p + i, weight_of<X>(load(p + i), largest));
  if (i < n) store_n(p + i, weight_of<X>(load_n(p + i, n - i), largest), n - i);
  return maximum;
}

/// The sum of a row of p, one entry after another: so unseen entries, which are 0, change nothing.
inline float add_up(const float *p, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) sum += p[i];
  return sum;
}

/// Both for many rows; p is [n][DOGE_ATTENTION_ROWS], and becomes [pairs of n][DOGE_ATTENTION_ROWS] of bf16.
template <class X> inline void weigh_many(float *maximum, float *total, float *p, size_t n) {
  for (size_t r = 0; r < DOGE_ATTENTION_ROWS; r += LANES) {
    F32V largest = splat(-INFINITY), sums = zero();
    const auto at = [&](size_t i) { return p + i * DOGE_ATTENTION_ROWS + r; };
    for (size_t i = 0; i < n; ++i) largest = max(load(at(i)), largest);
    const auto weight = [&](size_t i) {
      const F32V w = weight_of<X>(load(at(i)), largest);
      sums = add(sums, w);
      return w;
    };
    if constexpr (Step<X>::COLS == LANES) {
      for (size_t i = 0; i < n; ++i) store(at(i), weight(i));
    } else {
      for (size_t i = 0; i < n; i += 2) {
        const F32V first = weight(i), second = i + 1 < n ? weight(i + 1) : zero();
        store_pairs(at(i / 2), pairs_of(first, second));
      }
    }
    store(maximum + r, largest);
    store(total + r, sums);
  }
}

/// How much the sums so far count beside the tile's, by the two maxima.
struct Merge {
  F32V largest, old, now;
  Merge(F32V before, F32V tile) : largest(max(before, tile)), old(exp(sub(before, largest))), now(exp(sub(tile, largest))) {}
};

/// o = o * old + mixed * now of row r, or a copy of the first tile.
template <class Rows> inline void merge_row(Rows &rows, int r, F32V old, F32V now) {
  const size_t head_dim = rows.args->head_dim;
  const float *mixed = rows.mixed + r * head_dim;
  float *o = rows.o[r];
  if (!(rows.started >> r & 1)) {
    memcpy(o, mixed, head_dim * sizeof *o);
    return;
  }
  size_t c = 0;
  for (; c + LANES <= head_dim; c += LANES) store(o + c, fma(load(o + c), old, mul(load(mixed + c), now)));
  if (c < head_dim) {
    const size_t n = head_dim - c;
    store_n(o + c, fma(load_n(o + c, n), old, mul(load_n(mixed + c, n), now)), n);
  }
}

/// The tile's sums of few rows, or of many, into those of the group; of the rows of `any`.
template <class Rows> inline void merge_few(Rows &rows, uint32_t any, const float *maximum, const float *total) {
  for (int r = 0; r < rows.n; ++r) {
    if (!(any >> r & 1)) continue;
    const bool started = rows.started >> r & 1;
    const Merge by(splat(started ? rows.largest[r] : -INFINITY), splat(maximum[r]));
    merge_row(rows, r, by.old, by.now);
    rows.total[r] = started ? max_lane(fma(splat(rows.total[r]), by.old, mul(splat(total[r]), by.now))) : total[r];
    rows.largest[r] = max_lane(by.largest);
  }
}
template <class Rows> inline void merge_many(Rows &rows, uint32_t any, const float *maximum, const float *total) {
  float old[DOGE_ATTENTION_ROWS], now[DOGE_ATTENTION_ROWS];
  for (size_t r = 0; r < DOGE_ATTENTION_ROWS; r += LANES) {
    const MaskV these = lanes_of(any >> r), started = lanes_of(rows.started >> r);
    const F32V before = load(rows.largest + r), sum = load(total + r);
    const Merge by(select(started, before, splat(-INFINITY)), load(maximum + r));
    const F32V both = select(started, fma(load(rows.total + r), by.old, mul(sum, by.now)), sum);
    store(rows.total + r, select(these, both, load(rows.total + r)));
    store(rows.largest + r, select(these, by.largest, before));
    store(old + r, by.old);
    store(now + r, by.now);
  }
  for (int r = 0; r < rows.n; ++r) {
    if (any >> r & 1) merge_row(rows, r, splat(old[r]), splat(now[r]));
  }
}

template <class KV, class X> inline void attend_tile(AttentionRows<KV, X> &rows, size_t begin, size_t end) {
  const DogeAttentionArgs *a = rows.args;
  SeenEntries seen;
  uint32_t any = 0;
  for (size_t place = 0; begin + place < end; place += SEEN_CHUNK) {
    find_seen(seen, rows, begin, end, place);
    any |= seen.any;
    if (place + seen.n == end - begin) { // a block's own keys: half of them come after the group's queries
      while (seen.n > 0 && !seen.rows[seen.n - 1]) --seen.n;
    }
    if (!rows.few) score_many(rows, seen);
    else if (seen.plain) rows.n == 1 ? score_few<1, true>(rows, seen) : score_few<FEW_ROWS, true>(rows, seen);
    else rows.n == 1 ? score_few<1, false>(rows, seen) : score_few<FEW_ROWS, false>(rows, seen);
  }
  if (!any) return;

  float maximum[DOGE_ATTENTION_ROWS], total[DOGE_ATTENTION_ROWS];
  const size_t length = seen.place + seen.n, stride = seen.stride;
  if (!rows.few) weigh_many<X>(maximum, total, rows.p, length);
  else
    for (int r = 0; r < rows.n; ++r) {
      maximum[r] = weigh<X>(rows.p + r * stride, length);
      total[r] = add_up(rows.p + r * stride, length);
    }

  memset(rows.mixed, 0, rows.n * a->head_dim * sizeof(float));
  for (size_t place = 0; begin + place < end; place += SEEN_CHUNK) {
    if (end - begin > SEEN_CHUNK) find_seen(seen, rows, begin, end, place); // else it is still at hand
    if (rows.few) {
      rows.n == 1 ? mix_rows<1, true>(rows, seen, 0) : mix_rows<FEW_ROWS, true>(rows, seen, 0);
      continue;
    }
    for (int r = 0; r < rows.n; r += MIX_ROWS) {
      mix_some<MIX_ROWS>(rows, seen, r, rows.n - r < MIX_ROWS ? rows.n - r : MIX_ROWS);
    }
  }
  rows.few ? merge_few(rows, any, maximum, total) : merge_many(rows, any, maximum, total);
  rows.started |= any;
}

/// A row's q as it is multiplied: where it stands, or rounded.
template <class KV> inline void take_q(AttentionRows<KV, float> &rows, int r, const float *q, float *) { rows.q[r] = q; }
template <class KV> inline void take_q(AttentionRows<KV, Bf16> &rows, int r, const float *q, float *rounded) {
  const size_t head_dim = rows.args->head_dim;
  Bf16 *to = (Bf16 *)(rounded + r * rows.columns);
  round_row(to, q, head_dim);
  if (head_dim % 2) to[head_dim] = Bf16{}; // filled up to whole pairs
  rows.q[r] = to;
}

/// q as the scores take it.
template <class KV, class X> inline void lay_out_q(AttentionRows<KV, X> &rows) {
  if (!rows.few) turn_q(rows);
}

} // namespace

#ifdef __AMX_BF16__
#include "attention_bf16_amx.inl" // attend_tile and lay_out_q for bf16
#endif

namespace {

inline size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

template <class KV, class X> void attend(const DogeAttentionArgs *a) {
  size_t longest = 0;
  for (size_t i = 0; i < a->n_tiles; ++i) {
    const size_t length = a->tile_begin[i + 1] - a->tile_begin[i];
    if (length > longest) longest = length;
  }
  const size_t n_rows = a->n_queries * a->n_heads;
  for (size_t first = 0; first < n_rows; first += DOGE_ATTENTION_ROWS) {
    AttentionRows<KV, X> rows;
    rows.args = a;
    rows.k = (const KV *)a->k;
    rows.v = (const KV *)a->v;
    rows.first = first;
    rows.n = n_rows - first < DOGE_ATTENTION_ROWS ? (int)(n_rows - first) : DOGE_ATTENTION_ROWS;
    rows.all = (1u << rows.n) - 1;
    rows.started = 0;
    rows.few = rows.n <= FEW_ROWS;
    rows.one_mask = true;
    for (size_t h = 1; h < a->n_heads; ++h) rows.one_mask &= a->mask[h] == a->mask[0];
    rows.columns = Step<X>::COLS == LANES ? a->head_dim : (a->head_dim + 1) / 2;
    rows.q_columns = (float *)(((uintptr_t)a->scratch + 63) & ~(uintptr_t)63); // so that no vector of rows crosses a line
    rows.channels = round_up(a->head_dim, 32);
    rows.p = rows.q_columns + DOGE_ATTENTION_ROWS * rows.channels;
    rows.mixed = rows.p + DOGE_ATTENTION_ROWS * round_up(longest, 16);
    rows.k_rows = rows.mixed + DOGE_ATTENTION_ROWS * rows.channels;
    float *rounded = rows.k_rows + DOGE_ATTENTION_ROWS * rows.channels / 2;
    rows.entries = (uint32_t *)(rounded + DOGE_ATTENTION_ROWS * rows.channels / 2);
    rows.longest = longest;
    for (int r = 0; r < rows.n; ++r) {
      const size_t query = (first + r) / a->n_heads, head = (first + r) % a->n_heads;
      take_q(rows, r, a->q + query * a->q_stride + head * a->head_dim, rounded);
      rows.o[r] = a->out + query * a->out_stride + head * a->head_dim;
    }
    lay_out_q(rows);
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

template <class KV> void dynamic_mask_attention(const DogeAttentionArgs *a) { attend<KV, float>(a); }

void dynamic_mask_attention_bf16(const DogeAttentionArgs *a) {
  attend<Bf16, Bf16>(a);
#ifdef __AMX_BF16__
  _tile_release();
#endif
}

} // namespace
