/* Borders between the library and its caller: memory that ends where no other begins, of any alignment; the caller's
 * setting of floating-point numbers; values that are not finite and what is left of them; who outlives whom.
 *
 *     borders MODEL...
 */
#define _GNU_SOURCE
#include <fenv.h>
#include <fused_rnn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { kSteps = 5, kMostRows = 3 };

static int failures = 0;
static const char* path = "";

static void check(int holds, const char* what) {
  if (holds) return;
  ++failures;
  printf("failed: %s: %s\n", path, what);
}

/* Memory between two pages that may not be touched, and an array that reaches the end or the beginning of it. */
typedef struct {
  char* pages;
  size_t size, page;
} Guarded;

static Guarded guarded(size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes / page + 1) * page;
  char* pages = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || mprotect(pages + page, size, PROT_READ | PROT_WRITE) != 0) abort();
  return (Guarded){pages, size, page};
}

static void* place(const Guarded* memory, size_t bytes, int at_end) {
  return memory->pages + memory->page + (at_end ? memory->size - bytes : 0);
}

static void release(const Guarded* memory) { munmap(memory->pages, memory->size + 2 * memory->page); }

typedef struct {
  size_t x, y, state; /* bytes of all steps, and of a state */
  int64_t input, output;
} Sizes;

static Sizes sizes_of(const fused_rnn_model* model, int64_t rows) {
  const int64_t input = rows * fused_rnn_model_input_size(model), output = rows * fused_rnn_model_output_size(model);
  const size_t state = (size_t)(rows * fused_rnn_model_state_size(model));
  return (Sizes){kSteps * (size_t)input * sizeof(float), kSteps * (size_t)output * sizeof(float), state * sizeof(float),
                 input, output};
}

static fused_rnn_stream* new_stream(fused_rnn_model* model, int64_t rows) {
  fused_rnn_stream* stream;
  if (fused_rnn_stream_create(model, rows, &stream, NULL) != FUSED_RNN_OK) abort();
  return stream;
}

static fused_rnn_stream* copy_of(const fused_rnn_stream* from) {
  fused_rnn_stream* stream;
  if (fused_rnn_stream_copy(from, &stream, NULL) != FUSED_RNN_OK) abort();
  return stream;
}

static void fill(float* x, size_t bytes, float scale) {
  for (size_t i = 0; i < bytes / sizeof(float); ++i) x[i] = scale * ((float)(i * i % 17) / 6 - 1);
}

/* The steps of a new stream, one by one, and the state that they leave. */
static void expected_of(fused_rnn_model* model, int64_t rows, const Sizes* size, const float* x, float* y,
                        float* state) {
  fused_rnn_stream* stream = new_stream(model, rows);
  for (int i = 0; i < kSteps; ++i) fused_rnn_step(stream, x + i * size->input, y + i * size->output);
  fused_rnn_get_state(stream, state);
  fused_rnn_stream_free(stream);
}

static void check_memory(fused_rnn_model* model, int64_t rows, const Sizes* size, const float* x, const float* y,
                         const float* state) {
  const size_t room = sizeof(float); /* so that an array may begin behind a float, on an odd place */
  const Guarded of_x = guarded(size->x + room), of_y = guarded(size->y + room), of_state = guarded(size->state + room);
  const Guarded of_rows = guarded(kMostRows);
  for (int where = 0; where < 3; ++where) { /* at the beginning, behind a float, at the end */
    const int at_end = where == 2, behind = where == 1;
    float* own_x = (float*)place(&of_x, size->x, at_end) + behind;
    float* own_y = (float*)place(&of_y, size->y, at_end) + behind;
    float* own_state = (float*)place(&of_state, size->state, at_end) + behind;
    unsigned char* flags = place(&of_rows, (size_t)rows, at_end);
    fused_rnn_stream* stream = new_stream(model, rows);
    memcpy(own_x, x, size->x);
    fused_rnn_steps(stream, own_x, own_y, kSteps);
    check(memcmp(own_y, y, size->y) == 0, "values do not depend on where arrays lie");
    fused_rnn_get_state(stream, own_state);
    check(size->state == 0 || memcmp(own_state, state, size->state) == 0, "nor does the state");
    fused_rnn_set_state(stream, own_state);
    memset(flags, 1, (size_t)rows);
    fused_rnn_reset(stream, flags);
    if (size->input == size->output) {
      fused_rnn_steps(stream, own_x, own_x, kSteps);
      check(memcmp(own_x, y, size->y) == 0, "y may be x");
    }
    fused_rnn_stream_free(stream);
  }
  release(&of_x);
  release(&of_y);
  release(&of_state);
  release(&of_rows);
}

/* Whoever plays sound may round differently, trap what is no number, or count denormals as zeros. */
static void check_setting(fused_rnn_model* model, int64_t rows, const Sizes* size, const float* x, const float* y,
                          float* found) {
  fused_rnn_stream* stream = new_stream(model, rows);
  fenv_t before;
  fegetenv(&before);
  fesetround(FE_TOWARDZERO);
#if defined(__GLIBC__)
  feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW); /* where the processor traps */
  const int traps = fegetexcept();
#endif
  for (int i = 0; i < kSteps; ++i) fused_rnn_step(stream, x + i * size->input, found + i * size->output);
  check(fegetround() == FE_TOWARDZERO, "the caller's rounding is back");
#if defined(__GLIBC__)
  check(fegetexcept() == traps, "the caller's traps are back");
#endif
  fesetenv(&before);
  check(memcmp(found, y, size->y) == 0, "values do not depend on the caller's setting");
  fused_rnn_stream_free(stream);
}

/* A NaN stays in the state until a reset, or until another state comes. */
static void check_recovery(fused_rnn_model* model, int64_t rows, const Sizes* size, const float* x, const float* y,
                           float* found) {
  fused_rnn_stream* stream = new_stream(model, rows);
  float *bad = malloc(size->x), *state = malloc(size->state + 1);
  for (size_t i = 0; i < size->x / sizeof(float); ++i) bad[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
  for (int with_reset = 0; with_reset < 2; ++with_reset) {
    fused_rnn_get_state(stream, state); /* zeros: nothing was done, or it was reset */
    fused_rnn_steps(stream, bad, found, kSteps);
    if (with_reset) {
      fused_rnn_reset(stream, NULL);
    } else {
      fused_rnn_set_state(stream, state);
    }
    fused_rnn_steps(stream, x, found, kSteps);
    check(memcmp(found, y, size->y) == 0, "nothing is left of a NaN");
    fused_rnn_reset(stream, NULL);
  }
  fused_rnn_stream_free(stream);
  free(bad);
  free(state);
}

/* Streams take turns, and go on without those that they come from. */
static void check_owners(fused_rnn_model* model, int64_t rows, const Sizes* size, const float* x, const float* y,
                         float* found) {
  fused_rnn_stream *first = new_stream(model, rows), *second = new_stream(model, rows), *copy = NULL;
  for (int i = 0; i < kSteps; ++i) {
    if (i == kSteps - 1) {
      copy = copy_of(first);
      fused_rnn_stream_free(first);
      first = copy_of(copy);
      fused_rnn_stream_free(copy);
    }
    fused_rnn_step(first, x + i * size->input, found + i * size->output);
    if (i < kSteps - 2) fused_rnn_step(second, x, found + size->y / sizeof(float) - size->output);
  }
  check(memcmp(found, y, size->y) == 0, "a stream does not know of others");
  fused_rnn_stream_free(first);
  fused_rnn_stream_free(second);
}

/* The model of a file in memory that begins anywhere and ends where no other memory begins. */
static fused_rnn_model* load(const char* name) {
  FILE* file = fopen(name, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) abort();
  const size_t bytes = (size_t)ftell(file);
  rewind(file);
  const Guarded memory = guarded(bytes + 1);
  char *at_end = place(&memory, bytes, 1), *odd = (char*)place(&memory, bytes, 0) + 1;
  fused_rnn_model *model, *other;
  if (fread(at_end, 1, bytes, file) != bytes) abort();
  if (fused_rnn_load_memory(at_end, bytes, &other, NULL) != FUSED_RNN_OK) abort();
  memmove(odd, at_end, bytes);
  if (fused_rnn_load_memory(odd, bytes, &model, NULL) != FUSED_RNN_OK) abort();
  fused_rnn_model_free(other);
  fclose(file);
  release(&memory);
  return model;
}

static void check_model(fused_rnn_model* model, int64_t rows) {
  const Sizes size = sizes_of(model, rows);
  float *x = malloc(size.x), *y = malloc(size.y), *found = malloc(size.y), *state = malloc(size.state + 1);
  fill(x, size.x, 1);
  expected_of(model, rows, &size, x, y, state);
  check_memory(model, rows, &size, x, y, state);
  check_recovery(model, rows, &size, x, y, found);
  check_owners(model, rows, &size, x, y, found);
  check_setting(model, rows, &size, x, y, found);
  fill(x, size.x, 1e30f); /* exponentials of these overflow */
  expected_of(model, rows, &size, x, y, state);
  check_setting(model, rows, &size, x, y, found);
  free(x);
  free(y);
  free(found);
  free(state);
}

int main(int count, char** arguments) {
  if (count < 2) return 2;
  for (int i = 1; i < count; ++i) {
    path = arguments[i];
    fused_rnn_model* model = load(path);
    check_model(model, 1);
    check_model(model, kMostRows);
    fused_rnn_model_free(model);
  }
  printf("%d failures\n", failures);
  return failures != 0;
}
