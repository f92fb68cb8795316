// A fuzzer of what reads models and of all that computes: `make fuzz` (libFuzzer of Clang, AddressSanitizer, UBSan).
//
// Half of the mutations are repaired, so that they are models of other stages and sizes with odd weights. The others
// are signed again, so that damage meets the checks behind the checksum.
#include "mutate.h"

extern "C" {

size_t LLVMFuzzerMutate(unsigned char* data, size_t size, size_t most);
int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size);
size_t LLVMFuzzerCustomMutator(unsigned char* data, size_t size, size_t most, unsigned seed);

int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  stream_tests::exercise(data, size);
  return 0;
}

size_t LLVMFuzzerCustomMutator(unsigned char* data, size_t size, size_t most, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, most);
  stream_tests::Bytes file(data, data + size);
  if (size < stream_tests::kHeader) return size;
  if (seed % 2 == 0) {
    stream_tests::repair(file);
  } else if (seed % 4 == 1) {
    stream_tests::put_long(file, 16, size);
  }
  stream_tests::sign(file);
  if (file.size() > most) return size;
  std::copy(file.begin(), file.end(), data);
  return file.size();
}

}  // extern "C"
