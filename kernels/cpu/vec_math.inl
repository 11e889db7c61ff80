// Functions of a vector, made of the lane headers' arithmetic alone: the bits don't depend on anyone's libm.
//
// Each is a polynomial fitted by the Remez exchange for the relative error named beside it, plus exp where the function
// saturates. Maximum errors over all floats, in units of the last place: exp 1.3, softplus 3, sigmoid 2.6, tanh 1.4, erf 1.4.
// All are correct at both infinities, give NaN for NaN, and go through the denormals without flushing.
#pragma once

namespace {

/// c[0] + c[1] x + ... + c[n-1] x^(n-1), by Horner.
template <size_t n> inline F32V polynomial(F32V x, const float (&c)[n]) {
  F32V y = splat(c[n - 1]);
  for (size_t i = n - 1; i-- > 0;) y = fma(y, x, splat(c[i]));
  return y;
}

/// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2; e^r = 1 + r + r^2 q(r), error 4e-9.
inline F32V exp(F32V x) {
  constexpr float Q[] = {4.999999404e-01f, 1.666652113e-01f, 4.166838899e-02f, 8.368716575e-03f, 1.381459879e-03f};
  // Outside [-104, 89] the result is 0 or infinity anyway; x is the second operand, so NaN comes through.
  x = max(splat(-104.0f), min(splat(89.0f), x));
  const F32V to_whole = splat(0x1.8p23f); // adding it leaves no fraction bits: rounds to nearest
  const F32V n = sub(fma(x, splat(1.44269504f), to_whole), to_whole);
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact.
  F32V r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  return times_pow2(fma(mul(r, r), polynomial(r, Q), add(r, splat(1.0f))), n);
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + u), u = e^-|x| <= 1; with s = u / (2 + u): ln(1 + u) = 2 atanh(s), error 5e-9.
inline F32V softplus(F32V x) {
  constexpr float P[] = {3.333320618e-01f, 2.001084983e-01f, 1.399957091e-01f, 1.401222795e-01f};
  const F32V u = exp(neg(abs(x)));
  const F32V s = div(u, add(u, splat(2.0f))), z = mul(s, s), twice = add(s, s);
  return add(max(zero(), x), fma(mul(z, polynomial(z, P)), twice, twice));
}

/// 1 / (1 + e^-x), from e^-|x|: no overflow, and small results keep their digits.
inline F32V sigmoid(F32V x) {
  const F32V one = splat(1.0f), e = exp(neg(abs(x)));
  return div(select(less(x, zero()), e, one), add(one, e));
}

/// |x| < 0.625: x + x^3 p(x^2), error 6e-9; else 1 - 2 / (e^2|x| + 1) with the sign of x.
inline F32V tanh(F32V x) {
  constexpr float P[] = {-3.333328366e-01f, 1.333149076e-01f, -5.374338850e-02f, 2.065020427e-02f, -5.716594867e-03f};
  const F32V a = abs(x), z = mul(x, x), one = splat(1.0f);
  const F32V small = fma(mul(z, polynomial(z, P)), x, x);
  const F32V large = sub(one, div(splat(2.0f), add(exp(add(a, a)), one)));
  return copysign(select(less(a, splat(0.625f)), small, large), x);
}

/// |x| < 0.93: x + x p(x^2), error 4e-8; else 1 - e^q(|x|) with the sign of x. erf is 1 in f32 from 3.92 on.
inline F32V erf(F32V x) {
  constexpr float P[] = {1.283791512e-01f, -3.761247993e-01f, 1.128168255e-01f,
                         -2.676171996e-02f, 4.985941108e-03f, -5.953743239e-04f};
  constexpr float Q[] = {-2.113207011e-04f, -1.127611160e+00f, -6.372904778e-01f, -1.038368568e-01f,
                         2.218136005e-02f, -3.031813074e-03f, 1.947769633e-04f};
  const F32V a = min(splat(4.0f), abs(x));
  const F32V small = fma(polynomial(mul(x, x), P), x, x);
  const F32V large = sub(splat(1.0f), exp(polynomial(a, Q)));
  return select(less(a, splat(0.93f)), small, copysign(large, x));
}

} // namespace
