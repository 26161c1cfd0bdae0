// The search on the CPU.
#include "cpu.h"

#include <omp.h>

#include <algorithm>

#include "ops/top_candidates.h"

namespace seamless {

namespace {

constexpr int64_t SEARCHES_A_THREAD = 16;  // beam steps are short

// A group of one thread.
struct SingleThread {
    static int thread_rank() { return 0; }
    static int size() { return 1; }
    static void sync() {}
    template <typename T>
    static T add(T* to, T by) {
        *to += by;
        return *to - by;
    }
    static void histogram_add(Weight* weights, uint32_t bin, Weight by) { weights[bin] += by; }
    static void max(uint32_t* to, uint32_t by) { *to = std::max(*to, by); }
    static void bit_or(uint32_t* to, uint32_t bits) { *to |= bits; }
};

template <typename T>
void at_least(std::vector<T>& memory, int64_t size) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
}

}  // namespace

CpuSearch::CpuSearch(const SearchState& state) : state_(state) {
    top_.reserve(state.beams);
    processed_.reserve(state.beams);
}

void CpuSearch::prepare_inputs(const StepBatch& batch, int64_t start_token, const QueryInputs& out) const {
    for (int64_t query = 0; query < batch.num_queries; ++query) prepare_query(state_, batch, query, start_token, out);
}

void CpuSearch::reserve(int64_t num_queries, int64_t stride, int64_t vocab, int threads, bool with_logits) {
    at_least(token_, num_queries * stride);
    for (auto* values : {&key_, &value_, &log_prob_}) at_least(*values, num_queries * stride);
    candidates_ = {stride, token_.data(), key_.data(), value_.data(), log_prob_.data()};
    at_least(scratch_, threads);
    for (Scratch& scratch : scratch_) {
        at_least(scratch.banned_tokens, 1 + state_.max_bad_word_tokens + state_.max_length);
        if (!with_logits) continue;
        for (auto* bits : {&scratch.seen, &scratch.banned}) at_least(*bits, (vocab + 31) / 32);
        at_least(scratch.codes, vocab);
    }
}

void CpuSearch::choose_top(const Task& task, const float* logits, int64_t vocab, Scratch& scratch, int threads) {
    int64_t banned = 0;
    for_each_banned_token(SingleThread(), task.query, 0,
                          [&](int64_t, int64_t token) { scratch.banned_tokens[banned++] = token; });
    const int64_t at = task.index * candidates_.stride, count = std::min<int64_t>(2 * task.query.beams(), vocab);
    top_candidates({logits + task.index * vocab, vocab, 1, vocab, count, scratch.banned_tokens.data(), banned,
                    candidates_.log_prob + at, candidates_.token + at},
                   threads);
    std::copy_n(candidates_.log_prob + at, count, candidates_.key + at);
    std::copy_n(candidates_.log_prob + at, count, candidates_.value + at);
}

void CpuSearch::choose_processed(const Task& task, const float* logits, int64_t vocab, Scratch& scratch) {
    const float* own = logits + task.index * vocab;
    float log_prob;
    int64_t best;
    top_candidates({own, vocab, 1, vocab, 1, nullptr, 0, &log_prob, &best}, 1);
    const Scores scores(task.query, own, vocab, own[best], -log_prob, scratch.seen.data(), scratch.banned.data(),
                        scratch.codes.data());
    choose_from_logits(SingleThread(), scores, scratch.query, task.index * candidates_.stride, candidates_);
}

void CpuSearch::update_state(const StepBatch& batch, const float* logits, int64_t vocab, int threads) {
    top_.clear();
    processed_.clear();
    int64_t widest = 1;
    for (int64_t i = 0; i < batch.num_searches; ++i) {
        const int search = batch.search_id[i];
        if (!state_.is_live(search)) continue;
        const int64_t first = batch.search_query[i];
        const int read = state_.position[search] + batch.query_offset[first] + 1;
        for (int beam = 0; beam < batch.search_active[i]; ++beam) {
            const Query query{state_, search, beam, read};
            (query.needs_logits() ? processed_ : top_).push_back({query, first + beam});
            widest = std::max<int64_t>(widest, 2 * query.beams());
        }
    }
    reserve(batch.num_queries, std::min(widest, vocab), vocab, threads, !processed_.empty());
    const auto top = static_cast<int64_t>(top_.size()), processed = static_cast<int64_t>(processed_.size());
    // A few queries are computed one after another, each by all threads.
    const bool few = top < 4 * threads;
    if (few)
        for (const Task& task : top_) choose_top(task, logits, vocab, scratch_[0], threads);
    const int64_t first = few ? top : 0;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && top - first + processed > 1)
    for (int64_t i = first; i < top + processed; ++i) {
        Scratch& scratch = scratch_[omp_get_thread_num()];
        if (i < top)
            choose_top(top_[i], logits, vocab, scratch, 1);
        else
            choose_processed(processed_[i - top], logits, vocab, scratch);
    }
    update_state(batch, candidates_, threads);
}

void CpuSearch::update_state(const StepBatch& batch, const Candidates& candidates, int threads) {
    threads = static_cast<int>(std::clamp<int64_t>(batch.num_searches / SEARCHES_A_THREAD, 1, threads));
    at_least(scratch_, threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < batch.num_searches; ++i)
        beam_step(SingleThread(), state_, batch, candidates, i, scratch_[omp_get_thread_num()].step);
}

}  // namespace seamless
