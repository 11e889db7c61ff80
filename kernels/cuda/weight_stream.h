// The weights of a whole token on their way (token.cu). They depend on no activation, so each warp asks for what it will multiply
// with long before its inputs are there: through the ends of stages and layers, as far ahead as its ring in shared memory reaches. The
// copy engine brings them, so that no thread is held up by what is on its way; what a warp asks for only that warp reads.
//
// A stage's outputs are dealt out in units, to the workers of all blocks in turn: with the float formats a worker is a warp and a unit two
// outputs, with the integer ones a worker is a team and a unit a tile; of gate and up the same of each. A unit is a list of
// pieces: turn by turn, of each turn one piece a side (output or tile).
#pragma once
#include "projection.h"
#include "weight.h"

namespace stream {

constexpr uint32_t TEAMS = DOGE_CUDA_TOKEN_PROJECTORS, WARPS = DOGE_CUDA_THREADS / 32, SIDES = 2;

/// Float formats: a piece is as much of a row as a slot holds.
template <class Weight> struct Floats {
  using Raw = typename Weight::Raw;
  static constexpr uint32_t SLOT = 2048, CHUNKS = SLOT / sizeof(Raw), WORKERS = TEAMS * WARPS;
  DOGE_DEVICE static uint32_t worker(uint32_t warp) { return warp; }
  DOGE_DEVICE static uint32_t sides(const DogeCudaStage &) { return SIDES; }
  DOGE_DEVICE static uint32_t turns(const DogeCudaStage &s, uint32_t) { return ((uint32_t)s.linear.stride_bytes + SLOT - 1) / SLOT; }
  DOGE_DEVICE static uint32_t from(uint32_t turn, uint32_t) { return turn * SLOT; }
  DOGE_DEVICE static uint32_t bytes(uint32_t turn, uint32_t of_row) { return dev::least(SLOT, of_row - turn * SLOT); }
  DOGE_DEVICE static const uint8_t *row(const DogeCudaStage &s, uint32_t unit, uint32_t side) {
    // Beyond the end the last row is copied once more and nothing is written.
    uint32_t output = dev::least(s.is_gated ? unit : SIDES * unit + side, s.outputs - 1);
    const DogeCudaProjection &p = s.is_gated ? s.linear.projection[side] : projection::find(s.linear.projection, output);
    return static_cast<const uint8_t *>(p.weight) + output * s.linear.stride_bytes;
  }
};

/// Integer formats: a piece is a block of two groups of a tile; a warp has every fourth.
template <bool INT4> struct Ints {
  using Tile = weight::IntTile<INT4>;
  static constexpr uint32_t SLOT = Tile::BLOCK_BYTES, WORKERS = TEAMS;
  DOGE_DEVICE static uint32_t worker(uint32_t warp) { return warp / WARPS; }
  DOGE_DEVICE static uint32_t sides(const DogeCudaStage &s) { return s.is_gated ? 2 : 1; }
  DOGE_DEVICE static uint32_t turns(const DogeCudaStage &s, uint32_t warp) {
    const uint32_t blocks = (s.linear.cols + 2 * DOGE_GROUP - 1) / (2 * DOGE_GROUP);
    return (blocks + WARPS - 1 - warp % WARPS) / WARPS;
  }
  DOGE_DEVICE static uint32_t from(uint32_t turn, uint32_t warp) { return (WARPS * turn + warp % WARPS) * SLOT; }
  DOGE_DEVICE static uint32_t bytes(uint32_t, uint32_t) { return SLOT; }
  DOGE_DEVICE static const uint8_t *row(const DogeCudaStage &s, uint32_t unit, uint32_t side) {
    const DogeCudaProjection &p = s.is_gated ? s.linear.projection[side] : projection::find(s.linear.projection, unit, DOGE_TILE);
    return static_cast<const uint8_t *>(p.weight) + unit * s.linear.stride_bytes;
  }
};

/// A warp's ring: slots that are filled and emptied in turn.
template <class Format> struct Ring {
  uint8_t *slot;             // [slots]
  uint64_t *arrived, *taken; // [slots]
  uint32_t slots, next, round, warp, workers, mine; // of the grid; this warp's number

  DOGE_DEVICE void begin(const DogeCudaTokenArgs &a, uint8_t *rings, uint64_t *arrivals, uint32_t of_warp) {
    warp = of_warp, slots = a.slots, next = round = 0;
    slot = rings + warp * slots * Format::SLOT;
    arrived = arrivals + warp * 2 * DOGE_CUDA_SLOTS_MAX, taken = arrived + DOGE_CUDA_SLOTS_MAX;
    workers = Format::WORKERS * a.n_blocks, mine = Format::worker(warp) * a.n_blocks + dev::block_x();
  }
  DOGE_DEVICE void advance() {
    if (++next == slots) next = 0, ++round;
  }
  /// The first of a stage's units that is this worker's.
  DOGE_DEVICE uint32_t first_unit(const DogeCudaStage &s) const { return mine >= s.shift ? mine - s.shift : mine + workers - s.shift; }
  /// The piece `later` after the next one, when it is there.
  DOGE_DEVICE const uint8_t *look(uint32_t later) const {
    const uint32_t at = next + later < slots ? next + later : next + later - slots;
    dev::wait(arrived + at, (at < next ? round + 1 : round) % 2);
    return slot + at * Format::SLOT;
  }
  /// The next n pieces were read by all lanes.
  DOGE_DEVICE void give_back(uint32_t n) {
    dev::sync_warp();
    for (; n > 0; --n) {
      if (dev::lane() == 0) dev::arrive(taken + next);
      advance();
    }
  }
};

/// Fills the rings of all warps, a lane each, as soon as there is room.
template <class Format> DOGE_DEVICE void bring(const DogeCudaTokenArgs &a, uint8_t *rings, uint64_t *arrivals) {
  if (dev::lane() >= TEAMS * WARPS) return;
  Ring<Format> ring;
  ring.begin(a, rings, arrivals, dev::lane());
  const DogeCudaStage *s = a.stages, *const end = a.stages + a.n_stages;
  uint32_t unit = ring.first_unit(*s), units = s->units, turns = Format::turns(*s, ring.warp), turn = 0, side = 0;
  while (true) {
    if (unit >= units || turns == 0) {
      if (++s == end) break;
      if (s + 1 != end) dev::prefetch(s + 1);
      // Vectors that the stage will ask for: into L2, by one block or another.
      const uint32_t line = 32 * (dev::block_x() * TEAMS * WARPS + dev::lane());
      if (s->linear.norm != nullptr && line < s->linear.cols) dev::prefetch(s->linear.norm + line);
      if (s->linear.residual != nullptr && line < s->outputs) dev::prefetch(s->linear.residual + line);
      unit = ring.first_unit(*s), units = s->units, turns = Format::turns(*s, ring.warp);
      continue;
    }
    if (ring.round > 0 && !dev::is_complete(ring.taken + ring.next, (ring.round - 1) % 2)) {
      dev::pause();
      continue;
    }
    const uint32_t bytes = Format::bytes(turn, (uint32_t)s->linear.stride_bytes);
    dev::expect(ring.arrived + ring.next, bytes);
    dev::copy_bulk(ring.slot + ring.next * Format::SLOT, Format::row(*s, unit, side) + Format::from(turn, ring.warp), bytes, ring.arrived + ring.next);
    ring.advance();
    if (++side < Format::sides(*s)) continue;
    side = 0;
    if (++turn < turns) continue;
    turn = 0, unit += ring.workers;
  }
}

}  // namespace stream
