/* What a step may not do: allocate, free, take a lock, or make a system call. And what it must: count denormals as 0,
 * and leave the caller's setting for them.
 *
 * The functions below stand in front of the C library's in the whole process; while `strict` they count. A child is
 * killed at any system call but read, write and exit. strace finds the first and the last step of the process by what
 * it writes to stderr. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fused_rnn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kMostState = 64 };

static int strict = 0, calls = 0, failures = 0;

static void check(int holds, const char* what) {
  if (holds) return;
  ++failures;
  printf("failed: %s\n", what);
}

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
extern void __libc_free(void*);

void* malloc(size_t size) { return calls += strict, __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return calls += strict, __libc_calloc(count, size); }
void* realloc(void* memory, size_t size) { return calls += strict, __libc_realloc(memory, size); }
void* memalign(size_t alignment, size_t size) { return calls += strict, __libc_memalign(alignment, size); }
void* aligned_alloc(size_t alignment, size_t size) { return calls += strict, __libc_memalign(alignment, size); }
void free(void* memory) {
  calls += strict;
  __libc_free(memory);
}
int posix_memalign(void** memory, size_t alignment, size_t size) {
  calls += strict;
  *memory = __libc_memalign(alignment, size);
  return *memory == NULL;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static int (*next)(pthread_mutex_t*) = NULL;
  calls += strict;
  if (next == NULL) *(void**)&next = dlsym(RTLD_NEXT, "pthread_mutex_lock");
  return next(mutex);
}

/* A product that is denormal where denormals are not flushed. */
static int makes_denormals(void) {
  volatile float small = 1e-30f;
  return small * 1e-10f != 0;
}

static void use(fused_rnn_stream* stream) {
  float block[64] = {0}, state[kMostState];
  for (int i = 0; i < 1000; ++i) fused_rnn_step(stream, block, block + 1);
  fused_rnn_steps(stream, block, block, 64);
  fused_rnn_get_state(stream, state);
  fused_rnn_set_state(stream, state);
  fused_rnn_reset(stream, NULL);
}

static void mark(const char* words) {
  if (write(STDERR_FILENO, words, strlen(words)) < 0) abort();
}

static void check_system_calls(fused_rnn_stream* stream) {
  enum { kUnavailable = 3 };
  const pid_t child = fork();
  if (child == 0) {
    const int allowed = prctl(PR_SET_SECCOMP, 1, 0, 0, 0) == 0; /* 1: the strict mode */
    if (allowed) use(stream);
    syscall(SYS_exit, allowed ? 0 : kUnavailable);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kUnavailable) {
    printf("system calls were not looked at: this kernel has no strict mode\n");
    return;
  }
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "no function of real time makes a system call");
}

int main(int count, char** arguments) {
  fused_rnn_model* model;
  fused_rnn_stream* stream;
  float block[64] = {0}, state[kMostState];
  if (count != 2) return 2;
  if (fused_rnn_load_file(arguments[1], &model, NULL) != FUSED_RNN_OK) return 1;
  const int64_t state_size = fused_rnn_model_state_size(model);
  if (state_size > kMostState) return 2;
  strict = 1;
  if (fused_rnn_stream_create(model, 1, &stream, NULL) != FUSED_RNN_OK) return 1;
  check(calls > 0, "this program sees what the library calls");

  calls = 0;
  mark("first step\n");
  use(stream);
  mark("last step\n");
  check(calls == 0, "no function of real time allocates, frees or locks");
  strict = 0;
  check_system_calls(stream);

  /* A GRU's h is z h plus something. A denormal h counts as 0, so that the state is that of a step from 0. */
  float after[kMostState], expected[kMostState];
  for (int i = 0; i < kMostState; ++i) state[i] = 1e-40f;
  fused_rnn_set_state(stream, state);
  fused_rnn_step(stream, block + 63, block);
  fused_rnn_get_state(stream, after);
  fused_rnn_reset(stream, NULL);
  fused_rnn_step(stream, block + 63, block);
  fused_rnn_get_state(stream, expected);
  for (int64_t i = 0; i < state_size; ++i) check(after[i] == expected[i], "a denormal state counts as 0");
  check(makes_denormals(), "the caller's own setting is back");

  fused_rnn_stream_free(stream);
  fused_rnn_model_free(model);
  printf("%d failures\n", failures);
  return failures != 0;
}
