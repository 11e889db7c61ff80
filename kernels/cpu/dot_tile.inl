// The one sum of this house: a tile of dot products, which gemv, gemm, the experts, the mask score and the attention scores
// are all made of.
//
//   out[m * row_stride + n * col_stride] = sum_c w[n][c] * x[m][c], c < cols
//
// x is [MR] rows of f32, w is [NR] rows in stored format; both are given row by row, so they may lie anywhere. Or x and w are
// both bf16, and a step of the sum takes a pair of columns in each lane: twice the work for the level that has an
// instruction for it.
//
// The lanes run along c. Every output has one vector accumulator, acc = fma(w, x, acc) in ascending c, a masked step at the
// end, then the lane header's `sum` tree. Nothing in that depends on MR and NR, so the bits of an output are the same in
// every tile shape: gemv (1 x 8) and gemm (TILE_ROWS x TILE_COLS) agree by construction, and no row needs packing.
// Cost: MR * NR fma for MR + NR loads; MR * NR >= 8 hides the latency of fma. 97 % of the fma peak on Zen 4 (1024 columns,
// x in the L1 cache, w from L2).
#pragma once

namespace {

/// A step of the sum, by the type of x: the columns it takes, and what becomes of them. `whole`: all of them are there.
template <class X> struct Step;
template <> struct Step<float> {
  using V = F32V;
  static constexpr size_t COLS = LANES;
  template <bool whole, class P> static V read(const P *p, size_t n) {
    if constexpr (whole) return load(p);
    else return load_n(p, n);
  }
  static F32V add(V w, V x, F32V sum) { return fma(w, x, sum); }
  using Stored = F32;
  /// What a lane takes at once: the same for all lanes, or of LANES rows side by side.
  static V spread(const F32 *p) {
    float x;
    memcpy(&x, p, 4);
    return splat(x);
  }
  static V side_by_side(const float *p) { return load(p); }
};
template <> struct Step<Bf16> {
  using V = PairV;
  static constexpr size_t COLS = 2 * LANES;
  template <bool whole> static V read(const Bf16 *p, size_t n) {
    if constexpr (whole) return load_pairs(p);
    else return load_pairs_n(p, n);
  }
  static F32V add(V w, V x, F32V sum) { return dot_pairs(w, x, sum); }
  using Stored = Bf16;
  static V spread(const Bf16 *p) { return splat_pair(p); }
  static V side_by_side(const float *p) { return load_pairs(p); }
};

/// One step of all sums: columns c .. c+COLS, or c .. c+n of the tail. The shorter side of the tile is held in registers,
/// the longer one passes through one of them. Always inlined: the sums are registers.
template <bool whole, int MR, int NR, class W, class X>
[[gnu::always_inline]] inline void dot_step(F32V (&acc)[MR][NR], const X *const (&x)[MR], const W *const (&w)[NR], size_t c,
                                            size_t n_cols) {
  using S = Step<X>;
  using V = typename S::V;
  if constexpr (MR < NR) {
    V xs[MR];
    for (int m = 0; m < MR; ++m) xs[m] = S::template read<whole>(x[m] + c, n_cols);
    for (int n = 0; n < NR; ++n) {
      const V ws = S::template read<whole>(w[n] + c, n_cols);
      for (int m = 0; m < MR; ++m) acc[m][n] = S::add(ws, xs[m], acc[m][n]);
    }
  } else {
    V ws[NR];
    for (int n = 0; n < NR; ++n) ws[n] = S::template read<whole>(w[n] + c, n_cols);
    for (int m = 0; m < MR; ++m) {
      const V xs = S::template read<whole>(x[m] + c, n_cols);
      for (int n = 0; n < NR; ++n) acc[m][n] = S::add(ws[n], xs, acc[m][n]);
    }
  }
}

/// Writes the sums of the tile, row by row, from the i-th on: eight at once cost little more than one, and go straight into
/// out where four lie side by side. A recursion, not a loop: where an index is not constant, the tile goes through memory.
template <int i, int MR, int NR>
[[gnu::always_inline]] inline void store_sums(float *out, size_t row_stride, size_t col_stride, const F32V (&acc)[MR][NR]) {
  constexpr int left = MR * NR - i, some = left >= 8 ? 8 : left >= 4 ? 4 : 1;
  const bool straight = NR % 4 == 0 && col_stride == 1;
  float sums[8];
  const auto at = [&](int j) { return acc[(i + j) / NR][(i + j) % NR]; };
  const auto place = [&](int j) { return out + (i + j) / NR * row_stride + (i + j) % NR * col_stride; };
  const auto to = [&](int j) { return straight ? place(j) : sums + j; };
  if constexpr (some == 8) sum8(to(0), to(4), at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  if constexpr (some == 4) sum4(to(0), at(0), at(1), at(2), at(3));
  if constexpr (some == 1) *to(0) = sum(at(0));
  if (!straight)
    for (int j = 0; j < some; ++j) *place(j) = sums[j];
  if constexpr (left > some) store_sums<i + some>(out, row_stride, col_stride, acc);
}

/// Adds columns begin..end to the sums.
template <int MR, int NR, class W, class X>
[[gnu::always_inline]] inline void dot_steps(F32V (&acc)[MR][NR], const X *const *x_rows, const W *const *w_rows, size_t begin,
                                             size_t end) {
  constexpr size_t COLS = Step<X>::COLS;
  const X *x[MR];
  const W *w[NR];
  for (int m = 0; m < MR; ++m) x[m] = x_rows[m];
  for (int n = 0; n < NR; ++n) w[n] = w_rows[n];
  size_t c = begin;
  for (; c + COLS <= end; c += COLS) dot_step<true>(acc, x, w, c, COLS);
  if (c < end) dot_step<false>(acc, x, w, c, end - c);
}

/// Always inlined: a call, and pointers that go through memory, cost as much as a row of 256 columns.
template <int MR, int NR, class W, class X>
[[gnu::always_inline]] inline void dot_tile(float *out, size_t row_stride, size_t col_stride, const X *const *x_rows,
                                            const W *const *w_rows, size_t cols) {
  F32V acc[MR][NR];
  for (int m = 0; m < MR; ++m)
    for (int n = 0; n < NR; ++n) acc[m][n] = zero();
  dot_steps(acc, x_rows, w_rows, 0, cols);
  store_sums<0>(out, row_stride, col_stride, acc);
}

} // namespace
