// Tests the gradients of a layer's input and weights that a backward sweep makes on the way: against plain sums over
// its gate gradients, and for the same bits however many threads there are.
#include "cpu/schedules/weight_gradients.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "linear_cells.h"
#include "schedule_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

// A contiguous tensor [rows, columns].
template <class T>
struct Dense {
  int64_t columns = 0;
  std::vector<T> data;

  Dense() = default;
  Dense(int64_t rows, int64_t columns) : columns(columns), data(rows * columns, from_double<T>(-77.0)) {}
  double get(int64_t row, int64_t column) const { return to_double(data[row * columns + column]); }
};

template <class T>
Dense<T> dense(const Buffer<T>& buffer) {  // [T * B, inner * size]
  Dense<T> result(buffer.first * buffer.batch, buffer.inner * buffer.size);
  buffer.for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) {
    result.data[(t * buffer.batch + b) * result.columns + d * buffer.size + u] =
        buffer.data[t * buffer.first_stride + b * buffer.row_stride + d * buffer.size + u];
  });
  return result;
}

template <class T>
using Gradients = std::map<std::string, Dense<T>>;

// What a layer's backward pass works on.
template <class Cell, class T, class Forward, class Backward>
struct Layer {
  static constexpr int kRecurrent = recurrent_gates<Cell>();
  static constexpr bool kOneBias = !Cell::kSplit && kRecurrent == Cell::kGates;

  Shape s;
  Inputs<T> in;
  Results<T> out;
  Problem p;
  Dense<T> x, hidden, d_gates, d_gates_h, d_projected;

  explicit Layer(const Shape& shape)
      : s(shape), in(random_inputs<Cell, T>(s, 3)), out(empty_results<Cell, T>(s)), p(problem_of<Cell>(s, kTypeOf<T>)) {
    run_schedule<Forward>(p, forward_views(in, out), Plan{});
    p.backward = true;
    p.input_size = 0;
    x = dense(in.x), hidden = dense(out.hidden);
    d_gates = dense(out.d_gates), d_gates_h = dense(out.d_gates_h), d_projected = dense(out.d_projected);
  }

  BackwardViews views() {
    BackwardViews result = backward_views(in, out);
    const auto view = [&](Dense<T>& tensor) -> SequenceView<void> {
      if (tensor.data.empty()) return {};
      return {tensor.data.data(), s.batch * tensor.columns, tensor.columns, tensor.columns / s.directions};
    };
    result.d_gates = view(d_gates), result.d_gates_h = view(d_gates_h), result.d_projected = view(d_projected);
    return result;
  }

  Gradients<T> run(const Plan& plan) {
    const int64_t rows = s.directions * Cell::kGates * s.hidden_size;
    const int64_t recurrent_rows = s.directions * kRecurrent * s.hidden_size;
    Gradients<T> made{{"d_x", {s.time_steps * s.batch, s.input_size}},
                      {"d_w_ih", {rows, s.input_size}},
                      {"d_w_hh", {recurrent_rows, s.output_size}},
                      {"d_b_ih", {rows, 1}},
                      {"d_b_hh", {kOneBias ? 0 : recurrent_rows, 1}},
                      {"d_w_hr", {p.projected ? s.directions * s.output_size : 0, s.hidden_size}}};
    const auto at = [&](const char* name) { return Buffer<T>::pointer_of(made[name].data); };
    const LayerGradientViews layer{s.input_size,   x.data.data(), Buffer<T>::pointer_of(hidden.data),
                                   in.w_ih.view(), at("d_x"),     at("d_w_ih"),
                                   at("d_w_hh"),   at("d_b_ih"),  at("d_b_hh"),
                                   at("d_w_hr")};
    const BackwardViews given = views();
    Arena counter(nullptr);
    const WeightGradients counting(p, given, layer, counter);
    const auto memory = poisoned(counter.used());
    Arena arena(memory.get());
    const WeightGradients gradients(p, given, layer, arena);
    gradients.prepare();
    CompiledGradients<Backward>::run(p, given, plan, gradients.work());
    return made;
  }

  void check() {
    const std::string what = std::string(Cell::kName) + " " + name_of(kTypeOf<T>) + to_string(s) + ": ";
    const Gradients<T> made = run({});
    if (kJudgesValues) check_close(made, what);
    for (const Plan& plan : {Plan{1, 1, 2}, Plan{1, 2, 1}, Plan{1, 1, 3}}) {
      if (kWatchesThreads && plan.threads() == 3) continue;
      const Gradients<T> shared = run(plan);
      for (const auto& [name, alone] : made) {
        const std::vector<T>& other = shared.at(name).data;
        test::check(other.empty() || std::memcmp(other.data(), alone.data.data(), other.size() * sizeof(T)) == 0,
                    what + name + " differs with " + std::to_string(plan.threads()) + " threads");
      }
    }
  }

  void check_close(const Gradients<T>& made, const std::string& what) const {
    for (const auto& [name, sums] : expected()) {
      const Dense<T>& found = made.at(name);
      double largest = 0.0, scale = 1.0;
      for (size_t i = 0; i < sums.data.size(); ++i) {
        const double error = std::abs(to_double(found.data[i]) - sums.data[i]);
        largest = std::isnan(error) ? INFINITY : std::max(largest, error);
        scale = std::max(scale, std::abs(sums.data[i]));
      }
      check_near(largest / scale, 0.0, kTolerance<T>, what + name);
    }
  }

  // The same by plain sums.
  Gradients<double> expected() const {
    const int64_t gate_rows = Cell::kGates * s.hidden_size, recurrent_rows = kRecurrent * s.hidden_size;
    Gradients<double> sums{{"d_x", {s.time_steps * s.batch, s.input_size}},
                           {"d_w_ih", {s.directions * gate_rows, s.input_size}},
                           {"d_w_hh", {s.directions * recurrent_rows, s.output_size}},
                           {"d_b_ih", {s.directions * gate_rows, 1}},
                           {"d_b_hh", {kOneBias ? 0 : s.directions * recurrent_rows, 1}},
                           {"d_w_hr", {p.projected ? s.directions * s.output_size : 0, s.hidden_size}}};
    for (auto& [name, sum] : sums) std::fill(sum.data.begin(), sum.data.end(), 0.0);
    const auto add = [&](const char* name, int64_t row, int64_t column, double value) {
      Dense<double>& sum = sums[name];
      if (!sum.data.empty()) sum.data[row * sum.columns + column] += value;
    };
    for (int64_t i = 0; i < s.time_steps * s.batch; ++i) {
      const int64_t t = i / s.batch, b = i % s.batch;
      if (!in.active(t, b)) continue;
      for (int64_t d = 0; d < s.directions; ++d) {
        for (int64_t g = 0; g < gate_rows; ++g) {
          const double of_x = d_gates.get(i, d * gate_rows + g);
          const int64_t row = d * gate_rows + g, recurrent_row = d * recurrent_rows + g;
          for (int64_t k = 0; k < s.input_size; ++k) {
            add("d_x", i, k, of_x * in.w_ih.get(d, g, k));
            add("d_w_ih", row, k, of_x * in.x.get(t, b, 0, k));
          }
          add("d_b_ih", row, 0, of_x);
          if (g >= recurrent_rows) continue;
          const double of_h = Cell::kSplit ? d_gates_h.get(i, recurrent_row) : of_x;
          for (int64_t k = 0; k < s.output_size; ++k) add("d_w_hh", recurrent_row, k, of_h * h_before(t, b, d, k));
          add("d_b_hh", recurrent_row, 0, of_h);
        }
        for (int64_t k = 0; k < s.output_size && p.projected; ++k) {
          for (int64_t u = 0; u < s.hidden_size; ++u)
            add("d_w_hr", d * s.output_size + k, u,
                out.d_projected.size > 0 ? projected(i, d, k) * out.hidden.get(t, b, d, u) : 0);
        }
      }
    }
    return sums;
  }

  double projected(int64_t i, int64_t d, int64_t k) const { return d_projected.get(i, d * s.output_size + k); }

  // As it enters W_hh, rounded to the type.
  double h_before(int64_t t, int64_t b, int64_t d, int64_t k) const {
    if (in.reset(t, b)) return 0.0;
    const int64_t before = d < s.heads ? t - 1 : t + 1;
    const bool inside = before >= 0 && before < s.time_steps && in.active(before, b);
    const double h = inside ? out.output.get(before, b, d, k) : s.initial ? in.h_0.get(d, b, 0, k) : 0.0;
    if (!s.recurrent_mask) return h;
    return to_double(from_double<T>(h * in.recurrent_mask.get(d, b, 0, k)));
  }
};

// What the sanitized builds leave out is the same templates with another cell or type: sweeps.cpp and rows.cpp have the
// first two there, and the others differ in no branch that waits for threads.
template <class Cell, class T>
constexpr bool kRepeats = (std::is_same_v<Cell, IdentityCell> && std::is_same_v<T, float>) ||
                          (std::is_same_v<Cell, BilinearCell> && (kWatchesThreads || std::is_same_v<T, BFloat16>)) ||
                          (std::is_same_v<Cell, PartlyProjectedCell> && kWatchesThreads);

template <class Cell, class T, class Forward = PlainForward<Cell, T>, class Backward = PlainBackward<Cell, T>>
void check_layer(const Shape& s) {
  if constexpr (kJudgesValues || !kRepeats<Cell, T>) Layer<Cell, T, Forward, Backward>(s).check();
}

Shape with_input(Shape s, int64_t input_size) {
  s.input_size = input_size;
  return s;
}

void odd_sizes_are_right() {
  for (const int64_t size : {1, 3, 8, 17, 33}) {
    check_layer<IdentityCell, float>(with_input({3, 2, 1, size, size}, size + 2));
    check_layer<BilinearCell, float>(with_input({3, 5, 2, size, size}, 2 * size + 1));
    check_layer<TwoStateCell, double>(with_input({4, 3, 2, size + 1, size}, 5));
    check_layer<IdentityCell, BFloat16>(with_input({3, 3, 2, size, size}, size));
  }
}

// More rows than a panel takes are summed up in several rounds, half types in float32.
void rounds_of_steps_are_right() {
  check_layer<BilinearCell, float>(with_input({300, 5, 1, 9, 9}, 7));
  check_layer<TwoStateCell, double>(with_input({120, 9, 1, 9, 5}, 3));
  check_layer<IdentityCell, BFloat16>(with_input({160, 7, 1, 17, 17}, 9));
  check_layer<BilinearCell, BFloat16>(with_input({90, 7, 2, 9, 9}, 5));
}

void lists_of_rows_are_right() {
  for (const bool resets : {false, true}) {
    for (const int64_t time_steps : {1, 7, 200}) {
      const Shape s{time_steps, 5, 1, 9, 9, true, true, false, true, resets};
      check_layer<BilinearCell, float>(with_input(s, 6));
      check_layer<IdentityCell, BFloat16>(with_input(s, 6));
      Shape both = s;
      both.directions = 2, both.output_size = 4;
      check_layer<TwoStateCell, double>(with_input(both, 6));
    }
  }
}

void heads_are_right() {
  for (const int64_t directions : {3, 6}) {
    for (const bool transposed : {false, true}) {
      Shape s = with_input({250, 5, directions, 9, 9, true, true, transposed, true, true}, 6);
      s.heads = 3;
      check_layer<BilinearCell, float>(s);
      check_layer<IdentityCell, BFloat16>(s);
    }
  }
}

void no_steps_and_no_rows_give_zeros() {
  check_layer<BilinearCell, float>(with_input({0, 3, 2, 5, 5}, 4));
  check_layer<TwoStateCell, double>(with_input({3, 0, 1, 5, 5}, 4));
}

void weights_may_be_transposed_and_states_absent() {
  check_layer<BilinearCell, float>(with_input({5, 3, 2, 9, 9, false, false, true}, 4));
  check_layer<TwoStateCell, double>(with_input({5, 3, 1, 9, 4, false, true, true}, 4));
}

// Those of W_hh and b_hh have rows for the gates that read h.
void gates_of_x_alone_are_left_out() {
  for (const int64_t directions : {1, 2}) {
    check_layer<PartlyRecurrentCell, float>(with_input({5, 3, directions, 9, 9}, 4));
    check_layer<PartlyProjectedCell, double>(with_input({5, 3, directions, 9, 4}, 4));
    using Forward = DiagonalForward<DiagonalCell, float>;
    using Backward = DiagonalBackward<DiagonalCell, float>;
    check_layer<DiagonalCell, float, Forward, Backward>(with_input({5, 3, directions, 9, 9}, 4));
  }
  check_layer<PartlyRecurrentCell, float>(with_input({300, 5, 1, 9, 9}, 7));
}

template <class Cell, class T>
void check_masked(const Shape& s) {
  check_layer<Cell, T, VariedForward<Cell, T>, VariedBackward<Cell, T>>(s);
}

void a_recurrent_mask_multiplies_h() {
  Shape s = with_input({7, 5, 2, 17, 17}, 6);
  s.recurrent_mask = true;
  check_masked<IdentityCell, float>(s);
  check_masked<BilinearCell, BFloat16>(s);
  s.lengths = s.resets = true;
  s.output_size = 9;
  check_masked<TwoStateCell, double>(s);
}

}  // namespace

int main() {
  return test::run({
      {"odd sizes are right", odd_sizes_are_right},
      {"rounds of steps are right", rounds_of_steps_are_right},
      {"lists of rows are right", lists_of_rows_are_right},
      {"heads are right", heads_are_right},
      {"no steps and no rows give zeros", no_steps_and_no_rows_give_zeros},
      {"weights may be transposed and states absent", weights_may_be_transposed_and_states_absent},
      {"gates of x alone are left out", gates_of_x_alone_are_left_out},
      {"a recurrent mask multiplies h", a_recurrent_mask_multiplies_h},
  });
}
