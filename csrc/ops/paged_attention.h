// Decode attention on the CPU: see kernels/seamless_kernels/paged_attention.py for the formula. float32.
#pragma once

#include <cstdint>

namespace seamless {

struct PagedAttention {
    const float* q;  // [rows, heads, d]
    int64_t q_stride;  // elements from row to row
    const float* k;  // [slots, heads, d]
    const float* v;
    const int32_t* slots;  // [tables, width]
    int64_t slots_stride;
    const int32_t* lengths;  // of each row, or of each table where cu_rows is given
    const int32_t* table_of;  // the line of each table in `slots`, or null: its own number
    const int32_t* cu_rows;  // [tables + 1], or null: a table serves one row
    int64_t rows, tables, heads, d;
    float* out;  // [rows, heads, d]
};

// The rows of one table, for heads first … last − 1. A task is one thread's work.
struct AttentionTask {
    const float* q;
    int64_t q_stride, rows;
    const float* k;
    const float* v;
    const int32_t* slots;
    int64_t length, heads, first, last, d;
    float* out;
};

void paged_attention(const PagedAttention& problem, int threads);

}  // namespace seamless
