// Quantization to int8: rows over threads.
#include "quantize_rows.h"

#include <algorithm>

#define KERNEL "ops/quantize_rows_isa.h"
#include "each_isa.h"

namespace seamless {

namespace {

constexpr int64_t WORTH_A_THREAD = 1 << 17;  // elements: about 30 µs

}  // namespace

void quantize_rows(const QuantizeRows& p, int threads) {
    const auto run = FOR_ISA(quantize_row);
    threads = std::max<int>(1, std::min<int64_t>(threads, p.rows * p.columns / WORTH_A_THREAD));
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < p.rows; ++row)
        run(p.x + row * p.stride, p.columns, p.values + row * p.columns, p.scale + row);
}

}  // namespace seamless
