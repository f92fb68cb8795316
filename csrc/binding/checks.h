// The checks at the border: each error names the argument, what was expected and what came.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "binding/tensors.h"
#include "core/problem.h"

namespace fused_rnn {

using Shape = std::vector<int64_t>;

[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error("fused_rnn: " + message); }

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

inline Shape shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

inline void check_shape(const Tensor& tensor, const char* name, const char* dimensions, const Shape& expected) {
  const auto sizes = tensor.sizes();
  if (!std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end())) {
    fail(std::string(name) + " must have shape " + dimensions + " = " + to_string(expected) + ", got " +
         to_string(shape_of(tensor)));
  }
}

inline DataType data_type_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case torch::headeronly::ScalarType::Float:
      return DataType::kFloat32;
    case torch::headeronly::ScalarType::Double:
      return DataType::kFloat64;
    case torch::headeronly::ScalarType::BFloat16:
      return DataType::kBFloat16;
    case torch::headeronly::ScalarType::Half:
      return DataType::kFloat16;
    default:
      fail(std::string(name) + " must be float32, float64, bfloat16 or float16");
  }
}

inline std::string device_of(const Tensor& tensor) {
  return tensor.is_cpu() ? "the CPU" : "CUDA device " + std::to_string(tensor.get_device());
}

// A tensor, or none.
struct Given {
  const Tensor* tensor;
  Given(const Tensor& given) : tensor(&given) {}
  Given(const OptionalTensor& given) : tensor(given.has_value() ? &*given : nullptr) {}
};

// Shape, type and device of one tensor against the problem's.
class Checker {
 public:
  Checker(const Tensor& model, const char* name)
      : type_(data_type_of(model, name)), device_(device_of(model)), name_(name) {}

  DataType type() const { return type_; }

  void operator()(Given given, const char* name, const char* dimensions, const Shape& expected) const {
    if (given.tensor == nullptr) return;
    check_device(*given.tensor, name);
    const DataType type = data_type_of(*given.tensor, name);
    if (type != type_) {
      fail(std::string(name) + " must have the type of " + name_ + ", " + name_of(type_) + ", got " + name_of(type));
    }
    check_shape(*given.tensor, name, dimensions, expected);
  }

  // A tensor of a type of its own.
  void typed(Given given, const char* name, const char* dimensions, const Shape& expected,
             torch::headeronly::ScalarType type, const char* type_name) const {
    if (given.tensor == nullptr) return;
    check_device(*given.tensor, name);
    if (given.tensor->scalar_type() != type) fail(std::string(name) + " must have type " + type_name);
    check_shape(*given.tensor, name, dimensions, expected);
  }

 private:
  void check_device(const Tensor& tensor, const char* name) const {
    const std::string device = device_of(tensor);
    if (device != device_) {
      fail(std::string(name) + " must be on the device of " + name_ + ", " + device_ + ", got " + device);
    }
  }

  DataType type_;
  std::string device_;
  const char* name_;
};

}  // namespace fused_rnn
