// The routed experts of one token. Each is one neuron: a row of down_embed, an activation, a row of up_embed.
//
// expert_down: hit[e] = weight[e] * act(dot(down_embed[expert[e]], x)), e in [begin, end)
// expert_up:   y[c] += sum_e hit[e] * up_embed[expert[e]][c], c in [begin, end), e ascending
//
// Plan: eight experts at a time, in both halves. The rows lie scattered over a large table, so eight reads of memory that
// hasn't been touched are under way at once; that is what the cost is, n_experts * cols elements of each table.
#pragma once

namespace {

constexpr size_t EXPERTS = 8;

template <class W>
void expert_down(float *hit, const void *down_embed, const uint32_t *expert, const float *weight, const float *x,
                 size_t cols, size_t begin, size_t end, uint32_t act) {
  const W *table = (const W *)down_embed;
  size_t e = begin;
  for (; e + EXPERTS <= end; e += EXPERTS) {
    const W *rows[EXPERTS];
    for (size_t i = 0; i < EXPERTS; ++i) rows[i] = table + (size_t)expert[e + i] * cols;
    dot_tile<1, EXPERTS>(hit + e, 0, 1, &x, rows, cols);
  }
  for (; e < end; ++e) {
    const W *row = table + (size_t)expert[e] * cols;
    dot_tile<1, 1>(hit + e, 0, 1, &x, &row, cols);
  }
  if (begin < end) gated_activation(hit + begin, hit + begin, weight + begin, end - begin, act);
}

/// y[c] += hit[0] * w[0][c] + ... one after another, for the n experts of a group, c in [begin, end).
template <int n, class W> inline void add_rows(float *y, const W *const *rows, const float *hit, size_t begin, size_t end) {
  const W *w[n];
  F32V h[n];
  for (int e = 0; e < n; ++e) w[e] = rows[e], h[e] = splat(hit[e]);
  size_t c = begin;
  for (; c + LANES <= end; c += LANES) {
    F32V sum = load(y + c);
    for (int e = 0; e < n; ++e) sum = fma(h[e], load(w[e] + c), sum);
    store(y + c, sum);
  }
  if (c < end) {
    F32V sum = load_n(y + c, end - c);
    for (int e = 0; e < n; ++e) sum = fma(h[e], load_n(w[e] + c, end - c), sum);
    store_n(y + c, sum, end - c);
  }
}

template <class W>
void expert_up(float *y, const void *up_embed, const uint32_t *expert, const float *hit, size_t n_experts, size_t cols,
               size_t begin, size_t end) {
  const W *table = (const W *)up_embed;
  size_t e = 0;
  for (; e + EXPERTS <= n_experts; e += EXPERTS) {
    const W *rows[EXPERTS];
    for (size_t i = 0; i < EXPERTS; ++i) rows[i] = table + (size_t)expert[e + i] * cols;
    add_rows<EXPERTS>(y, rows, hit + e, begin, end);
  }
  for (; e < n_experts; ++e) {
    const W *row = table + (size_t)expert[e] * cols;
    add_rows<1>(y, &row, hit + e, begin, end);
  }
}

} // namespace
