#include "vec_avx2.h"
#include "int_avx2.h"

#define DOGE_TABLE doge_kernels_avx2
#include "table.inl"
