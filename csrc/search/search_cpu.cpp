// The search on the CPU: who works on which line and which search.
#include "search_cpu.h"

#include <omp.h>

#include <algorithm>

#include "ops/top_candidates.h"

namespace seamless {

namespace {

constexpr int64_t SEARCHES_A_THREAD = 16;  // beam steps are short

// One thread.
struct Alone {
    static int lane() { return 0; }
    static int lanes() { return 1; }
    static void sync() {}
    template <typename T>
    static T add(T* to, T by) {
        *to += by;
        return *to - by;
    }
    static void tally(Mass* weights, uint32_t which, Mass by) { weights[which] += by; }
    static void raise(uint32_t* to, uint32_t by) { *to = std::max(*to, by); }
    static void join(uint32_t* to, uint32_t bits) { *to |= bits; }
};

template <typename T>
void at_least(std::vector<T>& room, int64_t size) {
    if (static_cast<int64_t>(room.size()) < size) room.resize(size);
}

}  // namespace

CpuSearch::CpuSearch(const SearchState& state) : state_(state) {
    plain_.reserve(state.num_seqs);
    special_.reserve(state.num_seqs);
}

void CpuSearch::begin(const StepBatch& batch, int64_t start_token, const LineInputs& out) const {
    for (int64_t line = 0; line < batch.lines; ++line) begin_line(state_, batch, line, start_token, out);
}

void CpuSearch::make_room(int64_t lines, int64_t stride, int64_t vocab, int threads, bool special) {
    at_least(token_, lines * stride);
    for (auto* values : {&key_, &value_, &log_prob_}) at_least(*values, lines * stride);
    candidates_ = {stride, token_.data(), key_.data(), value_.data(), log_prob_.data()};
    at_least(scratch_, threads);
    for (Scratch& scratch : scratch_) {
        at_least(scratch.bans, 1 + state_.max_bans + state_.max_length);
        if (!special) continue;
        for (auto* bits : {&scratch.seen, &scratch.banned}) at_least(*bits, (vocab + 31) / 32);
        at_least(scratch.codes, vocab);
    }
}

void CpuSearch::choose_plain(const Task& task, const float* logits, int64_t vocab, Scratch& scratch, int threads) {
    int64_t bans = 0;
    each_ban(Alone(), task.line, 0, [&](int64_t, int64_t token) { scratch.bans[bans++] = token; });
    const int64_t at = task.number * candidates_.stride, count = std::min<int64_t>(2 * task.line.beams(), vocab);
    top_candidates({logits + task.number * vocab, vocab, 1, vocab, count, scratch.bans.data(), bans,
                    candidates_.log_prob + at, candidates_.token + at},
                   threads);
    std::copy_n(candidates_.log_prob + at, count, candidates_.key + at);
    std::copy_n(candidates_.log_prob + at, count, candidates_.value + at);
}

void CpuSearch::choose_special(const Task& task, const float* logits, int64_t vocab, Scratch& scratch) {
    const Chooser& line = task.line;
    const float* row = logits + task.number * vocab;
    float least;
    int64_t best;
    top_candidates({row, vocab, 1, vocab, 1, nullptr, 0, &least, &best}, 1);
    const Scores scores{line, Noise(line), row, vocab, row[best], -least, scratch.seen.data(), scratch.banned.data(),
                        scratch.codes.data(), line.beams() == 1, line.samples(), line.penalty(),
                        line.s.real_of(line.search, TEMPERATURE), 0};
    special_line(Alone(), scores, scratch.work, task.number * candidates_.stride, candidates_);
}

void CpuSearch::update_state(const StepBatch& batch, const float* logits, int64_t vocab, int threads) {
    plain_.clear();
    special_.clear();
    int64_t widest = 1;
    for (int64_t i = 0; i < batch.searches; ++i) {
        const int search = batch.search_id[i];
        if (!state_.live(search)) continue;
        const int64_t first = batch.search_line[i];
        const int read = state_.position[search] + batch.line_offset[first] + 1;
        for (int beam = 0; beam < batch.search_active[i]; ++beam) {
            const Chooser line{state_, search, beam, read};
            (line.special() ? special_ : plain_).push_back({line, first + beam});
            widest = std::max<int64_t>(widest, 2 * line.beams());
        }
    }
    make_room(batch.lines, std::min(widest, vocab), vocab, threads, !special_.empty());
    const auto plain = static_cast<int64_t>(plain_.size()), special = static_cast<int64_t>(special_.size());
    // Few lines are taken one after another, by all threads.
    const bool few = plain < 4 * threads;
    if (few)
        for (const Task& task : plain_) choose_plain(task, logits, vocab, scratch_[0], threads);
    const int64_t first = few ? plain : 0;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && plain - first + special > 1)
    for (int64_t i = first; i < plain + special; ++i) {
        Scratch& scratch = scratch_[omp_get_thread_num()];
        if (i < plain)
            choose_plain(plain_[i], logits, vocab, scratch, 1);
        else
            choose_special(special_[i - plain], logits, vocab, scratch);
    }
    commit(batch, candidates_, threads);
}

void CpuSearch::commit(const StepBatch& batch, const Candidates& candidates, int threads) {
    threads = static_cast<int>(std::clamp<int64_t>(batch.searches / SEARCHES_A_THREAD, 1, threads));
    at_least(scratch_, threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < batch.searches; ++i)
        beam_step(Alone(), state_, batch, candidates, i, scratch_[omp_get_thread_num()].step);
}

}  // namespace seamless
