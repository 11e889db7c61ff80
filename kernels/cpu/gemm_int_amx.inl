// gemm_int on AMX: the integer sums of 16 rows of x and the 16 outputs of a tile, a group at a time, are one instruction.
//
//   dot[m][n] = sum_c q_x[m][c] * q_w[n][c], 32 columns c: registers of 16 rows, of x [16][32], of the weights [8 quads][64]
//
// Plan: the lines of an int8 group are such a register as they lie; the quants of an int4 group are unpacked first, for all rows of
// x, a part of the columns at a time, between which the float sums wait in out. The dots go through memory, for nothing else
// leads out of these registers, and are scaled and added as in int_tile.inl, with the same bits. Those of the next groups are under
// way meanwhile: adding takes 24 cycles a group (two ports, three operations a vector), the dots 16. Tile instructions stand one
// by one among the additions: few of them fit into the registers' renaming, and a heap of them holds up whatever follows. In one heap
// a block a group took a sixth longer alone on a core, a quarter beside a neighbour.
#pragma once

#include "ahead.inl"

namespace {

constexpr size_t AMX_GROUPS = 32; // of a part: 16 KiB of quants stay in the L1 cache beside the rows of x that meet them

/// Where the quants of a part's groups lie: group g at quants + g / 2 * block + g % 2 * GROUP_QUANTS.
struct AmxIntPart {
  size_t begin, end; // blocks
  const unsigned char *quants;
  size_t block; // bytes
};

inline AmxIntPart amx_int_part(Int8, const unsigned char *tile, size_t, size_t blocks, unsigned char *) {
  return {0, blocks, tile + BLOCK_SCALES, Int8::BLOCK};
}

inline AmxIntPart amx_int_part(Int4, const unsigned char *tile, size_t begin, size_t blocks, unsigned char *panel) {
  const size_t end = blocks - begin < AMX_GROUPS / 2 ? blocks : begin + AMX_GROUPS / 2;
  unsigned char *out = panel;
  for (size_t b = begin; b < end; ++b) {
    const unsigned char *line = tile + b * Int4::BLOCK + BLOCK_SCALES;
    for (int half = 0; half < 2; ++half, out += GROUP_QUANTS) {
      for (int l = 0; l < Int4::LINES; ++l, line += LINE) {
        const Int4::Line both = Int4::load(line);
        for (int q = 0; q < Int4::QUADS; ++q) {
          _mm512_store_si512(out + (l + 4 * q) * LINE, _mm512_sub_epi8(both.quad[q], _mm512_set1_epi8(8)));
        }
      }
    }
  }
  amx_see(panel);
  return {begin, end, panel, 2 * GROUP_QUANTS};
}

/// The registers of the first group of a block, and of the second: the intrinsics take nothing but literals.
struct AmxFirst {
  static constexpr int HALF = 0;
  static void load_x(const char *x, size_t stride) { _tile_loadd(4, x, stride); }
  static void load_weights(const unsigned char *quants) { _tile_loadd(6, quants, LINE); }
  static void multiply() {
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
  }
  static void store(int32_t (&dots)[AMX_ROWS][TILE]) { _tile_stored(0, dots, LINE); }
};
struct AmxSecond {
  static constexpr int HALF = 1;
  static void load_x(const char *x, size_t stride) { _tile_loadd(5, x, stride); }
  static void load_weights(const unsigned char *quants) { _tile_loadd(7, quants, LINE); }
  static void multiply() {
    _tile_zero(1);
    _tile_dpbssd(1, 5, 7);
  }
  static void store(int32_t (&dots)[AMX_ROWS][TILE]) { _tile_stored(1, dots, LINE); }
};

/// Adds the dots of a quarter of the rows, whose scales are scale of the output times x of the row.
template <int QUARTER>
inline void amx_int_add(F32V (&sum)[AMX_ROWS], const int32_t (&dots)[AMX_ROWS][TILE], const F32V &scale, const float *x) {
  for (int m = QUARTER * AMX_ROWS / 4; m < (QUARTER + 1) * AMX_ROWS / 4; ++m) {
    const F32V dot = {_mm512_cvtepi32_ps(_mm512_load_si512(dots[m]))};
    sum[m] = fma(dot, mul(scale, splat(x[m])), sum[m]);
  }
}

/// Adds the dots of a group. Meanwhile those of the next group leave the registers, if there is one, and those of the group after it
/// are made in this one's, if there is one.
template <class Group, class Next>
inline void amx_int_group(F32V (&sum)[AMX_ROWS], int32_t (&dots)[2][AMX_ROWS][TILE], const Bf16 *scales, const float *x_scale,
                          const char *x, size_t stride, const unsigned char *quants, bool next, bool after_next) {
  const F32V scale = load(scales + Group::HALF * TILE);
  const auto &mine = dots[Group::HALF];
  amx_int_add<0>(sum, mine, scale, x_scale);
  if (after_next) Group::load_x(x, stride);
  amx_int_add<1>(sum, mine, scale, x_scale);
  if (after_next) Group::load_weights(quants);
  amx_int_add<2>(sum, mine, scale, x_scale);
  if (after_next) Group::multiply();
  if (next) Next::store(dots[Next::HALF]);
  amx_int_add<3>(sum, mine, scale, x_scale);
}

/// The sums of 16 rows of x from `rows` on, whose scales are x_scale [groups][16], over the groups of a part.
template <class Q>
inline void amx_int_tile(F32V (&sum)[AMX_ROWS], const char *rows, const float *x_scale, size_t blocks, const AmxIntPart &part,
                         const unsigned char *tile) {
  alignas(64) int32_t dots[2][AMX_ROWS][TILE];
  const size_t stride = blocks * QUANTIZED_BLOCK;
  const char *x = rows + part.begin * BLOCK_COLS;
  const unsigned char *quants = part.quants;
  AmxFirst::load_x(x, stride);
  AmxFirst::load_weights(quants);
  AmxFirst::multiply();
  AmxSecond::load_x(x + GROUP, stride);
  AmxSecond::load_weights(quants + GROUP_QUANTS);
  AmxSecond::multiply();
  AmxFirst::store(dots[0]);
  for (size_t b = part.begin; b < part.end; ++b) {
    const Bf16 *const scales = (const Bf16 *)(tile + b * Q::BLOCK);
    const float *const s = x_scale + 2 * b * AMX_ROWS;
    const bool more = b + 1 < part.end;
    x += BLOCK_COLS, quants += part.block;
    amx_int_group<AmxFirst, AmxSecond>(sum, dots, scales, s, x, stride, quants, true, more);
    amx_int_group<AmxSecond, AmxFirst>(sum, dots, scales, s + AMX_ROWS, x + GROUP, stride, quants + GROUP_QUANTS, more, more);
  }
}

/// Outputs of the tile that begins at o, for rows r0..r1, a multiple of 16.
template <class Q>
inline void amx_int_rows(const DogeGemmIntArgs *a, size_t r0, size_t r1, size_t o, size_t blocks, const float *x_scale,
                     unsigned char *panel) {
  const unsigned char *tile = (const unsigned char *)a->weight + o / TILE * blocks * Q::BLOCK;
  const __mmask16 outputs = a->end - o < TILE ? (__mmask16)((1u << (a->end - o)) - 1) : (__mmask16)-1;
  Ahead ahead(tile + blocks * Q::BLOCK, o + TILE < a->end ? blocks * Q::BLOCK : 0, (r1 - r0) / AMX_ROWS);
  for (size_t done = 0; done < blocks;) {
    const AmxIntPart part = amx_int_part(Q(), tile, done, blocks, panel);
    for (size_t r = r0; r < r1; r += AMX_ROWS) {
      ahead.fetch();
      float *out = a->out + r * a->out_stride + o;
      F32V sum[AMX_ROWS];
      for (int m = 0; m < AMX_ROWS; ++m) sum[m] = done ? F32V{_mm512_maskz_loadu_ps(outputs, out + m * a->out_stride)} : zero();
      amx_int_tile<Q>(sum, (const char *)a->x + r * blocks * QUANTIZED_BLOCK, x_scale + (r - r0) * 2 * blocks, blocks, part, tile);
      const bool last = part.end == blocks && a->bias;
      const F32V bias = last ? F32V{_mm512_maskz_loadu_ps(outputs, a->bias + o)} : zero();
      for (int m = 0; m < AMX_ROWS; ++m) {
        _mm512_mask_storeu_ps(out + m * a->out_stride, outputs, last ? add(sum[m], bias).v : sum[m].v);
      }
    }
    done = part.end;
  }
}

/// All outputs of the first rows, as many as come in sixteens; how many these are. None if sixteen do not fit a block.
template <class Q> size_t gemm_int_amx(const DogeGemmIntArgs *a, size_t blocks) {
  const size_t row = blocks * QUANTIZED_BLOCK, x_block = row ? X_BLOCK_BYTES / row / AMX_ROWS * AMX_ROWS : 0;
  const size_t n_rows = x_block ? a->n_rows / AMX_ROWS * AMX_ROWS : 0;
  if (!n_rows) return 0;
  alignas(64) unsigned char panel[AMX_GROUPS * GROUP_QUANTS];
  alignas(64) float x_scale[X_BLOCK_BYTES / QUANTIZED_BLOCK * 2];
  amx_configure_int();
  for (size_t r0 = 0; r0 < n_rows; r0 += x_block) {
    const size_t r1 = n_rows - r0 < x_block ? n_rows : r0 + x_block;
    for (size_t r = r0; r < r1; ++r) {
      const QuantizedRow x((const char *)a->x + r * row, blocks);
      float *to = x_scale + (r - r0) / AMX_ROWS * AMX_ROWS * 2 * blocks + r % AMX_ROWS;
      for (size_t g = 0; g < 2 * blocks; ++g) to[g * AMX_ROWS] = x.scale[g];
    }
    for (size_t o = a->begin; o < a->end; o += TILE) amx_int_rows<Q>(a, r0, r1, o, blocks, x_scale, panel);
  }
  _tile_release();
  return n_rows;
}

} // namespace
