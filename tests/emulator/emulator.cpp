// Fibres, the scheduler and the collectives of the emulator. A launch runs on the thread that asks for it, and what is broken is
// broken for that thread: threads do not see each other.
#include "doge_emulator.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "fibre.h"

namespace emulator {
namespace {

const Kernel *kernels;

enum State : uint8_t { RUNS, PAUSES, AT_WARP, AT_BARRIER, DONE };

struct Copy {
  void *to;
  const void *from;
  bool valid;
  uint32_t group;
};

struct BulkCopy {
  void *to;
  const void *from;
  uint32_t bytes;
  Arrival *arrival;
  bool happens;
};

struct Thread {
  Fibre fibre;
  uint32_t team, of_team; // its team, and its place there
  uint32_t barrier;
  uint32_t group; // of asynchronous copies
  bool lingered;
  std::vector<Copy> copies;
};

struct Site {
  const char *file;
  uint32_t line;
  bool operator==(const Site &other) const { return line == other.line && (file == other.file || strcmp(file, other.file) == 0); }
};

/// Two sets of operands in turn: lanes read one while others of the warp bring the next.
struct Warp {
  Operand operands[2][32];
  uint32_t set, arrived;
  Site site;
};

/// Each team's own, and those of the first n teams.
constexpr uint32_t BARRIERS = 16;
struct Barrier {
  uint32_t waiting;
  Site site;
};

constexpr size_t CANARY = 64;
constexpr uint32_t LINGERS = 3000; // turns: of a small model, more than a layer takes
constexpr unsigned char POISON = 0xff; // NaN as a float, huge as an index

struct Block {
  const Kernel *kernel;
  const void *args;
  Grid at;
  std::vector<Thread> threads;
  std::vector<State> states; // of the threads; nothing else, for most rounds do little but look for who can go on
  std::vector<Warp> warps;
  uint32_t first_stack, left;
  uint32_t current; // who runs
  bool pausing;     // some thread does
  Barrier barriers[2 * BARRIERS];
  std::unique_ptr<unsigned char[]> shared, ring;
  size_t shared_bytes, ring_bytes;
  std::vector<BulkCopy> bulk;
  bool eager; // asynchronous copies happen at once instead of at the wait
  Fibre scheduler;
  std::string error;
};

thread_local Block *running;

// The planted fault and its place, and the sites that were counted.
thread_local Fault fault;
thread_local Site fault_site;
thread_local std::string fault_file;
thread_local std::vector<Site> sites[FAULT_COUNT];

Thread &current() { return running->threads[running->current]; }

/// Back to the scheduler until somebody wakes this thread.
void park(State state) {
  running->states[running->current] = state;
  switch_fibre(current().fibre, running->scheduler);
}

void enter() {
  running->kernel->body(running->args);
  --running->left;
  park(DONE);
  abort(); // nobody wakes a thread that is done
}

/// A kernel that reads or writes where nothing is ends its launch, not the process. What no address can be is SIGBUS to some
/// instructions.
struct sigaction others[2];
constexpr int MEMORY_FAULTS[2] = {SIGSEGV, SIGBUS};

void on_memory_fault(int, siginfo_t *info, void *) {
  if (running == nullptr) {
    // Not ours: happens again, with whoever was there before.
    for (int i = 0; i < 2; ++i) sigaction(MEMORY_FAULTS[i], &others[i], nullptr);
    return;
  }
  char text[64];
  snprintf(text, sizeof text, "memory fault at %p", info->si_addr);
  running->error = text;
  switch_fibre(current().fibre, running->scheduler);
}

void catch_memory_faults() {
  struct sigaction action = {};
  action.sa_sigaction = on_memory_fault;
  // On the thread's alternate stack; never returned from, so the signal must not stay blocked.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 2; ++i) sigaction(MEMORY_FAULTS[i], &action, &others[i]);
}

struct Random {
  uint64_t state;
  uint32_t below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 32) * n >> 32);
  }
};

/// Of every four random schedules one is greedy: a thread that can go on does, before those behind it begin. So one warp is far
/// ahead of the others, where the other schedules keep them in step.
bool is_greedy(uint32_t seed) { return seed % 4 == 3; }

bool descends(uint32_t seed) { return seed == 1 || seed % 8 == 7; }

/// Who has a turn after whom: ascending, descending, or those that can go on when a round begins, shuffled.
struct Order {
  std::vector<uint32_t> shuffled;
  uint32_t n, turns;
  bool down, shuffles;

  Order(uint32_t n, uint32_t seed) : shuffled(n), n(n), turns(n), down(descends(seed)), shuffles(seed > 1 && !is_greedy(seed)) {}

  void begin_round(const State *states, Random &random) {
    if (!shuffles) return;
    turns = 0;
    for (uint32_t i = 0; i < n; ++i) {
      shuffled[turns] = i;
      turns += states[i] == RUNS;
    }
    for (uint32_t i = turns; i-- > 1;) std::swap(shuffled[i], shuffled[random.below(i + 1)]);
  }

  uint32_t thread(uint32_t turn) const { return shuffles ? shuffled[turn] : down ? n - 1 - turn : turn; }

  /// The first turn from `turn` on whose thread can go on; `turns` or more if there is none.
  uint32_t next(const State *states, uint32_t turn) const {
    if (shuffles) return turn; // nobody but a thread itself ends that
    const void *const found = down ? memrchr(states, RUNS, n - turn) : memchr(states + turn, RUNS, n - turn);
    return found == nullptr ? n : thread((uint32_t)((const State *)found - states)); // which turn is whose is its own inverse
  }
};

void begin_block(Block &block) {
  const uint32_t n = block.kernel->threads, team = n / block.kernel->teams;
  block.left = n, block.pausing = false;
  if (block.shared) memset(block.shared.get(), POISON, block.shared_bytes + CANARY);
  if (block.ring) memset(block.ring.get(), POISON, block.ring_bytes + CANARY);
  for (uint32_t i = 0; i < n; ++i) {
    Thread &thread = block.threads[i];
    thread.team = i / team, thread.of_team = i % team, thread.group = 0, thread.lingered = false;
    thread.copies.clear();
    thread.fibre.start(block.first_stack + i, enter);
  }
  std::fill(block.states.begin(), block.states.end(), RUNS);
  for (Warp &warp : block.warps) warp.set = warp.arrived = 0;
  for (Barrier &barrier : block.barriers) barrier.waiting = 0;
  block.bulk.clear();
}

/// Each thread that can go on does, once; a greedy one as long as it can. Did any do more than look?
bool round(Block &block, uint32_t seed, Random &random, Order &order) {
  running = &block;
  if (block.pausing) std::replace(block.states.begin(), block.states.end(), PAUSES, RUNS);
  block.pausing = false;
  order.begin_round(block.states.data(), random);
  bool progress = false;
  for (uint32_t turn = 0; (turn = order.next(block.states.data(), turn)) < order.turns; turn = is_greedy(seed) ? 0 : turn + 1) {
    const uint32_t i = order.thread(turn);
    block.current = i;
    switch_fibre(block.scheduler, block.threads[i].fibre);
    if (!block.error.empty()) return true;
    progress = progress || block.states[i] != PAUSES;
  }
  return progress;
}

void end_block(Block &block) {
  for (size_t i = 0; i < CANARY; ++i) {
    if (block.shared && block.shared[block.shared_bytes + i] != POISON) block.error = "a write beyond shared memory";
    if (block.ring && block.ring[block.ring_bytes + i] != POISON) block.error = "a write beyond the shared memory of the launch";
  }
}

std::string deadlock(const Block &block) {
  uint32_t at_barrier = 0;
  for (const State state : block.states) at_barrier += state == AT_BARRIER;
  return "deadlock: " + std::to_string(at_barrier) + " of " + std::to_string(block.left) +
         " threads wait at a barrier, the others for lanes of their warp or for another block";
}

}  // namespace

thread_local bool watching;

Kernel::Kernel(const char *name, uint32_t threads, uint32_t teams, size_t args, void (*body)(const void *))
    : name(name), threads(threads), teams(teams), args(args), body(body), next(kernels) {
  kernels = this;
}

const Kernel *Kernel::find(const char *name) {
  const Kernel *kernel = kernels;
  while (kernel != nullptr && strcmp(kernel->name, name) != 0) kernel = kernel->next;
  return kernel;
}

const char *launch(const Kernel &kernel, Grid grid, const void *args, uint32_t seed, size_t ring, bool together) {
  static thread_local std::string error;
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  const uint32_t at_once = together ? (uint32_t)blocks : 1;
  if (kernel.threads % 32 != 0 || kernel.threads * at_once > MAX_FIBRES) return "the threads of a block are no whole warps, or too many";
  static const bool caught = (catch_memory_faults(), true);
  (void)caught;
  std::vector<Block> live(at_once);
  for (uint32_t i = 0; i < at_once; ++i) {
    Block &block = live[i];
    block.kernel = &kernel, block.args = args;
    block.threads.resize(kernel.threads), block.states.resize(kernel.threads), block.warps.resize(kernel.threads / 32);
    block.first_stack = i * kernel.threads;
    block.ring_bytes = ring;
    if (ring > 0) block.ring.reset(new unsigned char[ring + CANARY]);
    block.eager = seed % 2 == 1;
  }
  Random random = {seed};
  Order order(kernel.threads, seed);
  error.clear();
  for (uint64_t first = 0; first < blocks && error.empty(); first += at_once) {
    for (uint32_t i = 0; i < at_once; ++i) {
      const uint64_t b = seed == 1 ? blocks - 1 - first - i : first + i;
      live[i].at = {(uint32_t)(b % grid.x), (uint32_t)(b / grid.x % grid.y), (uint32_t)(b / grid.x / grid.y)};
      begin_block(live[i]);
    }
    // Twice in vain is for good: whoever looks sees what others did in the round before.
    uint32_t left = at_once, in_vain = 0;
    while (left > 0 && in_vain < 2 && error.empty()) {
      bool progress = false;
      left = 0;
      const uint32_t turned = seed > 1 ? random.below(at_once) : 0;
      for (uint32_t i = 0; i < at_once && error.empty(); ++i) {
        Block &block = live[(i + turned) % at_once];
        if (block.left > 0) progress = round(block, seed, random, order) || progress;
        error = block.error;
      }
      for (Block &block : live) left += block.left > 0;
      in_vain = progress ? 0 : in_vain + 1;
    }
    for (Block &block : live) {
      if (error.empty() && block.left > 0) error = deadlock(block);
      if (error.empty()) end_block(block), error = block.error;
    }
  }
  running = nullptr;
  if (!error.empty()) error = std::string(kernel.name) + ": " + error;
  return error.empty() ? nullptr : error.c_str();
}

uint32_t thread() { return current().of_team; }
uint32_t team() { return current().team; }
Grid block() { return running->at; }
void *ring() { return running->ring.get(); }
void pause() {
  running->pausing = true;
  park(PAUSES);
}

void linger() {
  if (current().lingered) return; // else who never finds its word would never stand still, which is what a deadlock is known by
  current().lingered = true;
  for (uint32_t turn = 0; turn < LINGERS; ++turn) park(RUNS);
}

void fail(const char *what, const char *file, uint32_t line) {
  running->error = std::string(what) + " (" + file + ":" + std::to_string(line) + ")";
  switch_fibre(current().fibre, running->scheduler);
  abort(); // a launch that failed is never continued
}

void *shared(size_t bytes) {
  Block &block = *running;
  if (!block.shared) {
    if (bytes > 48 << 10) fail("more shared memory than a block may have", __FILE__, __LINE__);
    block.shared.reset(new unsigned char[bytes + CANARY]);
    block.shared_bytes = bytes;
    memset(block.shared.get(), POISON, bytes + CANARY);
  }
  if (bytes != block.shared_bytes) fail("two kinds of shared memory in one kernel", __FILE__, __LINE__);
  return block.shared.get();
}

bool broken_here(Fault kind, const char *file, uint32_t line) {
  const Site site = {file, line};
  if (fault != FAULT_COUNT) return fault == kind && fault_site == site;
  std::vector<Site> &known = sites[kind];
  if (std::find(known.begin(), known.end(), site) == known.end()) known.push_back(site);
  return false;
}

void sync(uint32_t n, const char *file, uint32_t line) {
  if (broken(FAULT_BARRIER, file, line)) return;
  Block &block = *running;
  const uint32_t of_team = block.kernel->threads / block.kernel->teams, id = n == 0 ? team() : BARRIERS + n;
  Barrier &barrier = block.barriers[id];
  const Site site = {file, line};
  if (barrier.waiting == 0) barrier.site = site;
  else if (!(barrier.site == site)) fail("threads of a block at different barriers", file, line);
  if (++barrier.waiting < (n == 0 ? 1 : n) * of_team) {
    current().barrier = id;
    return park(AT_BARRIER);
  }
  barrier.waiting = 0;
  for (size_t i = 0; i < block.threads.size(); ++i) {
    if (block.states[i] == AT_BARRIER && block.threads[i].barrier == id) block.states[i] = RUNS;
  }
}

const Operand *exchange(const void *in, size_t bytes, const char *file, uint32_t line) {
  Block &block = *running;
  const uint32_t lane = block.current % 32, first = block.current - lane;
  Warp &warp = block.warps[block.current / 32];
  const Site site = {file, line};
  if (warp.arrived == 0) warp.site = site;
  else if (!(warp.site == site)) fail("lanes of a warp at different collectives", file, line);
  const Operand *const all = warp.operands[warp.set];
  if (bytes > 0) memcpy(warp.operands[warp.set][lane], in, bytes);
  if (++warp.arrived < 32) {
    park(AT_WARP);
  } else {
    warp.arrived = 0;
    warp.set ^= 1;
    std::replace(block.states.begin() + first, block.states.begin() + first + 32, AT_WARP, RUNS);
  }
  return all;
}

static void perform(const Copy &copy) {
  if (copy.valid) memcpy(copy.to, copy.from, 16);
  else memset(copy.to, 0, 16);
}

void copy_async(void *to, const void *from, bool valid) {
  Thread &thread = current();
  const Copy copy = {to, from, valid, thread.group};
  if (running->eager) perform(copy);
  else thread.copies.push_back(copy);
}

void copy_commit() { ++current().group; }

void copy_wait(uint32_t under_way) {
  Thread &thread = current();
  const auto waits = [&](const Copy &copy) { return copy.group + under_way >= thread.group; };
  const auto done = std::stable_partition(thread.copies.begin(), thread.copies.end(), waits);
  std::for_each(done, thread.copies.end(), perform);
  thread.copies.erase(done, thread.copies.end());
}

static void perform(const BulkCopy &copy) {
  if (copy.happens) memcpy(copy.to, copy.from, copy.bytes);
  copy.arrival->expected -= copy.bytes;
  if (copy.arrival->expected == 0) ++copy.arrival->rounds;
}

void copy_bulk(void *to, const void *from, uint32_t bytes, Arrival *arrival, bool happens) {
  const BulkCopy copy = {to, from, bytes, arrival, happens};
  if (running->eager) perform(copy);
  else running->bulk.push_back(copy);
}

bool is_complete(Arrival *arrival, uint32_t parity) {
  auto &bulk = running->bulk;
  const auto others = [&](const BulkCopy &copy) { return copy.arrival != arrival; };
  const auto its = std::stable_partition(bulk.begin(), bulk.end(), others);
  std::for_each(its, bulk.end(), [](const BulkCopy &copy) { perform(copy); });
  bulk.erase(its, bulk.end());
  return arrival->rounds % 2 != parity;
}

}  // namespace emulator

// What tests call.
#define DOGE_EXPORT extern "C" __attribute__((visibility("default")))

/// Breaks one kind of thing (emulator::Fault) at one place of the source from now on, for this thread. FAULT_COUNT breaks nothing
/// and counts sites, from none on; FAULT_NONE ends either.
DOGE_EXPORT void doge_emulator_plant(uint32_t kind, const char *file, uint32_t line) {
  emulator::fault_file = file;
  emulator::fault_site = {emulator::fault_file.c_str(), line};
  emulator::fault = (emulator::Fault)kind;
  emulator::watching = kind != emulator::FAULT_NONE;
  if (kind == emulator::FAULT_COUNT) {
    for (auto &known : emulator::sites) known.clear();
  }
}

/// Sites of a kind that were counted.
DOGE_EXPORT uint32_t doge_emulator_sites(uint32_t kind) { return (uint32_t)emulator::sites[kind].size(); }

/// Where a site is.
DOGE_EXPORT const char *doge_emulator_site_file(uint32_t kind, uint32_t site) { return emulator::sites[kind][site].file; }
DOGE_EXPORT uint32_t doge_emulator_site_line(uint32_t kind, uint32_t site) { return emulator::sites[kind][site].line; }
