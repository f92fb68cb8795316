// Carves one caller-owned block of memory into aligned arrays; with a null base it only counts the bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fused_rnn {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    const size_t begin = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + begin);
  }

  size_t used() const { return used_; }

  // Takes what another has taken from the same block, too. Copies that begin at one point are for arrays of which only
  // one is in use at a time.
  void cover(const Arena& other) { used_ = used_ > other.used_ ? used_ : other.used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// T(arguments..., arena). Where a constructor is used often, this compiles it once.
template <class T, class... Arguments>
[[gnu::noinline]] T make_in(Arena& arena, const Arguments&... arguments) {
  return T(arguments..., arena);
}

}  // namespace fused_rnn
