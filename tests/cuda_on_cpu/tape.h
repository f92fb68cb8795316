// A number that remembers what it was made of: the gradient of a whole recurrence follows from its forward formula.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace fused_rnn::test {

// What was made on the way to an objective, in order.
class Tape {
 public:
  using Sources = std::vector<std::pair<int, double>>;  // a number and the derivative for it; -1: a constant

  void clear() { *this = {}; }
  int add(Sources sources) {
    sources_.push_back(std::move(sources));
    gradients_.push_back(0.0);
    return static_cast<int>(sources_.size()) - 1;
  }
  // The objective grows by `slope` times a number.
  void add_to_objective(int number, double slope) {
    if (number >= 0) gradients_[number] += slope;
  }
  // From the end to the beginning; afterwards the gradients are complete.
  void go_back() {
    for (size_t i = sources_.size(); i-- > 0;) {
      for (const auto& [source, slope] : sources_[i]) add_to_objective(source, slope * gradients_[i]);
    }
  }
  double gradient(int number) const { return gradients_[number]; }

 private:
  std::vector<Sources> sources_;
  std::vector<double> gradients_;
};

inline Tape tape;

// What the cells are called with.
struct Traced {
  double value = 0.0;
  int number = -1;  // on the tape; -1: a constant

  Traced() = default;
  explicit Traced(double constant) : value(constant) {}
  Traced(double value, Tape::Sources sources) : value(value), number(tape.add(std::move(sources))) {}

  double gradient() const { return tape.gradient(number); }
};

inline Traced leaf(double value) { return {value, {}}; }

inline Traced operator+(const Traced& a, const Traced& b) {
  return {a.value + b.value, {{a.number, 1.0}, {b.number, 1.0}}};
}
inline Traced operator-(const Traced& a, const Traced& b) {
  return {a.value - b.value, {{a.number, 1.0}, {b.number, -1.0}}};
}
inline Traced operator*(const Traced& a, const Traced& b) {
  return {a.value * b.value, {{a.number, b.value}, {b.number, a.value}}};
}
inline Traced operator/(const Traced& a, const Traced& b) {
  return {a.value / b.value, {{a.number, 1.0 / b.value}, {b.number, -a.value / (b.value * b.value)}}};
}
inline Traced operator-(const Traced& x) { return {-x.value, {{x.number, -1.0}}}; }
inline Traced exponential(const Traced& x) {
  const double y = std::exp(x.value);
  return {y, {{x.number, y}}};
}
inline Traced log(const Traced& x) { return {std::log(x.value), {{x.number, 1.0 / x.value}}}; }
inline Traced abs(const Traced& x) { return x.value < 0.0 ? -x : x; }
inline Traced relu(const Traced& x) { return x.value < 0.0 ? Traced(0.0) : x; }
inline Traced where_less(const Traced& a, const Traced& b, const Traced& x, const Traced& y) {
  return a.value < b.value ? x : y;
}
inline Traced where_less_equal(const Traced& a, const Traced& b, const Traced& x, const Traced& y) {
  return a.value <= b.value ? x : y;
}
inline Traced sigmoid(const Traced& x) {
  const double y = 1.0 / (1.0 + std::exp(-x.value));
  return {y, {{x.number, y * (1.0 - y)}}};
}
inline Traced tanh(const Traced& x) {
  const double y = std::tanh(x.value);
  return {y, {{x.number, 1.0 - y * y}}};
}
inline Traced clip(const Traced& x, const Traced& limit) {
  const double y = std::clamp(x.value, -limit.value, limit.value);
  return {y, {{x.number, y == x.value ? 1.0 : 0.0}}};
}

}  // namespace fused_rnn::test
