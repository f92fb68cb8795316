// The way of a step through the stages, and of states in and out.
#include "stream/chain.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "cpu/runtime/arena.h"
#include "stream/flush_denormals.h"

namespace fused_rnn {

namespace {

class RecurrentStage final : public Stage {
 public:
  RecurrentStage(std::unique_ptr<StepLayer> layer, const FileStage& stage)
      : layer_(std::move(layer)),
        h_{rows_of(*layer_, 0), rows_of(*layer_, 1)},
        h_stride_(layer_->h_stride()),
        h_size_(stage.output_size),
        c_size_(stage.hidden_size),
        others_(stage.cell.cell_states()),
        projected_(stage.projected) {}

  void take(const StepRows& x, int64_t count) override { layer_->take(x.data, x.stride, count, 0, 1); }

  StepRows run(int64_t step, int64_t place, const StepRows& /*x*/) override {
    layer_->update(step, place, 0, 1);
    if (projected_) layer_->project(step, 0, 1);
    return {h_[(step + 1) & 1], h_stride_};
  }

  StageState state() const override { return {layer_.get(), h_size_, c_size_, others_}; }

  std::unique_ptr<Stage> clone() const override { return std::unique_ptr<Stage>(new RecurrentStage(*this)); }

 private:
  RecurrentStage(const RecurrentStage& other)
      : layer_(other.layer_->clone()),
        h_{rows_of(*layer_, 0), rows_of(*layer_, 1)},
        h_stride_(other.h_stride_),
        h_size_(other.h_size_),
        c_size_(other.c_size_),
        others_(other.others_),
        projected_(other.projected_) {}

  static const float* rows_of(StepLayer& layer, int64_t step) { return static_cast<const float*>(layer.h(step)); }

  std::unique_ptr<StepLayer> layer_;
  const float* h_[2];  // before steps of even and of odd numbers
  int64_t h_stride_;
  int64_t h_size_, c_size_;
  int others_;
  bool projected_;
};

// The values of a matrix as floats: where they lie, if they are floats.
class Values {
 public:
  explicit Values(const FileMatrix& matrix) {
    if (matrix.data == nullptr) return;
    data_ = static_cast<const float*>(matrix.data);
    if (matrix.storage == StepStorage::kExact) return;
    made_ = matrix.values();
    data_ = made_.data();
  }
  const float* data() const { return data_; }

 private:
  std::vector<float> made_;
  const float* data_ = nullptr;
};

std::unique_ptr<Stage> make_recurrent(const FileStage& stage, int64_t batch) {
  const StepProblem problem{.cell = stage.cell,
                            .type = DataType::kFloat32,
                            .storage = stage.storage,
                            .rounds_factors = false,
                            .threads = 1,
                            .batch = batch,
                            .input_size = stage.input_size,
                            .hidden_size = stage.hidden_size,
                            .output_size = stage.output_size,
                            .projected = stage.projected,
                            .heads = stage.heads};
  const Values w_ih(stage.w_ih), w_hh(stage.w_hh), w_hr(stage.w_hr);
  const StepParameters parameters{w_ih.data(), w_hh.data(), stage.b_ih, stage.b_hh, w_hr.data(), stage.unit_weights};
  return std::make_unique<RecurrentStage>(active_stream_unit().make_recurrent(problem, parameters), stage);
}

std::unique_ptr<Stage> make_stage(const FileStage& stage, int64_t batch) {
  switch (stage.kind) {
    case StageKind::kRecurrent:
      return make_recurrent(stage, batch);
    case StageKind::kLinear:
      return active_stream_unit().make_linear(
          {batch, stage.input_size, stage.output_size, static_cast<const float*>(stage.w_ih.data), stage.b_ih});
    case StageKind::kActivation:
      return active_stream_unit().make_activation(
          {stage.activation, batch, stage.output_size, stage.slopes, stage.slope_count});
  }
  return nullptr;
}

}  // namespace

Chain::Chain(const ModelFile& model, int64_t batch)
    : batch_(batch), input_size_(model.input_size), output_size_(model.output_size), residual_(model.residual) {
  for (const FileStage& stage : model.stages) stages_.push_back(make_stage(stage, batch));
}

Stream::Stream(std::shared_ptr<const Chain> chain) : chain_(std::move(chain)) {
  for (const auto& stage : chain_->stages()) stages_.push_back(stage->clone());
}

Stream::Stream(const Stream& other) : chain_(other.chain_), steps_(other.steps_) {
  for (const auto& stage : other.stages_) stages_.push_back(stage->clone());
}

void Stream::steps(const float* x, float* y, int64_t count) noexcept {
  const FlushDenormals flush;
  const int64_t batch = chain_->batch(), x_size = batch * chain_->input_size(), y_size = batch * chain_->output_size();
  for (int64_t i = 0; i < count; ++i, ++steps_) {
    StepRows rows{x + i * x_size, chain_->input_size()};
    for (const auto& stage : stages_) {
      const StepInputs inputs = step_inputs(stage == stages_.front(), i, count, batch);
      if (inputs.count > 0) stage->take(rows, inputs.count);
      rows = stage->run(steps_, inputs.place, rows);
    }
    write_output(rows, x + i * x_size, y + i * y_size);
  }
}

void Stream::write_output(const StepRows& from, const float* x, float* y) const noexcept {
  const int64_t size = chain_->output_size();
  for (int64_t row = 0; row < chain_->batch(); ++row) {
    const float* values = from.data + row * from.stride;
    if (!chain_->residual()) {
      std::memcpy(y + row * size, values, static_cast<size_t>(size) * sizeof(float));
      continue;
    }
    for (int64_t i = 0; i < size; ++i) y[row * size + i] = values[i] + x[row * chain_->input_size() + i];
  }
}

template <class Visit>
void Stream::for_each_state(const Visit& visit) const {
  const auto visit_rows = [&](void* data, int64_t stride, int64_t size) {
    for (int64_t row = 0; row < batch(); ++row) visit(static_cast<float*>(data) + row * stride, row, size);
  };
  for (const auto& stage : stages_) {
    const StageState state = stage->state();
    if (state.layer == nullptr) continue;
    visit_rows(state.layer->h(steps_), state.layer->h_stride(), state.h_size);
    for (int k = 0; k < state.others; ++k) visit_rows(state.layer->c(k), state.layer->c_stride(), state.c_size);
  }
}

void Stream::get_state(float* state) const noexcept {
  for_each_state([&](const float* values, int64_t /*row*/, int64_t size) {
    std::memcpy(state, values, static_cast<size_t>(size) * sizeof(float));
    state += size;
  });
}

void Stream::set_state(const float* state) noexcept {
  for_each_state([&](float* values, int64_t /*row*/, int64_t size) {
    std::memcpy(values, state, static_cast<size_t>(size) * sizeof(float));
    state += size;
  });
}

void Stream::reset(const unsigned char* rows) noexcept {
  for_each_state([&](float* values, int64_t row, int64_t size) {
    if (rows == nullptr || rows[row] != 0) std::memset(values, 0, static_cast<size_t>(size) * sizeof(float));
  });
}

void Model::Release::operator()(std::byte* memory) const {
  ::operator delete(memory, std::align_val_t{Arena::kAlignment});
}

Model::Model(const void* bytes, size_t size)
    : bytes_(static_cast<std::byte*>(::operator new(size, std::align_val_t{Arena::kAlignment}))) {
  std::memcpy(bytes_.get(), bytes, size);
  file_ = read_model(bytes_.get(), size);
  active_stream_unit();  // which a wrong environment has none of
}

int64_t Model::state_size() const {
  int64_t size = 0;
  for (const FileStage& stage : file_.stages) {
    if (stage.kind != StageKind::kRecurrent) continue;
    size += stage.output_size + stage.cell.cell_states() * stage.hidden_size;
  }
  return size;
}

std::shared_ptr<const Chain> Model::chain(int64_t batch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<const Chain> chain = chains_[batch].lock();
  if (chain == nullptr) {
    std::erase_if(chains_, [](const auto& each) { return each.second.expired(); });
    chain = std::make_shared<const Chain>(file_, batch);
    chains_[batch] = chain;
  }
  return chain;
}

}  // namespace fused_rnn
