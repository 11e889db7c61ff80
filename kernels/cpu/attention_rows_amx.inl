// Which rows of dynamic_mask_attention_bf16 are taken through a tile together on AMX, and through which of its entries.
//
// Where an entry stands among 32 decides the bits of a row's sum: it is counted among those that the row sees. So rows go together
// if what each of them sees begins alike, as it does for queries one after another: beyond its end a row's p are 0, which add
// nothing. Where some see a newcomer in the place of another key, the tile is gone through once for these and once for the others.
// Times an infinity or NaN a 0 adds something, and then rows go together only if all of them see it, or none.
#pragma once

namespace {

using Bf16Rows = AttentionRows<Bf16, Bf16>;

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

/// Do some rows see the i-th entry of the list and others not, so that these cannot go together?
inline bool divides(const AmxEntries &list, const Bf16Rows &rows, size_t i) {
  const uint32_t by = list.by[i], newcomer = i + 1 < list.n ? list.by[i + 1] & ~by : 0;
  return by != list.rows && (newcomer || !all_finite(row_at(rows.v, rows.args, list.at[i]), rows.args->head_dim));
}

/// Keeps of the list's rows the first, and those that can be taken together with it.
inline void part(AmxEntries &list, const Bf16Rows &rows, size_t begin, size_t end) {
  collect(list, rows, begin, end);
  for (size_t i = 0; i < list.n && !list.uniform;) {
    if (!divides(list, rows, i)) {
      ++i;
      continue;
    }
    const uint32_t by = list.by[i], lowest = list.rows & (0 - list.rows);
    list.rows &= by & lowest ? by : ~by;
    collect(list, rows, begin, end);
    i = 0;
  }
}

} // namespace
