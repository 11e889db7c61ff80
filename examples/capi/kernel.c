/* One kernel by its plain pointers, without a model: y = W x for W [2][4]. */
#include <doge_engine.h>

#include <stdio.h>

int main(void) {
  const DogeKernelTable *kernels;
  if (doge_kernels(NULL, &kernels) != DOGE_STATUS_OK) {
    fprintf(stderr, "%s\n", doge_last_error());
    return 1;
  }
  /* Before anything else: a table of another version has other fields. */
  if (kernels->abi_version != DOGE_ABI_VERSION) {
    fprintf(stderr, "the library has kernels of version %u, this program was compiled for version %d\n",
            (unsigned)kernels->abi_version, (int)DOGE_ABI_VERSION);
    return 1;
  }
  const float weight[2][4] = {{1, 2, 3, 4}, {0, 1, 0, -1}}, x[4] = {1, 1, 2, 2};
  float y[2];
  kernels->gemv[DOGE_F32](y, weight, x, NULL, 4, 0, 2);
  printf("%g %g\n", y[0], y[1]);
  return !(y[0] == 17 && y[1] == -1);
}
