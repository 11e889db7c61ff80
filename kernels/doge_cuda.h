/* The contract of the CUDA kernels: each kernel takes one of these structs by value, so a drift of layout between the host
 * and a kernel does not compile. The words, shapes and formulas are those of doge_kernels.h. bindgen makes Rust's side of it.
 *
 * Rules that hold for every kernel:
 *   - Pointers are device pointers, aligned to 16 bytes; a row of floats has a stride that is a multiple of
 *     DOGE_CUDA_PAD floats, and the floats between its length and its stride are zero. Kernels rely on those zeros and leave
 *     them alone. Weights of the float formats are padded the same way (stride_bytes); those of the integer formats are in
 *     tiles, as doge_kernels.h has them (experts' tables: in rows, each padded to a multiple of DOGE_CUDA_PAD bytes).
 *   - `at` points to where the sequence stands; a captured graph then needs no new arguments for the next token.
 *   - Sums are f32, in one fixed order per output that depends on the format and the length alone: never on the number of
 *     rows, the grid, or how a prompt was cut. Kernels named *_bf16_tensor are the exception, and say what holds for them. */
#ifndef DOGE_CUDA_H
#define DOGE_CUDA_H

#include "doge_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DOGE_CUDA_PAD = 8 };
/* Threads of a block: of experts, of those that choose a token, and of every other kernel. */
enum { DOGE_CUDA_THREADS = 128, DOGE_CUDA_EXPERT_THREADS = 256, DOGE_CUDA_ARGMAX_THREADS = 512 };

/* Where a sequence stands. Lives in device memory; the last kernel of a decode step moves it on. */
typedef struct DogeCudaPlace {
  uint32_t place;       /* of the first row of the block at hand */
  uint32_t table_place; /* the place that row 0 of the rotation tables is for */
  uint32_t step;        /* tokens chosen since the host looked */
  uint32_t non_finite;  /* 1 + the first place whose logits were not finite; 0: none */
  uint32_t stopped;     /* 1: an end-of-text token was chosen; what follows in the run leaves the sequence alone */
} DogeCudaPlace;

/* out[r] = table[ids[r]], widened. */
typedef struct DogeCudaEmbedArgs {
  float *out;          /* [n_rows][out_stride] */
  const void *table;   /* [vocab][cols]; integer formats in tiles */
  const uint32_t *ids; /* [n_rows], below vocab */
  size_t stride_bytes; /* of a row, or of a tile */
  uint32_t n_rows, cols, out_stride;
} DogeCudaEmbedArgs;

/* x[r] = gate * x[r] + branch[r] in place, unless gate is NULL; out[r] = rms_norm(x[r]), and the same rounded to bf16. */
typedef struct DogeCudaNormArgs {
  float *out;          /* [n_rows][stride] */
  uint16_t *rounded;   /* [n_rows][stride] or NULL */
  float *x;            /* [n_rows][stride] */
  const float *gate;   /* [cols] or NULL */
  const float *branch; /* [n_rows][stride]; not read without gate */
  const float *weight; /* [cols] */
  uint32_t n_rows, cols, stride;
  float eps;
} DogeCudaNormArgs;

/* One linear layer of several that read the same x. */
typedef struct DogeCudaProjection {
  float *out;         /* [n_rows][out_stride] */
  const void *weight; /* [out_features][cols] */
  const float *bias;  /* [out_features] or NULL */
  uint32_t out_features, out_stride;
} DogeCudaProjection;

enum { DOGE_CUDA_PROJECTIONS = 3 };

/* Columns of a row that a projection can norm itself. */
enum { DOGE_CUDA_NORM_COLS_MAX = 2048 };

/* out[r] = weight * x[r] (+ bias) for each projection. The _gated kernels read exactly two, gate and up, of the same
 * size, and write out[r] = act(gate) * up to projection[0].out.
 * The _1 kernels, of a single row, can do what stands before and after it in a decode step: with `norm` they multiply
 * rms_norm(x) instead of x; with `stream` the one projection's result is not written to `out`, but becomes the branch of
 * the gated residual, stream = residual * stream + result. Both with the bits of doge_rms_norm. */
typedef struct DogeCudaLinearArgs {
  DogeCudaProjection projection[DOGE_CUDA_PROJECTIONS]; /* unused ones have 0 out_features */
  const float *x;                                       /* [n_rows][x_stride] */
  const float *norm;     /* [cols] with the padding of a row, cols <= DOGE_CUDA_NORM_COLS_MAX, or NULL; _1 only */
  float *stream;         /* [out_features] or NULL; _1 only, not _gated */
  const float *residual; /* [out_features]; read with stream */
  size_t stride_bytes;   /* of a weight row, or of a tile */
  uint32_t n_rows, cols, x_stride;
  uint32_t act; /* DogeActivation; read by the _gated kernels */
  float eps;    /* read with norm */
} DogeCudaLinearArgs;

/* out[r][i] = x[r][i] rounded to bf16, for whole strides. */
typedef struct DogeCudaRoundArgs {
  uint16_t *out;  /* [n] */
  const float *x; /* [n] */
  size_t n;
} DogeCudaRoundArgs;

/* Rows, and rows of weights, that a block of the tensor kernels multiplies. */
enum { DOGE_CUDA_GEMM_TILE = 64 };

/* The linear layer on tensor cores: x rounded to bf16, bf16 weights, f32 sums in the order of the hardware. An output has
 * the same bits at every number of rows; they are not those of doge_linear_bf16. The _gated kernel reads exactly two
 * projections, gate and up, of the same size, and writes act(gate) * up rounded to bf16, and no `out`. */
typedef struct DogeCudaGemmArgs {
  DogeCudaProjection projection[DOGE_CUDA_PROJECTIONS];
  const uint16_t *x;   /* [n_rows][x_stride] in bf16 */
  uint16_t *gated;     /* [n_rows][projection[0].out_stride] in bf16; written by the _gated kernel */
  size_t stride_bytes; /* of a weight row */
  uint32_t n_rows, cols, x_stride;
  uint32_t act; /* DogeActivation; read by the _gated kernel */
} DogeCudaGemmArgs;

/* The doge_roof_* kernels, which measure the device; kernels/cuda/roof.cu says what each leaves in `out`. */
typedef struct DogeCudaRoofArgs {
  uint32_t *out;         /* [n_blocks][DOGE_CUDA_THREADS] */
  const uint32_t *words; /* [n_words]; a multiple of 4 for doge_roof_read, else 2 or more */
  size_t n_words;
  uint32_t n_blocks, rounds;
} DogeCudaRoofArgs;

/* Rows of q and k: rms_norm over each head if its weight is not NULL (spec 4.2), then the half rotation (spec 4.3). */
typedef struct DogeCudaRopeArgs {
  float *q, *k;                       /* [n_rows][q_stride], [n_rows][k_stride], in place */
  const float *q_weight, *k_weight;   /* [head_dim] or NULL */
  const float *cos, *sin;             /* [places][head_dim / 2], row 0 for at->table_place */
  const DogeCudaPlace *at;
  uint32_t n_rows, q_heads, k_heads, head_dim, q_stride, k_stride;
  float eps;
} DogeCudaRopeArgs;

/* out[r][m] = exp(A[m] * softplus(dt_weight[m] * v[r] (+ bias[m]))) */
typedef struct DogeCudaMaskScoreArgs {
  float *out;             /* [n_rows][n_heads], no padding */
  const float *dt_weight; /* [n_heads][v_stride], padded with zeros */
  const float *bias;      /* [n_heads] or NULL */
  const float *A;         /* [n_heads] */
  const float *v;         /* [n_rows][v_stride] */
  uint32_t n_rows, n_heads, v_stride;
} DogeCudaMaskScoreArgs;

/* Slots of a tile: attention sums a tile's keys one after another, and merges tiles in ascending order. */
enum { DOGE_CUDA_TILE = 32 };
/* A key's row number with this bit is a row of the block at hand (k and v), without it a row of the arena. */
#define DOGE_CUDA_NEW 0x80000000u
#define DOGE_CUDA_NEVER 0xffffffffu
/* Tokens of a block at most. */
enum { DOGE_CUDA_BLOCK = 1024 };

/* The slot of a full set that the next better key takes. */
typedef struct DogeCudaWeakest {
  uint64_t strength; /* of its key: larger for a larger mask value, then for an earlier place */
  uint64_t slot;
} DogeCudaWeakest;

/* The kept keys of one layer (spec 8; src/model/kept_set.rs says why slots). M mask heads, nkv K/V heads, g = M / nkv. */
typedef struct DogeCudaKept {
  uint32_t *row;   /* [M][n_slots]; n_slots = keep_window_size, or less if no key can be dropped yet */
  uint32_t *place; /* [M][n_slots] */
  float *mask;     /* [M][n_slots] */
  uint32_t *count; /* [M] slots in use */
  DogeCudaWeakest *weakest; /* [M]; of a set whose slots are all in use */
  float *k, *v;    /* [nkv][n_arena][kv_row]: the arena, n_arena = g * n_slots */
  uint32_t n_slots, n_arena, kv_row, mask_heads, kv_heads;
} DogeCudaKept;
/* With sliding_window a DogeCudaKept is a ring of all keys of the window: n_arena = n_slots, the key of place p at row
 * p % n_slots of k, v and mask; row, place, count and weakest are not used. n_slots is a multiple of DOGE_CUDA_TILE and at least
 * window + DOGE_CUDA_BLOCK, so that a block's keys overwrite none that its queries see. */

/* The keys that the queries of a block of more than one token see, by slot, in each slot in order of time. Written by
 * doge_kept_offer, one list a mask head, room for n_slots + DOGE_CUDA_BLOCK entries. */
typedef struct DogeCudaKeyList {
  uint32_t *row, *seen_from, *seen_until; /* [M][room] */
  float *mask;                            /* [M][room] */
  uint32_t *tile_begin;                   /* [M][tiles_room]; tiles_room = n_slots / DOGE_CUDA_TILE + 2 */
  uint32_t *tile_seen; /* [M][tiles_room][4]: of a tile's keys the least and largest seen_from, then those of seen_until */
  /* Keys that lost their slot in the block, in order of time. */
  uint32_t *left_slot, *left_row, *left_from, *left_until; /* [M][DOGE_CUDA_BLOCK] */
  float *left_mask;
  uint32_t *n_left; /* [M] */
  uint32_t room, tiles_room;
} DogeCudaKeyList;

/* Offers the block's keys to the sets, one block of threads a mask head; one key a token, in order. */
typedef struct DogeCudaOfferArgs {
  DogeCudaKept kept;
  DogeCudaKeyList list;
  const float *mask; /* [n_rows][M] */
  const DogeCudaPlace *at;
  uint32_t n_rows;
} DogeCudaOfferArgs;

/* Writes a block's keys into the ring. */
typedef struct DogeCudaWindowAddArgs {
  DogeCudaKept kept;
  const float *k, *v; /* [n_rows][kv_stride] */
  const float *mask;  /* [n_rows][M] */
  const DogeCudaPlace *at;
  uint32_t n_rows, head_dim, kv_stride;
} DogeCudaWindowAddArgs;

/* Of the keys of its window, each query of a block sees the n_keep of largest mask, ties to the earlier place. The key of
 * place p is bit p % DOGE_CUDA_TILE of word p / DOGE_CUDA_TILE % (n_slots / DOGE_CUDA_TILE). */
typedef struct DogeCudaWindowChooseArgs {
  DogeCudaKept kept;
  uint32_t *seen; /* [n_rows][M][n_slots / DOGE_CUDA_TILE] */
  const DogeCudaPlace *at;
  uint32_t n_rows, window, n_keep;
} DogeCudaWindowChooseArgs;

/* Attention of a block's queries over their keys (spec 4.4). doge_attention_prefill: any number of queries over the key
 * lists. doge_attention_decode (below) gives a query the same bits. With `seen`, tiles are of neighbouring places of the ring.
 * doge_attention_prefill_bf16_tensor: the same for one query and more, with q, k, v and the weights rounded to bf16, products summed
 * in the order of the hardware. A query has the same bits at every cut of its prompt with `seen`, and without while no key lost
 * its slot in the block that holds the query: a key that did stands in the list too, and moves those behind it to other places of a
 * product. */
typedef struct DogeCudaAttentionArgs {
  DogeCudaKept kept;
  DogeCudaKeyList list;
  const uint32_t *seen; /* with sliding_window, as above; else NULL */
  float *out;         /* [n_rows][q_stride] */
  const float *q;     /* [n_rows][q_stride], head h at h * head_dim */
  const float *k, *v; /* [n_rows][kv_stride]: the block's own keys, head at kv_head * head_dim */
  const DogeCudaPlace *at;
  uint32_t n_rows, q_heads, head_dim, q_stride, kv_stride;
  uint32_t window; /* read with `seen` */
  float scale;
} DogeCudaAttentionArgs;

/* Moves the block's surviving keys from k and v into the arena. One block of threads a K/V head. */
typedef struct DogeCudaCommitArgs {
  DogeCudaKept kept;
  DogeCudaKeyList list;
  uint32_t *mark;     /* [nkv][n_arena], scratch */
  const float *k, *v; /* [n_rows][kv_stride] */
  const DogeCudaPlace *at;
  uint32_t n_rows, head_dim, kv_stride;
} DogeCudaCommitArgs;

/* Everything between the projections of a single token: mask score, rotation, the choice of a slot, attention, and the key's way
 * into the sets and the arena, in one launch. A block of threads takes a tile of a mask head's slots; the last one of some
 * heads merges their tiles, the last one of a K/V head changes its state, when all others have read it. q and k are left as
 * they are. With `seen`, in the ring, q was rotated before and the key is there already: attention alone. Without
 * score.dt_weight the key's mask values are in score.out already.
 * `kept` and `at` are read before the wait for the launch before: whatever wrote them must be done when this is launched, or
 * in another graph. */
enum { DOGE_CUDA_DECODE_HEADS = 2 }; /* attention heads of one mask head that a block serves */
typedef struct DogeCudaDecodeArgs {
  DogeCudaAttentionArgs attention;
  DogeCudaMaskScoreArgs score;
  DogeCudaRopeArgs rope;
  float *partial;    /* [q_heads][tiles][2 + head_dim]: maximum, sum, weighted values */
  uint32_t *arrived; /* [q_heads + nkv], zeros before and after: blocks that are done, of some heads, then of a K/V head */
  uint32_t *mark;    /* [nkv][n_arena], scratch */
  uint32_t tiles;    /* of n_slots */
} DogeCudaDecodeArgs;

/* A whole token in one launch (kernels/cuda/token.cu). Its blocks stay, one on each multiprocessor, and hand each other activations
 * as words: a float's bits below, above them the number of the step that made it. Whoever needs a word looks until it has the
 * number, so that no block waits for anything but its own inputs;
 * who only needs to know that it was made takes a later number too. */
/* Teams of DOGE_CUDA_THREADS in a block: those that do projections, one for attention, one that brings weights. */
enum { DOGE_CUDA_TOKEN_PROJECTORS = 2, DOGE_CUDA_TOKEN_TEAMS = DOGE_CUDA_TOKEN_PROJECTORS + 2 };
enum { DOGE_CUDA_STAGES_AHEAD = 8 };     /* stages that a block has at hand */
enum { DOGE_CUDA_SLOTS_MAX = 32 };        /* of a warp's ring of weights */
enum { DOGE_CUDA_TOKEN_KV_MAX = 1024 };   /* channels of all K/V heads */
enum { DOGE_CUDA_TOKEN_COLS_MAX = DOGE_CUDA_NORM_COLS_MAX }; /* columns of a projection */

/* Projections of one input. What they read and make are words, so `x` and `stream` of `linear` are not used; `out` is, without
 * `words_out`. */
typedef struct DogeCudaStage {
  DogeCudaLinearArgs linear;
  const uint64_t *words;  /* [x_stride] */
  uint64_t *words_out;    /* [all outputs] or NULL */
  const uint64_t *stream; /* [outputs] or NULL: `words_out` is then residual * stream + result */
  uint32_t tag, tag_of_words, tag_of_stream;
  uint32_t shift;         /* units of the stages before, modulo workers: who begins */
  uint32_t is_gated;
  uint32_t outputs, units;
  uint32_t shift_blocks, padding; /* shift modulo blocks */
} DogeCudaStage;

/* Everything between q, k, v and the projection of attention's output. */
typedef struct DogeCudaTokenAttention {
  DogeCudaDecodeArgs decode;       /* not used: q, k, v, out, partial, arrived */
  const uint64_t *q, *k, *v;       /* [nq * d], [nkv * d] */
  uint64_t *partial;               /* [nq][tiles][2 + d]: maximum, sum, weighted values */
  uint64_t *out;                   /* [nq * d] */
  uint32_t tag, tag_of_words;
} DogeCudaTokenAttention;

typedef struct DogeCudaTokenArgs {
  const DogeCudaStage *stages;               /* [n_stages] */
  const DogeCudaTokenAttention *attentions;  /* [n_layers] */
  const float *x;     /* [n_x] the token's embedding */
  uint64_t *stream;   /* [n_x] its words, of tag 0 */
  uint32_t *launch;   /* [2] launches so far, modulo 2^32; blocks of this one that are done */
  uint32_t n_stages, n_layers, n_x;
  uint32_t n_tags;    /* of a launch */
  uint32_t n_blocks;
  uint32_t slots;      /* of a warp's ring of weights */
} DogeCudaTokenArgs;

/* act(gate) * up into gate; whole strides. */
typedef struct DogeCudaGatedArgs {
  float *gate;     /* [n] */
  const float *up; /* [n] */
  size_t n;
  uint32_t act;
} DogeCudaGatedArgs;

/* An expert's id is a number of 32 bits; the chosen ones lie in a block's shared memory. Expert e of them, ascending by id, is
 * of group e % DOGE_CUDA_EXPERT_GROUPS. */
enum { DOGE_CUDA_KEYS_MAX = 65535, DOGE_CUDA_TOP_MAX = 256, DOGE_CUDA_EXPERT_GROUPS = 8 };

/* Router and routed experts of each row (spec 4.6): selects the n_top experts of largest x[i] + y[j], ties to the lower id, and
 * y[r] += sum_e weight[e] * act(down_embed[e] * x[r]) * up_embed[e]: a sum for each group, then these in order. With `stream` the
 * result becomes the branch of the gated residual, too: stream[r] = residual * stream[r] + y[r].
 * One block of threads a row. The _groups kernels, for few rows, take one for each of a row's groups, as many as have experts,
 * with the same bits; the last of a row's blocks adds what they leave in `partial`. `pairs` is constant, and read before the wait
 * for the launch before. */
typedef struct DogeCudaExpertsArgs {
  float *y;            /* [n_rows][x_stride], added to */
  float *stream;       /* [n_rows][x_stride] or NULL */
  const float *residual; /* [cols]; read with stream */
  const float *x;      /* [n_rows][x_stride] */
  const float *router; /* [n_rows][router_stride]: 2 * n_keys logits */
  const void *down_embed, *up_embed; /* [experts][cols]; integer formats in rows */
  uint32_t *expert;    /* [n_rows][n_top] ascending by id, for whoever watches */
  float *weight;       /* [n_rows][n_top] */
  const uint32_t *pairs; /* [n_pairs]: ranks a and b, from 0, as a << 16 | b with (a + 1) * (b + 1) <= n_top, by that product */
  float *partial;      /* [n_rows][DOGE_CUDA_EXPERT_GROUPS][x_stride], scratch; _groups only */
  uint32_t *arrived;   /* [n_rows], zeros before and after: blocks that are done; _groups only */
  size_t stride_bytes; /* of an expert's row */
  uint32_t n_rows, cols, x_stride, router_stride, n_keys, n_top, n_pairs;
  uint32_t act;
  uint32_t reference_routing; /* 1: whose logits a row gets as transformers has it (spec 6) */
} DogeCudaExpertsArgs;

/* Steps of a run at most. */
enum { DOGE_CUDA_STEPS_MAX = 256 };

/* The token chosen becomes the next one: chosen[at->step] and ids[0]; then the sequence moves on by one place. Does nothing once
 * the run has stopped, or has made all its steps. doge_argmax chooses the index of the largest logit, the lowest on ties. */
typedef struct DogeCudaNextArgs {
  const float *logits; /* [n] */
  uint32_t *ids;       /* [1] */
  uint32_t *chosen;    /* [DOGE_CUDA_STEPS_MAX] */
  const uint32_t *eos; /* [n_eos]: tokens that stop the run */
  DogeCudaPlace *at;
  uint32_t n, n_eos;
} DogeCudaNextArgs;

/* How to draw, by the rules of src/sampler. Read at each step, so that one captured graph serves all settings. */
typedef struct DogeCudaSampling {
  float temperature; /* above 0 */
  uint32_t top_k;    /* from 1 to DOGE_CUDA_TOP_K_MAX */
  float top_p, min_p;
} DogeCudaSampling;
enum { DOGE_CUDA_TOP_K_MAX = DOGE_CUDA_ARGMAX_THREADS };

/* Draws the next token. */
typedef struct DogeCudaSampleArgs {
  DogeCudaNextArgs next;
  const DogeCudaSampling *sampling;
  const double *uniform;             /* [steps of a run] in [0, 1) */
  uint32_t *id, *sorted;             /* [n], scratch: candidates ascending by id, and their order by score */
  float *score;                      /* [n], scratch */
  double *weight;                    /* [n], scratch */
} DogeCudaSampleArgs;

#ifdef __cplusplus
}
#endif

#endif
