// The search on the CPU: threads over lines and searches. A line's result depends on neither.
#pragma once

#include <vector>

#include "search.h"
#include "search_scores.h"

namespace seamless {

class CpuSearch {
   public:
    explicit CpuSearch(const SearchState& state);

    void begin(const StepBatch& batch, int64_t start_token, const LineInputs& out) const;

    // logits [lines, vocab]
    void update_state(const StepBatch& batch, const float* logits, int64_t vocab, int threads);

    // The second half, for candidates that are known.
    void commit(const StepBatch& batch, const Candidates& candidates, int threads);

   private:
    struct Task {
        Chooser line;
        int64_t number;  // of the line
    };

    // What one thread needs. It is kept, so that a step allocates nothing.
    struct Scratch {
        BeamStep step;
        LineWork work;
        std::vector<uint32_t> seen, banned, codes;
        std::vector<int64_t> bans;
    };

    void make_room(int64_t lines, int64_t stride, int64_t vocab, int threads, bool special);
    void choose_plain(const Task& task, const float* logits, int64_t vocab, Scratch& scratch, int threads);
    void choose_special(const Task& task, const float* logits, int64_t vocab, Scratch& scratch);

    SearchState state_;
    std::vector<Scratch> scratch_;
    std::vector<Task> plain_, special_;
    std::vector<int64_t> token_;
    std::vector<float> key_, value_, log_prob_;
    Candidates candidates_{};
};

}  // namespace seamless
