// The sum of the integer formats: MR quantised rows of x against NT tiles of 16 outputs.
//
//   of each group   dot = sum_c q_w[c] * q_x[c], exact; then sum = fma((float)dot, w_scale * x_scale, sum), groups ascending
//
// Outputs run along the lanes, so nothing is summed across them, and the chain of an output is the same for every MR and NT
// and on every level with fma: gemv and gemm agree by construction. Lines are read in the order they lie in memory.
#pragma once

namespace {

constexpr int UNITS = (int)(TILE / LANES); // registers for the outputs of a tile

template <class Q, int MR, int NT>
inline void int_tile(F32V (&sum)[MR][NT * UNITS], const QuantizedRow *rows, const unsigned char *const *tiles, size_t blocks) {
  QuantizedRow x[MR];
  const unsigned char *w[NT];
  for (int m = 0; m < MR; ++m) x[m] = rows[m];
  for (int t = 0; t < NT; ++t) w[t] = tiles[t];
  for (int m = 0; m < MR; ++m)
    for (int n = 0; n < NT * UNITS; ++n) sum[m][n] = zero();

  for (size_t b = 0; b < blocks; ++b) {
    for (size_t half = 0; half < 2; ++half) {
      const size_t g = 2 * b + half;
      typename Q::Dot dot[MR][NT * UNITS];
      for (int m = 0; m < MR; ++m)
        for (int n = 0; n < NT * UNITS; ++n) dot[m][n] = Q::begin(x[m].offset + g);

#pragma GCC unroll INT_UNROLL // all of them at once cost a fifth on AVX2: they are spread over too many registers
      for (int l = 0; l < Q::LINES; ++l) {
        typename Q::Line line[NT * UNITS];
        for (int n = 0; n < NT * UNITS; ++n) {
          const unsigned char *group = w[n / UNITS] + BLOCK_SCALES + half * Q::TILE_GROUP;
          line[n] = Q::load(group + (size_t)l * LINE + (size_t)(n % UNITS) * LANES * 4);
        }
        for (int q = 0; q < Q::QUADS; ++q) {
          for (int m = 0; m < MR; ++m) {
            const typename Q::Quad quad = Q::broadcast(x[m].q + g * GROUP + (size_t)(l + 4 * q) * 4);
            for (int n = 0; n < NT * UNITS; ++n) dot[m][n] = Q::dot(dot[m][n], line[n].quad[q], quad);
          }
        }
      }

      F32V scale[NT * UNITS];
      for (int n = 0; n < NT * UNITS; ++n) {
        scale[n] = load((const Bf16 *)w[n / UNITS] + half * TILE + (size_t)(n % UNITS) * LANES);
      }
      for (int m = 0; m < MR; ++m) {
        const F32V x_scale = splat(x[m].scale[g]);
        for (int n = 0; n < NT * UNITS; ++n) {
          sum[m][n] = fma(Q::finish(dot[m][n], x[m].offset + g), mul(scale[n], x_scale), sum[m][n]);
        }
      }
    }
    for (int t = 0; t < NT; ++t) w[t] += Q::BLOCK;
  }
}

/// Writes the outputs of one tile that are below `end`, with their bias. `o` is the tile's first output.
inline void store_tile(float *out, const F32V *sum, const float *bias, size_t o, size_t end) {
  for (int u = 0; u < UNITS && o < end; ++u, o += LANES) {
    if (end - o >= LANES) {
      store(out + o, bias ? add(sum[u], load(bias + o)) : sum[u]);
    } else {
      store_n(out + o, bias ? add(sum[u], load_n(bias + o, end - o)) : sum[u], end - o);
    }
  }
}

} // namespace
