// All layers of a token, and its logits, in one launch. A decode step of a small model is a chain of trips: what a step costs
// is how long its stages wait for each other, while memory idles. Here blocks stay, weights stream on through all stages
// (weight_stream.h), and a stage begins when its inputs are there (words.h). The sums are those of linear_row.cu, linear_int_row.cu and
// decode_attention.cu, bit for bit.
//
// Grid: one block a multiprocessor, all at once. Two teams of a block do projections, the third attention, which so has its keys
// and values in shared memory before the token's own are there, and puts the token's key away while the others go on.
#define DOGE_TEAMS DOGE_CUDA_TOKEN_TEAMS
#include "weight_stream.h"
#include "words.h"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#include "token_attention.h"

namespace {

constexpr uint32_t TEAMS = stream::TEAMS, SIDES = stream::SIDES;
constexpr uint32_t THREADS = DOGE_CUDA_THREADS;
constexpr uint32_t PARTS = THREADS / DOGE_TILE; // of an integer format's row

struct Shared {
  DogeCudaStage stages[DOGE_CUDA_STAGES_AHEAD];
  alignas(16) float raw[DOGE_CUDA_TOKEN_COLS_MAX];
  row_norm::Row row[2]; // in turn
  float squares[TEAMS][row_norm::WARPS];
  float part[TEAMS][SIDES][PARTS][DOGE_TILE];
  alignas(8) uint64_t arrival[TEAMS * stream::WARPS][2][DOGE_CUDA_SLOTS_MAX];
  token_attention::Shared attention;
};

/// The input of a stage, normed where that is asked for, in shared memory. Barriers of the projections' teams inside.
DOGE_DEVICE void input(Shared &shared, row_norm::Row &row, const DogeCudaStage &s, uint32_t tag) {
  constexpr uint32_t STEP = 4 * TEAMS * THREADS, N = DOGE_CUDA_TOKEN_COLS_MAX / STEP;
  const DogeCudaLinearArgs &a = s.linear;
  const uint32_t first = 4 * (dev::team() * THREADS + dev::thread());
  dev::Words4 x[N], weight[N];
  if (a.norm != nullptr) {
#pragma unroll
    for (uint32_t i = 0; i < N; ++i) {
      weight[i] = {};
      if (first + i * STEP < a.cols) weight[i] = dev::load16(a.norm + first + i * STEP);
    }
  }
  words::await(x, s.words, first, STEP, a.cols, tag);
  float by = 1.0f;
  if (a.norm != nullptr) {
#pragma unroll
    for (uint32_t i = 0; i < N; ++i) {
      if (first + i * STEP < a.x_stride) dev::store16(shared.raw + first + i * STEP, x[i]);
    }
    dev::sync_teams<TEAMS>();
    float squares = 0.0f;
#pragma unroll 1
    for (uint32_t c = 4 * dev::thread(); c < a.cols; c += 4 * THREADS) {
      squares = row_norm::add_squares(squares, dev::load16(shared.raw + c));
    }
    by = row_norm::scale(shared.squares[dev::team()], squares, a.cols, a.eps);
  }
#pragma unroll
  for (uint32_t i = 0; i < N; ++i) {
    const uint32_t c = first + i * STEP;
    if (c >= a.x_stride) continue;
    dev::store16(row.x + c, a.norm != nullptr ? row_norm::normed(weight[i], x[i], by) : x[i]);
  }
}

/// What becomes of an output: asked for before there is one.
struct Fate {
  float bias, residual; // of gate and up the two biases
  uint64_t before;
  const uint64_t *before_at;
  uint64_t *word;
  float *plain;

  DOGE_DEVICE void ask(const DogeCudaStage &s, const DogeCudaProjection &p, uint32_t output, uint32_t local) {
    bias = p.bias != nullptr ? p.bias[local] : 0.0f;
    residual = 0.0f;
    word = s.words_out != nullptr ? s.words_out + output : nullptr, plain = p.out + local;
    before_at = nullptr;
    if (s.is_gated) {
      const DogeCudaProjection &up = s.linear.projection[1];
      if (up.bias != nullptr) residual = up.bias[local];
    } else if (s.stream != nullptr) {
      residual = s.linear.residual[output];
      before_at = s.stream + output, before = dev::look1(before_at);
    }
  }
  DOGE_DEVICE void write(const DogeCudaStage &s, float sum, float up, uint32_t base) {
    float y = sum + bias;
    if (s.is_gated) {
      y = activation::activate(s.linear.act, y) * (up + residual);
    } else if (before_at != nullptr) {
      if (!words::is_here(before, base + s.tag_of_stream)) before = dev::bits(words::await(before_at, base + s.tag_of_stream));
      y = dev::fma(residual, words::value(before), y);
    }
    if (word != nullptr) dev::publish(word, y, base + s.tag);
    else *plain = y;
  }
};

/// A unit of a float format, two outputs, or one of gate and up: which one a lane writes.
template <class Weight> DOGE_DEVICE bool ask(stream::Floats<Weight>, Fate &fate, const DogeCudaStage &s, uint32_t unit) {
  const uint32_t output = s.is_gated ? unit : SIDES * unit + dev::lane();
  if (output >= s.outputs || dev::lane() >= (s.is_gated ? 1 : SIDES)) return false;
  uint32_t local = output;
  const DogeCudaProjection &p = s.is_gated ? s.linear.projection[0] : projection::find(s.linear.projection, local);
  fate.ask(s, p, output, local);
  return true;
}

template <class Weight>
DOGE_DEVICE void unit(stream::Floats<Weight>, stream::Ring<stream::Floats<Weight>> &ring, const DogeCudaStage &s, Shared &, const float *x, Fate &fate,
                      bool is_mine, uint32_t base) {
  using Format = stream::Floats<Weight>;
  float sum[SIDES] = {};
  const uint32_t chunks = (s.linear.cols + weight::CHUNK - 1) / weight::CHUNK;
#pragma unroll 1
  for (uint32_t first = 0; first < chunks; first += Format::CHUNKS) {
    const uint8_t *const slot[SIDES] = {ring.look(0), ring.look(1)};
    const uint32_t end = dev::least(Format::CHUNKS, chunks - first);
    // Short code: a stage runs it once or twice, and each line of it must be fetched.
#pragma unroll 1
    for (uint32_t chunk = dev::lane(); chunk < end; chunk += 32) {
      const weight::Chunk y = weight::load_floats(x + (first + chunk) * weight::CHUNK);
#pragma unroll
      for (uint32_t o = 0; o < SIDES; ++o) {
        const weight::Chunk w = Weight::widen(Weight::fetch(slot[o], chunk));
#pragma unroll
        for (uint32_t c = 0; c < weight::CHUNK; ++c) sum[o] = dev::fma(w.x[c], y.x[c], sum[o]);
      }
    }
    ring.give_back(SIDES);
  }
#pragma unroll
  for (uint32_t o = 0; o < SIDES; ++o) sum[o] = dev::warp_sum(sum[o]);
  if (is_mine) fate.write(s, dev::lane() == 0 ? sum[0] : sum[1], sum[1], base);
}

/// A unit of an integer format, a tile, or one of gate and one of up. Barriers of the team inside.
template <bool INT4> DOGE_DEVICE bool ask(stream::Ints<INT4>, Fate &fate, const DogeCudaStage &s, uint32_t unit) {
  const DogeCudaProjection &p = s.is_gated ? s.linear.projection[0] : projection::find(s.linear.projection, unit, DOGE_TILE);
  const uint32_t local = unit * DOGE_TILE + dev::thread();
  if (dev::thread() >= DOGE_TILE || local >= p.out_features) return false;
  uint32_t output = local;
  for (const DogeCudaProjection *before = s.linear.projection; before != &p; ++before) output += before->out_features;
  fate.ask(s, p, output, local);
  return true;
}

template <bool INT4>
DOGE_DEVICE void unit(stream::Ints<INT4>, stream::Ring<stream::Ints<INT4>> &ring, const DogeCudaStage &s, Shared &shared, const float *x, Fate &fate,
                      bool is_mine, uint32_t base) {
  using Format = stream::Ints<INT4>;
  using Tile = weight::IntTile<INT4>;
  const uint32_t groups = (s.linear.cols + DOGE_GROUP - 1) / DOGE_GROUP, turns = Format::turns(s, ring.warp), sides = Format::sides(s);
  const uint32_t row = dev::thread() % DOGE_TILE, part = dev::thread() / DOGE_TILE;
  float sum[SIDES] = {};
#pragma unroll 1
  for (uint32_t turn = 0; turn < turns; ++turn) {
    const uint32_t group = part + PARTS * turn;
    // Columns beyond the row's padding would be another row's; their quants are zero.
    const uint32_t quads = group < groups ? dev::least(8, (s.linear.x_stride - group * DOGE_GROUP) / 4) : 0;
#pragma unroll
    for (uint32_t side = 0; side < SIDES; ++side) {
      if (side >= sides) continue;
      const uint8_t *const slot = ring.look(0);
      float dot = 0.0f;
#pragma unroll 2
      for (uint32_t quad = 0; quad < quads; ++quad) {
        const uint32_t word = Tile::word(slot, row, group % 2, INT4 ? quad % 4 : quad);
        const dev::Words4 y = dev::load16(x + group * DOGE_GROUP + 4 * quad);
#pragma unroll
        for (uint32_t c = 0; c < 4; ++c) dot = dev::fma(Tile::quant(word, c, quad >= 4), dev::from_bits(y.w[c]), dot);
      }
      if (quads > 0) sum[side] = dev::fma(dot, Tile::scale(slot, row, group % 2), sum[side]);
      ring.give_back(1);
    }
  }
  auto &all = shared.part[dev::team()];
#pragma unroll
  for (uint32_t side = 0; side < SIDES; ++side) all[side][part][row] = sum[side];
  dev::sync();
  if (is_mine) {
    float total[SIDES] = {};
#pragma unroll
    for (uint32_t side = 0; side < SIDES; ++side) {
      for (uint32_t i = 0; i < PARTS; ++i) total[side] += all[side][i][row];
    }
    fate.write(s, total[0], total[1], base);
  }
  dev::sync();
}

template <class Format> DOGE_DEVICE void project(const DogeCudaTokenArgs &a, Shared &shared, uint32_t base) {
  constexpr uint32_t AHEAD = DOGE_CUDA_STAGES_AHEAD - 2; // two slots' readers may still be there
  const uint32_t thread = dev::team() * THREADS + dev::thread();
#pragma unroll 1
  for (uint32_t i = 0; i < dev::least(AHEAD, a.n_stages); ++i) dev::copy_words(shared.stages[i], a.stages[i], thread, TEAMS * THREADS);
#pragma unroll 1
  for (uint32_t i = thread + dev::block_x() * TEAMS * THREADS; i < a.n_x; i += a.n_blocks * TEAMS * THREADS) dev::publish(a.stream + i, a.x[i], base);
  dev::sync_teams<TEAMS>();
  stream::Ring<Format> ring;
  ring.begin(a, dev::ring() + sizeof(token_attention::Tiles), shared.arrival[0][0], dev::team() * stream::WARPS + dev::warp());
#pragma unroll 1
  for (uint32_t i = 0; i < a.n_stages; ++i) {
    const DogeCudaStage &s = shared.stages[i % DOGE_CUDA_STAGES_AHEAD];
    row_norm::Row &row = shared.row[i % 2];
    // Of a later stage, while this one's input is on its way.
    uint32_t word = 0;
    const uint32_t later = i + AHEAD, units = s.units;
    const bool copies = later < a.n_stages && thread < sizeof(DogeCudaStage) / 4;
    if (copies) word = reinterpret_cast<const uint32_t *>(a.stages + later)[thread];
    bool begun = false;
#pragma unroll 1
    for (uint32_t u = ring.first_unit(s);; u += ring.workers) {
      Fate fate;
      const bool is_mine = u < units && ask(Format{}, fate, s, u);
      if (!begun) {
        // A stage of few units is nothing to some blocks: they must not look for inputs that may be gone when they come.
        const uint32_t block = dev::block_x() >= s.shift_blocks ? dev::block_x() - s.shift_blocks : dev::block_x() + a.n_blocks - s.shift_blocks;
        if (block < units) input(shared, row, s, base + s.tag_of_words);
        if (copies) reinterpret_cast<uint32_t *>(shared.stages + later % DOGE_CUDA_STAGES_AHEAD)[thread] = word;
        dev::sync_teams<TEAMS>();
        begun = true;
      }
      if (u >= units) break;
      unit(Format{}, ring, s, shared, row.x, fate, is_mine, base);
    }
  }
}

template <class Format> DOGE_DEVICE void token(const DogeCudaTokenArgs &a) {
  Shared &shared = dev::shared<Shared>();
  const uint32_t base = 1 + a.launch[0] * a.n_tags;
  if (dev::team() == 0) {
    for (uint32_t i = dev::thread(); i < TEAMS * stream::WARPS * 2 * DOGE_CUDA_SLOTS_MAX; i += THREADS) dev::begin_arrivals(shared.arrival[0][0] + i);
  }
  dev::sync_teams<DOGE_CUDA_TOKEN_TEAMS>(); // all know which launch this is
  if (dev::team() < TEAMS) project<Format>(a, shared, base);
  else if (dev::team() == TEAMS) token_attention::attend(a, shared.attention, base);
  else if (dev::warp() == 0) stream::bring<Format>(a, dev::ring() + sizeof(token_attention::Tiles), shared.arrival[0][0]);
  if (dev::team() != 0 || dev::thread() != 0 || dev::add(a.launch + 1, 1) != a.n_blocks - 1) return;
  a.launch[1] = 0, ++a.launch[0]; // for the next one
}

}  // namespace

#define DOGE_TOKEN(...) token<__VA_ARGS__>(a)
#else // before sm_90 there is no copy engine, and nothing launches these
#define DOGE_TOKEN(...) (void)a
#endif

DOGE_TEAM_KERNEL(doge_token_f32, DOGE_TEAMS, DogeCudaTokenArgs) { DOGE_TOKEN(stream::Floats<weight::F32>); }
DOGE_TEAM_KERNEL(doge_token_bf16, DOGE_TEAMS, DogeCudaTokenArgs) { DOGE_TOKEN(stream::Floats<weight::Bf16>); }
DOGE_TEAM_KERNEL(doge_token_f16, DOGE_TEAMS, DogeCudaTokenArgs) { DOGE_TOKEN(stream::Floats<weight::F16>); }
DOGE_TEAM_KERNEL(doge_token_int8, DOGE_TEAMS, DogeCudaTokenArgs) { DOGE_TOKEN(stream::Ints<false>); }
DOGE_TEAM_KERNEL(doge_token_int4, DOGE_TEAMS, DogeCudaTokenArgs) { DOGE_TOKEN(stream::Ints<true>); }
