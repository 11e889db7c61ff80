// hidden_act (spec 4.5), by its number in the contract. The functions are the device's own of full precision.
#pragma once
#include "device.h"

namespace activation {

DOGE_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// log(1 + e^x), and x itself above 20.
DOGE_DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

DOGE_DEVICE float activate(uint32_t act, float x) {
  switch (act) {
    case DOGE_SILU: return x * sigmoid(x);
    case DOGE_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
    case DOGE_GELU_TANH: {
      const float inner = 0.79788456080286535588f * dev::fma(0.044715f * x * x, x, x);
      return 0.5f * x * (1.0f + tanhf(inner));
    }
    case DOGE_RELU: return x < 0.0f ? 0.0f : x;
    case DOGE_RELU2: return x < 0.0f ? 0.0f : x * x;
    case DOGE_SIGMOID: return sigmoid(x);
    case DOGE_TANH: return tanhf(x);
    case DOGE_QUICK_GELU: return x * sigmoid(1.702f * x);
    case DOGE_MISH: return x * tanhf(softplus(x));
    default: return x;
  }
}

}  // namespace activation
