// How the integer formats use the tile registers of AMX.
#pragma once
#include "amx.h"
#include "int_layout.h"

namespace {

constexpr size_t GROUP_QUANTS = GROUP * TILE; // bytes of a group of a tile, a byte a quant

/// 0 to 3 hold int32 sums [16 rows of x][16 outputs], 4 and 5 a group of 16 rows of x, 6 and 7 a group of a tile of weights
/// [8 quads][16 outputs][4].
inline void amx_configure_int() {
  AmxShapes shapes;
  for (int i = 0; i < 4; ++i) shapes.row_bytes[i] = 4 * TILE, shapes.rows[i] = AMX_ROWS;
  for (int i = 4; i < 6; ++i) shapes.row_bytes[i] = GROUP, shapes.rows[i] = AMX_ROWS;
  for (int i = 6; i < 8; ++i) shapes.row_bytes[i] = LINE, shapes.rows[i] = GROUP / 4;
  amx_configure(shapes);
}

} // namespace
