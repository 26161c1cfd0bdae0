// The search on the CPU: threads over queries and searches. The result of a query depends on neither.
#pragma once

#include <vector>

#include "beam_step.h"
#include "scores.h"

namespace seamless {

class CpuSearch {
   public:
    explicit CpuSearch(const SearchState& state);

    void prepare_inputs(const StepBatch& batch, int64_t start_token, const QueryInputs& out) const;

    // logits [num_queries, vocab]
    void update_state(const StepBatch& batch, const float* logits, int64_t vocab, int threads);

    // The same for candidates that are known.
    void update_state(const StepBatch& batch, const Candidates& candidates, int threads);

   private:
    struct Task {
        Query query;
        int64_t index;  // of the query
    };

    // Memory of one thread. It is kept, so that a step allocates nothing.
    struct Scratch {
        BeamStep step;
        QueryScratch query;
        std::vector<uint32_t> seen, banned, codes;
        std::vector<int64_t> banned_tokens;
    };

    void reserve(int64_t num_queries, int64_t stride, int64_t vocab, int threads, bool with_logits);
    void choose_top(const Task& task, const float* logits, int64_t vocab, Scratch& scratch, int threads);
    void choose_processed(const Task& task, const float* logits, int64_t vocab, Scratch& scratch);

    SearchState state_;
    std::vector<Scratch> scratch_;
    std::vector<Task> top_, processed_;
    std::vector<int64_t> token_;
    std::vector<float> key_, value_, log_prob_;
    Candidates candidates_{};
};

}  // namespace seamless
