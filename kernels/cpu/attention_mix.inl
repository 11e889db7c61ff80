// mixed += p * v over a run of entries: dynamic_mask_attention's third step. Channels stand in the lanes, and a tile of rows and
// channels in registers; entry after entry, of bf16 two in a step, the earlier one first.
#pragma once

namespace {

/// A row's weights of the entries that a step takes, and of one entry alone, beside which there is 0. p of few rows is
/// [row][entry], of many [entry][row], and of many in bf16 [pair of entries][row].
template <class X, bool few> struct Weights;
template <bool few> struct Weights<float, few> {
  const float *p;
  size_t stride;
  template <class KV>
  Weights(const AttentionRows<KV, float> &rows, const SeenEntries &seen, int r)
      : p(few ? rows.p + r * seen.stride + seen.place : rows.p + seen.place * DOGE_ATTENTION_ROWS + r), stride(seen.stride) {}
  F32V of(int m, size_t i) const { return splat(p[few ? m * stride + i : i * DOGE_ATTENTION_ROWS + m]); }
  F32V of_one(int m, size_t i) const { return of(m, i); }
};
template <bool few> struct Weights<Bf16, few> {
  const float *p;
  size_t stride;
  template <class KV>
  Weights(const AttentionRows<KV, Bf16> &rows, const SeenEntries &seen, int r)
      : p(few ? rows.p + r * seen.stride + seen.place : rows.p + seen.place / 2 * DOGE_ATTENTION_ROWS + r), stride(seen.stride) {}
  PairV of(int m, size_t i) const {
    if constexpr (few) return pairs_of(splat(p[m * stride + i]), splat(p[m * stride + i + 1]));
    else return splat_pair((const Bf16 *)(p + i / 2 * DOGE_ATTENTION_ROWS + m));
  }
  PairV of_one(int m, size_t i) const {
    if constexpr (few) return pairs_of(splat(p[m * stride + i]), zero());
    const PairV both = of(m, i);
    return pairs_of(i % 2 == 0 ? first_of(both) : second_of(both), zero());
  }
};

/// mixed[r..r+MR][c..c+channels] += p * v over a run of entries; channels = NV * LANES, or fewer than LANES and NV = 1.
template <int MR, int NV, bool few, bool plain, class KV, class X>
inline void mix_tile(const AttentionRows<KV, X> &rows, const SeenEntries &seen, int r, size_t c, size_t channels) {
  using S = Step<X>;
  using V = typename S::V;
  constexpr size_t ENTRIES = S::COLS / LANES; // that a step takes
  constexpr uint32_t ALL = (1u << MR) - 1;
  const size_t head_dim = rows.args->head_dim;
  const bool whole = channels == NV * LANES;
  float *o = rows.mixed + r * head_dim + c;
  F32V acc[MR][NV];
  for (int m = 0; m < MR; ++m)
    for (int j = 0; j < NV; ++j) {
      const float *from = o + m * head_dim + j * LANES;
      acc[m][j] = whole ? load(from) : load_n(from, channels);
    }

  const Weights<X, few> p(rows, seen, r);
  const EntryRows<plain, KV> v_rows(rows.v, rows.args, seen);
  const auto seen_by = [&](size_t i) { return plain ? ALL : seen.rows[i] >> r & ALL; };
  const auto all_see = [&](size_t i) {
    if (ENTRIES == 1) return i < seen.n && seen_by(i) == ALL;
    return i % 2 == 0 && i + 2 <= seen.n && seen_by(i) == ALL && seen_by(i + 1) == ALL; // p stands in pairs from an even place on
  };
  for (size_t i = 0; i < seen.n;) {
    for (; all_see(i); i += ENTRIES) {
      if constexpr (few) {
        const size_t later = seen.begin + seen.n + i;
        for (size_t e = 0; c == 0 && e < ENTRIES; ++e)
          if (later + e < rows.args->tile_begin[rows.args->n_tiles]) ask_for(rows.k, rows.args, later + e);
      }
      V vs[NV];
      for (int j = 0; j < NV; ++j) {
        const size_t at = c + j * LANES;
        const KV *v = v_rows[i] + at;
        if constexpr (ENTRIES == 1) vs[j] = whole ? load(v) : load_n(v, channels);
        else vs[j] = whole ? pairs_of(v, v_rows[i + 1] + at) : pairs_of_n(v, v_rows[i + 1] + at, channels);
      }
      for (int m = 0; m < MR; ++m) {
        const V ps = p.of(m, i);
        for (int j = 0; j < NV; ++j) acc[m][j] = S::add(vs[j], ps, acc[m][j]);
      }
    }
    // Entries that only some rows see, one by one. No branch for each row: most would be mispredicted.
    for (; i < seen.n && !all_see(i); ++i) {
      const uint32_t by = seen_by(i);
      if (!by) continue;
      V vs[NV];
      for (int j = 0; j < NV; ++j) {
        const F32V v = whole ? load(v_rows[i] + c + j * LANES) : load_n(v_rows[i] + c, channels);
        if constexpr (ENTRIES == 1) vs[j] = v;
        else vs[j] = pairs_of(v, neg(zero())); // times the 0 beside the weight: -0, which changes no sum, not even -0
      }
      for (int m = 0; m < MR; ++m) {
        const MaskV sees = lanes_of(0 - (by >> m & 1));
        for (int j = 0; j < NV; ++j) acc[m][j] = select(sees, S::add(vs[j], p.of_one(m, i), acc[m][j]), acc[m][j]);
      }
    }
  }

  for (int m = 0; m < MR; ++m)
    for (int j = 0; j < NV; ++j) {
      if (whole) store(o + m * head_dim + j * LANES, acc[m][j]);
      else store_n(o + m * head_dim, acc[m][j], channels);
    }
}

/// All channels from c on, NV vectors at a time, the rest by fewer.
template <int MR, int NV, bool few, bool plain, class KV, class X>
inline void mix_channels(const AttentionRows<KV, X> &rows, const SeenEntries &seen, int r, size_t c) {
  const size_t head_dim = rows.args->head_dim;
  for (; c + NV * LANES <= head_dim; c += NV * LANES) mix_tile<MR, NV, few, plain>(rows, seen, r, c, NV * LANES);
  if constexpr (NV > 1) mix_channels<MR, NV / 2, few, plain>(rows, seen, r, c);
  else if (c < head_dim) mix_tile<MR, 1, few, plain>(rows, seen, r, c, head_dim - c);
}

/// All channels of MR rows.
template <int MR, bool few, class KV, class X>
inline void mix_rows(const AttentionRows<KV, X> &rows, const SeenEntries &seen, int r) {
  constexpr int NV = MIX_SUMS / MR >= 8 ? 8 : MIX_SUMS / MR >= 4 ? 4 : 2;
  if constexpr (few) {
    if (seen.plain) return mix_channels<MR, NV, few, true>(rows, seen, r, 0);
  }
  mix_channels<MR, NV, few, false>(rows, seen, r, 0);
}

/// All channels of some <= MR rows of many, known at run time.
template <int MR, class KV, class X>
inline void mix_some(const AttentionRows<KV, X> &rows, const SeenEntries &seen, int r, int some) {
  if (some == MR) return mix_rows<MR, false>(rows, seen, r);
  if constexpr (MR > 1) mix_some<MR - 1>(rows, seen, r, some);
}

} // namespace
