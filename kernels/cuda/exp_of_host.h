// exp for arguments up to 0, with the bits of the host's sampler (libm's expf, which is musl's): the same steps, each rounded.
#pragma once
#include "device.h"

DOGE_DEVICE float exp_of_host(float x) {
  const float size = -x;
  if (!(size < dev::from_bits(0x42cff1b5))) return 0.0f; // 103.97
  int k = 0;
  float high = x, low = 0.0f;
  if (size > dev::from_bits(0x3eb17218)) { // ln(2) / 2
    k = size > dev::from_bits(0x3f851592) ? (int)(1.4426950216e+00f * x - 0.5f) : -1;
    high = x - (float)k * 6.9314575195e-01f;
    low = (float)k * 1.4286067653e-06f;
    x = high - low;
  } else if (!(size > dev::from_bits(0x39000000))) {
    return 1.0f + x;
  }
  const float square = x * x;
  const float c = x - square * (1.6666625440e-1f + square * -2.7667332906e-3f);
  const float y = 1.0f + (x * c / (2.0f - c) - low + high);
  // 2^k, in two steps where it is no normal number: only the last one rounds.
  if (k < -126) return y * 0x1p-102f * dev::from_bits((uint32_t)(k + 102 + 127) << 23);
  return y * dev::from_bits((uint32_t)(k + 127) << 23);
}
