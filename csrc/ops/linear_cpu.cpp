// Matrix product: blocks of rows and columns over threads.
#include "linear.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "isa.h"
#ifdef SEAMLESS_X86
#include <immintrin.h>
#endif
#include "scratch.h"

#define KERNEL "ops/linear_isa.h"
#include "each_isa.h"

namespace seamless {

namespace {

constexpr int64_t BLOCK = 1 << 18;  // floats of x in a block of rows: a MiB, which stays in the L2 cache
constexpr int64_t MAX_ROWS = 192, MIN_ROWS = 24;  // of a block
constexpr int64_t ROW_STEP = 12, COLUMN_STEP = 128;  // full tiles, with every instruction set
constexpr int64_t WORTH_A_THREAD = 1 << 18;  // products: about 10 µs

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void linear(const Linear& p, int threads) {
    const auto run = FOR_ISA(linear_block);
    const auto scratch_for = FOR_ISA(linear_scratch);
    threads = std::max<int>(1, std::min<int64_t>(threads, p.rows * p.inner * p.columns / WORTH_A_THREAD));
    const int64_t max_rows = std::clamp(BLOCK / std::max<int64_t>(p.inner, 1), MIN_ROWS, MAX_ROWS);
    int64_t blocks = ceil_div(p.rows, max_rows);
    if (blocks > 1) blocks = ceil_div(blocks, threads) * threads;
    const int64_t rows = ceil_div(ceil_div(p.rows, blocks), ROW_STEP) * ROW_STEP;
    // With a block for each thread its columns are not divided, so that its rows are packed once.
    const int64_t shares = blocks >= threads ? 1 : ceil_div(4 * threads, blocks);
    const int64_t columns = ceil_div(ceil_div(p.width(), shares), COLUMN_STEP) * COLUMN_STEP;
    std::vector<LinearTask> tasks;
    for (int64_t row = 0; row < p.rows; row += rows)
        for (int64_t column = 0; column < p.width(); column += columns)
            tasks.push_back(
                {row, std::min(rows, p.rows - row), column, std::min(columns, p.width() - column)});
    int64_t scratch = scratch_for(p, std::min(rows, p.rows));
    float* const memory = shares_of(threads, scratch);
    const auto count = static_cast<int64_t>(tasks.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count; ++i) run(p, tasks[i], memory + omp_get_thread_num() * scratch);
}

}  // namespace seamless
