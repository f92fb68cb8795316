// A machine that runs CUDA kernels on the CPU: threads are fibers, and a seeded scheduler chooses which warp goes next.
//
// A thread runs until it waits for others or happens to be preempted in a call of the vocabulary; then any warp may go
// on, and any store on its way to another block may arrive. So orders occur that real hardware shows seldom. What
// breaks a rule of the machine throws std::logic_error that says where: threads of a block at different barriers, a
// thread that leaves while others wait for it, a deadlock, a store to a block that has ended, a misaligned or misplaced
// one.
//
// Shared memory starts as all ones (a NaN in every float type) and is a heap object of exactly the size asked for, so
// that AddressSanitizer finds what lies outside. It does not know memory fences, bank conflicts or co-residency.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

namespace fused_rnn::emulator {

struct Shape {
  unsigned grid_x, grid_y, grid_z, threads;
  size_t shared_bytes;
  unsigned cluster;
  bool cooperative;
};

// Runs every thread of every block to its end.
void run(const Shape& shape, void (*kernel)(const void*), const void* object);

// The order of all that follows.
void set_seed(uint64_t seed);

// The places in kernels that wait for other threads, as "file:line function", in the order in which they first ran.
std::vector<std::string> synchronisation_sites();
// From now on the synchronisation at this place does nothing; "" for none.
void skip_synchronisation(const std::string& site);

// What the emulated vocabulary (emulated_device.h) is made of; called by threads of a kernel only.
using Where = std::source_location;
struct Place {
  int thread, threads, block[3], cluster_rank, cluster_size;
};
const Place& place();
void maybe_preempt();
void sync_block(const Where& where);
void sync_warp(const Where& where);
void sync_cluster(const Where& where);
void arrive_blocks(uint32_t* counter, const Where& where);
void wait_blocks(const uint32_t* counter, uint32_t count, const Where& where);
void copy_async(void* to, const void* from, size_t bytes);
void wait_copies(const Where& where);
// Hands `bytes` of each lane to all others of the warp: the result is 32 records, valid until the next such call.
const unsigned char* exchange_in_warp(const void* own, size_t bytes, const Where& where);
// A lane's words of two factors, each of one or two numbers, and the four sums of a tile that are its own.
struct Fragments {
  float a[4][2], b[2][2];
};
void add_tile_product(const Fragments& own, int per_word, float (&sums)[4], const Where& where);
unsigned char* dynamic_shared();
unsigned char* static_shared(const void* key, size_t bytes, size_t alignment);
unsigned char* in_peer(const unsigned char* own, int rank);
void init_barrier(void* barrier, int arrivals);
void arrive_expecting(void* barrier, int bytes, const Where& where);
void wait_parity(void* barrier, int parity, const Where& where);
void store_async(unsigned char* to, const void* value, size_t bytes, unsigned char* barrier, const Where& where);

}  // namespace fused_rnn::emulator
