// oneDNN's matmul by itself: onednn THREADS ROWSxCOLSxOUTPUTS... prints {"version": …, "seconds": {name: of a call}} for kernels.py.
// out[r][o] = sum of x[r][c] * weight[o][c]. Weights are packed beforehand into the layout that the primitive asks for; rows of
// int8 are quantised beforehand, as unsigned bytes with one scale, against one scale for each output.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>
#include <vector>

#include <omp.h>

#include "oneapi/dnnl/dnnl.hpp"

using namespace dnnl;
using Type = memory::data_type;
using Tag = memory::format_tag;

namespace {

constexpr int kSamples = 15;
constexpr double kSample = 0.004;
// Powers of two: what is multiplied and added is exact in every format.
constexpr float kScale = 0.25f;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The median of some samples of as many calls as make a sample worth timing.
template <class Call> double timed(Call call) {
    int calls = 0;
    for (double start = now(); now() - start < 0.05; ++calls) call();
    calls = std::max(1, static_cast<int>(calls * kSample / 0.05));
    std::vector<double> samples;
    for (int i = 0; i < kSamples; ++i) {
        double start = now();
        for (int c = 0; c < calls; ++c) call();
        samples.push_back((now() - start) / calls);
    }
    std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
    return samples[kSamples / 2];
}

struct Format {
    const char *op, *name;
    Type x, weight;
};

double linear(const engine &cpu, stream &stream, const Format &format, long rows, long cols, long outputs) {
    bool is_int = format.weight == Type::s8;
    primitive_attr attr;
    if (is_int) {
        attr.set_scales_mask(DNNL_ARG_SRC, 0);
        attr.set_scales_mask(DNNL_ARG_WEIGHTS, 1 << 1);
    }
    matmul::primitive_desc desc(cpu, {{rows, cols}, format.x, Tag::ab}, {{cols, outputs}, format.weight, Tag::any},
                                {{rows, outputs}, Type::f32, Tag::ab}, attr);

    std::vector<float> x(rows * cols), weight(outputs * cols), scales(outputs, kScale);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i * 7 + i / cols) % 13);
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>((i * 5 + i / cols) % 11) - 5;
    auto packed = [&](std::vector<float> &from, memory::dims dims, Tag tag, const memory::desc &to) {
        memory plain({dims, Type::f32, tag}, cpu, from.data()), out(to, cpu);
        reorder(plain, out).execute(stream, plain, out);
        stream.wait();
        return out;
    };
    memory x_memory = packed(x, {rows, cols}, Tag::ab, desc.src_desc());
    memory weight_memory = packed(weight, {cols, outputs}, Tag::ba, desc.weights_desc());
    memory out(desc.dst_desc(), cpu), x_scale({{1}, Type::f32, Tag::a}, cpu, scales.data()),
        weight_scale({{outputs}, Type::f32, Tag::a}, cpu, scales.data());
    std::unordered_map<int, memory> args = {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, weight_memory}, {DNNL_ARG_DST, out}};
    if (is_int) {
        args[DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC] = x_scale;
        args[DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS] = weight_scale;
    }
    matmul primitive(desc);
    auto call = [&] {
        primitive.execute(stream, args);
        stream.wait();
    };

    call();
    long row = rows - 1, output = outputs / 2 + 1;
    float want = 0, got = static_cast<float *>(out.get_data_handle())[row * outputs + output];
    for (long c = 0; c < cols; ++c) want += x[row * cols + c] * weight[output * cols + c];
    if (is_int) want *= kScale * kScale;
    if (got != want) {
        std::fprintf(stderr, "error: %s gives %g where %g is right\n", format.name, got, want);
        std::exit(1);
    }
    return timed(call);
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3) return std::fprintf(stderr, "usage: onednn THREADS ROWSxCOLSxOUTPUTS...\n"), 2;
    omp_set_num_threads(std::atoi(argv[1]));
    engine cpu(engine::kind::cpu, 0);
    stream stream(cpu);
    const Format formats[] = {
        {"gemm", "f32", Type::f32, Type::f32}, {"gemm_bf16", "bf16", Type::bf16, Type::bf16}, {"gemm_int", "int8", Type::u8, Type::s8}};
    const char *separator = "";
    std::printf("{\"version\": \"%d.%d.%d\", \"seconds\": {", dnnl_version()->major, dnnl_version()->minor, dnnl_version()->patch);
    for (int i = 2; i < argc; ++i) {
        long rows, cols, outputs;
        if (std::sscanf(argv[i], "%ldx%ldx%ld", &rows, &cols, &outputs) != 3) return 2;
        for (const Format &format : formats) {
            double seconds = linear(cpu, stream, format, rows, cols, outputs);
            std::printf("%s\"%s/%s/%s\": %.9g", separator, format.op, format.name, argv[i], seconds);
            separator = ", ";
        }
    }
    std::printf("}}\n");
}
