// Activations of the rows of a batch that stand by themselves in a chain.
//
//   softmax   e^(x - max x) / sum of these, over the values of a row
//   prelu     max(x, 0) + a min(x, 0)
#pragma once

#include <cmath>

#include "cpu/simd/storage.h"
#include "cpu/simd/vec_math.h"
#include "stream/stage.h"
#include "stream/stage_memory.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

class ActivationStage final : public Stage {
  using V = Vec<float>;

 public:
  explicit ActivationStage(const ActivationProblem& problem)
      : kind_(problem.kind), batch_(problem.batch), size_(problem.size) {
    if (kind_ == Activation::kPrelu) {
      slopes_memory_ = zeroed([&](Arena& arena) { slopes_ = arena.take<float>(padded_size(size_)); });
      for (int64_t i = 0; i < size_; ++i) slopes_[i] = problem.slopes[problem.slope_count == 1 ? 0 : i];
    }
    take_result();
  }

  ActivationStage(ActivationStage&&) = delete;
  ActivationStage& operator=(const ActivationStage&) = delete;
  ActivationStage& operator=(ActivationStage&&) = delete;
  ~ActivationStage() override = default;

  StepRows run(int64_t /*step*/, int64_t /*place*/, const StepRows& x) override {
    switch (kind_) {
      case Activation::kTanh:
        each_vector(x, [](V v, int64_t) FUSED_RNN_INLINE_LAMBDA { return tanh(v); });
        break;
      case Activation::kRelu:
        each_vector(x, [](V v, int64_t) FUSED_RNN_INLINE_LAMBDA { return relu(v); });
        break;
      case Activation::kSigmoid:
        each_vector(x, [](V v, int64_t) FUSED_RNN_INLINE_LAMBDA { return sigmoid(v); });
        break;
      case Activation::kPrelu:
        each_vector(x, [this](V v, int64_t at) FUSED_RNN_INLINE_LAMBDA {
          return multiply_add(V::load(slopes_ + at), at_most(v, 0.0f), at_least(v, 0.0f));
        });
        break;
      case Activation::kSoftmax:
        for (int64_t row = 0; row < batch_; ++row) softmax(x.data + row * x.stride, y_ + row * padded_size(size_));
        break;
    }
    return {y_, padded_size(size_)};
  }

  std::unique_ptr<Stage> clone() const override { return std::unique_ptr<Stage>(new ActivationStage(*this)); }

 private:
  ActivationStage(const ActivationStage& other)
      : kind_(other.kind_), batch_(other.batch_), size_(other.size_), slopes_(other.slopes_) {
    take_result();
  }

  void take_result() {
    result_memory_ = zeroed([&](Arena& arena) { y_ = arena.take<float>(batch_ * padded_size(size_)); });
  }

  // y = f(x, index of the first value) for all vectors of a row.
  template <class F>
  FUSED_RNN_INLINE void row_vectors(const float* x, float* y, const F& f) const {
    for (int64_t i = 0; i < size_; i += V::kLanes) {
      visit_lanes<float>(size_ - i,
                         [&](auto count) FUSED_RNN_INLINE_LAMBDA { f(load<float>(x + i, count), i).store(y + i); });
    }
  }
  template <class F>
  FUSED_RNN_INLINE void each_vector(const StepRows& x, const F& f) const {
    for (int64_t row = 0; row < batch_; ++row) row_vectors(x.data + row * x.stride, y_ + row * padded_size(size_), f);
  }

  void softmax(const float* x, float* y) const {
    float largest = x[0];
    for (int64_t i = 1; i < size_; ++i) largest = x[i] > largest || std::isnan(x[i]) ? x[i] : largest;
    row_vectors(x, y, [&](V v, int64_t) FUSED_RNN_INLINE_LAMBDA { return exp(v - V(largest)); });
    float sum = 0;
    for (int64_t i = 0; i < size_; ++i) sum += y[i];
    row_vectors(y, y, [&](V v, int64_t) FUSED_RNN_INLINE_LAMBDA { return quotient(v, V(sum)); });
  }

  Activation kind_;
  int64_t batch_, size_;
  ZeroedMemory slopes_memory_;  // none in a clone, which reads that of another
  ZeroedMemory result_memory_;
  float* slopes_ = nullptr;  // [padded size]
  float* y_ = nullptr;       // [B, padded size]
};

inline std::unique_ptr<Stage> make_activation(const ActivationProblem& problem) {
  return std::make_unique<ActivationStage>(problem);
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
