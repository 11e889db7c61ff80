/* Runs every operation of the scalar table on fixed inputs and prints the bits of the results. .ci/foreign.sh compares what
 * two processors print: the scalar level gives the same bits on all that fuse multiply and add. */
#include "../../kernels/doge_kernels.h"

#include <stdio.h>
#include <string.h>

enum { N = 67, ROWS = 9, HEADS = 2, DIM = 12, KEYS = 40, TOP = 11 };

/* Bytes of one int8 tile of N columns; more than the ROWS of the same table row by row, and than either in int4. */
enum { INT8_TILE = (N + 63) / 64 * (2 * DOGE_TILE * 2 + DOGE_TILE * 64) };

static const DogeKernelTable *k = &doge_kernels_scalar;
static uint32_t seed = 1;

static float next(void) {
  seed = seed * 1664525u + 1013904223u;
  return (float)(int32_t)(seed >> 8) / 8388608.0f - 1.0f; /* [-1, 1) */
}

static void fill(float *x, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] = 3.0f * next();
}

/* 16-bit patterns that are small finite numbers both as bf16 and as f16, and, byte by byte, quants: no byte is -128. */
static void fill16(unsigned char *bytes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const uint32_t mantissa = (uint32_t)(next() * 511.0f + 511.0f) | 1;
    const uint16_t half = (uint16_t)(0x3800u | mantissa | (next() < 0 ? 0x8000u : 0));
    memcpy(bytes + 2 * i, &half, 2);
  }
}

static void show(const char *op, const void *data, size_t words) {
  printf("%s", op);
  for (size_t i = 0; i < words; i++) {
    uint32_t bits;
    memcpy(&bits, (const char *)data + 4 * i, 4);
    printf(" %08x", (unsigned)bits);
  }
  printf("\n");
}

int main(void) {
  static float x[ROWS * N], y[ROWS * N], w[ROWS * N], out[ROWS * N], bias[ROWS];
  static unsigned char half[2 * ROWS * N], ints[INT8_TILE], rounded[2 * ROWS * N];
  static uint32_t quantized[ROWS * DOGE_QUANTIZED_ROW(N) / 4];
  fill(x, ROWS * N), fill(w, ROWS * N), fill(bias, ROWS), fill16(half, ROWS * N), fill16(ints, INT8_TILE / 2);
  const void *weights[DOGE_DTYPE_COUNT] = {w, half, half, ints, ints};

  for (int d = 0; d < DOGE_DTYPE_COUNT; d++) k->embed_row[d](out, weights[d], 3, N), show("embed_row", out, N);
  for (int d = 0; d < DOGE_FLOAT_COUNT; d++) {
    k->gemv[d](out, weights[d], x, bias, N, 1, ROWS), show("gemv", out + 1, ROWS - 1);
    const DogeGemmArgs gemm = {out, weights[d], x, bias, ROWS, N, 0, ROWS, ROWS, N};
    k->gemm[d](&gemm), show("gemm", out, ROWS * ROWS);
  }
  for (int r = 0; r < ROWS; r++) {
    k->round_row(rounded + 2 * r * N, x + r * N, N);
    k->quantize_row(quantized + r * DOGE_QUANTIZED_ROW(N) / 4, x + r * N, N);
  }
  show("round_row", rounded, ROWS * N / 2), show("quantize_row", quantized, sizeof quantized / 4);
  k->gemv_bf16(out, half, rounded, bias, N, 1, ROWS), show("gemv_bf16", out + 1, ROWS - 1);
  const DogeGemmBf16Args bf16 = {out, half, rounded, bias, ROWS, N, 0, ROWS, ROWS, N};
  k->gemm_bf16(&bf16), show("gemm_bf16", out, ROWS * ROWS);
  for (int d = 0; d < DOGE_INT_COUNT; d++) {
    k->gemv_int[d](out, ints, quantized, bias, N, 0, ROWS), show("gemv_int", out, ROWS);
    const DogeGemmIntArgs gemm = {out, ints, quantized, bias, ROWS, N, 0, ROWS, ROWS};
    k->gemm_int[d](&gemm), show("gemm_int", out, ROWS * ROWS);
  }
  k->rms_norm(out, x, w, ROWS, N, 1e-6f), show("rms_norm", out, ROWS * N);
  memcpy(y, x, sizeof y);
  k->residual_rms_norm(out, y, w, x, w + N, ROWS, N, 1e-6f), show("residual_rms_norm", out, ROWS * N), show("x", y, ROWS * N);
  k->qk_norm(y, w, 3, DIM, 1e-6f), show("qk_norm", y, 3 * DIM);
  k->rope(y, x, w, 3, DIM), show("rope", y, 3 * DIM);
  k->mask_score(out, w, bias, x, x + N, 4, N), show("mask_score", out, 4);
  for (uint32_t act = 0; act < DOGE_ACTIVATION_COUNT; act++) k->gated_activation(out, x, w, N, act), show("act", out, N);
  out[0] = (float)k->argmax(x, N), show("argmax", out, 1);

  static float kv[2 * KEYS * DIM], scratch[DOGE_ATTENTION_SCRATCH(KEYS, DIM)];
  static uint32_t row[KEYS], from[KEYS], until[KEYS];
  const uint32_t tiles[] = {0, 16, 32, KEYS};
  fill(kv, 2 * KEYS * DIM);
  for (uint32_t t = 0; t < KEYS; t++) row[t] = KEYS - 1 - t, from[t] = t / 2, until[t] = t % 3 ? UINT32_MAX : t + 4;
  const float *const mask[HEADS] = {w, w + KEYS};
  const DogeAttentionArgs attention = {
      .out = out, .q = x, .k = kv, .v = kv + KEYS * DIM, .row = row, .mask = mask, .seen_from = from, .seen_until = until,
      .tile_begin = tiles, .scratch = scratch, .n_tiles = 3, .n_queries = 5, .n_heads = HEADS, .head_dim = DIM,
      .q_stride = HEADS * DIM, .out_stride = HEADS * DIM, .kv_stride = DIM, .place0 = 17, .scale = 0.288675f};
  k->dynamic_mask_attention[DOGE_F32](&attention), show("dynamic_mask_attention", out, 5 * HEADS * DIM);
  static unsigned char kv16[2 * 2 * KEYS * DIM];
  fill16(kv16, 2 * KEYS * DIM);
  DogeAttentionArgs attention_bf16 = attention;
  attention_bf16.k = kv16, attention_bf16.v = kv16 + 2 * KEYS * DIM;
  k->dynamic_mask_attention_bf16(&attention_bf16), show("dynamic_mask_attention_bf16", out, 5 * HEADS * DIM);

  static uint32_t expert[TOP];
  static float weight[TOP], hit[TOP];
  static uint64_t words[DOGE_ROUTER_SCRATCH(5, TOP) / 8 + 1];
  const DogeRouterArgs router = {expert, weight, x, w, words, 5, TOP};
  k->product_key_router(&router), show("product_key_router", expert, TOP), show("weight", weight, TOP);
  for (int i = 0; i < TOP; i++) expert[i] %= ROWS;
  memset(out, 0, sizeof out);
  for (int d = 0; d < DOGE_DTYPE_COUNT; d++) {
    k->expert_down[d](hit, weights[d], expert, weight, x, N, 0, TOP, DOGE_SILU), show("expert_down", hit, TOP);
    k->expert_up[d](out, weights[d], expert, hit, TOP, N, 2, N), show("expert_up", out, N);
  }
  return 0;
}
