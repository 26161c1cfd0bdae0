// The best next tokens: rows, or parts of rows, over threads, and what is made of the parts.
#include "top_candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#define KERNEL "ops/top_candidates_isa.h"
#include "each_isa.h"

namespace seamless {

namespace {

constexpr int64_t WORTH_A_THREAD = 1 << 16;  // logits; some 60 µs, as long as a sleeping thread takes to come

double log_normaliser(const ChunkSum* sums, int64_t chunks) {
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < chunks; ++i) most = std::max(most, sums[i].largest);
    double total = 0.0;
    for (int64_t i = 0; i < chunks; ++i) total += sums[i].sum * std::exp(double(sums[i].largest) - double(most));
    return double(most) + std::log(total);
}

}  // namespace

void top_candidates(const TopCandidates& p, int threads) {
    const auto run = FOR_ISA(scan);
    const auto merge = FOR_ISA(rank);
    const int64_t chunks = (p.vocab + CHUNK - 1) / CHUNK;
    threads = std::max<int>(1, std::min<int64_t>(threads, p.rows * p.vocab / WORTH_A_THREAD));
    // A row is one part, unless that leaves threads idle.
    const int64_t wanted = threads == 1 ? 1 : (4 * threads + p.rows - 1) / p.rows;
    const int64_t part_chunks = (chunks + wanted - 1) / wanted, parts = (chunks + part_chunks - 1) / part_chunks;
    std::vector<ChunkSum> sums(p.rows * chunks);
    std::vector<float> values(p.rows * parts * p.count);
    std::vector<int64_t> tokens(values.size()), banned(p.rows * p.bans);
    std::vector<Ranking> rankings(p.rows * parts);
    for (int64_t row = 0; row < p.rows; ++row) {
        const int64_t* listed = p.banned + row * p.bans;
        int64_t* first = banned.data() + row * p.bans;
        int64_t* last = std::copy_if(listed, listed + p.bans, first, [](int64_t token) { return token >= 0; });
        std::sort(first, last);
        for (int64_t i = row * parts; i < (row + 1) * parts; ++i)
            rankings[i] = {&values[i * p.count], &tokens[i * p.count], 0, p.count, first, last - first};
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < p.rows * parts; ++i) {
        const int64_t row = i / parts, begin = i % parts * part_chunks * CHUNK;
        const int64_t end = std::min(begin + part_chunks * CHUNK, p.vocab);
        run(p.logits + row * p.stride, begin, end, rankings[i], &sums[row * chunks]);
    }
    for (int64_t row = 0; row < p.rows; ++row) {
        Ranking& best = rankings[row * parts];
        best.bans = 0;  // the parts have seen to them
        for (int64_t part = 1; part < parts; ++part)
            for (int64_t i = 0; i < rankings[row * parts + part].size; ++i)
                merge(best, rankings[row * parts + part].values[i], rankings[row * parts + part].tokens[i]);
        const double normaliser = log_normaliser(&sums[row * chunks], chunks);
        for (int64_t i = 0; i < p.count; ++i) {
            p.log_probs[row * p.count + i] = float(double(best.values[i]) - normaliser);
            p.tokens[row * p.count + i] = best.tokens[i];
        }
    }
}

}  // namespace seamless
