// gate = act(gate) * up, a thread for each element.
#include "activation.h"

DOGE_KERNEL(doge_gated_activation, DOGE_CUDA_THREADS, DogeCudaGatedArgs) {
  const size_t i = (size_t)dev::block_x() * DOGE_CUDA_THREADS + dev::thread();
  // Whole strides: padding is zero in `up`, and must stay zero, also where act(0) is not (sigmoid).
  if (i < a.n) a.gate[i] = activation::activate(a.act, a.gate[i]) * a.up[i];
}
