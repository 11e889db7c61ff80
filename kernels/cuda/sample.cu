// The next token, drawn: the rules, the order and the roundings of the host's sampler (src/sampler), so a seed draws the same
// tokens on both. One block.
//
// Top-k leaves few candidates of a large vocabulary. The k-th largest of each thread's own largest logit bounds the k-th largest
// of all from below, so what reaches that bound is a short list, and the rest looks at the list alone. Sums of probabilities
// go one candidate after another in one thread, since the host rounds so.
#include "exp_of_host.h"
#include "next_token.h"
#include "weight.h"

namespace {

constexpr uint32_t THREADS = DOGE_CUDA_ARGMAX_THREADS, WARPS = THREADS / 32;
constexpr float LOWEST = -3.40282346638528859812e+38f; // of finite numbers

struct Shared {
  float of_thread[THREADS]; // largest logits
  float of_warp[WARPS];
  uint32_t non_finite[WARPS], count[WARPS];
  float bound, floor;
  uint32_t n;
};

/// Relative to the largest: 0 or less.
DOGE_DEVICE float score(float x, float largest, float temperature) { return x == largest ? 0.0f : (x - largest) / temperature; }

/// Is values[i] the k-th largest of n?
DOGE_DEVICE bool is_kth(const float *values, uint32_t n, uint32_t i, uint32_t k) {
  const float mine = values[i];
  uint32_t above = 0, reach = 0;
#pragma unroll 8
  for (uint32_t j = 0; j < n; ++j) {
    const float x = values[j];
    above += x > mine;
    reach += x >= mine;
  }
  return above < k && k <= reach;
}

/// Lists, ascending by id, what scores at least `least`: each warp a stretch of the vocabulary. Returns how many.
DOGE_DEVICE uint32_t list(const DogeCudaSampleArgs &a, Shared &shared, float largest, float temperature, float least) {
  const uint32_t stretch = (a.next.n + THREADS - 1) / THREADS * 32, begin = dev::warp() * stretch;
  const uint32_t end = dev::least(begin + stretch, a.next.n);
  uint32_t count = 0;
#pragma unroll 4
  for (uint32_t i0 = begin; i0 < end; i0 += 32) {
    const uint32_t i = i0 + dev::lane();
    count += dev::count_bits(dev::ballot(i < end && score(a.next.logits[dev::least(i, end - 1)], largest, temperature) >= least));
  }
  if (dev::lane() == 0) shared.count[dev::warp()] = count;
  dev::sync();
  uint32_t to = 0, all = 0;
  for (uint32_t i = 0; i < WARPS; ++i) {
    if (i < dev::warp()) to += shared.count[i];
    all += shared.count[i];
  }
  for (uint32_t i0 = begin; count > 0 && i0 < end; i0 += 32) {
    const uint32_t i = i0 + dev::lane();
    const float x = score(a.next.logits[dev::least(i, end - 1)], largest, temperature);
    const bool reaches = i < end && x >= least;
    const uint32_t votes = dev::ballot(reaches), mine = to + dev::count_bits(votes & ((1u << dev::lane()) - 1));
    if (reaches) a.id[mine] = i, a.score[mine] = x;
    to += dev::count_bits(votes);
  }
  dev::sync();
  return all;
}

/// Leaves of the n in the list those that score at least `floor`, and weighs them. By one warp; returns how many.
DOGE_DEVICE uint32_t filter(const DogeCudaSampleArgs &a, uint32_t n, float floor) {
  uint32_t found = 0;
  for (uint32_t i0 = 0; i0 < n; i0 += 32) {
    const uint32_t i = i0 + dev::lane();
    const float x = i < n ? a.score[i] : 0.0f;
    const uint32_t id = i < n ? a.id[i] : 0;
    const bool stays = i < n && x >= floor;
    // Everybody has read before anybody writes, for the votes wait for all.
    const uint32_t votes = dev::ballot(stays), to = found + dev::count_bits(votes & ((1u << dev::lane()) - 1));
    if (stays) a.id[to] = id, a.score[to] = x, a.weight[to] = (double)exp_of_host(x);
    found += dev::count_bits(votes);
  }
  return found;
}

/// Top-p, min-p and the draw.
DOGE_DEVICE uint32_t draw(const DogeCudaSampleArgs &a, const DogeCudaSampling &how, uint32_t n) {
  const bool is_sorted = how.top_p < 1.0f;
  double sum = 0.0;
#pragma unroll 8
  for (uint32_t i = 0; i < n; ++i) sum += a.weight[i];
  const double mass = (double)how.top_p * sum, least = (double)how.min_p;
  sum = 0.0;
  for (uint32_t i = 0; is_sorted && i < n; ++i) {
    sum += a.weight[a.sorted[i]];
    if (sum >= mass) n = i + 1;
  }
  double total = 0.0;
#pragma unroll 8
  for (uint32_t i = 0; i < n; ++i) {
    const double weight = a.weight[is_sorted ? a.sorted[i] : i];
    if (weight >= least) total += weight;
  }
  const double target = a.uniform[a.next.at->step] * total;
  sum = 0.0;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t candidate = is_sorted ? a.sorted[i] : i;
    if (!(a.weight[candidate] >= least)) continue;
    sum += a.weight[candidate];
    if (target < sum) return a.id[candidate];
  }
  return 0; // only where logits are not finite
}

}  // namespace

DOGE_KERNEL(doge_sample, THREADS, DogeCudaSampleArgs) {
  Shared &shared = dev::shared<Shared>();
  dev::launch_next();
  dev::wait_for_previous();
  if (a.next.at->stopped != 0) return;
  const DogeCudaSampling how = *a.sampling;
  float largest = -dev::infinity();
  bool non_finite = false;
  for (uint32_t first = dev::thread() * weight::CHUNK; first < a.next.n; first += THREADS * weight::CHUNK) {
    const weight::Chunk x = weight::load_floats(a.next.logits + first);
    for (uint32_t i = 0; i < weight::CHUNK; ++i) {
      if (first + i >= a.next.n) continue;
      largest = dev::larger(largest, x.x[i]);
      non_finite |= !next::is_finite(x.x[i]);
    }
  }
  shared.of_thread[dev::thread()] = largest;
  largest = dev::warp_max(largest);
  const uint32_t votes = dev::ballot(non_finite);
  if (dev::lane() == 0) shared.of_warp[dev::warp()] = largest, shared.non_finite[dev::warp()] = votes;
  if (dev::thread() == 0) shared.floor = LOWEST;
  dev::sync();
  for (uint32_t i = 0; i < WARPS; ++i) largest = dev::larger(largest, shared.of_warp[i]);
  if (is_kth(shared.of_thread, THREADS, dev::thread(), how.top_k)) shared.bound = shared.of_thread[dev::thread()];
  dev::sync();
  const uint32_t n = list(a, shared, largest, how.temperature, score(shared.bound, largest, how.temperature));
  for (uint32_t i = dev::thread(); i < n; i += THREADS) {
    // Whoever writes writes the same.
    if (is_kth(a.score, n, i, how.top_k)) shared.floor = dev::larger(a.score[i], LOWEST);
  }
  dev::sync();
  if (dev::warp() == 0) {
    const uint32_t left = filter(a, n, shared.floor);
    if (dev::lane() == 0) shared.n = left;
  }
  dev::sync();
  if (how.top_p < 1.0f) {
    for (uint32_t i = dev::thread(); i < shared.n; i += THREADS) {
      // Bits of scores, which are not positive, ascend from the likeliest on.
      const uint32_t mine = dev::bits(a.score[i]);
      uint32_t rank = 0;
#pragma unroll 8
      for (uint32_t j = 0; j < shared.n; ++j) {
        const uint32_t other = dev::bits(a.score[j]);
        rank += other < mine || (other == mine && j < i);
      }
      a.sorted[rank] = i;
    }
    dev::sync();
  }
  if (dev::thread() != 0) return;
  uint32_t any = 0;
  for (uint32_t i = 0; i < WARPS; ++i) any |= shared.non_finite[i];
  next::take(a.next, draw(a, how, shared.n), any != 0);
}
