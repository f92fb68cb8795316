// The C functions of include/fused_rnn.h: arguments are checked here, and every exception ends here.
#include <fused_rnn.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "cpu/runtime/instruction_set.h"
#include "stream/chain.h"

struct fused_rnn_model {
  fused_rnn::Model model;
};

struct fused_rnn_stream {
  fused_rnn::Stream stream;
};

namespace {

constexpr int64_t kLargestBatch = 1 << 24;

fused_rnn_status say(fused_rnn_error* error, fused_rnn_status status, const char* text) {
  if (error == nullptr) return status;
  error->status = status;
  std::snprintf(error->text, sizeof error->text, "%s", text);
  return status;
}

// A file that cannot be opened or read.
class CannotRead : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What `make` returns goes to `result`; what it throws becomes a status.
template <class T, class Make>
fused_rnn_status make_into(T** result, fused_rnn_error* error, const Make& make) noexcept {
  *result = nullptr;
  try {
    *result = make();
    return say(error, FUSED_RNN_OK, fused_rnn_status_text(FUSED_RNN_OK));
  } catch (const fused_rnn::ModelFileError& caught) {
    return say(error, caught.unsupported() ? FUSED_RNN_UNSUPPORTED : FUSED_RNN_DAMAGED, caught.what());
  } catch (const CannotRead& caught) {
    return say(error, FUSED_RNN_CANNOT_READ, caught.what());
  } catch (const std::invalid_argument& caught) {
    return say(error, FUSED_RNN_BAD_ISA, caught.what());
  } catch (const std::exception&) {  // std::bad_alloc, or std::length_error of a vector
    return say(error, FUSED_RNN_NO_MEMORY, fused_rnn_status_text(FUSED_RNN_NO_MEMORY));
  }
}

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void cannot(const char* what, const char* path) {
  const std::string reason = std::strerror(errno);
  throw CannotRead("cannot " + std::string(what) + " " + path + ": " + reason);
}

std::vector<char> contents_of(const char* path) {
  // Opening a pipe waits for its writer, and a device may never end.
  std::error_code unknown;
  const std::filesystem::file_status status = std::filesystem::status(path, unknown);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw CannotRead("cannot read " + std::string(path) + ": it is not a regular file");
  }
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path, "rb"));
  if (file == nullptr) cannot("open", path);
  std::vector<char> bytes;
  char block[1 << 16];
  while (const size_t count = std::fread(block, 1, sizeof block, file.get())) {
    bytes.insert(bytes.end(), block, block + count);
  }
  if (std::ferror(file.get()) != 0) cannot("read", path);
  return bytes;
}

}  // namespace

const char* fused_rnn_status_text(fused_rnn_status status) {
  switch (status) {
    case FUSED_RNN_OK:
      return "ok";
    case FUSED_RNN_BAD_ARGUMENT:
      return "an argument is null or out of range";
    case FUSED_RNN_CANNOT_READ:
      return "the file cannot be read";
    case FUSED_RNN_DAMAGED:
      return "the file is damaged";
    case FUSED_RNN_UNSUPPORTED:
      return "the model needs a newer library";
    case FUSED_RNN_NO_MEMORY:
      return "memory is short";
    case FUSED_RNN_BAD_ISA:
      return "FUSED_RNN_CPU_ISA names an instruction set that cannot run here";
  }
  return "unknown status";
}

fused_rnn_status fused_rnn_load_file(const char* path, fused_rnn_model** model, fused_rnn_error* error) {
  if (model == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "model must not be null");
  *model = nullptr;
  if (path == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "path must not be null");
  return make_into(model, error, [&] {
    const std::vector<char> bytes = contents_of(path);
    return new fused_rnn_model{{bytes.data(), bytes.size()}};
  });
}

fused_rnn_status fused_rnn_load_memory(const void* bytes, size_t size, fused_rnn_model** model,
                                       fused_rnn_error* error) {
  if (model == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "model must not be null");
  *model = nullptr;
  if (bytes == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "bytes must not be null");
  return make_into(model, error, [&] { return new fused_rnn_model{{bytes, size}}; });
}

void fused_rnn_model_free(fused_rnn_model* model) { delete model; }

int64_t fused_rnn_model_input_size(const fused_rnn_model* model) { return model->model.file().input_size; }
int64_t fused_rnn_model_output_size(const fused_rnn_model* model) { return model->model.file().output_size; }
int64_t fused_rnn_model_state_size(const fused_rnn_model* model) { return model->model.state_size(); }

const char* fused_rnn_model_instruction_set(const fused_rnn_model* /*model*/) {
  return fused_rnn::instruction_set(fused_rnn::active_instruction_set()).name;
}

fused_rnn_status fused_rnn_stream_create(fused_rnn_model* model, int64_t batch_size, fused_rnn_stream** stream,
                                         fused_rnn_error* error) {
  if (stream == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "stream must not be null");
  *stream = nullptr;
  if (model == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "model must not be null");
  if (batch_size < 1 || batch_size > kLargestBatch) {
    const std::string text = "batch_size must be from 1 to 16777216, got " + std::to_string(batch_size);
    return say(error, FUSED_RNN_BAD_ARGUMENT, text.c_str());
  }
  return make_into(stream, error,
                   [&] { return new fused_rnn_stream{fused_rnn::Stream(model->model.chain(batch_size))}; });
}

fused_rnn_status fused_rnn_stream_copy(const fused_rnn_stream* from, fused_rnn_stream** stream,
                                       fused_rnn_error* error) {
  if (stream == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "stream must not be null");
  *stream = nullptr;
  if (from == nullptr) return say(error, FUSED_RNN_BAD_ARGUMENT, "from must not be null");
  return make_into(stream, error, [&] { return new fused_rnn_stream{fused_rnn::Stream(from->stream)}; });
}

void fused_rnn_stream_free(fused_rnn_stream* stream) { delete stream; }

int64_t fused_rnn_stream_batch_size(const fused_rnn_stream* stream) { return stream->stream.batch(); }

void fused_rnn_step(fused_rnn_stream* stream, const float* x, float* y) { stream->stream.steps(x, y, 1); }

void fused_rnn_steps(fused_rnn_stream* stream, const float* x, float* y, int64_t count) {
  stream->stream.steps(x, y, count);
}

void fused_rnn_reset(fused_rnn_stream* stream, const unsigned char* rows) { stream->stream.reset(rows); }

void fused_rnn_get_state(const fused_rnn_stream* stream, float* state) { stream->stream.get_state(state); }

void fused_rnn_set_state(fused_rnn_stream* stream, const float* state) { stream->stream.set_state(state); }
