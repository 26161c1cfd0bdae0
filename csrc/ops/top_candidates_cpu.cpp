// The best next tokens: queries, or parts of their vocabulary, over threads; then the parts of a query are merged.
#include "top_candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#define KERNEL "ops/top_candidates_isa.h"
#include "each_isa.h"

namespace seamless {

namespace {

constexpr int64_t WORTH_A_THREAD = 1 << 16;  // logits: about 60 µs, the time that a sleeping thread takes to wake

double log_normalizer(const ChunkSum* sums, int64_t chunks) {
    float max = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < chunks; ++i) max = std::max(max, sums[i].largest);
    double total = 0.0;
    for (int64_t i = 0; i < chunks; ++i) total += sums[i].sum * std::exp(double(sums[i].largest) - double(max));
    return double(max) + std::log(total);
}

}  // namespace

void top_candidates(const TopCandidates& p, int threads) {
    const auto run = FOR_ISA(scan);
    const auto merge = FOR_ISA(rank);
    const int64_t chunks = (p.vocab + CHUNK - 1) / CHUNK;
    threads = std::max<int>(1, std::min<int64_t>(threads, p.queries * p.vocab / WORTH_A_THREAD));
    // A query is one part, unless that leaves threads idle.
    const int64_t wanted = threads == 1 ? 1 : (4 * threads + p.queries - 1) / p.queries;
    const int64_t part_chunks = (chunks + wanted - 1) / wanted, parts = (chunks + part_chunks - 1) / part_chunks;
    std::vector<ChunkSum> sums(p.queries * chunks);
    std::vector<float> values(p.queries * parts * p.count);
    std::vector<int64_t> tokens(values.size()), banned(p.queries * p.num_banned);
    std::vector<Ranking> rankings(p.queries * parts);
    for (int64_t query = 0; query < p.queries; ++query) {
        const int64_t* listed = p.banned + query * p.num_banned;
        int64_t* first = banned.data() + query * p.num_banned;
        int64_t* last = std::copy_if(listed, listed + p.num_banned, first, [](int64_t token) { return token >= 0; });
        std::sort(first, last);
        for (int64_t i = query * parts; i < (query + 1) * parts; ++i)
            rankings[i] = {&values[i * p.count], &tokens[i * p.count], 0, p.count, first, last - first};
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < p.queries * parts; ++i) {
        const int64_t query = i / parts, begin = i % parts * part_chunks * CHUNK;
        const int64_t end = std::min(begin + part_chunks * CHUNK, p.vocab);
        run(p.logits + query * p.stride, begin, end, rankings[i], &sums[query * chunks]);
    }
    for (int64_t query = 0; query < p.queries; ++query) {
        Ranking& best = rankings[query * parts];
        best.num_banned = 0;  // a banned token counts as −∞ in the parts already
        for (int64_t part = 1; part < parts; ++part)
            for (int64_t i = 0; i < rankings[query * parts + part].size; ++i)
                merge(best, rankings[query * parts + part].values[i], rankings[query * parts + part].tokens[i]);
        const double normalizer = log_normalizer(&sums[query * chunks], chunks);
        for (int64_t i = 0; i < p.count; ++i) {
            p.log_probs[query * p.count + i] = float(double(best.values[i]) - normalizer);
            p.tokens[query * p.count + i] = best.tokens[i];
        }
    }
}

}  // namespace seamless
