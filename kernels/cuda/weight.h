// Stored weights as eight floats at a time. A chunk is eight neighbouring columns; rows are padded to whole chunks.
#pragma once
#include "device.h"

namespace weight {

constexpr uint32_t CHUNK = 8;

struct Chunk {
  float x[CHUNK];
};

/// Eight floats of a padded row.
DOGE_DEVICE Chunk load_floats(const float *p) {
  const dev::Words4 low = dev::load16(p), high = dev::load16(p + 4);
  Chunk c;
  for (uint32_t i = 0; i < 4; ++i) c.x[i] = dev::from_bits(low.w[i]), c.x[4 + i] = dev::from_bits(high.w[i]);
  return c;
}

/// Eight floats to a padded row.
DOGE_DEVICE void store_floats(float *p, const float (&x)[CHUNK]) {
  dev::store16(p, {{dev::bits(x[0]), dev::bits(x[1]), dev::bits(x[2]), dev::bits(x[3])}});
  dev::store16(p + 4, {{dev::bits(x[4]), dev::bits(x[5]), dev::bits(x[6]), dev::bits(x[7])}});
}

// Raw is a chunk as it is stored, which takes fewer registers while it is on its way. Only integer formats ask for the columns.

struct F32 {
  struct Raw {
    dev::Words4 low, high;
  };
  DOGE_DEVICE static Raw fetch(const void *row, uint32_t chunk, uint32_t = 0) {
    const float *const p = static_cast<const float *>(row) + chunk * CHUNK;
    return {dev::load16(p), dev::load16(p + 4)};
  }
  DOGE_DEVICE static Chunk widen(const Raw &raw, uint32_t = 0) {
    Chunk c;
    for (uint32_t i = 0; i < 4; ++i) c.x[i] = dev::from_bits(raw.low.w[i]), c.x[4 + i] = dev::from_bits(raw.high.w[i]);
    return c;
  }
  DOGE_DEVICE static Chunk load(const void *row, uint32_t chunk) { return widen(fetch(row, chunk)); }
};

struct Bf16 {
  using Raw = dev::Words4;
  DOGE_DEVICE static Raw fetch(const void *row, uint32_t chunk, uint32_t = 0) {
    return dev::load16(static_cast<const uint16_t *>(row) + chunk * CHUNK);
  }
  DOGE_DEVICE static Chunk widen(const Raw &raw, uint32_t = 0) {
    Chunk c;
    for (uint32_t i = 0; i < 4; ++i) c.x[2 * i] = dev::from_bits(raw.w[i] << 16), c.x[2 * i + 1] = dev::from_bits(raw.w[i] & 0xffff0000u);
    return c;
  }
  DOGE_DEVICE static Chunk load(const void *row, uint32_t chunk) { return widen(fetch(row, chunk)); }
};

struct F16 {
  using Raw = dev::Words4;
  DOGE_DEVICE static Raw fetch(const void *row, uint32_t chunk, uint32_t = 0) { return Bf16::fetch(row, chunk); }
  DOGE_DEVICE static Chunk widen(const Raw &raw, uint32_t = 0) {
    Chunk c;
    for (uint32_t i = 0; i < 4; ++i) c.x[2 * i] = dev::from_f16((uint16_t)raw.w[i]), c.x[2 * i + 1] = dev::from_f16((uint16_t)(raw.w[i] >> 16));
    return c;
  }
  DOGE_DEVICE static Chunk load(const void *row, uint32_t chunk) { return widen(fetch(row, chunk)); }
};

/// A scale or a 16-bit element at an even address.
DOGE_DEVICE float bf16_at(const void *p) { return dev::from_bits((uint32_t)*static_cast<const uint16_t *>(p) << 16); }

/// Rows of the integer formats (doge_kernels.h), for tables read row by row: quants of all groups, then their scales. A row begins
/// at a multiple of 8 bytes.
template <bool INT4> struct IntRow {
  static constexpr uint32_t GROUP_BYTES = INT4 ? DOGE_GROUP / 2 : DOGE_GROUP;
  struct Raw {
    uint64_t quants;
    uint16_t scale;
  };
  DOGE_DEVICE static Raw fetch(const void *row, uint32_t chunk, uint32_t cols) {
    const uint32_t groups = (cols + DOGE_GROUP - 1) / DOGE_GROUP, group = chunk / 4;
    const uint8_t *const bytes = static_cast<const uint8_t *>(row);
    // int4: columns 0..15 of a group stand in the low nibbles of its 16 bytes, 16..31 in the high ones.
    const uint8_t *const quants = bytes + group * GROUP_BYTES + (INT4 ? chunk % 2 : chunk % 4) * CHUNK;
    const uint8_t *const scale = bytes + groups * GROUP_BYTES + 2 * group;
    return {*reinterpret_cast<const uint64_t *>(quants), *reinterpret_cast<const uint16_t *>(scale)};
  }
  DOGE_DEVICE static Chunk widen(const Raw &raw, uint32_t chunk) {
    const float scale = dev::from_bits((uint32_t)raw.scale << 16);
    const uint32_t shift = INT4 && chunk % 4 >= 2 ? 4 : 0;
    Chunk c;
    for (uint32_t i = 0; i < CHUNK; ++i) {
      const uint32_t byte = (uint32_t)(raw.quants >> (8 * i + shift));
      const int quant = INT4 ? (int)(byte & 15) - 8 : (int)(int8_t)byte;
      c.x[i] = (float)quant * scale;
    }
    return c;
  }
};

/// Quad `quad` (four columns) of row `row` of a tile in DOGE_TILE rows (doge_kernels.h), and the scale of its group.
template <bool INT4> struct IntTile {
  static constexpr uint32_t GROUP_BYTES = INT4 ? 256 : 512, BLOCK_BYTES = 64 + 2 * GROUP_BYTES;
  DOGE_DEVICE static float scale(const uint8_t *tile, uint32_t row, uint32_t group) {
    return bf16_at(tile + group / 2 * BLOCK_BYTES + group % 2 * 32 + row * 2);
  }
  /// The line of quads `line` of a group: 8 of int8, 4 of int4, where it holds quads `line` and `line + 4`.
  DOGE_DEVICE static uint32_t word(const uint8_t *tile, uint32_t row, uint32_t group, uint32_t line) {
    return *reinterpret_cast<const uint32_t *>(tile + group / 2 * BLOCK_BYTES + 64 + group % 2 * GROUP_BYTES + line * 64 + row * 4);
  }
  DOGE_DEVICE static float quant(uint32_t word, uint32_t byte, bool high) {
    const uint32_t x = word >> 8 * byte;
    // As the low bits of a float of 2^23 and more: conversions of integers are a quarter as fast as sums.
    return INT4 ? dev::from_bits(0x4b000000u | ((high ? x >> 4 : x) & 15)) - 8388616.0f : dev::from_bits(0x4b000000u | ((x ^ 128) & 255)) - 8388736.0f;
  }
};

}  // namespace weight
