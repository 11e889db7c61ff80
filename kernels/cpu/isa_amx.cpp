#include "vec_avx512.h"
#include "int_avx512.h"
#include "int_amx.h"

#define DOGE_TABLE doge_kernels_amx
#include "table.inl"
