// Decode attention: tasks over threads.
#include "paged_attention.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "scratch.h"

#define KERNEL "ops/paged_attention_isa.h"
#include "each_isa.h"

namespace seamless {

namespace {

constexpr int64_t SCRATCH = 1 << 16;  // floats of a task at most, where its heads can be split: a quarter of a MiB
constexpr int64_t WORTH_A_THREAD = 1 << 18;  // products: about 40 µs, the time that a sleeping thread takes to wake

}  // namespace

void paged_attention(const PagedAttention& p, int threads) {
    const auto scratch_for = FOR_ISA(attention_scratch);
    const auto run = FOR_ISA(attend);
    std::vector<AttentionTask> tasks;
    int64_t products = 0;
    for (int64_t table = 0; table < p.tables; ++table) {
        const int64_t query = p.cu_queries ? p.cu_queries[table] : table;
        const int64_t queries = p.cu_queries ? p.cu_queries[table + 1] - query : 1;
        products += queries * p.lengths[table] * p.heads * p.d * 2;
    }
    threads = std::max<int>(1, std::min<int64_t>(threads, products / WORTH_A_THREAD));
    // A task has all heads, so that a slot is read contiguously, unless that leaves threads idle.
    const int64_t shares = threads == 1 ? 1 : (4 * threads + p.tables - 1) / std::max<int64_t>(p.tables, 1);
    int64_t scratch = 0;
    for (int64_t table = 0; table < p.tables; ++table) {
        const int64_t query = p.cu_queries ? p.cu_queries[table] : table;
        const int64_t queries = p.cu_queries ? p.cu_queries[table + 1] - query : 1;
        const int64_t length = p.lengths[table];
        if (queries == 0) continue;
        const int64_t each = queries * scratch_for(length, p.d);
        const int64_t heads =
            std::max<int64_t>(1, std::min((p.heads + shares - 1) / shares, SCRATCH / each));
        const int32_t* slots = p.slots + (p.table_ids ? p.table_ids[table] : table) * p.slots_stride;
        for (int64_t first = 0; first < p.heads; first += heads) {
            const int64_t last = std::min(first + heads, p.heads);
            tasks.push_back({p.q + query * p.q_stride, p.q_stride, queries, p.k, p.v, slots, length, p.heads, first,
                             last, p.d, p.out + query * p.heads * p.d});
            scratch = std::max(scratch, each * (last - first));
        }
    }
    float* const memory = shares_of(threads, scratch);
    const auto count = static_cast<int64_t>(tasks.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count; ++i) run(tasks[i], memory + omp_get_thread_num() * scratch);
}

}  // namespace seamless
