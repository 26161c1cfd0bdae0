// Matrix product with its epilogue: kernels/seamless_kernels/linear.py has the formula.
#pragma once

#include <cstdint>

namespace seamless {

enum class Format { f32, bf16, f16 };  // in memory; sums are float32
enum class Activation { none, relu, silu, glu };

constexpr int64_t LINEAR_PANEL = 16;  // output channels that are innermost in the packed weight
constexpr int64_t LINEAR_CHUNK = 256;  // products that are summed before they are added to the others

struct Linear {
    const void* x;  // [rows, inner] of `format`
    int64_t x_stride;  // elements from row to row
    int64_t rows, inner, columns;
    Format format;
    const void* weight;  // [panels, inner, LINEAR_PANEL] of `format`, zeros beyond `columns`
    const float* bias;  // [columns] or null
    const void* residual;  // [rows, width()] of `out_format`, or null
    int64_t residual_stride;
    Activation activation;
    float scale;
    Format out_format;
    void* y;  // [rows, width()]

    int64_t width() const { return activation == Activation::glu ? columns / 2 : columns; }
    int64_t chunks() const { return (inner + LINEAR_CHUNK - 1) / LINEAR_CHUNK; }
};

// The work of one thread at a time: rows × columns of the result.
struct LinearTask {
    int64_t row, rows, column, columns;
};

void linear(const Linear& p, int threads);

}  // namespace seamless
