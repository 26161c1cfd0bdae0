// 1-D convolution over packed segments on the CPU, and pairs of them. kernels/seamless_kernels/conv1d.py and
// residual_block.py have the formulas. float32, channels last.
#pragma once

#include <cstdint>

namespace seamless {

constexpr int64_t PANEL = 16;  // output channels that are innermost in the packed weights

struct Filter {
    const float* weight;  // winograd_terms of conv1d_cpu.py, [⌈out / PANEL⌉, terms, in, PANEL], zeros beyond `out`
    const float* bias;  // [out]
    int64_t in, out, taps, dilation;

    int64_t halo() const { return taps / 2 * dilation; }
    int64_t terms() const { return taps + (taps + 2) / 3; }
};

struct PackedRows {
    const float* x;  // [rows, columns]
    int64_t stride;  // elements from row to row
    int64_t rows;
    const int32_t* bounds;  // [segments + 1], of rows
    int64_t segments;
};

// y = scale · (residual + total + result), each [rows, out]; null for none
struct Result {
    float* y;
    const float *residual, *total;
    float scale;
};

// Rows begin … end − 1 of one segment, which has rows first … last − 1.
struct ConvBlock {
    int64_t begin, end, first, last;
};

// Convolution of leaky_relu(x); a slope of 1 is no activation.
void conv1d(const PackedRows& x, const Filter& filter, float slope, const Result& result, int threads);

// Convolution `second` of leaky_relu(convolution `first` of leaky_relu(x)), all with the same number of channels.
void conv_pair(const PackedRows& x, const Filter& first, const Filter& second, float slope, const Result& result,
               int threads);

}  // namespace seamless
