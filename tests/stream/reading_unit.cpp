// A unit of stages that compute nothing, but read every parameter as often as their sizes say: under AddressSanitizer
// they find a size that the file did not hold. Copies of a layer read what it owns, as those that compute do.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "stream/stage.h"

namespace fused_rnn {

namespace {

float sum_of(const void* values, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count && values != nullptr; ++i) sum += static_cast<const float*>(values)[i];
  return sum;
}

class ReadingLayer final : public StepLayer {
 public:
  ReadingLayer(const StepProblem& problem, std::shared_ptr<const float> weights)
      : p_(problem),
        weights_(std::move(weights)),
        h_(static_cast<size_t>(p_.batch * p_.output_size), *weights_),
        c_(static_cast<size_t>(p_.batch * c_stride()), *weights_) {}

  void take(const void* x, int64_t x_stride, int64_t count, int, int) override {
    for (int64_t row = 0; row < count * p_.batch; ++row) {
      h_[0] += *weights_ + sum_of(static_cast<const float*>(x) + row * x_stride, p_.input_size);
    }
  }
  void update(int64_t, int64_t, int, int) override {}
  void project(int64_t, int, int) override {}
  void* h(int64_t) override { return h_.data(); }
  void* c(int k) override { return c_.data() + k * p_.hidden_size; }
  int64_t h_stride() const override { return p_.output_size; }
  int64_t c_stride() const final { return p_.cell.cell_states() * p_.hidden_size; }
  int64_t weight_bytes() const override { return 0; }
  std::unique_ptr<StepLayer> clone() const override { return std::make_unique<ReadingLayer>(p_, weights_); }

 private:
  StepProblem p_;
  std::shared_ptr<const float> weights_;
  std::vector<float> h_, c_;
};

class ReadingStage final : public Stage {
 public:
  ReadingStage(int64_t batch, int64_t input_size, int64_t output_size, float value)
      : batch_(batch),
        input_size_(input_size),
        output_size_(output_size),
        y_(static_cast<size_t>(batch * output_size), value) {}

  StepRows run(int64_t, int64_t, const StepRows& x) override {
    for (int64_t row = 0; row < batch_; ++row) y_[0] += sum_of(x.data + row * x.stride, input_size_);
    return {y_.data(), output_size_};
  }
  std::unique_ptr<Stage> clone() const override {
    return std::make_unique<ReadingStage>(batch_, input_size_, output_size_, y_[0]);
  }

 private:
  int64_t batch_, input_size_, output_size_;
  std::vector<float> y_;
};

std::unique_ptr<StepLayer> make_recurrent(const StepProblem& p, const StepParameters& given) {
  const int64_t gates = p.cell.gates * p.hidden_size, recurrent = p.cell.recurrent_gates * p.hidden_size;
  const float sum = sum_of(given.w_ih, gates * p.input_size) + sum_of(given.w_hh, recurrent * p.output_size / p.heads) +
                    sum_of(given.b_ih, gates) + sum_of(given.b_hh, recurrent) +
                    sum_of(given.w_hr, p.output_size * p.hidden_size) +
                    sum_of(given.unit_weights, p.cell.unit_weights * p.hidden_size);
  return std::make_unique<ReadingLayer>(p, std::make_shared<const float>(sum));
}

std::unique_ptr<Stage> make_linear(const LinearProblem& p) {
  const float sum = sum_of(p.weight, p.output_size * p.input_size) + sum_of(p.bias, p.output_size);
  return std::make_unique<ReadingStage>(p.batch, p.input_size, p.output_size, sum);
}

std::unique_ptr<Stage> make_activation(const ActivationProblem& p) {
  return std::make_unique<ReadingStage>(p.batch, p.size, p.size, sum_of(p.slopes, p.slope_count));
}

}  // namespace

const StreamUnit& active_stream_unit() {
  static constexpr StreamUnit kUnit{make_recurrent, make_linear, make_activation};
  return kUnit;
}

}  // namespace fused_rnn
