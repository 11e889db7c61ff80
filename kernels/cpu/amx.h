// The tile registers of AMX.
#pragma once
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

namespace {

constexpr int AMX_ROWS = 16;

/// The shapes of the eight registers.
struct alignas(64) AmxShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

/// What was written before is in memory: GCC 12 does not know that tile instructions read it.
inline void amx_see(const void *written) { __asm__ volatile("" ::"r"(written) : "memory"); }

/// Gives the registers their shapes. _tile_release() takes them, and what they hold, which the OS would else save for the thread.
inline void amx_configure(const AmxShapes &shapes) {
  amx_see(&shapes);
  _tile_loadconfig(&shapes);
}

} // namespace
