// Tests exp, sigmoid, tanh and the selections of a Vec: against long double in units in the last place, and at the
// edges.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/simd/vec_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"

namespace {

using namespace fused_rnn;
using test::check;
using test::check_near;

template <class Real>
constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
template <class Real>
constexpr Real kNaN = std::numeric_limits<Real>::quiet_NaN();

template <class Real>
const char* name_of_type() {
  return sizeof(Real) == 4 ? "float" : "double";
}

// All lanes of f(x, x, ...) must agree; returns their value.
template <class Real, class Function>
Real in_every_lane(Function f, Real x) {
  const Vec<Real> y = f(Vec<Real>(x));
  Real lanes[Vec<Real>::kLanes];
  y.store(lanes);
  for (const Real lane : lanes) check_near(lane, lanes[0], 0.0, "lanes differ");
  return lanes[0];
}

// The largest distance between f and exact over [low, high], in units in the last place of the exact value.
template <class Real, class Function, class Exact>
double largest_ulp_error(Real low, Real high, Function f, Exact exact) {
  constexpr int kLanes = Vec<Real>::kLanes;
  constexpr int kSteps = 100003 * kLanes;  // a prime times the lanes: the points fall on no grid of the algorithm
  constexpr int kDigits = std::numeric_limits<Real>::digits;
  double largest = 0.0;
  for (int step = 0; step < kSteps; step += kLanes) {
    Real x[kLanes], y[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      x[lane] = Real(low + (static_cast<long double>(high) - low) * (step + lane) / (kSteps - 1));
    }
    f(Vec<Real>::load(x)).store(y);
    for (int lane = 0; lane < kLanes; ++lane) {
      const long double expected = exact(static_cast<long double>(x[lane]));
      if (expected == 0.0L) continue;
      const long double ulp = std::ldexp(1.0L, std::ilogb(expected) + 1 - kDigits);
      largest = std::max(largest, static_cast<double>(std::abs((y[lane] - expected) / ulp)));
    }
  }
  return largest;
}

constexpr auto kExp = [](auto x) { return exp(x); };
constexpr auto kSigmoid = [](auto x) { return sigmoid(x); };
constexpr auto kTanh = [](auto x) { return tanh(x); };
constexpr auto kRelu = [](auto x) { return relu(x); };
constexpr auto kExactExp = [](long double x) { return std::exp(x); };
constexpr auto kExactSigmoid = [](long double x) { return 1.0L / (1.0L + std::exp(-x)); };
constexpr auto kExactTanh = [](long double x) { return std::tanh(x); };

template <class Real, class Function, class Exact>
void check_ulps(const char* name, Real low, Real high, double bound, Function f, Exact exact) {
  const double error = largest_ulp_error(low, high, f, exact);
  const std::string what = std::string(name) + " of " + name_of_type<Real>() + " in [" + std::to_string(low) + ", " +
                           std::to_string(high) + "]";
  std::printf("       %s: %.2f ulp\n", what.c_str(), error);
  check(error <= bound, what + ": error above " + std::to_string(bound) + " ulp");
}

template <class Real>
void check_accuracy() {
  using Limits = std::numeric_limits<Real>;
  const Real tail = Real(std::floor(-std::log(Limits::min())));  // e^-tail is still normal
  check_ulps<Real>("exp", -tail, tail, 1.5, kExp, kExactExp);
  check_ulps<Real>("exp", -1, 1, 1.5, kExp, kExactExp);
  check_ulps<Real>("sigmoid", -tail, 40, 3.0, kSigmoid, kExactSigmoid);
  check_ulps<Real>("sigmoid", -4, 4, 3.0, kSigmoid, kExactSigmoid);
  check_ulps<Real>("tanh", -25, 25, 3.0, kTanh, kExactTanh);
  check_ulps<Real>("tanh", -1, 1, 3.0, kTanh, kExactTanh);
  check_ulps<Real>("tanh", Real(-1e-3), Real(1e-3), 3.0, kTanh, kExactTanh);
  check_ulps<Real>("tanh", Real(-1e-30), Real(1e-30), 3.0, kTanh, kExactTanh);
}

void float_errors_are_a_few_units_in_the_last_place() { check_accuracy<float>(); }
void double_errors_are_a_few_units_in_the_last_place() { check_accuracy<double>(); }

template <class Real>
void check_edges() {
  const Real infinity = kInfinity<Real>, nan = kNaN<Real>, huge = std::numeric_limits<Real>::max();
  const Real tiny = std::numeric_limits<Real>::min();
  check_near(in_every_lane(kExp, Real(0)), 1.0, 0.0, "exp(0)");
  check_near(in_every_lane(kExp, nan), nan, 0.0, "exp(nan)");
  check_near(in_every_lane(kExp, -infinity), 0.0, 1e-37, "exp(-inf)");
  check_near(in_every_lane(kSigmoid, Real(0)), 0.5, 0.0, "sigmoid(0)");
  for (const Real large : {Real(100), Real(1000), huge, infinity}) {
    check_near(in_every_lane(kSigmoid, large), 1.0, 0.0, "sigmoid of a large number");
    check_near(in_every_lane(kSigmoid, -large), 0.0, 4e-38, "sigmoid of a large negative number");
    check_near(in_every_lane(kTanh, large), 1.0, 0.0, "tanh of a large number");
    check_near(in_every_lane(kTanh, -large), -1.0, 0.0, "tanh of a large negative number");
  }
  check_near(in_every_lane(kSigmoid, nan), nan, 0.0, "sigmoid(nan)");
  check_near(in_every_lane(kTanh, nan), nan, 0.0, "tanh(nan)");
  check_near(in_every_lane(kTanh, tiny), tiny, 0.0, "tanh of the smallest normal number");
  check(!std::signbit(in_every_lane(kTanh, Real(0))), "tanh(0) = 0");
  check(std::signbit(in_every_lane(kTanh, Real(-0.0))), "tanh(-0) = -0");
  check_near(in_every_lane(kRelu, nan), nan, 0.0, "relu(nan)");
  check_near(in_every_lane(kRelu, infinity), infinity, 0.0, "relu(inf)");
  check_near(in_every_lane(kRelu, -infinity), 0.0, 0.0, "relu(-inf)");
  check_near(in_every_lane(kRelu, Real(1.5)), 1.5, 0.0, "relu(1.5)");
  const auto gate = [](auto y) { return where_positive(y, decltype(y)(3)); };
  check_near(in_every_lane(gate, Real(1)), 3.0, 0.0, "where_positive of a positive result");
  check_near(in_every_lane(gate, Real(0)), 0.0, 0.0, "where_positive of 0");
  check_near(in_every_lane(gate, nan), 3.0, 0.0, "where_positive of nan");
  const auto clip_at = [](Real limit) { return [limit](auto x) { return clip(x, decltype(x)(limit)); }; };
  const auto within = [](Real limit) {
    return [limit](auto x) { return where_within(x, decltype(x)(limit), decltype(x)(3)); };
  };
  for (const Real x : {Real(0), Real(-0.0), Real(1.5), Real(-1.5), Real(2), Real(-2), Real(2.5), Real(-2.5), tiny, huge,
                       -huge, infinity, -infinity, nan}) {
    for (const Real limit : {Real(0), Real(2), infinity}) {
      const std::string at = " of " + std::to_string(x) + " at " + std::to_string(limit);
      const Real expected = std::isnan(x) ? x : std::min(std::max(x, -limit), limit);
      check_near(in_every_lane(clip_at(limit), x), expected, 0.0, "clip" + at);
      check_near(in_every_lane(within(limit), x), std::abs(x) > limit ? 0.0 : 3.0, 0.0, "where_within" + at);
    }
  }
}

void edges_have_their_limits_and_keep_nan() {
  check_edges<float>();
  check_edges<double>();
}

template <class Real>
void check_symmetry_and_range() {
  test::Random random(5);
  for (int trial = 0; trial < 20000; ++trial) {
    const Real x = Real(random(-30.0, 30.0));
    const Real y = in_every_lane(kTanh, x);
    check(in_every_lane(kTanh, -x) == -y, "tanh is odd");
    check(std::abs(y) <= Real(1), "tanh stays within 1");
    const Real s = in_every_lane(kSigmoid, x);
    check(s >= Real(0) && s <= Real(1), "sigmoid stays within 0 and 1");
  }
}

// Beyond 1 the gradients 1 - y^2 would change sign.
void tanh_is_odd_and_results_stay_in_range() {
  check_symmetry_and_range<float>();
  check_symmetry_and_range<double>();
}

// Each lane on its own side of its own limit, in two registers.
void every_lane_is_clipped_at_its_own_limit() {
  constexpr int kLanes = Vec<float>::kLanes;
  Vec<float, 2> x, limit, d;
  const auto lane_of = [](int part, int lane) { return part * kLanes + lane; };
  for (int part = 0; part < 2; ++part) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int i = lane_of(part, lane);
      x.parts[part][lane] = i % 3 == 0 ? 2.0f : i % 3 == 1 ? -2.0f : 0.5f;
      limit.parts[part][lane] = 1.0f + float(i % 5);
      d.parts[part][lane] = float(i + 1);
    }
  }
  const auto clipped = clip(x, limit), kept = where_within(x, limit, d);
  for (int part = 0; part < 2; ++part) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = x.parts[part][lane], most = limit.parts[part][lane];
      const std::string where = "lane " + std::to_string(lane_of(part, lane));
      check_near(clipped.parts[part][lane], std::min(std::max(value, -most), most), 0.0, where);
      check_near(kept.parts[part][lane], std::abs(value) > most ? 0.0f : d.parts[part][lane], 0.0, where);
    }
  }
}

void one_bad_lane_leaves_the_others_alone() {
  float x[Vec<float>::kLanes], clean[Vec<float>::kLanes], mixed[Vec<float>::kLanes];
  for (int lane = 0; lane < Vec<float>::kLanes; ++lane) x[lane] = 0.25f * float(lane) - 1.0f;
  tanh(sigmoid(Vec<float>::load(x))).store(clean);
  x[1] = kNaN<float>;
  tanh(sigmoid(Vec<float>::load(x))).store(mixed);
  for (int lane = 0; lane < Vec<float>::kLanes; ++lane) {
    check_near(mixed[lane], lane == 1 ? kNaN<double> : clean[lane], 0.0, "lane " + std::to_string(lane));
  }
}

}  // namespace

int main() {
  return test::run({
      {"float errors are a few units in the last place", float_errors_are_a_few_units_in_the_last_place},
      {"double errors are a few units in the last place", double_errors_are_a_few_units_in_the_last_place},
      {"edges have their limits and keep NaN", edges_have_their_limits_and_keep_nan},
      {"tanh is odd and results stay in range", tanh_is_odd_and_results_stay_in_range},
      {"every lane is clipped at its own limit", every_lane_is_clipped_at_its_own_limit},
      {"one bad lane leaves the others alone", one_bad_lane_leaves_the_others_alone},
  });
}
