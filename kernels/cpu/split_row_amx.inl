// split_row: an f32 row in bf16 parts that add up to it, for gemv_split and gemm_split (linear_bf16_amx.inl).
//
//   part 0 = the upper 16 bits of x, part 1 = those of x - part 0, part 2 = what then is left
//
// Cut off, not rounded: each part has the sign of x, and holds its next 8 bits, so that three hold all 24.
#pragma once

namespace {

constexpr int SPLIT_PARTS = 3; // of 8 bits each, which are all that an f32 has

/// The bits of x that a bf16 holds. NaN stays NaN.
inline __m512 first_part(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), first = _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000));
  const __m512i nan = _mm512_or_si512(first, _mm512_set1_epi32(0x400000));
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(first, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), nan));
}

/// [3][n]: what a bf16 holds of x, what another holds of the rest, and what then is left: all of it, but of numbers next to the
/// denormals. Of what is not finite nothing is left.
void split_row(void *out, const float *x, size_t n) {
  uint16_t *const parts = (uint16_t *)out;
  for (size_t i = 0; i < n; i += LANES) {
    const __mmask16 there = n - i < LANES ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)-1;
    __m512 left = _mm512_maskz_loadu_ps(there, x + i);
    for (int p = 0; p < SPLIT_PARTS; ++p) {
      const __m512 part = first_part(left);
      const __m512i half = _mm512_srli_epi32(_mm512_castps_si512(part), 16);
      _mm256_mask_storeu_epi16(parts + p * n + i, there, _mm512_cvtepi32_epi16(half));
      const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(left), _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
      left = _mm512_maskz_sub_ps(finite, left, part);
    }
  }
}

} // namespace
