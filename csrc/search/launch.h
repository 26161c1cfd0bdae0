// The search on a GPU: launches on a stream. They read nothing back and allocate nothing, so a graph can capture them.
#pragma once

#include <cuda_runtime.h>

#include "state.h"

namespace seamless {

void launch_prepare_inputs(const SearchState& state, const StepBatch& batch, int64_t start_token,
                           const QueryInputs& out, cudaStream_t stream);

// Tokens that each query may not choose, −1 for none: banned [num_queries, width]. Column 0 is eos, then come
// `num_bad_word_tokens` columns, then one for each start of an n-gram. `beams`: most of any search.
void launch_banned_tokens(const SearchState& state, const StepBatch& batch, int beams, int64_t num_bad_word_tokens,
                          int64_t width, int64_t* banned, cudaStream_t stream);

// Two bits for each token must fit the 99 KiB of shared memory that a block can have on sm_86 and sm_89.
constexpr int64_t MAX_VOCAB = 327680;

// Candidates of the queries that need logits; those of other queries are not written. logits [num_queries, vocab]
void launch_processed_candidates(const SearchState& state, const StepBatch& batch, int beams, const float* logits,
                                 int64_t vocab, const Candidates& candidates, cudaStream_t stream);

void launch_update_state(const SearchState& state, const StepBatch& batch, const Candidates& candidates,
                         cudaStream_t stream);

}  // namespace seamless
