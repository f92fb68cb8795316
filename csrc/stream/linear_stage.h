// y = b + W x for the rows of a batch, by the tiles of the recurrent layers.
#pragma once

#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "stream/stage.h"
#include "stream/stage_memory.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

class LinearStage final : public Stage {
  using Matrix = PackedMatrix<1, float>;
  using Units = Matrix::Units;

 public:
  explicit LinearStage(const LinearProblem& problem)
      : batch_(problem.batch),
        input_size_(problem.input_size),
        output_size_(problem.output_size),
        y_stride_(Units::padded(problem.output_size)) {
    const WeightView w{problem.weight, 0, problem.input_size, 1}, b{problem.bias, 0, 1, 0}, none{};
    const Matrix::Given given{w, b, none, 1, output_size_, input_size_, false};
    weights_memory_ = zeroed([&](Arena& arena) { matrix_ = Matrix(given, arena); });
    for (int64_t block = 0; block < matrix_.blocks(); ++block) matrix_.pack(0, block);
    take_result();
  }

  LinearStage(LinearStage&&) = delete;
  LinearStage& operator=(const LinearStage&) = delete;
  LinearStage& operator=(LinearStage&&) = delete;
  ~LinearStage() override = default;

  StepRows run(int64_t /*step*/, int64_t /*place*/, const StepRows& x) override {
    const BatchRows<float> y{y_, y_stride_};
    for_each_tile<Units::kColumns>(
        matrix_.times(0, {x.data, x.stride}, input_size_), Range{0, batch_}, Range{0, matrix_.blocks()},
        [](const auto& /*tile*/) { return true; },
        [&](const auto& tile) {
          for_each_vector<Units::kVectors>(tile, output_size_, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
            store_padded(where, column_of(tile, where), y);
          });
        });
    return {y_, y_stride_};
  }

  std::unique_ptr<Stage> clone() const override { return std::unique_ptr<Stage>(new LinearStage(*this)); }

 private:
  LinearStage(const LinearStage& other)
      : batch_(other.batch_),
        input_size_(other.input_size_),
        output_size_(other.output_size_),
        y_stride_(other.y_stride_),
        matrix_(other.matrix_) {
    take_result();
  }

  void take_result() {
    result_memory_ = zeroed([&](Arena& arena) { y_ = arena.take<float>(batch_ * y_stride_); });
  }

  int64_t batch_, input_size_, output_size_, y_stride_;
  ZeroedMemory weights_memory_;  // none in a clone, which reads that of another
  ZeroedMemory result_memory_;
  Matrix matrix_;
  float* y_ = nullptr;  // [B, y_stride]
};

inline std::unique_ptr<Stage> make_linear(const LinearProblem& problem) {
  return std::make_unique<LinearStage>(problem);
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
