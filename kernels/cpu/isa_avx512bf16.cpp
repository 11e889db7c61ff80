#include "vec_avx512.h"
#include "int_avx512.h"

#define DOGE_TABLE doge_kernels_avx512bf16
#include "table.inl"
