// The file of a model: a chain of stages with their parameters (docs/guides/realtime.md has its bytes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/problem.h"
#include "cpu/runtime/stepping.h"
#include "stream/stage.h"

namespace fused_rnn {

// The bytes are no model: damaged, or of a kind that this library does not know (`unsupported`).
class ModelFileError : public std::runtime_error {
 public:
  ModelFileError(bool unsupported, const std::string& text) : std::runtime_error(text), unsupported_(unsupported) {}
  bool unsupported() const { return unsupported_; }

 private:
  bool unsupported_;
};

// A matrix as the file keeps it. Rows of int8 have their largest magnitude beside them, [rows].
struct FileMatrix {
  StepStorage storage = StepStorage::kExact;
  const void* data = nullptr;  // [rows, columns] of float, bfloat16 or int8; null: there is none
  const float* largest = nullptr;
  int64_t rows = 0, columns = 0;

  // [rows, columns]. A layer that quantizes or rounds these values again gets the values of the file.
  std::vector<float> values() const;
};

enum class StageKind { kRecurrent, kLinear, kActivation };

// Pointers are into the bytes of the file; null where the stage has no such parameter.
struct FileStage {
  StageKind kind;
  CellSpec cell;          // of a recurrent layer
  StepStorage storage;    // of its matrices
  Activation activation;  // of a stage that is one
  int64_t input_size, hidden_size, output_size;
  bool projected;
  int64_t heads;  // of a recurrent layer: groups of units between which W_hh has no entries; all rows lie head by head
  FileMatrix w_ih, w_hh, w_hr;  // w_hh [R*H, P / heads]; a linear stage has its matrix in w_ih
  const float *b_ih, *b_hh;     // and its bias in b_ih
  const float* unit_weights;    // [K, H]
  const float* slopes;          // of PReLU, [slope_count]
  int64_t slope_count;
};

struct ModelFile {
  std::vector<FileStage> stages;
  int64_t input_size, output_size;
  bool residual;  // the first output_size values of x are added to the output
};

// Checks everything before it is used. `bytes` are aligned to 64, and outlive the result. Throws ModelFileError.
ModelFile read_model(const std::byte* bytes, size_t size);

}  // namespace fused_rnn
