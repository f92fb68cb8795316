// Damaged files: an error or a model, and never a read outside of the file.
//
// Without the checksum's help each byte of the header and of the records gets every value, and bytes anywhere get
// random ones, with a checksum that is right again. Some of these are made to models again, of other stages and sizes.
// `damaged MODEL ROUNDS` makes more of them.
#include <fstream>
#include <iterator>
#include <random>

#include "mutate.h"

namespace {

using stream_tests::Bytes;
using stream_tests::kHeader;
using stream_tests::sign;

constexpr size_t kRecords = 4;  // of both models

int failures = 0, models = 0;

void check(bool holds, const char* what, size_t place) {
  if (holds) return;
  if (++failures < 20) std::printf("failed at byte %zu: %s\n", place, what);
}

fused_rnn_status load(const Bytes& file) {
  const fused_rnn_status status = stream_tests::exercise(file.data(), file.size());
  models += status == FUSED_RNN_OK;
  return status;
}

void check_truncations(const Bytes& file) {
  for (size_t size = 0; size < file.size(); ++size) {
    Bytes shorter(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    check(load(shorter) == FUSED_RNN_DAMAGED, "a truncated file is an error", size);
    // The length and the checksum say that it is whole.
    if (size < kHeader) continue;
    const uint64_t length = size;
    std::memcpy(&shorter[16], &length, 8);
    sign(shorter);
    check(load(shorter) == FUSED_RNN_DAMAGED, "a shorter file is an error", size);
  }
  Bytes longer = file;
  longer.resize(file.size() + 64);
  check(load(longer) == FUSED_RNN_DAMAGED, "a longer file is an error", file.size());
}

void check_flipped_bits(const Bytes& file) {
  for (size_t place = 0; place < file.size(); ++place) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes changed = file;
      changed[place] ^= static_cast<unsigned char>(1 << bit);
      check(load(changed) != FUSED_RNN_OK, "a flipped bit is an error", place);
    }
  }
}

void check_signed_changes(const Bytes& file, int rounds) {
  for (size_t place = 0; place < kHeader + kRecords * 64; ++place) {
    for (int value = 0; value < 256; value += 1 + (place % 4 == 0 ? 0 : 4)) {
      Bytes changed = file;
      changed[place] = static_cast<unsigned char>(value);
      sign(changed);
      load(changed);
    }
  }
  std::mt19937 random(1);
  // Small numbers, since they are the ones that mean something.
  constexpr std::array<uint32_t, 12> kWords = {0, 1, 2, 3, 4, 5, 6, 8, 16, 64, 0x7FFFFFFF, 0xFFFFFFFF};
  for (int round = 0; round < rounds; ++round) {
    Bytes changed = file;
    for (uint32_t change = 0; change <= random() % 3; ++change) {
      const size_t word = random() % ((kHeader + kRecords * 64) / 4);
      std::memcpy(&changed[4 * word], &kWords[random() % kWords.size()], 4);
    }
    sign(changed);
    load(changed);
    stream_tests::repair(changed);
    sign(changed);
    if (round % 8 == 0) check(load(changed) == FUSED_RNN_OK, "what fits together is a model", 0);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2 && count != 3) return 2;
  std::ifstream stream(arguments[1], std::ios::binary);
  Bytes file((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  check(load(file) == FUSED_RNN_OK, "the file itself is a model", 0);
  Bytes signed_again = file;
  sign(signed_again);
  check(signed_again == file, "the checksum is that of the file", 0);
  check_truncations(file);
  check_flipped_bits(file);
  check_signed_changes(file, count == 3 ? std::atoi(arguments[2]) : 20000);
  check(models > 100, "some changes leave a model", 0);
  std::printf("%d models, %d failures\n", models, failures);
  return failures == 0 ? 0 : 1;
}
