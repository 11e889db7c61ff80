// The n_top largest of x[i] + y[j] over all pairs, better score first, ties to the lower expert id i * n_keys + j; softmax.
//
// Plan: the choice by rank where it is clear, by sorting where it is not; both choose the same. By rank it takes 2 µs instead of 20
// to 25 for 64 of 128 x 128 (Emerald Rapids, other logits in each call).
#pragma once

#include "router_by_rank.inl"
#include "router_by_sort.inl"

namespace {

/// weight = softmax(weight), whose largest is `largest`.
inline void softmax(float *weight, size_t n, float largest) {
  F32V total = zero();
  for (size_t e = 0; e < n; e += LANES) {
    const size_t some = n - e < LANES ? n - e : LANES;
    store_n(weight + e, exp(sub(load_n(weight + e, some), splat(largest))), some);
    total = add(total, load_n(weight + e, some));
  }
  const F32V all = splat(sum(total));
  for (size_t e = 0; e < n; e += LANES) {
    const size_t some = n - e < LANES ? n - e : LANES;
    store_n(weight + e, div(load_n(weight + e, some), all), some);
  }
}

void product_key_router(const DogeRouterArgs *args) {
  float largest;
  if (LANES == 1 || !choose_by_rank(args, largest)) largest = choose_by_sort(args);
  softmax(args->weight, args->n_top, largest);
}

} // namespace
