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

/// A switch saves what the calling convention wants saved, and exchanges the stack pointer.
struct Fibre {
  void *stack_pointer;
  void start(uint32_t i, void (*enter)()) {
    void **top = reinterpret_cast<void **>(stack(i) + STACK_BYTES - 64);
    *--top = nullptr; // where enter would return to
    *--top = reinterpret_cast<void *>(enter);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    stack_pointer = top;
  }
};

extern "C" void doge_emulator_switch(void **from, void *to);
asm(R"(
.text
.globl doge_emulator_switch
.hidden doge_emulator_switch
.type doge_emulator_switch,@function
doge_emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
inline void switch_fibre(Fibre &from, Fibre &to) { doge_emulator_switch(&from.stack_pointer, to.stack_pointer); }

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
