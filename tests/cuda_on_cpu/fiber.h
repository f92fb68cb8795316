// A fiber: a function with a stack of its own, entered and left at will; AddressSanitizer is told of each change.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fused_rnn::emulator {

// Makes what lies behind `used` bytes of an allocation an error to touch, where a sanitizer watches.
inline void forbid_beyond([[maybe_unused]] unsigned char* data, [[maybe_unused]] size_t used,
                          [[maybe_unused]] size_t allocated) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(data + used, allocated - used);
#endif
}

#if defined(__x86_64__)
// Saves the registers that a call must keep and the stack in *from, and goes on where `to` was saved. ucontext would
// do, but makes two system calls a switch, and a matrix tile takes 32 switches.
extern "C" void fused_rnn_switch_stack(void** from, void* to);
__asm__(
    ".text\n.p2align 4\n.weak fused_rnn_switch_stack\n.type fused_rnn_switch_stack,@function\nfused_rnn_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size fused_rnn_switch_stack, .-fused_rnn_switch_stack\n");
#endif

class Fiber {
 public:
  using Function = void (*)(void*);

  Fiber() = default;
  ~Fiber() {
    if (stack_ == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack_, kStack);  // frames of a fiber that was given up in the middle
#endif
    pool().push_back(stack_);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(Function function, void* argument) {
    function_ = function;
    argument_ = argument;
    if (pool().empty()) {
      void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) throw std::bad_alloc();
      stack_ = static_cast<unsigned char*>(memory);
    } else {
      stack_ = pool().back();
      pool().pop_back();
    }
#if defined(__x86_64__)
    // As if first() had been called: six registers to restore, its address to return to, and the return address that
    // it never uses, which leaves the stack as a call leaves it.
    // The tops of the stacks lie beside each other in the caches, not upon each other.
    static size_t started = 0;
    void** top = reinterpret_cast<void**>(stack_ + kStack - ++started % 64 * 320) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(&Fiber::first);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    own_ = top;
#else
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_;
    own_.uc_stack.ss_size = kStack;
    own_.uc_link = nullptr;
    makecontext(&own_, &Fiber::first, 0);
#endif
  }

  // From outside: goes on where the fiber left.
  void enter() {
    starting() = this;
    begin_switch(&outside_fake_, stack_, kStack);
#if defined(__x86_64__)
    fused_rnn_switch_stack(&outside_, own_);
#else
    swapcontext(&outside_, &own_);
#endif
    end_switch(outside_fake_, nullptr, nullptr);
  }
  // From inside: goes back to the caller of enter.
  void leave() { leave(&own_fake_); }

 private:
  static constexpr size_t kStack = 256 * 1024;  // reserved, not committed

  static std::vector<unsigned char*>& pool() {
    static std::vector<unsigned char*> stacks;
    return stacks;
  }
  static Fiber*& starting() {
    static Fiber* fiber;
    return fiber;
  }
  static void first() {
    Fiber& self = *starting();
    end_switch(nullptr, &self.outside_stack_, &self.outside_size_);
    self.function_(self.argument_);
    self.leave(nullptr);  // for good
    std::abort();
  }
  void leave(void** fake) {
    begin_switch(fake, outside_stack_, outside_size_);
#if defined(__x86_64__)
    fused_rnn_switch_stack(&own_, outside_);
#else
    swapcontext(&own_, &outside_);
#endif
    end_switch(own_fake_, &outside_stack_, &outside_size_);
  }
#if defined(__SANITIZE_ADDRESS__)
  static void begin_switch(void** fake, const void* stack, size_t size) {
    __sanitizer_start_switch_fiber(fake, stack, size);
  }
  static void end_switch(void* fake, const void** stack, size_t* size) {
    __sanitizer_finish_switch_fiber(fake, stack, size);
  }
#else
  static void begin_switch(void** /*fake*/, const void* /*stack*/, size_t /*size*/) {}
  static void end_switch(void* /*fake*/, const void** /*stack*/, size_t* /*size*/) {}
#endif

  Function function_ = nullptr;
  void* argument_ = nullptr;
  unsigned char* stack_ = nullptr;
  void *own_fake_ = nullptr, *outside_fake_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_size_ = 0;
#if defined(__x86_64__)
  void *own_ = nullptr, *outside_ = nullptr;
#else
  ucontext_t own_{}, outside_{};
#endif
};

}  // namespace fused_rnn::emulator
