// Router and routed experts of a row in one block (spec 4.6): no score leaves the chip.
//
//  1. Sort both sides by counting who is better. 2. The best n_top lie among the rank pairs (a, b), from 1, with a * b <= n_top;
//  rank those by counting. 3. Sums round, so pairs outside can equal the last one kept; if one does, look at all pairs for
//  the lowest ids. 4. Softmax, in ascending order of id. 5. A warp an expert: dot, activation, weight. 6. A thread for eight
//  columns: the experts' rows, weighted, in a fixed order.
#include "activation.h"
#include "weight.h"

namespace {

using weight::CHUNK;
constexpr uint32_t THREADS = DOGE_CUDA_EXPERT_THREADS, HALF = THREADS / 2, WARPS = THREADS / 32, PARTS_MAX = 8;
// Keys of a side that are ranked out of shared memory; more are ranked where they lie.
constexpr uint32_t NEAR_KEYS_MAX = 512;
constexpr uint32_t AT_ONCE = 4;

/// Rank pairs (a, b), from 1, with a * b <= n_top.
constexpr uint32_t pairs_of(uint32_t n_top) {
  uint32_t pairs = 0;
  for (uint32_t a = 1; a <= n_top; ++a) pairs += n_top / a;
  return pairs;
}
// The best of a side, and the first one that is left out. The other keys stay where they are, so there may be many.
constexpr uint32_t PAIRS_MAX = pairs_of(DOGE_CUDA_TOP_MAX), RANKS_MAX = DOGE_CUDA_TOP_MAX + 1;

struct Shared {
  float sorted_x[RANKS_MAX], sorted_y[RANKS_MAX];
  uint32_t key_x[RANKS_MAX], key_y[RANKS_MAX];
  union {
    struct {
      float score[PAIRS_MAX];
      uint32_t id[PAIRS_MAX];
    } pair;
    float up[THREADS * CHUNK];
    float near[2][NEAR_KEYS_MAX];
  };
  float best_score[DOGE_CUDA_TOP_MAX], score[DOGE_CUDA_TOP_MAX], hit[DOGE_CUDA_TOP_MAX];
  uint32_t best[DOGE_CUDA_TOP_MAX], expert[DOGE_CUDA_TOP_MAX];
  uint32_t tie;
  float sum;
};

/// One key's value as it is compared: -0 counts as +0, NaN as -infinity, so that order and sums stay monotone.
DOGE_DEVICE float ordered(float x) { return x == x ? x + 0.0f : -dev::infinity(); }

/// Ranks one side, larger value first, then lower key, and keeps the best `ranks`. By half of the block's threads.
DOGE_DEVICE void sort_side(const float *from, float *sorted, uint32_t *key, uint32_t n, uint32_t ranks) {
  for (uint32_t i = dev::thread() % HALF; i < n; i += HALF) {
    const float mine = ordered(from[i]);
    uint32_t rank = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < n; ++j) {
      const float other = ordered(from[j]);
      rank += other > mine || (other == mine && j < i);
    }
    if (rank < ranks) sorted[rank] = mine, key[rank] = i;
  }
}

/// Chooses the row's experts, into `expert` ascending by id, with their scores.
DOGE_DEVICE void choose(Shared &s, const float *x, const float *y, uint32_t n_keys, uint32_t n_top) {
  if (dev::thread() == 0) s.tie = 0;
  const bool is_y = dev::thread() >= HALF, are_near = n_keys <= NEAR_KEYS_MAX;
  const float *side = is_y ? y : x;
  if (are_near) {
    for (uint32_t i = dev::thread() % HALF; i < n_keys; i += HALF) s.near[is_y][i] = side[i];
    side = s.near[is_y];
  }
  dev::sync();
  sort_side(side, is_y ? s.sorted_y : s.sorted_x, is_y ? s.key_y : s.key_x, n_keys, n_top + 1);
  dev::sync();
  // Rank a of x goes with ranks 1 .. n_top / a of y.
  uint32_t pairs = 0;
  const uint32_t ranks = dev::least(n_top, n_keys);
  for (uint32_t a = 1; a <= ranks; ++a) {
    const uint32_t partners = dev::least(n_top / a, n_keys);
    for (uint32_t b = dev::thread(); b < partners; b += THREADS) {
      s.pair.score[pairs + b] = ordered(s.sorted_x[a - 1] + s.sorted_y[b]);
      s.pair.id[pairs + b] = s.key_x[a - 1] * n_keys + s.key_y[b];
    }
    pairs += partners;
  }
  dev::sync();
  for (uint32_t i = dev::thread(); i < pairs; i += THREADS) {
    const float score = s.pair.score[i];
    const uint32_t id = s.pair.id[i];
    uint32_t rank = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < pairs; ++j) rank += s.pair.score[j] > score || (s.pair.score[j] == score && s.pair.id[j] < id);
    if (rank < n_top) s.best[rank] = id, s.best_score[rank] = score;
  }
  dev::sync();
  const float last = s.best_score[n_top - 1];
  for (uint32_t a = 1 + dev::thread(); a <= dev::least(n_top + 1, n_keys); a += THREADS) {
    const uint32_t b = n_top / a + 1; // the first rank that was left out
    if (b <= n_keys && ordered(s.sorted_x[a - 1] + s.sorted_y[b - 1]) == last) s.tie = 1;
  }
  dev::sync();
  if (s.tie != 0 && dev::thread() == 0) {
    uint32_t n = 0;
    while (n < n_top && s.best_score[n] > last) ++n;
    for (uint32_t i = 0; n < n_top && i < n_keys; ++i) {
      if (ordered(ordered(x[i]) + s.sorted_y[0]) < last) continue; // not even its best pair
      for (uint32_t j = 0; n < n_top && j < n_keys; ++j) {
        if (ordered(ordered(x[i]) + ordered(y[j])) == last) s.best[n++] = i * n_keys + j;
      }
    }
  }
  dev::sync();
  for (uint32_t i = dev::thread(); i < n_top; i += THREADS) {
    uint32_t rank = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < n_top; ++j) rank += s.best[j] < s.best[i];
    s.expert[rank] = s.best[i];
    s.score[rank] = s.best_score[i];
  }
  dev::sync();
}

template <class Weight> DOGE_DEVICE void experts(const DogeCudaExpertsArgs &a) {
  Shared &s = dev::shared<Shared>();
  dev::launch_next();
  dev::wait_for_previous();
  const uint32_t row = dev::block_x(), n_top = a.n_top;
  // Spec 6: the reference reads a call's logits [N, 2K] as [2, N, K].
  const uint32_t i_x = a.reference_routing ? row : 2 * row, i_y = a.reference_routing ? a.n_rows + row : 2 * row + 1;
  const auto half = [&](uint32_t i) { return a.router + (size_t)(i / 2) * a.router_stride + i % 2 * a.n_keys; };
  choose(s, half(i_x), half(i_y), a.n_keys, n_top);

  const float largest = s.best_score[0];
  for (uint32_t e = dev::thread(); e < n_top; e += THREADS) s.hit[e] = s.score[e] == largest ? 1.0f : expf(s.score[e] - largest);
  dev::sync();
  if (dev::thread() == 0) {
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t e = 0; e < n_top; ++e) sum += s.hit[e];
    s.sum = sum;
  }
  dev::sync();
  for (uint32_t e = dev::thread(); e < n_top; e += THREADS) {
    a.expert[(size_t)row * n_top + e] = s.expert[e];
    a.weight[(size_t)row * n_top + e] = s.hit[e] = s.hit[e] / s.sum;
  }
  dev::sync();

  const uint32_t chunks = (a.cols + CHUNK - 1) / CHUNK;
  const float *const x = a.x + (size_t)row * a.x_stride;
  // A warp takes AT_ONCE experts side by side: their rows lie far apart, and each is a trip to memory.
  for (uint32_t first = dev::warp(); first < n_top; first += AT_ONCE * WARPS) {
    const uint8_t *down[AT_ONCE];
    float dot[AT_ONCE] = {};
#pragma unroll
    for (uint32_t j = 0; j < AT_ONCE; ++j) {
      const uint32_t e = dev::least(first + j * WARPS, n_top - 1);
      down[j] = static_cast<const uint8_t *>(a.down_embed) + s.expert[e] * a.stride_bytes;
    }
    for (uint32_t chunk = dev::lane(); chunk < chunks; chunk += 32) {
      const weight::Chunk v = weight::load_floats(x + chunk * CHUNK);
#pragma unroll
      for (uint32_t j = 0; j < AT_ONCE; ++j) {
        const weight::Chunk w = Weight::load(down[j], chunk, a.cols);
        for (uint32_t i = 0; i < CHUNK; ++i) dot[j] = dev::fma(w.x[i], v.x[i], dot[j]);
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < AT_ONCE; ++j) {
      dot[j] = dev::warp_sum(dot[j]);
      const uint32_t e = first + j * WARPS;
      if (dev::lane() == 0 && e < n_top) s.hit[e] *= activation::activate(a.act, dot[j]);
    }
  }
  dev::sync();

  // Parts of the block take the experts in turn where there are more threads than chunks; their sums are added in order.
  const uint32_t parts = chunks * PARTS_MAX <= THREADS ? PARTS_MAX : (chunks * 2 <= THREADS ? 2 : 1);
  float *const y = a.y + (size_t)row * a.x_stride;
  for (uint32_t first = 0; first < chunks; first += THREADS / parts) {
    const uint32_t chunk = first + dev::thread() % (THREADS / parts), part = dev::thread() / (THREADS / parts);
    float sum[CHUNK] = {};
    if (chunk < chunks) {
#pragma unroll 8
      for (uint32_t e = part; e < n_top; e += parts) {
        const auto *const up = static_cast<const uint8_t *>(a.up_embed) + s.expert[e] * a.stride_bytes;
        const weight::Chunk w = Weight::load(up, chunk, a.cols);
        for (uint32_t i = 0; i < CHUNK; ++i) sum[i] = dev::fma(s.hit[e], w.x[i], sum[i]);
      }
    }
    for (uint32_t i = 0; i < CHUNK; ++i) s.up[dev::thread() * CHUNK + i] = sum[i];
    dev::sync();
    if (part == 0 && chunk < chunks) {
      for (uint32_t i = 0; i < CHUNK && chunk * CHUNK + i < a.cols; ++i) {
        float total = 0.0f;
        for (uint32_t p = 0; p < parts; ++p) total += s.up[(p * (THREADS / parts) + dev::thread()) * CHUNK + i];
        const uint32_t c = chunk * CHUNK + i;
        y[c] += total;
        if (a.stream != nullptr) {
          float &stream = a.stream[(size_t)row * a.x_stride + c];
          stream = dev::fma(a.residual[c], stream, y[c]);
        }
      }
    }
    dev::sync();
  }
}

}  // namespace

DOGE_KERNEL(doge_experts_f32, THREADS, DogeCudaExpertsArgs) { experts<weight::F32>(a); }
DOGE_KERNEL(doge_experts_bf16, THREADS, DogeCudaExpertsArgs) { experts<weight::Bf16>(a); }
DOGE_KERNEL(doge_experts_f16, THREADS, DogeCudaExpertsArgs) { experts<weight::F16>(a); }
DOGE_KERNEL(doge_experts_int8, THREADS, DogeCudaExpertsArgs) { experts<weight::IntRow<false>>(a); }
DOGE_KERNEL(doge_experts_int4, THREADS, DogeCudaExpertsArgs) { experts<weight::IntRow<true>>(a); }
