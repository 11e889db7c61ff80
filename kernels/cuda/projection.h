// Which of a launch's projections an output belongs to, and what becomes of a row's result.
#pragma once
#include "activation.h"
#include "norm.h"

namespace projection {

/// `output` becomes its index there; `unit` outputs are counted as one.
DOGE_DEVICE const DogeCudaProjection &find(const DogeCudaProjection *all, uint32_t &output, uint32_t unit = 1) {
  uint32_t i = 0;
  for (; i + 1 < DOGE_CUDA_PROJECTIONS; ++i) {
    const uint32_t outputs = (all[i].out_features + unit - 1) / unit;
    if (output < outputs) break;
    output -= outputs;
  }
  return all[i];
}

/// The input of a single row when the previous launch is done: normed, where that is asked for. Barriers inside.
DOGE_DEVICE const float *input(row_norm::Row &row, const DogeCudaLinearArgs &a) {
  row_norm::Quads weight;
  if (a.norm != nullptr) weight.load(a.norm, a.cols);
  dev::wait_for_previous();
  if (a.norm == nullptr) return a.x;
  row_norm::Quads mine;
  mine.load(a.x, a.cols);
  return row_norm::apply(row, weight, mine, a.cols, a.eps);
}

/// Writes one output of a single row: its own, or the stream's.
DOGE_DEVICE void write(const DogeCudaLinearArgs &a, const DogeCudaProjection &p, uint32_t output, float sum) {
  const float y = sum + (p.bias != nullptr ? p.bias[output] : 0.0f);
  if (a.stream == nullptr) p.out[output] = y;
  else a.stream[output] = dev::fma(a.residual[output], a.stream[output], y);
}

/// act(gate) * up of a single row.
DOGE_DEVICE void write_gated(const DogeCudaLinearArgs &a, uint32_t output, float gate, float up) {
  const DogeCudaProjection &g = a.projection[0], &u = a.projection[1];
  gate += g.bias != nullptr ? g.bias[output] : 0.0f;
  up += u.bias != nullptr ? u.bias[output] : 0.0f;
  g.out[output] = activation::activate(a.act, gate) * up;
}

}  // namespace projection
