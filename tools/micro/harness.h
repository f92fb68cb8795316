// What the micro programs share on the host: timing by events, device memory, and one line of JSON for each result.
//
// A program prints objects such as {"micro": "grid_barrier", "blocks": 132, "ns_min": 1234.5, ...}, one a line, and
// nothing else. "skipped" gives the reason why something cannot run here; "verified" says that the data that the
// kernel carried were compared with what the host computed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cuda/launch.h"

namespace fused_rnn::micro {

using cuda::check;

inline int device_attribute(cudaDeviceAttr attribute) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attribute, 0), "cudaDeviceGetAttribute");
  return value;
}

struct Gpu {
  int capability =
      10 * device_attribute(cudaDevAttrComputeCapabilityMajor) + device_attribute(cudaDevAttrComputeCapabilityMinor);
  int multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  int shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  bool has_clusters = capability >= 90;
};

// Memory of the device, with 0xff in every byte at first: a NaN in every float type.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    check(cudaMalloc(&data_, count * sizeof(T)), "cudaMalloc");
    fill(0xff);
  }
  ~DeviceArray() { static_cast<void>(cudaFree(data_)); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  void fill(int byte) const { check(cudaMemset(data_, byte, count_ * sizeof(T)), "cudaMemset"); }
  void write(const std::vector<T>& values) const {
    check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream = nullptr) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  double milliseconds_since(const Event& start) const {
    check(cudaEventSynchronize(event_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Spread {
  double min, median;
};

inline Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values.front(), values[values.size() / 2]};
}

// Milliseconds of what `enqueue` puts on the default stream.
template <class Enqueue>
double milliseconds(const Enqueue& enqueue) {
  Event start, end;
  start.record();
  enqueue();
  end.record();
  return end.milliseconds_since(start);
}

// Milliseconds of `enqueue`, after three runs as warm-up.
template <class Enqueue>
Spread time(const Enqueue& enqueue, int repeats = 15) {
  for (int i = 0; i < 3; ++i) milliseconds(enqueue);
  std::vector<double> samples;
  for (int i = 0; i < repeats; ++i) samples.push_back(milliseconds(enqueue));
  return spread(samples);
}

// Nanoseconds of one round of `enqueue(rounds)`: the slope between few and many rounds, free of the cost of a launch.
template <class Enqueue>
Spread nanoseconds_per_round(int few, int many, const Enqueue& enqueue, int repeats = 15) {
  for (int i = 0; i < 3; ++i) milliseconds([&] { enqueue(many); });
  std::vector<double> samples;
  for (int i = 0; i < repeats; ++i) {
    const double of_few = milliseconds([&] { enqueue(few); });
    samples.push_back((milliseconds([&] { enqueue(many); }) - of_few) * 1e6 / (many - few));
  }
  return spread(samples);
}

// One line of JSON, printed when it goes out of scope.
class Line {
 public:
  explicit Line(const char* micro) { text("micro", micro); }
  ~Line() {
    std::printf("{%s}\n", fields_.c_str());
    std::fflush(stdout);
  }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  // JSON has no word for what is not finite: it becomes text.
  Line& number(const char* name, double value) {
    char digits[40];
    std::snprintf(digits, sizeof digits, "%.6g", value);
    return std::isfinite(value) ? field(name, digits) : text(name, digits);
  }
  Line& flag(const char* name, bool value) { return field(name, value ? "true" : "false"); }
  Line& text(const char* name, const std::string& value) {
    std::string quoted = "\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return field(name, quoted + "\"");
  }
  Line& nanoseconds(const Spread& spread) { return number("ns_min", spread.min).number("ns_median", spread.median); }

 private:
  Line& field(const char* name, const std::string& value) {
    if (!fields_.empty()) fields_ += ", ";
    fields_ += std::string("\"") + name + "\": " + value;
    return *this;
  }
  std::string fields_;
};

inline void finish() { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

// Runs the program; what it throws becomes a line with "error" and the exit status 1.
template <class Body>
int report(const char* micro, const Body& body) {
  try {
    body(Gpu{});
    return 0;
  } catch (const std::exception& error) {
    Line(micro).text("error", error.what());
    return 1;
  }
}

}  // namespace fused_rnn::micro
