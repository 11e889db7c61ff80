// The scalar level: the same bodies with one lane. It runs on any target, and checks every loop and tail.
#include "vec_scalar.h"
#include "int_scalar.h"

#define DOGE_TABLE doge_kernels_scalar
#include "table.inl"
