// Rows quantized to int8, with a scale for each: kernels/seamless_kernels/int8.py has the formula.
#pragma once

#include <cstdint>

namespace seamless {

struct QuantizeRows {
    const float* x;  // [rows, columns]
    int64_t stride;  // elements from row to row
    int64_t rows, columns;
    int8_t* values;  // [rows, columns]
    float* scale;  // [rows]
};

void quantize_rows(const QuantizeRows& p, int threads);

}  // namespace seamless
