// Decode attention on the CPU: see kernels/seamless_kernels/paged_attention.py for the formula. float32.
#pragma once

#include <cstdint>

namespace seamless {

struct PagedAttention {
    const float* q;  // [queries, heads, d]
    int64_t q_stride;  // elements from query to query
    const float* k;  // [slots, heads, d]
    const float* v;
    const int32_t* slots;  // [tables, width]
    int64_t slots_stride;
    const int32_t* lengths;  // [tables]
    const int32_t* table_ids;  // row of `slots` of each table, or null: its own number
    const int32_t* cu_queries;  // [tables + 1], or null: a table for each query
    int64_t queries, tables, heads, d;
    float* out;  // [queries, heads, d]
};

// The work of one thread: the queries of one table, for heads first … last − 1.
struct AttentionTask {
    const float* q;
    int64_t q_stride, queries;
    const float* k;
    const float* v;
    const int32_t* slots;
    int64_t length, heads, first, last, d;
    float* out;
};

void paged_attention(const PagedAttention& problem, int threads);

}  // namespace seamless
