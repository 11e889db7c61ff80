// Router and routed experts of a row (spec 4.6). router.h chooses; then a warp takes an expert: dot, activation, weight. Then a
// thread takes eight columns of a group's rows of up, weighted; the sums of the groups are added in order.
//
// The chosen experts' rows lie far apart in memory, so that each is a trip of its own: as many as possible are on their way at
// once, those of up before the dots are done. Of few rows each group of experts has a block of threads, for there are many
// multiprocessors and little to do; each chooses by itself, which is quicker than to be told. Of many rows each has one block,
// whose warps take the groups.
#include "activation.h"
#include "router.h"
#include "weight.h"

namespace {

using router::THREADS;
using router::WARPS;
using weight::CHUNK;
constexpr uint32_t GROUPS = DOGE_CUDA_EXPERT_GROUPS, AHEAD = 8;
static_assert(GROUPS == WARPS, "a warp takes a group");

struct Shared {
  union {
    router::Scratch scratch;
    alignas(16) float group[GROUPS][32 * CHUNK];
  };
  router::Chosen chosen;
  float hit[DOGE_CUDA_TOP_MAX];
  uint32_t is_last;
};

DOGE_DEVICE const void *row_of(const void *table, const DogeCudaExpertsArgs &a, uint32_t expert) {
  return static_cast<const uint8_t *>(table) + expert * a.stride_bytes;
}

/// What the experts begin, begin + step, .. say: weight times activation, and its weight for whoever watches. A warp takes
/// AT_ONCE of them side by side, and TURNS chunks a lane of each.
template <class Weight, uint32_t AT_ONCE, uint32_t TURNS>
DOGE_DEVICE void dots(Shared &s, const DogeCudaExpertsArgs &a, uint32_t row, float sum, uint32_t begin, uint32_t step) {
  const uint32_t chunks = (a.cols + CHUNK - 1) / CHUNK;
  const float *const x = a.x + (size_t)row * a.x_stride;
  for (uint32_t first = begin + dev::warp() * step; first < a.n_top; first += AT_ONCE * WARPS * step) {
    const void *down[AT_ONCE];
    float dot[AT_ONCE] = {};
#pragma unroll
    for (uint32_t j = 0; j < AT_ONCE; ++j) {
      down[j] = row_of(a.down_embed, a, s.chosen.expert[dev::least(first + j * WARPS * step, a.n_top - 1)]);
    }
    for (uint32_t turn = dev::lane(); turn < chunks; turn += 32 * TURNS) {
      typename Weight::Raw raw[TURNS][AT_ONCE];
      weight::Chunk v[TURNS];
#pragma unroll
      for (uint32_t t = 0; t < TURNS; ++t) {
        const uint32_t chunk = turn + 32 * t;
        if (chunk >= chunks) continue;
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; ++j) raw[t][j] = Weight::fetch(down[j], chunk, a.cols);
        v[t] = weight::load_floats(x + chunk * CHUNK);
      }
#pragma unroll
      for (uint32_t t = 0; t < TURNS; ++t) {
        const uint32_t chunk = turn + 32 * t;
        if (chunk >= chunks) continue;
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; ++j) {
          const weight::Chunk w = Weight::widen(raw[t][j], chunk);
          for (uint32_t i = 0; i < CHUNK; ++i) dot[j] = dev::fma(w.x[i], v[t].x[i], dot[j]);
        }
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < AT_ONCE; ++j) {
      dot[j] = dev::warp_sum(dot[j]);
      const uint32_t e = first + j * WARPS * step;
      if (dev::lane() != 0 || e >= a.n_top) continue;
      const float share = s.chosen.power[e] / sum;
      a.expert[(size_t)row * a.n_top + e] = s.chosen.expert[e];
      a.weight[(size_t)row * a.n_top + e] = share;
      s.hit[e] = share * activation::activate(a.act, dot[j]);
    }
  }
}

/// Eight columns of AHEAD rows of up, of the experts first, first + GROUPS, ..
template <class Weight> struct Up {
  typename Weight::Raw row[AHEAD];

  DOGE_DEVICE void fetch(const Shared &s, const DogeCudaExpertsArgs &a, uint32_t first, uint32_t chunk) {
#pragma unroll
    for (uint32_t i = 0; i < AHEAD; ++i) {
      const uint32_t e = first + i * GROUPS;
      if (e < a.n_top) row[i] = Weight::fetch(row_of(a.up_embed, a, s.chosen.expert[e]), chunk, a.cols);
    }
  }

  DOGE_DEVICE void add(const Shared &s, const DogeCudaExpertsArgs &a, uint32_t first, uint32_t chunk, float (&sum)[CHUNK]) const {
#pragma unroll
    for (uint32_t i = 0; i < AHEAD; ++i) {
      const uint32_t e = first + i * GROUPS;
      if (e >= a.n_top) continue;
      const weight::Chunk w = Weight::widen(row[i], chunk);
      for (uint32_t c = 0; c < CHUNK; ++c) sum[c] = dev::fma(s.hit[e], w.x[c], sum[c]);
    }
  }
};

/// Adds the groups' sums of four columns, in order, to y and that to the stream.
DOGE_DEVICE void finish(const DogeCudaExpertsArgs &a, uint32_t row, uint32_t column, const float *sums, uint32_t stride) {
  const size_t at = (size_t)row * a.x_stride + column;
  const dev::Words4 y = dev::load16(a.y + at);
  dev::Words4 stream = {};
  float residual[4] = {}, total[4] = {};
  if (a.stream != nullptr) {
    stream = dev::load16(a.stream + at);
    for (uint32_t i = 0; i < 4; ++i) residual[i] = column + i < a.cols ? a.residual[column + i] : 0.0f;
  }
#pragma unroll
  for (uint32_t g = 0; g < GROUPS; ++g) {
    if (g >= a.n_top) continue;
    const dev::Words4 sum = dev::load16(sums + g * stride);
    for (uint32_t i = 0; i < 4; ++i) total[i] += dev::from_bits(sum.w[i]);
  }
  for (uint32_t i = 0; i < 4; ++i) {
    if (column + i >= a.cols) continue;
    const float branch = dev::from_bits(y.w[i]) + total[i];
    a.y[at + i] = branch;
    if (a.stream != nullptr) a.stream[at + i] = dev::fma(residual[i], dev::from_bits(stream.w[i]), branch);
  }
}

/// A block of threads for each group of a row (IS_GROUP), or for the row.
template <class Weight, bool IS_GROUP> DOGE_DEVICE void experts(const DogeCudaExpertsArgs &a) {
  Shared &s = dev::shared<Shared>();
  dev::launch_next();
  router::load_ranks(s.scratch, a);
  dev::wait_for_previous();
  const uint32_t row = dev::block_x();
  // Spec 6: the reference reads a call's logits [N, 2K] as [2, N, K].
  const uint32_t i_x = a.reference_routing ? row : 2 * row, i_y = a.reference_routing ? a.n_rows + row : 2 * row + 1;
  const auto half = [&](uint32_t i) { return a.router + (size_t)(i / 2) * a.router_stride + i % 2 * a.n_keys; };
  const float power = router::choose(s.scratch, s.chosen, a, half(i_x), half(i_y));

  const uint32_t chunks = (a.cols + CHUNK - 1) / CHUNK, group = IS_GROUP ? dev::block_y() : dev::warp();
  const uint32_t mine = IS_GROUP ? dev::thread() : dev::lane(), step = IS_GROUP ? THREADS : 32;
  Up<Weight> up;
  if (mine < chunks) up.fetch(s, a, group, mine);
  dots<Weight, IS_GROUP ? 1 : 4, IS_GROUP ? 4 : 1>(s, a, row, power, IS_GROUP ? group : 0, IS_GROUP ? GROUPS : 1);
  dev::sync();
  float *const sums = IS_GROUP ? a.partial + ((size_t)row * GROUPS + group) * a.x_stride : s.group[group];
  for (uint32_t turn = 0; turn < chunks; turn += step) {
    const uint32_t chunk = turn + mine;
    if (chunk < chunks) {
      float sum[CHUNK] = {};
      for (uint32_t first = group; first < a.n_top; first += AHEAD * GROUPS) {
        if (first != group) up.fetch(s, a, first, chunk);
        up.add(s, a, first, chunk, sum);
      }
      if (chunk + step < chunks) up.fetch(s, a, group, chunk + step);
      weight::store_floats(sums + (IS_GROUP ? chunk : mine) * CHUNK, sum);
    }
    if (IS_GROUP) continue;
    dev::sync();
    const uint32_t of_turn = 4 * dev::thread(), column = turn * CHUNK + of_turn;
    if (of_turn < 32 * CHUNK && column < a.cols) finish(a, row, column, s.group[0] + of_turn, 32 * CHUNK);
    dev::sync();
  }
  if (!IS_GROUP) return;
  dev::sync();
  if (dev::thread() == 0) {
    dev::fence();
    s.is_last = dev::add(a.arrived + row, 1) == dev::least(GROUPS, a.n_top) - 1;
    dev::fence();
    if (s.is_last != 0) a.arrived[row] = 0; // for the next launch
  }
  dev::sync();
  if (s.is_last == 0) return;
  for (uint32_t column = 4 * dev::thread(); column < a.cols; column += 4 * THREADS) {
    finish(a, row, column, a.partial + (size_t)row * GROUPS * a.x_stride + column, a.x_stride);
  }
}

}  // namespace

DOGE_KERNEL(doge_experts_f32, THREADS, DogeCudaExpertsArgs) { experts<weight::F32, false>(a); }
DOGE_KERNEL(doge_experts_bf16, THREADS, DogeCudaExpertsArgs) { experts<weight::Bf16, false>(a); }
DOGE_KERNEL(doge_experts_f16, THREADS, DogeCudaExpertsArgs) { experts<weight::F16, false>(a); }
DOGE_KERNEL(doge_experts_int8, THREADS, DogeCudaExpertsArgs) { experts<weight::IntRow<false>, false>(a); }
DOGE_KERNEL(doge_experts_int4, THREADS, DogeCudaExpertsArgs) { experts<weight::IntRow<true>, false>(a); }
DOGE_KERNEL(doge_experts_groups_f32, THREADS, DogeCudaExpertsArgs) { experts<weight::F32, true>(a); }
DOGE_KERNEL(doge_experts_groups_bf16, THREADS, DogeCudaExpertsArgs) { experts<weight::Bf16, true>(a); }
DOGE_KERNEL(doge_experts_groups_f16, THREADS, DogeCudaExpertsArgs) { experts<weight::F16, true>(a); }
DOGE_KERNEL(doge_experts_groups_int8, THREADS, DogeCudaExpertsArgs) { experts<weight::IntRow<false>, true>(a); }
DOGE_KERNEL(doge_experts_groups_int4, THREADS, DogeCudaExpertsArgs) { experts<weight::IntRow<true>, true>(a); }
