// What dynamic_mask_attention.inl works on: a group of rows, the entries of a tile that they see, and where those stand in
// memory.
#pragma once

namespace {

constexpr int FEW_ROWS = 2;        // so few take k in order; more stand in the lanes
constexpr size_t SEEN_CHUNK = 256; // entries whose `seen` bits are at hand at a time

/// A group of (query, head) rows and its running state. KV is the format of k and v; X is what q and p are multiplied in: float,
/// with k and v widened to it, or Bf16.
template <class KV, class X> struct AttentionRows {
  const DogeAttentionArgs *args;
  const KV *k, *v;
  size_t first; // row of the block: query * n_heads + head
  int n;
  bool few, one_mask; // n <= FEW_ROWS; all rows have the same mask values
  uint32_t all;       // a bit for each row
  uint32_t started;   // a bit for each row that has merged a tile
  size_t columns;     // of head_dim: those that a lane of the sum takes at once, so elements or pairs
  const X *q[DOGE_ATTENTION_ROWS];
  float *o[DOGE_ATTENTION_ROWS];      // running sum of p * v
  float largest[DOGE_ATTENTION_ROWS]; // running maximum of the scores
  float total[DOGE_ATTENTION_ROWS];   // running sum of p
  float *p;         // scores, then their exponentials; few: [n][length of the tile], many: [length][ROWS]
  float *mixed;     // [n][head_dim]: the tile's sum of p * v
  float *q_columns; // many: [columns][ROWS]
  float *k_rows;    // many: room for SCORE_KEYS rows of k, of 16 in bf16
  uint32_t *entries; // room for two lists of `longest`, the entries of the longest tile
  size_t longest;
  size_t channels;  // head_dim, filled up to 32: there is room for so many in q_columns, mixed and k_rows
};

/// A run of entries inside a tile and which rows see each.
struct SeenEntries {
  size_t begin, n;
  size_t place, stride; // of the run in its tile; of a row in p
  uint32_t any, every;  // rows that see an entry of the run; that see each
  bool plain;           // every row sees each, and the entries stand one after another in k and v
  uint32_t rows[SEEN_CHUNK];
};

/// Where the entries of a run stand in k or v. In a plain run nothing is looked up, and here nothing is read twice: one more
/// load a row, from whatever table, costs a third of the speed at which rows stream by.
template <bool plain, class KV> struct EntryRows {
  const KV *first;
  const uint32_t *row;
  size_t stride;
  EntryRows(const KV *from, const DogeAttentionArgs *a, const SeenEntries &seen)
      : first(from + (plain ? a->row[seen.begin] * a->kv_stride : 0)), row(a->row + seen.begin), stride(a->kv_stride) {}
  const KV *operator[](size_t i) const { return first + (plain ? i : row[i]) * stride; }
};

/// Asks for the row of k or v where entry t stands. Few rows wait for memory: v is asked for while k is scored, and the next tile's k
/// while v is mixed, so that two streams are under way (Emerald Rapids: a fifth faster).
template <class KV> inline void ask_for(const KV *from, const DogeAttentionArgs *a, size_t t) {
  const char *const row = (const char *)(from + a->row[t] * a->kv_stride);
  for (size_t at = 0; at < a->head_dim * sizeof(KV); at += LINE) prefetch(row + at);
}

/// A bit for each row whose place is in the entry's interval, for every entry of the run. An interval of places is one of
/// rows. Without a branch, so that the compiler takes many entries at once.
template <class Rows> inline void rows_that_see(SeenEntries &seen, const Rows &rows) {
  const DogeAttentionArgs *a = rows.args;
  const auto smaller = [](uint32_t x, uint32_t y) { return x < y ? x : y; };
  const auto larger = [](uint32_t x, uint32_t y) { return x > y ? x : y; };
  const uint32_t n_heads = (uint32_t)a->n_heads, n = (uint32_t)rows.n;
  const uint32_t place0 = a->place0 + (uint32_t)(rows.first / a->n_heads), head0 = (uint32_t)(rows.first % a->n_heads);
  const auto first_row_at = [&](uint32_t place) { // or after it
    const uint32_t query = smaller(larger(place, place0) - place0, DOGE_ATTENTION_ROWS);
    return smaller(larger(query * n_heads, head0) - head0, n);
  };
  const uint32_t *from = a->seen_from + seen.begin, *until = a->seen_until + seen.begin;
  for (size_t i = 0; i < seen.n; ++i) {
    const uint32_t begin = first_row_at(from[i]), end = larger(begin, first_row_at(until[i]));
    seen.rows[i] = (1u << end) - (1u << begin);
  }
}

template <class Rows>
inline void find_seen(SeenEntries &seen, const Rows &rows, size_t tile_begin, size_t tile_end, size_t place) {
  const DogeAttentionArgs *a = rows.args;
  seen.place = place;
  seen.stride = tile_end - tile_begin;
  seen.begin = tile_begin + place;
  seen.n = tile_end - seen.begin < SEEN_CHUNK ? tile_end - seen.begin : SEEN_CHUNK;
  if (a->seen_from) rows_that_see(seen, rows);
  else
    for (size_t i = 0; i < seen.n; ++i) seen.rows[i] = rows.all;
  seen.any = 0;
  seen.every = rows.all;
  for (size_t i = 0; i < seen.n; ++i) {
    seen.any |= seen.rows[i];
    seen.every &= seen.rows[i];
  }
  const uint32_t *row = a->row + seen.begin;
  uint32_t elsewhere = 0;
  for (size_t i = 0; i < seen.n; ++i) elsewhere |= row[i] ^ (row[0] + (uint32_t)i);
  seen.plain = seen.every == rows.all && !elsewhere;
}

} // namespace
