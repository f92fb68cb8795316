// The header, the records and the checksum of the file of a model (docs/guides/realtime.md has its bytes).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/platform.h"

namespace fused_rnn {

inline constexpr size_t kFileAlignment = 64;
inline constexpr unsigned char kFileMagic[8] = {0x89, 'F', 'R', 'N', 'N', '\r', '\n', 0x1A};
inline constexpr uint32_t kFileVersion = 2;

struct FileHeader {
  unsigned char magic[8];
  uint32_t version, stages;
  uint64_t bytes;     // of the file
  uint32_t checksum;  // CRC-32 of the file with zeros in its place
  uint32_t residual;
  uint32_t input_size, output_size;
  uint32_t zeros[6];
};
static_assert(sizeof(FileHeader) == kFileAlignment);

struct FileRecord {
  uint32_t kind, type;  // type: of the cell, or of the activation
  uint32_t storage;
  uint32_t input_size, hidden_size, output_size;
  uint32_t has_bias, projected;
  uint64_t offset, bytes;  // of its parameters
  uint32_t slope_count;
  uint32_t heads;  // 0: the units of the layer are one group; since version 2
  uint32_t zeros[2];
};
static_assert(sizeof(FileRecord) == kFileAlignment);

// In the order of their numbers in files, which begin with 1. cells.h has the cells.
inline constexpr const char* kFileCells[] = {
    "lstm",    "gru",     "rnn_tanh", "rnn_relu",          "lstm_peephole",    "coupled_lstm", "slstm",
    "ind_rnn", "min_gru", "min_lstm", "hard_sigmoid_lstm", "hard_sigmoid_gru", "keras2_lstm",  "keras2_gru"};
inline constexpr uint32_t kCellsOfVersion1 = 5;

inline constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320u ^ (value >> 1) : value >> 1;
    table[i] = value;
  }
  return table;
}();

// CRC-32 as of zlib, continued over the next bytes; it begins and ends with its bits inverted.
FUSED_RNN_HD inline uint32_t crc32(uint32_t crc, const std::byte* bytes, size_t size) {
  for (size_t i = 0; i < size; ++i) crc = kCrcTable[(crc ^ static_cast<uint32_t>(bytes[i])) & 0xFFu] ^ (crc >> 8);
  return crc;
}

FUSED_RNN_HD inline uint32_t file_checksum(const std::byte* bytes, size_t size) {
  constexpr size_t kPlace = offsetof(FileHeader, checksum), kSize = sizeof(uint32_t);
  constexpr std::byte kZeros[kSize]{};
  uint32_t crc = crc32(~0u, bytes, kPlace);
  crc = crc32(crc, kZeros, kSize);
  return ~crc32(crc, bytes + kPlace + kSize, size - kPlace - kSize);
}

}  // namespace fused_rnn
