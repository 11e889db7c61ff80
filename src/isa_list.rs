// The one list of ISA levels, lowest first. build.rs makes compiler flags of it (-m<feature>), src/isa.rs the run-time
// detection, so the two cannot drift apart. Beside each level: the first i7 that has it.
isa_list! {
    Scalar     "scalar"     doge_kernels_scalar     [];                                             // any CPU, also non-x86
    Avx2       "avx2"       doge_kernels_avx2       ["avx2", "fma", "f16c"];                        // 4th generation, 2013
    AvxVnni    "avxvnni"    doge_kernels_avxvnni    ["avx2", "fma", "f16c", "avxvnni"];             // 12th generation, 2021
    Avx512     "avx512"     doge_kernels_avx512     ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"]; // 10th, 2019
    Avx512Bf16 "avx512bf16" doge_kernels_avx512bf16 ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16"]; // servers; Zen 4
    Amx        "amx"        doge_kernels_amx        ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "amx-tile", "amx-int8", "amx-bf16"]; // none; Intel's servers, 2023
}
