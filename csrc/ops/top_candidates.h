// The best next tokens of every query on the CPU: see kernels/seamless_kernels/top_candidates.py for the order.
// float32.
#pragma once

#include <cstdint>

namespace seamless {

struct TopCandidates {
    const float* logits;  // [queries, vocab]
    int64_t stride;  // elements from query to query
    int64_t queries, vocab, count;
    const int64_t* banned;  // [queries, num_banned], −1 for none
    int64_t num_banned;
    float* log_probs;  // [queries, count]
    int64_t* tokens;
};

// The best of a range of columns, best first: value descending, then token ascending.
struct Ranking {
    float* values;
    int64_t* tokens;
    int64_t size, count;  // present and maximal number
    const int64_t* banned;  // [num_banned], ascending
    int64_t num_banned;
};

// Of one chunk of columns: the largest logit and the sum of exp(logit − largest).
struct ChunkSum {
    float largest, sum;
};

constexpr int64_t CHUNK = 4096;  // columns; it fits in the L1 cache

void top_candidates(const TopCandidates& problem, int threads);

}  // namespace seamless
