// Integer weights row by row: the looked-up row of an embedding table, and the experts. Quants become floats in registers;
// q * scale is exact in f32, so everything here has the bits of the same op on the widened table.
#pragma once

namespace {

constexpr int GROUP_VECTORS = (int)(GROUP / LANES);

inline float scale_of(const unsigned char *p) {
  uint16_t bits;
  memcpy(&bits, p, 2);
  return float_of_bits((uint32_t)bits << 16);
}

/// Vector v of a group of a row.
template <class Q> inline F32V load_quants(const unsigned char *group, int v) {
  if constexpr (Q::QUADS == 1) return load_int8(group + (size_t)v * LANES);
  const size_t column = (size_t)v * LANES;
  return column < 16 ? load_low(group + column) : load_high(group + column - 16);
}

/// out[c] = table[row][c], c < n; the table is in tiles.
template <class Q> void embed_row_int(float *out, const void *table, size_t row, size_t n) {
  const unsigned char *tile = (const unsigned char *)table + row / TILE * Q::tile(n);
  const size_t r = row % TILE;
  for (size_t g = 0; g * GROUP < n; ++g) {
    const unsigned char *block = tile + g / 2 * Q::BLOCK, *lines = block + BLOCK_SCALES + g % 2 * Q::TILE_GROUP;
    unsigned char group[Q::ROW_GROUP];
    for (size_t l = 0; l < Q::LINES; ++l) memcpy(group + 4 * l, lines + l * LINE + 4 * r, 4);
    const F32V scale = splat(scale_of(block + (g % 2 * TILE + r) * 2));
    for (int v = 0; v < GROUP_VECTORS; ++v) {
      const size_t c = g * GROUP + (size_t)v * LANES;
      const F32V w = mul(load_quants<Q>(group, v), scale);
      if (c + LANES <= n) {
        store(out + c, w);
      } else if (c < n) {
        store_n(out + c, w, n - c);
      }
    }
  }
}

/// Experts at a time: as many scattered reads are under way at once.
constexpr size_t INT_EXPERTS = 8;

/// hit[e] = dot(row e, x), in the order of dot_tile.inl.
template <class Q, int N> inline void int_row_dots(float *hit, const unsigned char *const *rows, const float *x, size_t cols) {
  const size_t groups = groups_of(cols);
  F32V acc[N];
  for (int e = 0; e < N; ++e) acc[e] = zero();
  for (size_t g = 0; g < groups; ++g) {
    F32V scale[N];
    for (int e = 0; e < N; ++e) scale[e] = splat(scale_of(rows[e] + groups * Q::ROW_GROUP + 2 * g));
    for (int v = 0; v < GROUP_VECTORS; ++v) {
      const size_t c = g * GROUP + (size_t)v * LANES;
      if (c >= cols) break;
      const F32V xs = c + LANES <= cols ? load(x + c) : load_n(x + c, cols - c);
      for (int e = 0; e < N; ++e) acc[e] = fma(mul(load_quants<Q>(rows[e] + g * Q::ROW_GROUP, v), scale[e]), xs, acc[e]);
    }
  }
  for (int e = 0; e < N; ++e) hit[e] = sum(acc[e]);
}

template <class Q>
void expert_down_int(float *hit, const void *down_embed, const uint32_t *expert, const float *weight, const float *x, size_t cols,
                     size_t begin, size_t end, uint32_t act) {
  const unsigned char *table = (const unsigned char *)down_embed;
  size_t e = begin;
  for (; e + INT_EXPERTS <= end; e += INT_EXPERTS) {
    const unsigned char *rows[INT_EXPERTS];
    for (size_t i = 0; i < INT_EXPERTS; ++i) rows[i] = table + (size_t)expert[e + i] * Q::row(cols);
    int_row_dots<Q, INT_EXPERTS>(hit + e, rows, x, cols);
  }
  for (; e < end; ++e) {
    const unsigned char *row = table + (size_t)expert[e] * Q::row(cols);
    int_row_dots<Q, 1>(hit + e, &row, x, cols);
  }
  if (begin < end) gated_activation(hit + begin, hit + begin, weight + begin, end - begin, act);
}

/// y[c] += hit[0] * w[0][c] + ... one after another, for N experts, c in [begin, end).
template <class Q, int N>
inline void add_int_rows(float *y, const unsigned char *const *rows, const float *hit, size_t cols, size_t begin, size_t end) {
  const size_t groups = groups_of(cols);
  F32V h[N];
  for (int e = 0; e < N; ++e) h[e] = splat(hit[e]);
  for (size_t g = begin / GROUP; g * GROUP < end; ++g) {
    F32V scale[N];
    for (int e = 0; e < N; ++e) scale[e] = splat(scale_of(rows[e] + groups * Q::ROW_GROUP + 2 * g));
    for (int v = 0; v < GROUP_VECTORS; ++v) {
      const size_t c = g * GROUP + (size_t)v * LANES;
      if (c >= end) break;
      const bool whole = c + LANES <= end;
      F32V sum = whole ? load(y + c) : load_n(y + c, end - c);
      for (int e = 0; e < N; ++e) sum = fma(h[e], mul(load_quants<Q>(rows[e] + g * Q::ROW_GROUP, v), scale[e]), sum);
      whole ? store(y + c, sum) : store_n(y + c, sum, end - c);
    }
  }
}

template <class Q>
void expert_up_int(float *y, const void *up_embed, const uint32_t *expert, const float *hit, size_t n_experts, size_t cols,
                   size_t begin, size_t end) {
  const unsigned char *table = (const unsigned char *)up_embed;
  size_t e = 0;
  for (; e + INT_EXPERTS <= n_experts; e += INT_EXPERTS) {
    const unsigned char *rows[INT_EXPERTS];
    for (size_t i = 0; i < INT_EXPERTS; ++i) rows[i] = table + (size_t)expert[e + i] * Q::row(cols);
    add_int_rows<Q, INT_EXPERTS>(y, rows, hit + e, cols, begin, end);
  }
  for (; e < n_experts; ++e) {
    const unsigned char *row = table + (size_t)expert[e] * Q::row(cols);
    add_int_rows<Q, 1>(y, &row, hit + e, cols, begin, end);
  }
}

} // namespace
