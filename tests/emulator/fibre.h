// Fibres: stacks that one thread switches between.
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

constexpr uint32_t MAX_FIBRES = 2048;
// Not a whole number of pages: the tops of all stacks would share a few sets of the caches.
constexpr size_t STACK_BYTES = (64 << 10) + 13 * 64;

/// The stacks of a thread that launches, for as long as it lives; their pages only when touched.
struct Stacks {
  char *first;
  Stacks() {
    void *const p = mmap(nullptr, MAX_FIBRES * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    first = static_cast<char *>(p);
  }
  ~Stacks() { munmap(first, MAX_FIBRES * STACK_BYTES); }
};

/// The stack of fibre `i` of this thread.
inline char *stack(uint32_t i) {
  static thread_local const Stacks stacks;
  return stacks.first + i * STACK_BYTES;
}

#if defined(__x86_64__)

/// Where a fibre goes on.
struct Fibre {
  void *stack_pointer, *frame_pointer, *place;
  void start(uint32_t i, void (*enter)()) {
    void **const top = reinterpret_cast<void **>(stack(i) + STACK_BYTES - 64) - 1;
    *top = nullptr; // where enter would return to
    stack_pointer = top, frame_pointer = nullptr, place = reinterpret_cast<void *>(enter);
  }
};

/// Every other register is lost, and the compiler knows: it saves what it needs. Inlined, for a function would return on another
/// stack than it was called on, and so would its callers, whose returns the processor foresees by their calls.
[[gnu::always_inline]] inline void switch_fibre(Fibre &from, Fibre &to) {
  Fibre *f = &from, *t = &to;
  asm volatile(
      "movq %%rsp,(%0); movq %%rbp,8(%0); leaq 1f(%%rip),%%rax; movq %%rax,16(%0)\n"
      "movq (%1),%%rsp; movq 8(%1),%%rbp; jmp *16(%1)\n"
      "1:"
      : "+D"(f), "+S"(t)
      :
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
        "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory");
}

#else

struct Fibre {
  ucontext_t context;
  void start(uint32_t i, void (*enter)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack(i);
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
  }
};
inline void switch_fibre(Fibre &from, Fibre &to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace emulator
