/* The C interface of doge-engine. Made by cbindgen from src/capi: do not edit (tests/capi_header.rs makes it anew).
 *
 * Rules that hold for every function, unless it says otherwise:
 *   - A handle is valid from the function that made it to the one that frees it. Free functions take NULL.
 *   - A pointer that is not said to be NULL-able is refused with DOGE_STATUS_BAD_ARGUMENT if it is NULL; otherwise it must point to
 *     memory of its type and, with a count beside it, of that many elements, for the time of the call. A count of 0 goes with any
 *     pointer. What a call reads must not change meanwhile, and what it writes must not overlap it.
 *   - `const char *` is NUL-terminated UTF-8. Text that is not has a length beside it.
 *   - Functions that return a DogeStatus store their result only with DOGE_STATUS_OK; a handle to be made is NULL otherwise. The
 *     message of a failure is in doge_last_error() of the calling thread, and in doge_session_error() of the session concerned.
 *   - Structs begin with struct_size, which the caller sets to sizeof; all other fields may be zero. So programs and
 *     libraries of different versions understand each other.
 *   - Everything runs on the CPU; a GPU is for the command and the Rust library.
 *   - Nothing throws, unwinds, aborts or prints; there is no global state, and no thread outlives a call but those of a DogeCpu.
 */

#ifndef DOGE_ENGINE_H
#define DOGE_ENGINE_H

#include <stddef.h>
#include <stdint.h>
#include "doge_kernels.h"

/*
 Version of this interface: raised when something that exists changes its meaning or goes. What is only added raises nothing.
 */
#define DOGE_ENGINE_ABI_VERSION 1

/*
 How a call ended. Numbers keep their meaning; later versions may add some.
 */
enum DogeStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   It did what was asked.
   */
  DOGE_STATUS_OK = 0,
  /*
   An argument is NULL, out of range, or contradicts another.
   */
  DOGE_STATUS_BAD_ARGUMENT = 1,
  /*
   The checkpoint or tokenizer is missing, malformed or unsupported.
   */
  DOGE_STATUS_BAD_MODEL = 2,
  /*
   A file could not be read.
   */
  DOGE_STATUS_IO = 3,
  /*
   Memory could not be had.
   */
  DOGE_STATUS_OUT_OF_MEMORY = 4,
  /*
   A token id outside the vocabulary.
   */
  DOGE_STATUS_TOKEN_OUT_OF_RANGE = 5,
  /*
   The session has no room for more tokens.
   */
  DOGE_STATUS_CONTEXT_FULL = 6,
  /*
   doge_session_cancel was called.
   */
  DOGE_STATUS_CANCELLED = 7,
  /*
   NaN or infinity came out of the model.
   */
  DOGE_STATUS_NON_FINITE = 8,
  /*
   This machine or this build does not have what was asked for.
   */
  DOGE_STATUS_UNAVAILABLE = 9,
  /*
   A saved session is damaged, of another version, or of another model.
   */
  DOGE_STATUS_BAD_SESSION = 10,
  /*
   The buffer is too small; the length that is needed was stored.
   */
  DOGE_STATUS_BUFFER_TOO_SMALL = 11,
  /*
   Another thread is using the session.
   */
  DOGE_STATUS_BUSY = 12,
  /*
   A bug in this library. The handles in use must not be used again, but for freeing them.
   */
  DOGE_STATUS_INTERNAL = 13,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum DogeStatus DogeStatus;
#else
typedef int32_t DogeStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 Why a generation ended. Numbers keep their meaning; later versions may add some.
 */
enum DogeFinish
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   As many tokens as were wanted.
   */
  DOGE_FINISH_LENGTH = 0,
  /*
   One of eos_token_ids.
   */
  DOGE_FINISH_EOS = 1,
  /*
   The session has no room for another token.
   */
  DOGE_FINISH_CONTEXT_FULL = 2,
  /*
   doge_session_cancel, or a callback.
   */
  DOGE_FINISH_CANCELLED = 3,
  /*
   One of stop_strings, or the special token that it names.
   */
  DOGE_FINISH_STOP_STRING = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum DogeFinish DogeFinish;
#else
typedef int32_t DogeFinish;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 An ISA level and threads. Immutable: may be used by any number of threads at once.
 */
typedef struct DogeCpu DogeCpu;

/*
 A loaded checkpoint. Immutable: may be used by any number of threads at once. Its sessions keep what they need of it:
 it may be freed before them.
 */
typedef struct DogeModel DogeModel;

/*
 One sequence. One thread at a time: a second one gets DOGE_STATUS_BUSY, and waits for nothing. Only doge_session_cancel may be
 called at any time. Sessions are independent of each other.
 */
typedef struct DogeSession DogeSession;

/*
 A checkpoint's tokenizer, and the tokens that begin and end its texts. Immutable: may be used by any number of threads at once.
 */
typedef struct DogeTokenizer DogeTokenizer;

/*
 How to generate. All zeros but struct_size are the defaults: greedy, until the buffer is full.
 */
typedef struct {
  /*
   sizeof(DogeGenerateOptions)
   */
  size_t struct_size;
  /*
   Tokens to generate at most. 0: as many as the buffer holds, or no limit without one.
   */
  size_t max_new_tokens;
  /*
   Tokens that end the text; the one that does is among the generated ids.
   */
  const uint32_t *eos_token_ids;
  /*
   Their number.
   */
  size_t n_eos_token_ids;
  /*
   Divides the logits before a token is drawn. 0: the likeliest token is taken.
   */
  float temperature;
  /*
   Draw from as many likeliest tokens. 0: from all.
   */
  uint32_t top_k;
  /*
   Draw from the likeliest tokens that together are this likely. 0: from all.
   */
  float top_p;
  /*
   Draw from tokens at least this fraction as likely as the likeliest. 0: from all.
   */
  float min_p;
  /*
   Above 1 makes tokens that were there less likely. 0: 1.
   */
  float repetition_penalty;
  /*
   0
   */
  uint32_t reserved;
  /*
   Seed of the draws.
   */
  uint64_t seed;
  /*
   Passed to the callbacks, which are called on the thread that called the library and must not throw, nor call anything
   with this session but doge_session_cancel. Each may be NULL.
   */
  void *user;
  /*
   Called with each token and the logarithm of its probability; not 0 ends the generation.
   */
  int32_t (*on_token)(void *user, uint32_t id, float logprob);
  /*
   Called with pieces of text: whole characters in UTF-8, `n` bytes without a NUL, valid for the time of the call. Not 0
   ends the generation, and nothing more is given. Needs `tokenizer`.
   */
  int32_t (*on_text)(void *user, const char *text, size_t n);
  /*
   For `on_text` and `stop_strings`; may be NULL without them.
   */
  const DogeTokenizer *tokenizer;
  /*
   May change the `n` logits of the next token, given the `n_generated` tokens so far.
   */
  void (*on_logits)(void *user, float *logits, size_t n, const uint32_t *generated, size_t n_generated);
  /*
   `n_stop_strings` texts, none of them NULL or empty. The first that comes ends the generation: the last ids hold it,
   `on_text` gets nothing of it. Text that may be the beginning of one is held back. A special token adds no text; one
   whose name is exactly one of these ends the generation too. Needs `tokenizer`.
   */
  const char *const *stop_strings;
  /*
   Their number.
   */
  size_t n_stop_strings;
} DogeGenerateOptions;

/*
 What a generation did.
 */
typedef struct {
  /*
   sizeof(DogeGenerated), set by the caller
   */
  size_t struct_size;
  /*
   Tokens generated.
   */
  size_t n_tokens;
  /*
   A DogeFinish.
   */
  int32_t finish;
  /*
   0
   */
  int32_t reserved;
  /*
   Tokens of the prompt that were fed.
   */
  size_t prefill_tokens;
  /*
   The seconds that took.
   */
  double prefill_seconds;
  /*
   Generated tokens that were fed back.
   */
  size_t decode_tokens;
  /*
   The seconds that took.
   */
  double decode_seconds;
} DogeGenerated;

/*
 Where models run. All zeros but struct_size are the defaults.
 */
typedef struct {
  /*
   sizeof(DogeCpuOptions)
   */
  size_t struct_size;
  /*
   Threads, the calling one included. 0: as many as this process may use.
   */
  size_t threads;
  /*
   Name of an ISA level. NULL: DOGE_ISA of the environment, or the best there is.
   */
  const char *isa;
  /*
   Not 0: beside bf16 weights activations are rounded to bf16, which is less exact, and faster in a prompt where the CPU has a
   bf16 dot product (avx512bf16, amx); with avx2 alone it is slower. With kv_dtype "bf16" attention is rounded too, beside
   weights of every format.
   */
  int32_t bf16_activations;
  /*
   0
   */
  int32_t reserved;
} DogeCpuOptions;

/*
 Takes one line of what a user should know, NUL-terminated UTF-8, valid for the time of the call. `level` is 0 for a note.
 Called on the thread that called the library. Must not throw.
 */
typedef void (*DogeLog)(void *user, int32_t level, const char *message);

/*
 How to load. All zeros but struct_size are the defaults.
 */
typedef struct {
  /*
   sizeof(DogeLoadOptions)
   */
  size_t struct_size;
  /*
   "f32", "bf16", "f16", "int8" or "int4": convert the big matrices to it. NULL: as stored, used in place.
   */
  const char *dtype;
  /*
   Not 0: read the files rather than map them. A mapped file must not change: truncated, it ends the process.
   */
  int32_t no_mmap;
  /*
   Not 0: do not look for NaN and infinities in the weights.
   */
  int32_t no_check_finite;
  /*
   Called with notes about the checkpoint; may be NULL.
   */
  DogeLog log;
  /*
   Passed to `log`.
   */
  void *user;
} DogeLoadOptions;

/*
 Sizes of a model.
 */
typedef struct {
  /*
   sizeof(DogeModelInfo), set by the caller
   */
  size_t struct_size;
  /*
   Token ids are below this; as many logits there are.
   */
  size_t vocab_size;
  /*
   Width of the residual stream.
   */
  size_t hidden_size;
  /*
   Decoder layers.
   */
  size_t num_hidden_layers;
  /*
   Keys that a mask head keeps at most.
   */
  size_t keep_window_size;
  /*
   Bytes of weights that one decoded token reads.
   */
  size_t bytes_per_token;
} DogeModelInfo;

/*
 How a session runs. All zeros but struct_size are the defaults.
 */
typedef struct {
  /*
   sizeof(DogeSessionOptions)
   */
  size_t struct_size;
  /*
   Tokens that the sequence may have. 0: no limit; the state is bounded in any case.
   */
  size_t ctx_size;
  /*
   Tokens of a prompt that go through the layers together. 0: 256. The results do not depend on it.
   */
  size_t block;
  /*
   Not 0: choose a prompt's experts as transformers does.
   */
  int32_t reference_routing;
  /*
   0
   */
  int32_t reserved;
  /*
   Format of K and V in memory: "f32", "bf16" or "f16". NULL: f32, exact. With 16 bits, tokens far into a text come faster.
   */
  const char *kv_dtype;
} DogeSessionOptions;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Continues `prompt`, the sequence from its first token on: only what the session does not hold yet is fed. The ids go to
 `ids[capacity]`, which may be NULL with a capacity of 0, and to the callbacks; DOGE_STATUS_BAD_ARGUMENT if they
 overlap `prompt` or `options->eos_token_ids`. `options` may be NULL, and so may `out`. Being cancelled is no failure: it is told
 in `out->finish`.
 */
DogeStatus doge_generate(DogeSession *session,
                         const uint32_t *prompt,
                         size_t n_prompt,
                         const DogeGenerateOptions *options,
                         uint32_t *ids,
                         size_t capacity,
                         DogeGenerated *out);

/*
 DOGE_ENGINE_ABI_VERSION of the library; a program compares it with its header's. From any thread.
 */
uint32_t doge_abi_version(void);

/*
 The library's version, such as "0.1.0". Never NULL, always valid. From any thread.
 */
const char *doge_version(void);

/*
 The kernels of one ISA level ("scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "amx"), or of the best that this CPU has
 if `isa` is NULL: a table of functions on plain pointers that needs no model; doge_kernels.h describes each. `*out` is a
 constant of the library: never freed, for any thread.
 */
DogeStatus doge_kernels(const char *isa,
                        const DogeKernelTable **out);

/*
 Chooses kernels and starts threads. `options` may be NULL. From any thread.
 */
DogeStatus doge_cpu_new(const DogeCpuOptions *options, DogeCpu **out);

/*
 Ends what doge_cpu_new made; its threads end with the last session that runs on them. NULL is nothing. From any thread, once.
 */
void doge_cpu_free(DogeCpu *cpu);

/*
 Threads of `cpu`; 0 for NULL. From any thread.
 */
size_t doge_cpu_threads(const DogeCpu *cpu);

/*
 Name of the ISA level of `cpu`, always valid; "" for NULL. From any thread.
 */
const char *doge_cpu_isa(const DogeCpu *cpu);

/*
 Loads a checkpoint: a folder with config.json and model.safetensors or its shards, or one .safetensors file with
 config.json beside it. `options` may be NULL. From any thread.
 */
DogeStatus doge_model_load(const char *path, const DogeLoadOptions *options, DogeModel **out);

/*
 The small model inside the library, which writes like Shakespeare. `options` may be NULL. From any thread.
 */
DogeStatus doge_model_embedded(const DogeLoadOptions *options, DogeModel **out);

/*
 Ends what doge_model_load or doge_model_embedded made. NULL is nothing. From any thread, once.
 */
void doge_model_free(DogeModel *model);

/*
 Stores the sizes of `model`. From any thread.
 */
DogeStatus doge_model_info(const DogeModel *model, DogeModelInfo *out);

/*
 An empty sequence. `options` may be NULL. From any thread.
 */
DogeStatus doge_session_new(const DogeModel *model,
                            const DogeCpu *cpu,
                            const DogeSessionOptions *options,
                            DogeSession **out);

/*
 Ends a session. NULL is nothing. Once, when no other thread uses it.
 */
void doge_session_free(DogeSession *session);

/*
 Takes in `n` tokens as one call, at least one. The logits after the last one are then in doge_session_logits. After
 DOGE_STATUS_CANCELLED the session holds the first tokens of them (doge_session_tokens tells) and can go on from there.
 */
DogeStatus doge_session_feed(DogeSession *session, const uint32_t *ids, size_t n);

/*
 As doge_session_feed, and stores the natural logarithm of each token's probability in `logprobs[n]`: NaN for the first
 token of a sequence, which nothing predicts. Cannot be cancelled. DOGE_STATUS_BAD_ARGUMENT if `ids` and `logprobs` overlap.
 */
DogeStatus doge_session_score(DogeSession *session,
                              const uint32_t *ids,
                              size_t n,
                              float *logprobs);

/*
 Feeds `ids[i]` to `sessions[i]`, `n` different sessions of one model, in one step that reads the weights once; it runs on
 `cpu`. Each gets the bits that doge_session_feed would give it. On failure no session has taken anything in. If one of them is
 cancelled (doge_session_cancel) before the step begins, that is DOGE_STATUS_CANCELLED.
 */
DogeStatus doge_batch_feed(const DogeCpu *cpu,
                           DogeSession *const *sessions,
                           const uint32_t *ids,
                           size_t n);

/*
 Stores where the logits after the last token are, and their number, the vocabulary. They are there until the next call that
 uses the session. DOGE_STATUS_BAD_ARGUMENT if there are none: the session is empty, or the last call failed on the way.
 */
DogeStatus doge_session_logits(const DogeSession *session,
                               const float **logits,
                               size_t *n);

/*
 Tokens taken in so far; 0 for NULL and while another thread uses the session.
 */
size_t doge_session_tokens(const DogeSession *session);

/*
 The message of the last call with this session that failed; "" if none has, for NULL, while another thread uses it, and after
 DOGE_STATUS_INTERNAL. A call that got DOGE_STATUS_BUSY leaves none here. Valid until the next call that uses the session.
 */
const char *doge_session_error(const DogeSession *session);

/*
 Not 0: the call at hand ends soon, and so does each later one, until it is set to 0: doge_session_feed and doge_batch_feed with
 DOGE_STATUS_CANCELLED, doge_generate with DOGE_FINISH_CANCELLED. A step of a batch that has begun is finished, and all other
 calls take no notice. From any thread and from signal handlers, at any time while the session lives. NULL is nothing.
 */
void doge_session_cancel(const DogeSession *session,
                         int32_t cancel);

/*
 A sequence of its own that goes on where `session` stands.
 */
DogeStatus doge_session_fork(const DogeSession *session, DogeSession **out);

/*
 Writes the session to `buffer` of `capacity` bytes and stores the number of bytes in `*n`; DOGE_STATUS_BUFFER_TOO_SMALL if they
 are more (ask with a capacity of 0).
 */
DogeStatus doge_session_save(const DogeSession *session,
                             uint8_t *buffer,
                             size_t capacity,
                             size_t *n);

/*
 The session that was saved. `options` may be NULL. Takes no more memory than a multiple of `n`. From any thread.
 */
DogeStatus doge_session_load(const DogeModel *model,
                             const DogeCpu *cpu,
                             const DogeSessionOptions *options,
                             const uint8_t *bytes,
                             size_t n,
                             DogeSession **out);

/*
 The message of the last call on this thread that failed, in English and UTF-8; empty if none has. Never NULL. Valid until
 the next call on this thread that fails. From any thread.
 */
const char *doge_last_error(void);

/*
 The name of a status, such as "context full"; "unknown" for numbers that are none. Never NULL, always valid. From any thread.
 */
const char *doge_status_name(int32_t status);

/*
 Reads tokenizer.json, generation_config.json and config.json of a checkpoint, by the path that doge_model_load takes: a folder,
 or one .safetensors file with these beside it. Where they do not name the tokens that begin and end texts, the weights, if they
 are there, tell whether the model is a V1, whose texts begin with token 0 and end with token 1. Those of a folder are
 model.safetensors, its shards, or else the only .safetensors file there; of several with names of their own none is
 looked at, and the tokens stay unknown. From any thread.
 */
DogeStatus doge_tokenizer_load(const char *path,
                               DogeTokenizer **out);

/*
 The tokenizer of the model inside the library. From any thread.
 */
DogeStatus doge_tokenizer_embedded(DogeTokenizer **out);

/*
 Ends a tokenizer. NULL is nothing. From any thread, once.
 */
void doge_tokenizer_free(DogeTokenizer *tokenizer);

/*
 The ids of `n_bytes` bytes of UTF-8: at most `capacity` to `ids`, their number to `*n`; DOGE_STATUS_BUFFER_TOO_SMALL if they are
 more. `add_special` not 0: for a text to be continued, with the begin-of-text token in front. `parse_special` not 0: a special
 token spelled out in the text is that token. From any thread.
 */
DogeStatus doge_tokenizer_encode(const DogeTokenizer *tokenizer,
                                 const uint8_t *text,
                                 size_t n_bytes,
                                 int32_t add_special,
                                 int32_t parse_special,
                                 uint32_t *ids,
                                 size_t capacity,
                                 size_t *n);

/*
 The tokens that end a text, for DogeGenerateOptions: at most `capacity` to `ids`, their number to `*n`;
 DOGE_STATUS_BUFFER_TOO_SMALL if they are more. From any thread.
 */
DogeStatus doge_tokenizer_eos(const DogeTokenizer *tokenizer, uint32_t *ids, size_t capacity, size_t *n);

/*
 The text of `n_ids` ids in UTF-8, without a NUL: at most `capacity` bytes to `text`, their number to `*n`;
 DOGE_STATUS_BUFFER_TOO_SMALL if they are more. `skip_special` not 0: without special tokens. From any thread.
 */
DogeStatus doge_tokenizer_decode(const DogeTokenizer *tokenizer,
                                 const uint32_t *ids,
                                 size_t n_ids,
                                 int32_t skip_special,
                                 uint8_t *text,
                                 size_t capacity,
                                 size_t *n);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DOGE_ENGINE_H */
