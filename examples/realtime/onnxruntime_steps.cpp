// Steps by the C API of ONNX Runtime: a session of one step, whose states go from one call to the next.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>

#include "contender.h"

namespace {

const OrtApi& api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (found == nullptr) throw std::runtime_error("the library of ONNX Runtime is older than its header");
  return *found;
}

void require(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw std::runtime_error("ONNX Runtime: " + text);
}

// What is made here lives as long as the program.
class Layer {
 public:
  Layer(const std::string& file, const std::string& onnx, std::int64_t batch)
      : file_(layer_of(file)), batch_(batch), has_c_(file_.cell == 1) {
    OrtEnv* environment;
    OrtSessionOptions* options;
    require(api().CreateEnv(ORT_LOGGING_LEVEL_WARNING, "steps", &environment));
    require(api().CreateSessionOptions(&options));
    require(api().SetIntraOpNumThreads(options, 1));
    require(api().SetInterOpNumThreads(options, 1));
    require(api().CreateSessionFromArray(environment, onnx.data(), onnx.size(), options, &session_));
    require(api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    const auto size = static_cast<std::size_t>(batch_ * file_.hidden);
    for (State* state : {&h_[0], &h_[1], &c_[0], &c_[1]}) {
      state->values.resize(size);
      state->tensor = tensor_of(state->values, file_.hidden);
    }
    x_.values.resize(static_cast<std::size_t>(batch_ * file_.inputs));
    x_.tensor = tensor_of(x_.values, file_.inputs);
    y_.values.resize(size);
    y_.tensor = tensor_of(y_.values, file_.hidden);
  }

  void reset() {
    for (State* state : {&h_[now_], &c_[now_]}) std::fill(state->values.begin(), state->values.end(), 0.0f);
  }

  void step(const float* x, float* y) {
    static constexpr std::array<const char*, 3> kInputs{"x", "h_0_l0", "c_0_l0"},
        kOutputs{"output", "h_n_l0", "c_n_l0"};
    std::copy_n(x, x_.values.size(), x_.values.data());
    const std::array<const OrtValue*, 3> given{x_.tensor, h_[now_].tensor, c_[now_].tensor};
    std::array<OrtValue*, 3> made{y_.tensor, h_[1 - now_].tensor, c_[1 - now_].tensor};
    const std::size_t count = has_c_ ? 3 : 2;
    require(api().Run(session_, nullptr, kInputs.data(), given.data(), count, kOutputs.data(), count, made.data()));
    std::copy_n(y_.values.data(), y_.values.size(), y);
    now_ = 1 - now_;
  }

  std::size_t inputs() const { return x_.values.size(); }
  std::size_t outputs() const { return y_.values.size(); }

 private:
  struct State {
    std::vector<float> values;
    OrtValue* tensor = nullptr;  // [1, B, values of a row], of that memory
  };

  OrtValue* tensor_of(std::vector<float>& values, std::int64_t columns) const {
    const std::array<std::int64_t, 3> shape{1, batch_, columns};
    OrtValue* made;
    require(api().CreateTensorWithDataAsOrtValue(memory_, values.data(), values.size() * sizeof(float), shape.data(),
                                                 shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &made));
    return made;
  }

  LayerOfFile file_;
  std::int64_t batch_;
  bool has_c_;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  State x_, y_, h_[2], c_[2];  // states before and after a step, by turns
  int now_ = 0;
};

}  // namespace

void add_onnxruntime(std::vector<Contender>& contenders, const std::string& file, const std::string& onnx,
                     std::int64_t batch) {
  const auto layer = std::make_shared<Layer>(file, onnx, batch);
  contenders.push_back({"ONNX Runtime, step", [=] { layer->reset(); },
                        [=](const float* x, float* y, std::size_t count) {
                          for (std::size_t i = 0; i < count; ++i) {
                            layer->step(x + i * layer->inputs(), y + i * layer->outputs());
                          }
                        }});
}
