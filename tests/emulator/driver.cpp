// A stand-in for the CUDA driver's library: as much of its interface as the engine's runtime uses, over host memory, with
// launches run by the emulator in a stream's order: at once, or, for a thread that asks for it, when somebody waits for the stream.
// Graphs record launches and replay them.
//
// What it shows of a machine can be set: DOGE_EMULATOR_DEVICES (1), DOGE_EMULATOR_ARCH (90), DOGE_EMULATOR_MEMORY (bytes
// free, 8 GiB), DOGE_EMULATOR_SEED (2: threads run in a new random order at every launch).
#include <stdio.h>
#include <stdlib.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "doge_emulator.h"

namespace {

using Result = int;
using Pointer = unsigned long long;
enum : Result {
  SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
  ILLEGAL_STATE = 401, NOT_FOUND = 500, LAUNCH_FAILED = 719, STREAM_CAPTURE_UNSUPPORTED = 900, STREAM_CAPTURE_INVALIDATED = 901,
  STREAM_CAPTURE_WRONG_THREAD = 908,
};
enum { MULTIPROCESSORS = 16, SHARED_OPTIN = 97, L2_BYTES = 38, COMPUTE_MAJOR = 75, COMPUTE_MINOR = 76, MEMORY_POOLS = 115 }; // CUdevice_attribute

struct Launch {
  const emulator::Kernel *kernel;
  emulator::Grid grid;
  std::vector<unsigned char> args;
  size_t ring;
  bool together;
};
struct Graph {
  std::vector<Launch> launches;
};
using SharedGraph = std::shared_ptr<const Graph>; // replays that wait outlive their handle

/// A capture is the stream's: whoever launches into it then is recorded. Used by several threads one call at a time.
struct Stream {
  std::mutex lock;
  Graph *capture;
  std::thread::id capturer;
  bool is_invalid; // the capture
  std::vector<std::function<Result()>> waiting;

  /// What waits, in order, up to the first error.
  Result drain() {
    Result result = SUCCESS;
    for (const auto &work : waiting) {
      if (result == SUCCESS) result = work();
    }
    waiting.clear();
    return result;
  }
};

using Event = std::chrono::steady_clock::time_point;

std::mutex lock;
std::map<Pointer, size_t> allocated;
size_t in_use;
// Of each thread: tests of schedules and counts run side by side.
thread_local Stream *capturing; // in which this thread began a capture
thread_local bool late;
thread_local enum : uint32_t { NOTHING, END_CAPTURE, GET_FUNCTION } refused;
thread_local unsigned long long launches;
thread_local std::string last_error;

unsigned long long setting(const char *name, unsigned long long otherwise) {
  const char *const text = getenv(name);
  return text != nullptr && *text != 0 ? strtoull(text, nullptr, 10) : otherwise;
}

size_t memory() { return (size_t)setting("DOGE_EMULATOR_MEMORY", 8ull << 30); }

thread_local uint32_t seed = (uint32_t)setting("DOGE_EMULATOR_SEED", 2);

Result run(const Launch &launch) {
  ++launches;
  const uint32_t mine = seed;
  if (seed > 1) ++seed;
  const char *const error = emulator::launch(*launch.kernel, launch.grid, launch.args.data(), mine, launch.ring, launch.together);
  if (error == nullptr) return SUCCESS;
  last_error = error;
  return LAUNCH_FAILED;
}

/// What no capture can record ends it.
Result unsupported(Stream &stream) { return stream.is_invalid = true, STREAM_CAPTURE_UNSUPPORTED; }

/// Whatever moves data must stand outside of a capture, or be recorded; the engine captures launches only.
template <class Work> Result give(void *to, Work work) {
  Stream &stream = *static_cast<Stream *>(to);
  const std::lock_guard<std::mutex> guard(stream.lock);
  if (stream.capture != nullptr) return unsupported(stream);
  stream.waiting.push_back(std::move(work));
  return late ? SUCCESS : stream.drain();
}

/// When all that waits is done.
template <class Work> Result after_all(void *of, Work work) {
  Stream &stream = *static_cast<Stream *>(of);
  const std::lock_guard<std::mutex> guard(stream.lock);
  if (stream.capture != nullptr) return unsupported(stream);
  const Result result = stream.drain();
  if (result == SUCCESS) work();
  return result;
}

Result allocate(Pointer *to, size_t bytes) {
  if (capturing != nullptr) return unsupported(*capturing);
  const std::lock_guard<std::mutex> guard(lock);
  if (in_use + bytes > memory()) return OUT_OF_MEMORY;
  void *const p = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (p == nullptr) return OUT_OF_MEMORY;
  memset(p, 0xff, bytes); // what was never written shows as NaN
  *to = (Pointer)p;
  allocated[*to] = bytes;
  in_use += bytes;
  return SUCCESS;
}

Result release(Pointer p) {
  if (capturing != nullptr) return unsupported(*capturing);
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = allocated.find(p);
  if (found == allocated.end()) return INVALID_VALUE;
  in_use -= found->second;
  allocated.erase(found);
  free((void *)p);
  return SUCCESS;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) Result

/// This thread's schedule from now on: 0 ascending threads, 1 descending ones and blocks, above that random, another one each launch.
extern "C" __attribute__((visibility("default"))) void doge_emulator_seed(uint32_t value) { seed = value; }

/// Does what this thread gives a stream from now on wait until somebody waits for the stream? Then what is missing between two
/// streams, or between a copy and the end of what it copies on the host, shows.
extern "C" __attribute__((visibility("default"))) void doge_emulator_late(bool value) { late = value; }

/// This thread's next request of this kind fails, once.
extern "C" __attribute__((visibility("default"))) void doge_emulator_refuse(uint32_t kind) { refused = (decltype(refused))kind; }

/// Launches that this thread ran so far, those of graphs among them.
extern "C" __attribute__((visibility("default"))) unsigned long long doge_emulator_launches() { return launches; }

API cuInit(unsigned) { return setting("DOGE_EMULATOR_DEVICES", 1) == 0 ? NO_DEVICE : SUCCESS; }
API cuDeviceGetCount(int *n) { return *n = (int)setting("DOGE_EMULATOR_DEVICES", 1), SUCCESS; }
API cuDeviceGet(int *device, int ordinal) {
  if (ordinal < 0 || ordinal >= (int)setting("DOGE_EMULATOR_DEVICES", 1)) return INVALID_DEVICE;
  return *device = ordinal, SUCCESS;
}
API cuDeviceGetName(char *name, int bytes, int) { return snprintf(name, (size_t)bytes, "emulated GPU"), SUCCESS; }
API cuDeviceGetAttribute(int *value, int attribute, int) {
  const int arch = (int)setting("DOGE_EMULATOR_ARCH", 90);
  switch (attribute) {
    case MULTIPROCESSORS: *value = 3; break;
    case SHARED_OPTIN: *value = 160 << 10; break;
    case L2_BYTES: *value = 1 << 16; break;
    case COMPUTE_MAJOR: *value = arch / 10; break;
    case COMPUTE_MINOR: *value = arch % 10; break;
    case MEMORY_POOLS: *value = 0; break;
    default: *value = 1;
  }
  return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = memory(), SUCCESS; }
API cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void *) { return SUCCESS; }
API cuCtxGetCurrent(void **context) { return *context = (void *)1, SUCCESS; }
API cuCtxSynchronize() { return SUCCESS; }

/// Any image will do: the kernels are in this library.
API cuModuleLoadData(void **module, const void *image) { return image == nullptr ? INVALID_IMAGE : (*module = (void *)1, SUCCESS); }
API cuModuleUnload(void *) { return SUCCESS; }
API cuModuleGetFunction(void **function, void *, const char *name) {
  if (refused == GET_FUNCTION) return refused = NOTHING, OUT_OF_MEMORY;
  const emulator::Kernel *const kernel = emulator::Kernel::find(name);
  return *function = (void *)kernel, kernel == nullptr ? NOT_FOUND : SUCCESS;
}

/// CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: as much as any kernel has; else the version of PTX, as of machine code.
API cuFuncGetAttribute(int *value, int attribute, void *) {
  return *value = attribute == 1 ? 48 << 10 : (int)setting("DOGE_EMULATOR_ARCH", 90), SUCCESS;
}
API cuFuncSetAttribute(void *, int, int) { return SUCCESS; }

API cuMemGetInfo_v2(size_t *free, size_t *total) {
  const std::lock_guard<std::mutex> guard(lock);
  return *total = memory(), *free = *total - in_use, SUCCESS;
}
API cuMemAlloc_v2(Pointer *p, size_t bytes) { return allocate(p, bytes); }
API cuMemAllocAsync(Pointer *p, size_t bytes, void *) { return allocate(p, bytes); }
API cuMemFree_v2(Pointer p) { return release(p); }
API cuMemFreeAsync(Pointer p, void *) { return release(p); }
/// From memory of the host that the driver need not have looked at when it returns.
API cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) {
  return give(stream, [=] { return memcpy((void *)to, from, bytes), SUCCESS; });
}
API cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) {
  return after_all(stream, [=] { memcpy(to, (void *)from, bytes); });
}
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void *stream) {
  return give(stream, [=] { return memmove((void *)to, (void *)from, bytes), SUCCESS; });
}
API cuMemsetD8Async(Pointer p, unsigned char value, size_t bytes, void *stream) {
  return give(stream, [=] { return memset((void *)p, value, bytes), SUCCESS; });
}

API cuStreamCreate(void **stream, unsigned) { return *stream = new Stream{}, SUCCESS; }
API cuStreamDestroy_v2(void *stream) {
  const Result result = static_cast<Stream *>(stream)->drain();
  return delete static_cast<Stream *>(stream), result;
}
API cuStreamSynchronize(void *stream) {
  return after_all(stream, [] {});
}
API cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
/// An event has happened when it is recorded.
API cuEventCreate(void **event, unsigned) { return *event = new Event, SUCCESS; }
API cuEventRecord(void *event, void *stream) {
  return after_all(stream, [=] { *static_cast<Event *>(event) = std::chrono::steady_clock::now(); });
}
API cuEventSynchronize(void *) { return SUCCESS; }
API cuEventElapsedTime_v2(float *ms, void *from, void *to) {
  const std::chrono::duration<float, std::milli> time = *static_cast<Event *>(to) - *static_cast<Event *>(from);
  return *ms = time.count(), SUCCESS;
}
API cuEventDestroy_v2(void *event) { return delete static_cast<Event *>(event), SUCCESS; }

struct LaunchAttribute {
  enum { COOPERATIVE = 2 };
  int id, padding;
  int value[16];
};
/// CUlaunchConfig. Launches that may begin early run in order here.
struct LaunchConfig {
  unsigned grid[3], block[3], shared;
  void *stream;
  const LaunchAttribute *attributes;
  unsigned n_attributes;
};

API cuLaunchKernelEx(const LaunchConfig *config, void *function, void **params, void **) {
  const auto *const kernel = static_cast<const emulator::Kernel *>(function);
  const auto &[x, y, z] = config->grid;
  if (kernel == nullptr || x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535) return INVALID_VALUE;
  if (config->block[0] != kernel->threads || config->block[1] != 1 || config->block[2] != 1) {
    last_error = std::string(kernel->name) + ": launched with another number of threads than it was compiled for";
    return LAUNCH_FAILED;
  }
  const auto *const args = static_cast<const unsigned char *>(params[0]);
  bool together = false;
  for (unsigned i = 0; i < config->n_attributes; ++i) together = together || config->attributes[i].id == LaunchAttribute::COOPERATIVE;
  const Launch launch = {kernel, {x, y, z}, {args, args + kernel->args}, config->shared, together};
  Stream &stream = *static_cast<Stream *>(config->stream);
  {
    const std::lock_guard<std::mutex> guard(stream.lock);
    if (stream.capture != nullptr) return stream.capture->launches.push_back(launch), SUCCESS;
  }
  return give(&stream, [=] { return run(launch); });
}

API cuStreamBeginCapture_v2(void *of, int) {
  Stream &stream = *static_cast<Stream *>(of);
  const std::lock_guard<std::mutex> guard(stream.lock);
  if (stream.capture != nullptr) return unsupported(stream), ILLEGAL_STATE;
  stream.capture = new Graph, stream.capturer = std::this_thread::get_id(), stream.is_invalid = false;
  return capturing = &stream, SUCCESS;
}
API cuStreamIsCapturing(void *of, int *status) {
  Stream &stream = *static_cast<Stream *>(of);
  const std::lock_guard<std::mutex> guard(stream.lock);
  return *status = stream.capture == nullptr ? 0 : stream.is_invalid ? 2 : 1, SUCCESS; // CUstreamCaptureStatus
}
API cuStreamEndCapture(void *of, void **graph) {
  Stream &stream = *static_cast<Stream *>(of);
  std::this_thread::sleep_for(std::chrono::milliseconds(5)); // whoever uses a stream that another thread captures shall meet that
  const std::lock_guard<std::mutex> guard(stream.lock);
  *graph = nullptr;
  if (stream.capture == nullptr) return ILLEGAL_STATE;
  if (stream.capturer != std::this_thread::get_id()) return unsupported(stream), STREAM_CAPTURE_WRONG_THREAD;
  if (refused == END_CAPTURE) return refused = NOTHING, ILLEGAL_STATE;
  Graph *const captured = stream.capture;
  stream.capture = nullptr, capturing = nullptr;
  if (stream.is_invalid) return delete captured, STREAM_CAPTURE_INVALIDATED;
  return *graph = captured, SUCCESS;
}
API cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long) {
  return *exec = new SharedGraph(new Graph(*static_cast<Graph *>(graph))), SUCCESS;
}
API cuGraphUpload(void *, void *) { return SUCCESS; }
API cuGraphLaunch(void *exec, void *stream) {
  return give(stream, [graph = *static_cast<SharedGraph *>(exec)]() -> Result {
    for (const Launch &launch : graph->launches) {
      if (const Result result = run(launch)) return result;
    }
    return SUCCESS;
  });
}
API cuGraphExecDestroy(void *exec) { return delete static_cast<SharedGraph *>(exec), SUCCESS; }
API cuGraphDestroy(void *graph) { return delete static_cast<Graph *>(graph), SUCCESS; }

API cuGetErrorName(Result result, const char **text) {
  switch (result) {
    case OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *text = "CUDA_ERROR_INVALID_DEVICE"; break;
    case LAUNCH_FAILED: *text = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *text = "an error of the stand-in driver"; break;
  }
  return SUCCESS;
}
API cuGetErrorString(Result result, const char **text) {
  return *text = result == LAUNCH_FAILED ? last_error.c_str() : "(stand-in driver)", SUCCESS;
}
