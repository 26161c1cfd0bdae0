// 1-D convolution: blocks of rows over threads.
#include "conv1d.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "scratch.h"

#define KERNEL "ops/conv1d_isa.h"
#include "each_isa.h"

namespace seamless {

namespace {

constexpr int64_t SCRATCH = 1 << 16;  // floats of a block's rows, of each of four forms: a MiB in all
constexpr int64_t MIN_ROWS = 48;  // of a block
constexpr int64_t TILE = 24;  // rows of full tiles, with every instruction set
constexpr int64_t WORTH_A_THREAD = 1 << 20;  // products: about 20 µs

// run(block, scratch) for blocks of at most about `max_rows` rows and of nearly equal size, a multiple of the number of
// threads. A block has full tiles, except the last of a segment.
template <typename ScratchFor, typename Run>
void over_blocks(const PackedRows& x, int64_t max_rows, int64_t tile, int64_t products, int threads,
                 ScratchFor scratch_for, Run run) {
    threads = std::max<int>(1, std::min<int64_t>(threads, products / WORTH_A_THREAD));
    const int64_t wanted = (x.rows + threads * max_rows - 1) / (threads * max_rows) * threads;
    const int64_t size = std::max({(x.rows + wanted - 1) / wanted, MIN_ROWS, tile});
    std::vector<ConvBlock> blocks;
    int64_t largest = 0;
    for (int64_t segment = 0; segment < x.segments; ++segment) {
        const int64_t first = x.bounds[segment], last = x.bounds[segment + 1];
        const int64_t tiles = (last - first + tile - 1) / tile, count = (last - first + size - 1) / size;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t begin = first + i * tiles / count * tile, end = first + (i + 1) * tiles / count * tile;
            blocks.push_back({begin, std::min(end, last), first, last});
            largest = std::max(largest, end - begin);
        }
    }
    int64_t scratch = scratch_for(largest);
    float* const memory = shares_of(threads, scratch);
    const auto count = static_cast<int64_t>(blocks.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count; ++i) run(blocks[i], memory + omp_get_thread_num() * scratch);
}

}  // namespace

void conv1d(const PackedRows& x, const Filter& f, float slope, const Result& result, int threads) {
    const auto run = FOR_ISA(conv1d_block);
    const auto scratch = FOR_ISA(conv1d_scratch);
    over_blocks(
        x, std::max(SCRATCH / f.in, MIN_ROWS), TILE * f.dilation, x.rows * f.in * f.out * f.taps, threads,
        [&](int64_t rows) { return scratch(f, rows); },
        [&](const ConvBlock& block, float* memory) { run(x, f, slope, result, block, memory); });
}

void conv_pair(const PackedRows& x, const Filter& first, const Filter& second, float slope, const Result& result,
               int threads) {
    const auto run = FOR_ISA(pair_block);
    const auto scratch = FOR_ISA(pair_scratch);
    // A block also computes its halo, which should be small beside its own rows.
    const int64_t max_rows = std::max(SCRATCH / first.in, 16 * second.halo());
    over_blocks(
        x, max_rows, TILE, 2 * x.rows * first.in * first.out * first.taps, threads,
        [&](int64_t rows) { return scratch(first, second, rows); },
        [&](const ConvBlock& block, float* memory) { run(x, first, second, slope, result, block, memory); });
}

}  // namespace seamless
