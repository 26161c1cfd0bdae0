// The search on a GPU: launches on a stream. Nothing is read back, nothing is allocated, so a graph can hold them.
#pragma once

#include <cuda_runtime.h>

#include "search_state.h"

namespace seamless {

void launch_begin(const SearchState& state, const StepBatch& batch, int64_t start_token, const LineInputs& out,
                  cudaStream_t stream);

// Tokens that each line may not choose, −1 for none: banned [lines, width]. Column 0 is eos, then come `words` entries
// of the ban lists, then one for each start of an n-gram. `beams`: most of any search.
void launch_bans(const SearchState& state, const StepBatch& batch, int beams, int64_t words, int64_t width,
                 int64_t* banned, cudaStream_t stream);

// Two bits for each token must fit the 99 KiB of shared memory that a block can have on sm_86 and sm_89.
constexpr int64_t MAX_VOCAB = 327680;

// Candidates of the lines whose scores are changed before the choice, or that draw; the others' are left as they are.
// logits [lines, vocab]
void launch_special(const SearchState& state, const StepBatch& batch, int beams, const float* logits, int64_t vocab,
                    const Candidates& candidates, cudaStream_t stream);

void launch_commit(const SearchState& state, const StepBatch& batch, const Candidates& candidates,
                   cudaStream_t stream);

}  // namespace seamless
