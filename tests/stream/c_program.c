/* The functions of fused_rnn.h from C: values, blocks, states, copies, resets, and what bad arguments get. */
#include <fused_rnn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void check(int holds, const char* what) {
  if (holds) return;
  ++failures;
  printf("failed: %s\n", what);
}

/* The outputs of the model for x = 0.25, -0.5, 0.75, ..., as plain torch computes them in float64. */
#define STEPS 8
static const float kX[STEPS] = {0.25f, -0.5f, 0.75f, -1.0f, 1.25f, -1.5f, 1.75f, -2.0f};
static const double kY[STEPS] = {-0.245336533, -0.993798725, 0.262131637, -1.488773914,
                                 0.768038821,  -1.983540454, 1.274061640, -2.476908746};

static void check_bad_arguments(const char* path) {
  fused_rnn_error error;
  fused_rnn_model* model = NULL;
  fused_rnn_stream* stream = NULL;
  check(fused_rnn_load_file(NULL, &model, &error) == FUSED_RNN_BAD_ARGUMENT, "no path");
  check(strstr(error.text, "path") != NULL, "the text names the path");
  check(fused_rnn_load_file(path, NULL, NULL) == FUSED_RNN_BAD_ARGUMENT, "no model");
  check(fused_rnn_load_file("no such file", &model, &error) == FUSED_RNN_CANNOT_READ, "no file");
  check(error.status == FUSED_RNN_CANNOT_READ && strstr(error.text, "no such file") != NULL, "the text names the file");
  check(fused_rnn_load_file(".", &model, &error) == FUSED_RNN_CANNOT_READ, "a folder");
  check(fused_rnn_load_file("/dev/zero", &model, &error) == FUSED_RNN_CANNOT_READ, "a file without an end");
  check(fused_rnn_load_memory(NULL, 1, &model, NULL) == FUSED_RNN_BAD_ARGUMENT, "no bytes");
  check(fused_rnn_load_memory("", 0, &model, NULL) == FUSED_RNN_DAMAGED, "an empty file");
  check(fused_rnn_load_memory("not a model", 11, &model, &error) == FUSED_RNN_DAMAGED, "another file");
  check(model == NULL, "a failure leaves no model");
  check(fused_rnn_stream_create(NULL, 1, &stream, NULL) == FUSED_RNN_BAD_ARGUMENT, "no model");
  check(fused_rnn_stream_copy(NULL, &stream, NULL) == FUSED_RNN_BAD_ARGUMENT, "no stream");
  if (fused_rnn_load_file(path, &model, NULL) != FUSED_RNN_OK) abort();
  check(fused_rnn_stream_create(model, 0, &stream, &error) == FUSED_RNN_BAD_ARGUMENT, "no rows");
  check(strstr(error.text, "batch_size") != NULL, "the text names the batch size");
  check(fused_rnn_stream_create(model, INT64_MAX, &stream, NULL) == FUSED_RNN_BAD_ARGUMENT, "too many rows");
  check(fused_rnn_stream_create(model, 1, NULL, NULL) == FUSED_RNN_BAD_ARGUMENT, "no stream");
  fused_rnn_model_free(model);
  fused_rnn_model_free(NULL);
  fused_rnn_stream_free(NULL);
  for (int status = FUSED_RNN_OK; status <= FUSED_RNN_BAD_ISA + 1; ++status) {
    check(fused_rnn_status_text((fused_rnn_status)status)[0] != 0, "every status has words");
  }
}

static void check_values(fused_rnn_stream* stream) {
  float y[STEPS];
  for (int i = 0; i < STEPS; ++i) {
    fused_rnn_step(stream, kX + i, y + i);
    check(fabs(y[i] - kY[i]) < 2e-6 * (1 + fabs(kY[i])), "the values of a step");
  }
  fused_rnn_reset(stream, NULL);
  float block[STEPS];
  memcpy(block, kX, sizeof block);
  fused_rnn_steps(stream, block, block, STEPS); /* in place */
  check(memcmp(y, block, sizeof y) == 0, "a block has the values of its steps");
  fused_rnn_steps(stream, block, block, 0);
  check(memcmp(y, block, sizeof y) == 0, "a block of no steps does nothing");
}

/* Each of three rows has the values of a stream of its own. */
static void check_rows(fused_rnn_model* model) {
  enum { kRows = 3 };
  const size_t state_size = (size_t)fused_rnn_model_state_size(model);
  float *state = malloc(kRows * state_size * sizeof *state), x[kRows], y[kRows], again[kRows], alone[kRows];
  fused_rnn_stream *stream, *copy, *single[kRows];
  if (fused_rnn_stream_create(model, kRows, &stream, NULL) != FUSED_RNN_OK) abort();
  check(fused_rnn_stream_batch_size(stream) == kRows, "the batch size");
  for (int row = 0; row < kRows; ++row) {
    if (fused_rnn_stream_create(model, 1, &single[row], NULL) != FUSED_RNN_OK) abort();
  }
  for (int step = 0; step < 2 * STEPS; ++step) {
    const unsigned char rows[kRows] = {0, step == STEPS, 0};
    if (step == STEPS) {
      fused_rnn_reset(stream, rows);
      fused_rnn_reset(single[1], NULL);
    }
    for (int row = 0; row < kRows; ++row) {
      x[row] = kX[(step + row) % STEPS];
      fused_rnn_step(single[row], x + row, alone + row);
    }
    fused_rnn_step(stream, x, y);
    check(memcmp(y, alone, sizeof y) == 0, "a row is a stream");
  }
  fused_rnn_get_state(stream, state);
  if (fused_rnn_stream_copy(stream, &copy, NULL) != FUSED_RNN_OK) abort();
  fused_rnn_step(stream, x, y);
  fused_rnn_step(copy, x, again);
  check(memcmp(y, again, sizeof y) == 0, "a copy goes on from the same state");
  fused_rnn_step(copy, x, again);
  fused_rnn_set_state(stream, state);
  fused_rnn_step(stream, x, again);
  check(memcmp(y, again, sizeof y) == 0, "a state comes back");
  fused_rnn_stream_free(stream);
  fused_rnn_stream_free(copy);
  for (int row = 0; row < kRows; ++row) fused_rnn_stream_free(single[row]);
  free(state);
}

int main(int count, char** arguments) {
  if (count != 2) return 2;
  fused_rnn_model* model;
  fused_rnn_stream* stream;
  fused_rnn_error error;
  if (fused_rnn_load_file(arguments[1], &model, &error) != FUSED_RNN_OK) {
    printf("%s\n", error.text);
    return 1;
  }
  check(fused_rnn_model_input_size(model) == 1 && fused_rnn_model_output_size(model) == 1, "the sizes");
  check(fused_rnn_model_state_size(model) == 2 + 4 + 3, "the size of the state");
  check(fused_rnn_model_instruction_set(model)[0] != 0, "the instruction set");
  check_bad_arguments(arguments[1]);
  check_rows(model);
  if (fused_rnn_stream_create(model, 1, &stream, NULL) != FUSED_RNN_OK) return 1;
  fused_rnn_model_free(model);
  check_values(stream); /* without its model */
  fused_rnn_stream_free(stream);
  printf("%d failures\n", failures);
  return failures != 0;
}
