#include "vec_avx2.h"
#include "int_avxvnni.h"

#define DOGE_TABLE doge_kernels_avxvnni
#include "table.inl"
