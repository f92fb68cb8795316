/* fused_rnn without Python: recurrent networks that make one step at a time, for real-time programs.
 *
 * A model is a file that fused_rnn.save_stream writes: a chain of recurrent layers, linear layers and activations.
 * A stream is a model in motion: it takes a step after the other and keeps the state between them.
 *
 *     fused_rnn_error error;
 *     fused_rnn_model* model;
 *     fused_rnn_stream* stream;
 *     if (fused_rnn_load_file("amp.frnn", &model, &error) != FUSED_RNN_OK) return fail(error.text);
 *     if (fused_rnn_stream_create(model, 1, &stream, &error) != FUSED_RNN_OK) return fail(error.text);
 *     fused_rnn_model_free(model);                      // a stream goes on without its model
 *     fused_rnn_steps(stream, samples, effect, 64);     // a block of 64 steps
 *     fused_rnn_stream_free(stream);
 *
 * Sizes. B is the batch size of a stream, I and O the input and output sizes of its model. All values are float,
 * contiguous, with no alignment beyond that of a float. Sizes count floats unless a line says bytes.
 *
 * Real time. The functions from fused_rnn_step to fused_rnn_set_state allocate nothing, take no lock, make no system
 * call, start no thread and throw nothing. Denormal numbers count as zero within a step, so that a decaying state costs
 * no more than another. Within a step the caller's rounding and traps of floating-point numbers do not hold either, and
 * its own setting is back when the step returns.
 *
 * Threads. Models may be shared by threads. A stream is for one thread at a time, and any thread may be the next one.
 * Nothing is kept outside of models and streams.
 *
 * Processors. The first load takes the widest instruction set of the processor that pays. The environment variable
 * FUSED_RNN_CPU_ISA names another one, and is read then. Machines are 64-bit and little-endian.
 */
#ifndef FUSED_RNN_H_
#define FUSED_RNN_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FUSED_RNN_API __attribute__((visibility("default")))
#else
#define FUSED_RNN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fused_rnn_model fused_rnn_model;
typedef struct fused_rnn_stream fused_rnn_stream;

typedef enum fused_rnn_status {
  FUSED_RNN_OK = 0,
  FUSED_RNN_BAD_ARGUMENT = 1, /* an argument is null, or a size is out of range */
  FUSED_RNN_CANNOT_READ = 2,  /* the file cannot be opened or read */
  FUSED_RNN_DAMAGED = 3,      /* the bytes are no model, or not all of one, or were changed */
  FUSED_RNN_UNSUPPORTED = 4,  /* the model needs a newer library */
  FUSED_RNN_NO_MEMORY = 5,    /* memory is short */
  FUSED_RNN_BAD_ISA = 6       /* FUSED_RNN_CPU_ISA names an instruction set that is unknown or cannot run here */
} fused_rnn_status;

/* What went wrong, in words that end with a zero byte. The caller owns it. */
typedef struct fused_rnn_error {
  fused_rnn_status status;
  char text[252];
} fused_rnn_error;

/* A status in a few words. The text is constant, and valid for ever. */
FUSED_RNN_API const char* fused_rnn_status_text(fused_rnn_status status);

/* --- Models. The functions that return a status say more in *error, which may be null. Where they fail, *model and
 * *stream become null. --- */

/* Reads a model from the regular file at `path`, a string in the encoding of the file system.
 * Fails with BAD_ARGUMENT (path or model is null), CANNOT_READ, DAMAGED, UNSUPPORTED, NO_MEMORY or BAD_ISA. */
FUSED_RNN_API fused_rnn_status fused_rnn_load_file(const char* path, fused_rnn_model** model, fused_rnn_error* error);

/* The same from `size` bytes at `bytes`, of any alignment. They are copied.
 * Fails with BAD_ARGUMENT (bytes or model is null), DAMAGED, UNSUPPORTED, NO_MEMORY or BAD_ISA. */
FUSED_RNN_API fused_rnn_status fused_rnn_load_memory(const void* bytes, size_t size, fused_rnn_model** model,
                                                     fused_rnn_error* error);

/* Frees a model; its streams go on. Null is nothing to free. */
FUSED_RNN_API void fused_rnn_model_free(fused_rnn_model* model);

/* I and O: floats of a row of x and of y. */
FUSED_RNN_API int64_t fused_rnn_model_input_size(const fused_rnn_model* model);
FUSED_RNN_API int64_t fused_rnn_model_output_size(const fused_rnn_model* model);

/* Floats of the state of one row of the batch. The state of a stream has B times as many. */
FUSED_RNN_API int64_t fused_rnn_model_state_size(const fused_rnn_model* model);

/* The instruction set that streams of all models use, such as "avx2". The text is constant. */
FUSED_RNN_API const char* fused_rnn_model_instruction_set(const fused_rnn_model* model);

/* --- Streams --- */

/* Makes a stream of `batch_size` rows, B, with a zero state. The first stream of a batch size packs the weights; the
 * others share them.
 * Fails with BAD_ARGUMENT (model or stream is null, or batch_size not within 1 and 2^24) or NO_MEMORY. */
FUSED_RNN_API fused_rnn_status fused_rnn_stream_create(fused_rnn_model* model, int64_t batch_size,
                                                       fused_rnn_stream** stream, fused_rnn_error* error);

/* Makes another stream that goes on from the state of `from`, which is its own from then on. The weights are shared.
 * Fails with BAD_ARGUMENT (from or stream is null) or NO_MEMORY. */
FUSED_RNN_API fused_rnn_status fused_rnn_stream_copy(const fused_rnn_stream* from, fused_rnn_stream** stream,
                                                     fused_rnn_error* error);

/* Frees a stream. Null is nothing to free. */
FUSED_RNN_API void fused_rnn_stream_free(fused_rnn_stream* stream);

/* B: rows of the batch. */
FUSED_RNN_API int64_t fused_rnn_stream_batch_size(const fused_rnn_stream* stream);

/* --- In real time. No function below fails; a null pointer where none is allowed is the caller's error. --- */

/* Makes one step from x [B, I] to y [B, O]. y may be x where O = I, and otherwise must not overlap it. */
FUSED_RNN_API void fused_rnn_step(fused_rnn_stream* stream, const float* x, float* y);

/* Makes `count` steps, from x [count, B, I] to y [count, B, O], with the values of as many calls of fused_rnn_step.
 * y may be x where O = I, and otherwise must not overlap it. A count of 0 or less does nothing. */
FUSED_RNN_API void fused_rnn_steps(fused_rnn_stream* stream, const float* x, float* y, int64_t count);

/* Makes the state zero: of all rows where `rows` is null, else of those where rows [B] is not 0. */
FUSED_RNN_API void fused_rnn_reset(fused_rnn_stream* stream, const unsigned char* rows);

/* Copies the state to `state`, B times fused_rnn_model_state_size floats: for each recurrent layer, from the input to
 * the output, h [B, P] and then its other states [B, H], such as c of an LSTM and c, n, m of an sLSTM. H is the hidden
 * size; P is the projected size, or H. */
FUSED_RNN_API void fused_rnn_get_state(const fused_rnn_stream* stream, float* state);

/* Copies the state from `state`, as fused_rnn_get_state has it. */
FUSED_RNN_API void fused_rnn_set_state(fused_rnn_stream* stream, const float* state);

#ifdef __cplusplus
}
#endif

#endif /* FUSED_RNN_H_ */
