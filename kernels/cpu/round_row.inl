// out[i] = x[i] rounded to bf16, to nearest, ties to even.
//
// Integer arithmetic rather than the conversion instructions, which flush denormals: every level gives the same bits, and
// the compiler makes lanes of the loop by itself.
#pragma once

namespace {

void round_row(void *out, const float *x, size_t n) {
  uint16_t *halves = (uint16_t *)out;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of_float(x[i]);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    halves[i] = (uint16_t)(nan ? bits >> 16 | 0x40 : rounded);
  }
}

} // namespace
