// Changes of a model's file: one that is signed again, and one that fits together again.
//
// The layout is written from docs/guides/realtime.md, not from csrc.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "exercise.h"

namespace stream_tests {

constexpr size_t kChecksumAt = 24, kHeader = 64, kRecord = 64;

inline uint32_t word_at(const Bytes& file, size_t at) {
  uint32_t word;
  std::memcpy(&word, &file[at], 4);
  return word;
}
inline void put(Bytes& file, size_t at, uint32_t word) { std::memcpy(&file[at], &word, 4); }
inline void put_long(Bytes& file, size_t at, uint64_t word) { std::memcpy(&file[at], &word, 8); }

inline void sign(Bytes& file) {
  put(file, kChecksumAt, 0);
  uint32_t crc = ~0u;
  for (const unsigned char byte : file) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1)));
  }
  put(file, kChecksumAt, ~crc);
}

// Of the cells in the order of their numbers: gates, those of them that read h, weights of a unit, and whether h may be
// projected.
struct CellCounts {
  size_t gates, recurrent, unit_weights;
  bool projectable;
};
constexpr std::array<CellCounts, 14> kCells = {{{4, 4, 0, true},
                                                {3, 3, 0, false},
                                                {1, 1, 0, false},
                                                {1, 1, 0, false},
                                                {4, 4, 4, true},
                                                {3, 3, 0, true},
                                                {4, 4, 0, true},
                                                {1, 0, 1, false},
                                                {2, 0, 0, false},
                                                {3, 0, 0, false},
                                                {4, 4, 0, true},
                                                {3, 3, 0, false},
                                                {4, 4, 0, true},
                                                {3, 3, 0, false}}};
constexpr uint32_t kCellsInAnyType = 5;  // those after them have float32 weights

// The parameters of a record in bytes, each array padded to 64.
inline size_t parameter_bytes(const Bytes& file, size_t record) {
  constexpr size_t kElement[] = {4, 2, 1};
  const auto field = [&](int i) { return size_t{word_at(file, record + 4 * static_cast<size_t>(i))}; };
  const size_t kind = field(0), type = field(1), storage = field(2), in = field(3), hidden = field(4), out = field(5);
  const auto padded = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const auto matrix = [&](size_t rows, size_t columns) {
    return padded(rows * columns * kElement[storage]) + (storage == 2 ? padded(rows * 4) : 0);
  };
  if (kind == 2) return padded(in * out * 4) + field(6) * padded(out * 4);
  if (kind == 3) return padded(field(12) * 4);
  const CellCounts& cell = kCells[type - 1];
  const size_t gates = cell.gates * hidden, recurrent = cell.recurrent * hidden, heads = std::max<size_t>(field(13), 1);
  const size_t biases = padded(gates * 4) + padded(recurrent * 4);
  return matrix(gates, in) + matrix(recurrent, out / heads) + field(6) * biases + field(7) * matrix(out, hidden) +
         padded(cell.unit_weights * hidden * 4);
}

// Makes small sizes and known kinds of whatever the records say, and lets them follow each other: a model again, with
// the parameters that are there, repeated as often as they are needed.
inline void repair(Bytes& file, uint32_t most_stages = 6, uint32_t largest = 20) {
  if (file.size() < kHeader + kRecord) return;
  const Bytes old = file;
  const auto within = [](uint32_t value, uint32_t low, uint32_t high) { return low + value % (high - low + 1); };
  const uint32_t stages = within(word_at(file, 12) - 1, 1, most_stages);
  const size_t begin = kHeader + stages * kRecord;
  file.resize(std::max(file.size(), begin));
  uint32_t width = within(word_at(file, 32) - 1, 1, largest);
  put(file, 32, width);
  size_t at = begin;
  for (uint32_t i = 0; i < stages; ++i) {
    const size_t record = kHeader + i * kRecord;
    const auto field = [&](int k) { return word_at(file, record + 4 * static_cast<size_t>(k)); };
    const auto set = [&](int k, uint32_t value) { put(file, record + 4 * static_cast<size_t>(k), value); };
    const uint32_t kind = within(field(0) - 1, 1, 3), types = kind == 1 ? uint32_t{kCells.size()} : 5;
    const uint32_t type = within(field(1) - 1, 1, types);
    const uint32_t hidden = within(field(4) - 1, 1, largest), out = within(field(5) - 1, 1, largest);
    const bool recurrent = kind == 1, projected = recurrent && kCells[type - 1].projectable && field(7) % 2 == 1;
    const bool may_have_heads = recurrent && !projected && hidden > 1 && kCells[type - 1].recurrent > 0;
    const uint32_t heads = may_have_heads ? within(field(13) - 1, 1, hidden) : 1;
    const uint32_t outputs = kind == 3 ? width : recurrent && !projected ? hidden : out;
    const uint32_t slopes = kind == 3 && type == 5 ? (field(12) % 2 == 1 ? 1 : width) : 0;
    const std::array<uint32_t, 8> fields = {kind,
                                            kind == 2 ? 0 : type,
                                            recurrent && type <= kCellsInAnyType ? field(2) % 3 : 0,
                                            width,
                                            recurrent ? hidden : 0,
                                            outputs,
                                            kind == 3 ? 0 : field(6) % 2,
                                            projected};
    for (int k = 0; k < 8; ++k) set(k, fields[static_cast<size_t>(k)]);
    set(12, slopes);
    set(13, heads > 1 && hidden % heads == 0 ? heads : 0);
    for (int k = 14; k < 16; ++k) set(k, 0);
    const size_t bytes = parameter_bytes(file, record);
    put_long(file, record + 32, at);
    put_long(file, record + 40, bytes);
    at += bytes;
    width = outputs;
  }
  file.resize(at);
  for (size_t i = begin; i < at; ++i) file[i] = old[kHeader + (i - kHeader) % (old.size() - kHeader)];
  constexpr unsigned char kMagic[] = {0x89, 'F', 'R', 'N', 'N', '\r', '\n', 0x1A};
  std::memcpy(file.data(), kMagic, 8);
  put(file, 8, 2);
  put(file, 12, stages);
  put_long(file, 16, at);
  put(file, 28, width <= word_at(file, 32) ? word_at(file, 28) % 2 : 0);
  put(file, 36, width);
  for (size_t i = 40; i < kHeader; i += 4) put(file, i, 0);
}

}  // namespace stream_tests
