// score = dot(q, k) * scale + mask, and -infinity where a row does not see the entry: dynamic_mask_attention's first step.
//
// Few rows: tiles of the one sum (dot_tile.inl) along head_dim, entry after entry: k is read once and in order, as memory
// likes it best. Many rows stand in the lanes, with q turned by columns once for the group and an element of k for all of them:
// a short sum needs no folding then, which costs half as much as the products of 128 columns. The sums are those of dot_tile
// all the same: what one of its lanes adds up is a sum of its own here, and its tree over the lanes adds these.
#pragma once

namespace {

/// acc[j][u] = what the lanes l, l + step, l + 2 step ... of dot_tile's sum hold of dot(q of rows u, k[j]), added by its tree.
/// A column is what a lane takes at once: of bf16 a pair.
template <class S, size_t l, size_t step, int KEYS, int VECTORS>
[[gnu::always_inline]] inline void lane_sums(F32V (&acc)[KEYS][VECTORS], const float *q,
                                             const typename S::Stored *const (&k)[KEYS], size_t columns) {
  const auto add_column = [&](F32V (&sums)[KEYS][VECTORS], size_t c) {
    typename S::V qs[VECTORS];
    for (int u = 0; u < VECTORS; ++u) qs[u] = S::side_by_side(q + c * DOGE_ATTENTION_ROWS + u * LANES);
    for (int j = 0; j < KEYS; ++j) {
      const typename S::V ks = S::spread(k[j] + c * (S::COLS / LANES));
      for (int u = 0; u < VECTORS; ++u) sums[j][u] = S::add(ks, qs[u], sums[j][u]);
    }
  };
  const auto add_all = [&](const F32V (&other)[KEYS][VECTORS]) {
    for (int j = 0; j < KEYS; ++j)
      for (int u = 0; u < VECTORS; ++u) acc[j][u] = add(acc[j][u], other[j][u]);
  };
  F32V other[KEYS][VECTORS];
  if constexpr (2 * step >= LANES) { // both lanes at once: twice as many sums under way
    for (int j = 0; j < KEYS; ++j)
      for (int u = 0; u < VECTORS; ++u) acc[j][u] = other[j][u] = zero();
    size_t c = l;
    for (; c + step < columns; c += LANES) {
      add_column(acc, c);
      if constexpr (step < LANES) add_column(other, c + step);
    }
    if (c < columns) add_column(acc, c);
    if constexpr (step < LANES) add_all(other);
  } else {
    lane_sums<S, l, 2 * step>(acc, q, k, columns);
    lane_sums<S, l + step, 2 * step>(other, q, k, columns);
    add_all(other);
  }
}

/// q of many rows by columns, [columns][DOGE_ATTENTION_ROWS]; 0 for rows that are not there. Read as F32, since it may be pairs.
template <class KV, class X> inline void turn_q(AttentionRows<KV, X> &rows) {
  for (size_t r = 0; r < DOGE_ATTENTION_ROWS; r += LANES)
    for (size_t c = 0; c < rows.columns; c += LANES) {
      const size_t some = rows.columns - c < LANES ? rows.columns - c : LANES;
      F32V block[LANES];
      for (size_t i = 0; i < LANES; ++i) {
        block[i] = r + i < (size_t)rows.n ? load_n((const F32 *)rows.q[r + i] + c, some) : zero();
      }
      transpose(block);
      for (size_t i = 0; i < some; ++i) store(rows.q_columns + (c + i) * DOGE_ATTENTION_ROWS + r, block[i]);
    }
}

/// An entry's row of k as the sum takes it: where it stands, or copied to `to`, widened to f32 or filled up to whole pairs.
inline const F32 *row_of_columns(Step<float>, const F32 *k, float *, size_t) { return k; }
template <class KV> inline const F32 *row_of_columns(Step<float>, const KV *k, float *to, size_t n) {
  size_t c = 0;
  for (; c + LANES <= n; c += LANES) store(to + c, load(k + c));
  if (c < n) store_n(to + c, load_n(k + c, n - c), n - c);
  return (const F32 *)to;
}
inline const Bf16 *row_of_columns(Step<Bf16>, const Bf16 *k, float *to, size_t n) {
  if (n % 2 == 0) return k;
  Bf16 *padded = (Bf16 *)to;
  memcpy(padded, k, n * sizeof *padded);
  padded[n] = Bf16{};
  return padded;
}

/// The mask values of an entry for the rows of a vector.
template <class KV, class X> inline F32V mask_of_rows(const AttentionRows<KV, X> &rows, size_t t, size_t r) {
  const DogeAttentionArgs *a = rows.args;
  if (rows.one_mask) return splat(a->mask[0][t]);
  float values[LANES];
  for (size_t i = 0; i < LANES; ++i) values[i] = a->mask[(rows.first + r + i) % a->n_heads][t];
  return load(values);
}

/// The scores of KEYS entries from the i-th of the run on, for all rows.
template <int KEYS, class KV, class X>
inline void entry_scores(const AttentionRows<KV, X> &rows, const SeenEntries &seen, size_t i) {
  constexpr int ALL_VECTORS = DOGE_ATTENTION_ROWS / LANES, VECTORS = ALL_VECTORS < SCORE_VECTORS ? ALL_VECTORS : SCORE_VECTORS;
  const size_t head_dim = rows.args->head_dim;
  float *p = rows.p + (seen.place + i) * DOGE_ATTENTION_ROWS;
  uint32_t any = 0;
  for (int j = 0; j < KEYS; ++j) any |= seen.rows[i + j];
  if (!any) {
    for (size_t r = 0; r < KEYS * DOGE_ATTENTION_ROWS; r += LANES) store(p + r, splat(-INFINITY));
    return;
  }
  const EntryRows<false, KV> entries(rows.k, rows.args, seen);
  const typename Step<X>::Stored *k[KEYS];
  for (int j = 0; j < KEYS; ++j) k[j] = row_of_columns(Step<X>{}, entries[i + j], rows.k_rows + j * (head_dim + 1), head_dim);
  const F32V scale = splat(rows.args->scale);
  for (size_t r = 0; r < DOGE_ATTENTION_ROWS; r += VECTORS * LANES) {
    F32V acc[KEYS][VECTORS];
    lane_sums<Step<X>, 0, 1>(acc, rows.q_columns + r, k, rows.columns);
    for (int j = 0; j < KEYS; ++j)
      for (int u = 0; u < VECTORS; ++u) {
        const size_t at = r + u * LANES;
        const F32V score = fma(acc[j][u], scale, mask_of_rows(rows, seen.begin + i + j, at));
        const uint32_t by = seen.rows[i + j];
        store(p + j * DOGE_ATTENTION_ROWS + at, by == rows.all ? score : select(lanes_of(by >> at), score, splat(-INFINITY)));
      }
  }
}

/// p of many rows, [entries][DOGE_ATTENTION_ROWS].
template <class KV, class X> inline void score_many(const AttentionRows<KV, X> &rows, const SeenEntries &seen) {
  size_t i = 0;
  for (; i + SCORE_KEYS <= seen.n; i += SCORE_KEYS) entry_scores<SCORE_KEYS>(rows, seen, i);
  for (; i < seen.n; ++i) entry_scores<1>(rows, seen, i);
}

/// p of MR = rows.n rows, [MR][entries].
template <int MR, bool plain, class KV, class X>
inline void score_few(const AttentionRows<KV, X> &rows, const SeenEntries &seen) {
  const EntryRows<plain, KV> k(rows.k, rows.args, seen);
  const size_t n = seen.n, stride = seen.stride, head_dim = rows.args->head_dim;
  float *p = rows.p + seen.place;
  for (size_t i = 0; i < n; ++i) {
    const KV *row = k[i];
    ask_for(rows.v, rows.args, seen.begin + i);
    dot_tile<MR, 1>(p + i, stride, 0, rows.q, &row, head_dim);
  }
  const F32V scale = splat(rows.args->scale);
  for (int r = 0; r < MR; ++r, p += stride) {
    const float *mask = rows.args->mask[(rows.first + r) % rows.args->n_heads] + seen.begin;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(p + i, fma(load(p + i), scale, load(mask + i)));
    if (i < n) store_n(p + i, fma(load_n(p + i, n - i), scale, load_n(mask + i, n - i)), n - i);
    if (seen.every >> r & 1) continue;
    for (i = 0; i < n; ++i) p[i] = seen.rows[i] >> r & 1 ? p[i] : -INFINITY;
  }
}

} // namespace
