// The bytes of integer weights and of quantised rows (doge_kernels.h, "Integer formats").
#pragma once
#include "../doge_kernels.h"

namespace {

constexpr size_t GROUP = DOGE_GROUP, TILE = DOGE_TILE;
constexpr size_t BLOCK_COLS = 2 * GROUP;
constexpr size_t LINE = 64;                    // bytes; the 16 quads of a tile
constexpr size_t BLOCK_SCALES = 2 * TILE * 2;  // bytes of scales at the begin of a block
constexpr size_t QUANTIZED_BLOCK = 80;         // bytes of a quantised row for each block: 64 q, 2 scales, 2 offsets

inline size_t groups_of(size_t cols) { return (cols + GROUP - 1) / GROUP; }
inline size_t blocks_of(size_t cols) { return (cols + BLOCK_COLS - 1) / BLOCK_COLS; }

/// Sizes in bytes that follow from those of a group.
template <size_t LINES> struct IntLayout {
  static constexpr size_t TILE_GROUP = LINES * LINE;            // quants of a group of a tile
  static constexpr size_t BLOCK = BLOCK_SCALES + 2 * TILE_GROUP; // of a tile
  static constexpr size_t ROW_GROUP = TILE_GROUP / TILE;        // quants of a group of a row
  static size_t tile(size_t cols) { return blocks_of(cols) * BLOCK; }
  static size_t row(size_t cols) { return groups_of(cols) * (ROW_GROUP + 2); }
};

/// A quantised row.
struct QuantizedRow {
  const int8_t *q;       // [2 * blocks][GROUP]
  const float *scale;    // [2 * blocks]
  const int32_t *offset; // [2 * blocks] -128 * sum of q

  QuantizedRow() = default;
  QuantizedRow(const void *bytes, size_t blocks) {
    q = (const int8_t *)bytes;
    scale = (const float *)(q + blocks * BLOCK_COLS);
    offset = (const int32_t *)(scale + blocks * 2);
  }
};

} // namespace
