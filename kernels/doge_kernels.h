/* The kernel contract: the only place where the signature of a CPU's kernel is typed. bindgen makes src/ffi/bindings.rs of it, and
 * every ISA level fills one DogeKernelTable. The CUDA kernels have structs of their own, in doge_cuda.h.
 *
 * Rules that hold for every function of the table:
 *   - A caller guarantees that each pointer covers the stated shape; a kernel reads nothing beyond it and writes nothing
 *     but its outputs. Every length may be zero unless stated.
 *   - float pointers are aligned to 4 bytes, weight pointers (`const void *`) may stand at any address.
 *   - Outputs may not overlap inputs unless stated ("in place").
 *   - No allocation, no globals, no exceptions, no I/O. Nothing depends on the number of threads: where a kernel takes a
 *     range [begin, end), the bits of each output are the same for every cut of the range.
 *   - Sums are f32, in one fixed order per output. The order depends on the ISA (its lane count), the weight format and
 *     the length alone: never on how many rows a call has or on a row's position in it. So gemv and gemm agree bit for bit.
 */
#ifndef DOGE_KERNELS_H
#define DOGE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { DOGE_ABI_VERSION = 7 };

/* Stored format of a weight. */
typedef enum DogeDtype {
  DOGE_F32 = 0,
  DOGE_BF16 = 1,
  DOGE_F16 = 2,
  DOGE_INT8 = 3,
  DOGE_INT4 = 4,
  DOGE_DTYPE_COUNT = 5
} DogeDtype;

/* The first formats are floats, row-major; the last ones are integers with scales. */
enum { DOGE_FLOAT_COUNT = 3, DOGE_INT_COUNT = 2 };

/* Integer formats. A group is DOGE_GROUP neighbouring columns of a row; weight = scale * q with one bf16 scale a group, and
 * q in -127..127 (int8, two's complement) or -8..7 (int4, as the nibble q + 8). The last group is filled up with zeros.
 *
 * Rows, for tables that are read row by row: the groups of a row one after another, 32 bytes of int8, or 16 bytes of
 * int4 (byte i: column i in the low nibble, column 16 + i in the high one); then their scales. No padding between rows.
 *
 * Tiles, for linear layers: DOGE_TILE rows interleaved, so that outputs run along the lanes and nothing is summed across
 * them. A tile is a chain of blocks of two groups (64 columns; an odd last group gets a neighbour of zeros). A block is
 * read from its first byte to its last, all of it in lines of 64 bytes:
 *   1 line    scales [2 groups][16 rows]
 *   then, for each of the two groups,
 *   8 lines   int8: line j holds for each of the 16 rows the quad of columns 4j .. 4j+3
 *   4 lines   int4: line j holds quad j in the low nibbles and quad j + 4 in the high ones
 * The last tile is filled up with rows of zeros. */
enum { DOGE_GROUP = 32, DOGE_TILE = 16 };

/* Activations for integer weights: a row of x in int8, one f32 scale for each group of DOGE_GROUP columns. A quantised row of
 * `cols` columns has P groups, ceil(cols / 32) rounded up to even, and stands in DOGE_QUANTIZED_ROW(cols) bytes:
 *   int8_t q[P][32]; float scale[P]; int32_t offset[P];
 * max = largest |x| of the group; inverse = min(127 / max, FLT_MAX); scale = 1 / inverse; q = x * inverse, rounded to nearest, ties
 * to even; offset = -128 * sum of q. A group that holds NaN or infinity gets such a scale. Columns beyond `cols` count as 0. */
#define DOGE_QUANTIZED_ROW(cols) (((size_t)(cols) + 63) / 64 * 80)

/* hidden_act of config.json (spec 4.5). */
typedef enum DogeActivation {
  DOGE_SILU = 0,      /* x * sigmoid(x); also called swish */
  DOGE_GELU = 1,      /* x/2 * (1 + erf(x / sqrt 2)) */
  DOGE_GELU_TANH = 2, /* x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))); gelu_new, gelu_pytorch_tanh */
  DOGE_RELU = 3,
  DOGE_RELU2 = 4,      /* relu(x)^2 */
  DOGE_SIGMOID = 5,
  DOGE_TANH = 6,
  DOGE_QUICK_GELU = 7, /* x * sigmoid(1.702 x) */
  DOGE_MISH = 8,       /* x * tanh(softplus(x)) */
  DOGE_LINEAR = 9,     /* x */
  DOGE_ACTIVATION_COUNT = 10
} DogeActivation;

/* out[r][o] = sum_c weight[o][c] * x[r][c] (+ bias[o]) for o in [begin, end). */
typedef struct DogeGemmArgs {
  float *out;         /* [n_rows][out_stride]; columns begin..end are written */
  const void *weight; /* [out_features][cols], stored format; only rows begin..end are read */
  const float *x;     /* [n_rows][x_stride] */
  const float *bias;  /* [out_features] or NULL */
  size_t n_rows;
  size_t cols;
  size_t begin, end;
  size_t out_stride, x_stride; /* in floats; >= end, >= cols */
} DogeGemmArgs;

/* The same for bf16 weights and an x that was rounded to bf16 (round_row). Columns are taken in pairs, an even one and the
 * next: sum = what the level's dot instruction makes of a pair's two products and sum (vdpbf16ps), or, where there is
 * none, the two fma in that order. On AMX: sum = sum + (even + odd) for every 32 columns, even the chain of fma over their even
 * ones, from 0, and odd that over the others. */
typedef struct DogeGemmBf16Args {
  float *out;         /* [n_rows][out_stride]; columns begin..end are written */
  const void *weight; /* [out_features][cols] in bf16; only rows begin..end are read */
  const void *x;      /* [n_rows][x_stride] in bf16, aligned to 2 */
  const float *bias;  /* [out_features] or NULL */
  size_t n_rows;
  size_t cols;
  size_t begin, end;
  size_t out_stride; /* in floats; >= end */
  size_t x_stride;   /* in bf16; >= cols, gemm_split: >= 3 * cols */
} DogeGemmBf16Args;

/* The same for integer weights in tiles. Of each group of columns the integer dot product is exact, and
 *   sum = fma((float)dot, weight_scale * x_scale, sum)
 * runs over the groups in ascending order, from 0; then the bias is added. */
typedef struct DogeGemmIntArgs {
  float *out;         /* [n_rows][out_stride]; columns begin..end are written */
  const void *weight; /* [out_features][cols] in tiles; only tiles of rows begin..end are read */
  const void *x;      /* [n_rows] quantised rows, aligned to 4 */
  const float *bias;  /* [out_features] or NULL */
  size_t n_rows;
  size_t cols;
  size_t begin, end;  /* begin is a multiple of DOGE_TILE */
  size_t out_stride;  /* in floats; >= end */
} DogeGemmIntArgs;

/* Dynamic mask attention of a block of queries over the kept keys of a mask head (spec 4.4, 8), or of several that have kept
 * the same.
 *
 * Keys stand in `tiles`: entry t of the key list belongs to tile i where tile_begin[i] <= t < tile_begin[i+1]. Query r
 * (0-based in the block, sequence place place0 + r) sees entry t exactly if seen_from[t] <= place0 + r < seen_until[t].
 * Every query of one place is served by n_heads attention heads that share the list, though their s may differ.
 *
 *   score = dot(q, k) * scale + mask[head][t];  out = sum_t softmax(score)_t * v
 *
 * Order: inside a tile the entries' terms are added one after another (an unseen entry adds nothing, so it may stand
 * anywhere); tiles are merged one after another by their running maximum. So the result depends on the order of the
 * seen entries and on the tile each is in, not on the block: one query alone gets the same bits. A query that sees
 * nothing gets zeros.
 *
 * dynamic_mask_attention_bf16 rounds q, and exp(score - the tile's maximum) before it is summed and multiplied with v, to
 * bf16 (round_row); its products are added pair by pair (DogeGemmBf16Args), those with v one after another as well; on AMX both
 * 32 at a time, those with v of the entries that the query sees. */
typedef struct DogeAttentionArgs {
  float *out;               /* [n_queries][out_stride], head h at h*head_dim */
  const float *q;           /* [n_queries][q_stride], head h at h*head_dim */
  const void *k;            /* rows of head_dim elements in the format of the call, row i at element i*kv_stride */
  const void *v;            /* as k */
  const uint32_t *row;      /* [n_entries] row of the entry in k and v */
  const float *const *mask; /* [n_heads], each [n_entries]: s of the entry, for one head */
  const uint32_t *seen_from;  /* [n_entries], or NULL: all are seen by every query (seen_until is not read then) */
  const uint32_t *seen_until; /* [n_entries] */
  const uint32_t *tile_begin; /* [n_tiles + 1], ascending, tile_begin[n_tiles] = n_entries */
  float *scratch;           /* DOGE_ATTENTION_SCRATCH(longest tile, head_dim) floats */
  size_t n_tiles;
  size_t n_queries;
  size_t n_heads;           /* < 2^28 */
  size_t head_dim;
  size_t q_stride, out_stride, kv_stride; /* in elements */
  uint32_t place0;
  float scale;
} DogeAttentionArgs;

/* Queries (times heads) that one pass over the keys serves. */
enum { DOGE_ATTENTION_ROWS = 16 };
#define DOGE_ATTENTION_SCRATCH(tile, head_dim) \
  (DOGE_ATTENTION_ROWS * ((size_t)(tile) + 3 * (size_t)(head_dim) + 112) + 2 * (size_t)(tile))

/* Product-key router of one token (spec 4.6): the n_top largest of x[i] + y[j], i, j in [0, n_keys).
 * Better score first, ties to the lower expert id i * n_keys + j. 1 <= n_top <= n_keys^2, n_keys <= 65535. */
typedef struct DogeRouterArgs {
  uint32_t *expert; /* [n_top] ascending by expert id */
  float *weight;    /* [n_top] softmax over the n_top scores, in the order of `expert` */
  const float *x;   /* [n_keys] */
  const float *y;   /* [n_keys] */
  void *scratch;    /* DOGE_ROUTER_SCRATCH(n_keys, n_top) bytes, aligned to 8 */
  size_t n_keys;
  size_t n_top;
} DogeRouterArgs;

/* 16 bytes an entry: both sorted sides, and the pairs (a, b) of ranks with a*b <= n_top, which are fewer than
 * n_top * (1 + ln n_top) <= 32 * n_top for n_top < 2^44; and what registers take too much. */
#define DOGE_ROUTER_SCRATCH(n_keys, n_top) (16 * (2 * (size_t)(n_keys) + 32 * (size_t)(n_top) + 128))

/* What is multiplied with what: the arithmetic a roof is measured for. */
typedef enum DogePeakKind {
  DOGE_PEAK_F32 = 0,  /* f32 with f32 */
  DOGE_PEAK_BF16 = 1, /* bf16 with bf16 */
  DOGE_PEAK_INT8 = 2, /* unsigned with signed bytes */
  DOGE_PEAK_COUNT = 3
} DogePeakKind;

/* What a run of a level's fastest instruction for a kind did. A level without an instruction of its own for the kind runs
 * the next best, and names that. */
typedef struct DogePeak {
  const char *instruction; /* static */
  uint64_t operations;     /* a product and its sum are two; proportional to the rounds asked for */
  uint64_t result;         /* of no meaning; keeps the run from being optimised away */
} DogePeak;

typedef struct DogeKernelTable {
  /* DOGE_ABI_VERSION, to be compared before anything else is read: other versions have other fields. */
  uint32_t abi_version;
  uint32_t lanes; /* floats in a register of this level */

  /* out[i] = table[row][i], i < n: one row of an embedding table, widened. Integer formats: the table is in tiles. */
  void (*embed_row[DOGE_DTYPE_COUNT])(float *out, const void *table, size_t row, size_t n);

  /* out[i] = weight[i] * x[i] / sqrt(mean(x^2) + eps) for each of n_rows rows of n. In place allowed (out = x). */
  void (*rms_norm)(float *out, const float *x, const float *weight, size_t n_rows, size_t n, float eps);

  /* x[i] = gate[i] * x[i] + branch[i] in place, then out = rms_norm(x), for each of n_rows rows of n. The gated residual of
   * spec 3 and the norm after it. */
  void (*residual_rms_norm)(float *out, float *x, const float *gate, const float *branch, const float *weight, size_t n_rows,
                            size_t n, float eps);

  /* rms_norm of each of n_heads rows of head_dim, one weight[head_dim] for all, in place (spec 4.2). */
  void (*qk_norm)(float *x, const float *weight, size_t n_heads, size_t head_dim, float eps);

  /* Half rotation of n_heads rows of head_dim (even), in place; cos and sin are [head_dim / 2] (spec 4.3). */
  void (*rope)(float *x, const float *cos, const float *sin, size_t n_heads, size_t head_dim);

  /* out[o] = dot(weight[o], x) (+ bias[o]) for o in [begin, end); weight is [out_features][cols], bias may be NULL. */
  void (*gemv[DOGE_FLOAT_COUNT])(float *out, const void *weight, const float *x, const float *bias, size_t cols,
                                 size_t begin, size_t end);

  /* The same for many rows of x; every output has the bits gemv would give it. */
  void (*gemm[DOGE_FLOAT_COUNT])(const DogeGemmArgs *args);

  /* out[i] = x[i] rounded to bf16, to nearest, ties to even; n elements of 2 bytes, aligned to 2. NaN stays NaN. */
  void (*round_row)(void *out, const float *x, size_t n);

  /* Linear layers of bf16 weights and a rounded x; one row of x, and many with the same bits. */
  void (*gemv_bf16)(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end);
  void (*gemm_bf16)(const DogeGemmBf16Args *args);

  /* Where registers multiply tiles of bf16 (AMX), linear layers of bf16 weights and an f32 x in three bf16 parts; elsewhere NULL,
   * for gemv and gemm do better there. Each row of out is [3][n]: the parts add up to x, but for bits below 2^-126, which the
   * instruction takes for 0. Of x that is not finite the first part is x, and the others are 0. x of gemv and gemm is
   * such rows; a step takes their parts one after another. */
  void (*split_row)(void *out, const float *x, size_t n);
  void (*gemv_split)(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin, size_t end);
  void (*gemm_split)(const DogeGemmBf16Args *args);

  /* One row of x, n floats, as a quantised row: DOGE_QUANTIZED_ROW(n) bytes, aligned to 4. */
  void (*quantize_row)(void *out, const float *x, size_t n);

  /* Linear layers with integer weights, indexed by dtype - DOGE_INT8; one row of x, and many with the same bits. */
  void (*gemv_int[DOGE_INT_COUNT])(float *out, const void *weight, const void *x, const float *bias, size_t cols, size_t begin,
                                   size_t end);
  void (*gemm_int[DOGE_INT_COUNT])(const DogeGemmIntArgs *args);

  /* out[m] = exp(A[m] * softplus(dot(dt_weight[m], v) + bias[m])), m < n_heads; dt_weight is [n_heads][n]; bias may be NULL. */
  void (*mask_score)(float *out, const float *dt_weight, const float *bias, const float *A, const float *v, size_t n_heads,
                     size_t n);

  void (*dynamic_mask_attention[DOGE_FLOAT_COUNT])(const DogeAttentionArgs *args);
  void (*dynamic_mask_attention_bf16)(const DogeAttentionArgs *args); /* k and v in bf16 */

  /* out[i] = act(gate[i]) * up[i]. In place allowed (out = gate or out = up). `act` is a DogeActivation. */
  void (*gated_activation)(float *out, const float *gate, const float *up, size_t n, uint32_t act);

  void (*product_key_router)(const DogeRouterArgs *args);

  /* The routed experts of one token, in two halves so that threads can share the work (spec 4.6):
   * hit[e] = weight[e] * act(dot(down_embed[expert[e]], x)) for e in [begin, end); down_embed is [num_experts][cols],
   * integer formats in rows. */
  void (*expert_down[DOGE_DTYPE_COUNT])(float *hit, const void *down_embed, const uint32_t *expert, const float *weight,
                                        const float *x, size_t cols, size_t begin, size_t end, uint32_t act);
  /* y[c] += sum_e hit[e] * up_embed[expert[e]][c] for c in [begin, end), e ascending; up_embed is [num_experts][cols],
   * integer formats in rows, and then begin is a multiple of DOGE_GROUP. */
  void (*expert_up[DOGE_DTYPE_COUNT])(float *y, const void *up_embed, const uint32_t *expert, const float *hit,
                                      size_t n_experts, size_t cols, size_t begin, size_t end);

  /* Index of the largest element, the lowest one on ties; NaN is never the largest. n >= 1; 0 if all are NaN. */
  size_t (*argmax)(const float *x, size_t n);

  /* The exclusive or of n words, read as fast as this level can: `streams` (1 or 8) equal runs of them side by side. */
  uint64_t (*read_words)(const uint64_t *words, size_t n, size_t streams);

  /* Runs `rounds` rounds of the instruction for a `DogePeakKind`, all in registers. */
  void (*peak)(DogePeak *out, uint32_t kind, size_t rounds);
} DogeKernelTable;

/* For the inside of the library alone: the shared one does not export them, and a level's is there only if it was compiled.
 * Elsewhere doge_kernels() of doge_engine.h gives a table; it also looks at what the CPU can run. */
extern const DogeKernelTable doge_kernels_scalar;
extern const DogeKernelTable doge_kernels_avx2;
extern const DogeKernelTable doge_kernels_avxvnni;
extern const DogeKernelTable doge_kernels_avx512;
extern const DogeKernelTable doge_kernels_avx512bf16;
extern const DogeKernelTable doge_kernels_amx;

#ifdef __cplusplus
}
#endif

#endif
