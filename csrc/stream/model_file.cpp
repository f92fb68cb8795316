// Reads the file of a model; nothing of it is trusted.
//
// The checksum comes first, so that what follows meets damage only where it was made on purpose.
#include "stream/model_file.h"

#include <bit>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <iterator>

#include "stream/cells.h"
#include "stream/file_format.h"

namespace fused_rnn {

namespace {

static_assert(std::endian::native == std::endian::little, "the numbers of a file are read as they lie");
static_assert(sizeof(size_t) == sizeof(uint64_t), "a product of three sizes of a file is counted without overflow");

constexpr uint32_t kMostStages = 4096;
constexpr int64_t kLargestSize = 1 << 24;         // so that no count of bytes overflows
constexpr int64_t kLargestRow = 1 << 24;          // all results of a row: activations need no bytes of the file
constexpr int64_t kLargestInt8Columns = 1 << 16;  // the sum of so many products fits into 32 bits

constexpr uint32_t kKinds = 3, kStorages = 3, kActivations = 5;

[[noreturn]] void damaged(const std::string& what) { throw ModelFileError(false, "the file is damaged: " + what); }
[[noreturn]] void unsupported(const std::string& what) { throw ModelFileError(true, what); }

bool all_zero(std::initializer_list<uint32_t> values) {
  for (const uint32_t value : values) {
    if (value != 0) return false;
  }
  return true;
}

FileHeader read_header(const std::byte* bytes, size_t size) {
  FileHeader header;
  if (size < sizeof header) damaged("it ends within the header");
  std::memcpy(&header, bytes, sizeof header);
  if (std::memcmp(header.magic, kFileMagic, sizeof kFileMagic) != 0) damaged("it does not begin as a model does");
  if (header.version == 0) damaged("its version is 0");
  if (header.version > kFileVersion) {
    unsupported("the file has version " + std::to_string(header.version) + ", and this library reads versions up to " +
                std::to_string(kFileVersion));
  }
  if (header.bytes != size) {
    damaged("it has " + std::to_string(size) + " bytes, and its header says " + std::to_string(header.bytes));
  }
  if (header.checksum != file_checksum(bytes, size)) damaged("its checksum is wrong");
  const auto& z = header.zeros;
  if (!all_zero({z[0], z[1], z[2], z[3], z[4], z[5]}) || header.residual > 1) damaged("its header has unknown values");
  if (header.stages < 1 || header.stages > kMostStages) damaged("it has no stages, or too many");
  if (size < sizeof header + header.stages * sizeof(FileRecord)) damaged("it ends within the table of stages");
  return header;
}

// Hands out the arrays of a file, one after the other, each at a multiple of the alignment.
class Arrays {
 public:
  Arrays(const std::byte* bytes, size_t begin, size_t size) : bytes_(bytes), at_(begin), size_(size) {}

  size_t at() const { return at_; }

  const void* take(int64_t count, size_t element_bytes) {
    const size_t wanted = static_cast<size_t>(count) * element_bytes;
    if (wanted > size_ - at_) damaged("it ends within the parameters");
    const void* array = bytes_ + at_;
    const size_t padded = (wanted + kFileAlignment - 1) / kFileAlignment * kFileAlignment;
    if (padded > size_ - at_) damaged("it ends within the parameters");
    at_ += padded;
    return array;
  }
  const float* floats(int64_t count) { return static_cast<const float*>(take(count, sizeof(float))); }

  FileMatrix matrix(StepStorage storage, int64_t rows, int64_t columns) {
    FileMatrix made{storage, nullptr, nullptr, rows, columns};
    constexpr size_t kBytes[] = {sizeof(float), 2, 1};  // in the order of StepStorage
    made.data = take(rows * columns, kBytes[static_cast<int>(storage)]);
    if (storage != StepStorage::kInt8) return made;
    if (columns > kLargestInt8Columns) unsupported("int8 matrices have at most 65536 columns");
    made.largest = floats(rows);
    return made;
  }

 private:
  const std::byte* bytes_;
  size_t at_, size_;
};

bool is_size(uint32_t size) { return size >= 1 && size <= kLargestSize; }

void read_cell(const FileRecord& record, uint32_t version, FileStage& stage) {
  if (record.type < 1 || record.type > std::size(kFileCells)) unsupported("a stage has an unknown cell");
  if (version < 2 && record.type > kCellsOfVersion1) damaged("a stage has a cell that its version does not know");
  bool in_any_storage = false;
  const int index = static_cast<int>(record.type) - 1;
  visit_type(FileCells{}, index, [&](auto tag) {
    using Cell = typename decltype(tag)::type;
    stage.cell = spec_of<Cell>(index);
    in_any_storage = kInAnyStorage<Cell>;
  });
  if (record.storage >= kStorages || (record.storage != 0 && !in_any_storage)) {
    unsupported("a stage keeps its weights in a type that is unknown for its cell");
  }
  stage.storage = static_cast<StepStorage>(record.storage);
  stage.hidden_size = record.hidden_size;
  stage.projected = record.projected != 0;
}

// Heads are written down where there are several.
void read_heads(const FileRecord& record, uint32_t version, FileStage& stage) {
  stage.heads = record.heads == 0 ? 1 : record.heads;
  if (record.heads == 0) return;
  const bool may_be = version >= 2 && stage.cell.recurrent_gates > 0 && !stage.projected;
  if (!may_be || record.heads == 1 || stage.hidden_size % stage.heads != 0) damaged("a stage has wrong heads");
}

void read_recurrent(const FileRecord& record, uint32_t version, Arrays& arrays, FileStage& stage) {
  read_cell(record, version, stage);
  if (!is_size(record.hidden_size) || record.slope_count != 0) damaged("a recurrent stage has wrong sizes");
  if (stage.projected ? !stage.cell.projectable : record.output_size != record.hidden_size) {
    damaged("a recurrent stage has a wrong output size");
  }
  read_heads(record, version, stage);
  const int64_t gates = stage.cell.gates * stage.hidden_size;
  const int64_t recurrent_gates = stage.cell.recurrent_gates * stage.hidden_size;
  stage.w_ih = arrays.matrix(stage.storage, gates, stage.input_size);
  stage.w_hh = arrays.matrix(stage.storage, recurrent_gates, stage.output_size / stage.heads);
  if (record.has_bias != 0) {
    stage.b_ih = arrays.floats(gates);
    stage.b_hh = arrays.floats(recurrent_gates);
  }
  if (stage.projected) stage.w_hr = arrays.matrix(stage.storage, stage.output_size, stage.hidden_size);
  if (stage.cell.unit_weights > 0) stage.unit_weights = arrays.floats(stage.cell.unit_weights * stage.hidden_size);
}

void read_linear(const FileRecord& record, Arrays& arrays, FileStage& stage) {
  if (!all_zero({record.type, record.storage, record.hidden_size, record.projected, record.slope_count})) {
    damaged("a linear stage has unknown values");
  }
  stage.w_ih = arrays.matrix(StepStorage::kExact, stage.output_size, stage.input_size);
  if (record.has_bias != 0) stage.b_ih = arrays.floats(stage.output_size);
}

void read_activation(const FileRecord& record, Arrays& arrays, FileStage& stage) {
  if (record.type < 1 || record.type > kActivations) unsupported("a stage has an unknown activation");
  stage.activation = static_cast<Activation>(record.type - 1);
  if (!all_zero({record.storage, record.hidden_size, record.has_bias, record.projected}) ||
      record.output_size != record.input_size) {
    damaged("an activation has unknown values");
  }
  stage.slope_count = record.slope_count;
  if (stage.activation != Activation::kPrelu) {
    if (record.slope_count != 0) damaged("an activation has slopes");
    return;
  }
  if (record.slope_count != 1 && record.slope_count != record.output_size) damaged("PReLU has a wrong count of slopes");
  stage.slopes = arrays.floats(stage.slope_count);
}

FileStage read_stage(const FileRecord& record, uint32_t version, Arrays& arrays) {
  FileStage stage{};
  if (record.kind < 1 || record.kind > kKinds) unsupported("a stage has an unknown kind");
  stage.kind = static_cast<StageKind>(record.kind - 1);
  const auto& z = record.zeros;
  const bool has_heads = record.heads != 0 && stage.kind != StageKind::kRecurrent;
  if (!all_zero({z[0], z[1]}) || has_heads || record.has_bias > 1 || record.projected > 1) {
    damaged("a stage has unknown values");
  }
  if (!is_size(record.input_size) || !is_size(record.output_size)) damaged("a stage has wrong sizes");
  stage.input_size = record.input_size;
  stage.output_size = record.output_size;
  const size_t begin = arrays.at();
  switch (stage.kind) {
    case StageKind::kRecurrent:
      read_recurrent(record, version, arrays, stage);
      break;
    case StageKind::kLinear:
      read_linear(record, arrays, stage);
      break;
    case StageKind::kActivation:
      read_activation(record, arrays, stage);
      break;
  }
  if (record.offset != begin || record.bytes != arrays.at() - begin) damaged("parameters lie at a wrong place");
  return stage;
}

}  // namespace

std::vector<float> FileMatrix::values() const {
  std::vector<float> made(static_cast<size_t>(rows * columns));
  switch (storage) {
    case StepStorage::kExact:
      std::memcpy(made.data(), data, made.size() * sizeof(float));
      break;
    case StepStorage::kBFloat16:
      for (size_t i = 0; i < made.size(); ++i) {
        made[i] = std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
      }
      break;
    case StepStorage::kInt8:
      // The largest value of a row is exact, whatever 127 (largest / 127) rounds to, so that its scale is found again.
      for (int64_t row = 0; row < rows; ++row) {
        const float most = largest[row], scale = most / 127.0f;
        for (int64_t i = row * columns; i < (row + 1) * columns; ++i) {
          const int8_t value = static_cast<const int8_t*>(data)[i];
          made[static_cast<size_t>(i)] = value == 127    ? most
                                         : value == -127 ? -most
                                                         : static_cast<float>(value) * scale;
        }
      }
      break;
  }
  return made;
}

ModelFile read_model(const std::byte* bytes, size_t size) {
  const FileHeader header = read_header(bytes, size);
  ModelFile model{{}, header.input_size, header.output_size, header.residual != 0};
  Arrays arrays(bytes, sizeof header + header.stages * sizeof(FileRecord), size);
  int64_t width = header.input_size, results = 0;
  for (uint32_t i = 0; i < header.stages; ++i) {
    FileRecord record;
    std::memcpy(&record, bytes + sizeof header + i * sizeof record, sizeof record);
    model.stages.push_back(read_stage(record, header.version, arrays));
    if (model.stages.back().input_size != width) damaged("a stage does not fit the one before it");
    width = model.stages.back().output_size;
    results += width;
    if (results > kLargestRow) damaged("its stages have too many outputs");
  }
  if (arrays.at() != size) damaged("it goes on after the parameters");
  if (width != model.output_size) damaged("its output size is not that of the last stage");
  if (model.residual && model.output_size > model.input_size) damaged("its residual is wider than the input");
  return model;
}

}  // namespace fused_rnn
