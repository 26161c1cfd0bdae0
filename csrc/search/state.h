// What a decode step of the search reads and writes, and the inputs of the model that the step begins with.
#pragma once

#include <cmath>
#include <cstdint>

#include "search_schema.h"  // made by setup.py from engine/seamless_engine/search/schema.py

#ifdef __CUDACC__
#define HOST_DEVICE __device__  // each compiler sees its own side only
#else
#define HOST_DEVICE
#endif

namespace seamless {

constexpr int MAX_BEAMS = 64;
constexpr int MAX_CANDIDATES = 2 * MAX_BEAMS;  // of a beam
constexpr int PROMPT_LENGTH = 2;
constexpr float NEVER = -1.0e9f;  // the reference's score of an empty slot

// The arrays of schema.py: those of engine/seamless_engine/search/state.py, by the same names.
struct SearchState {
    int64_t beams, max_length, max_bad_word_tokens;  // beams: with the dummy beam, which is the last
    int32_t dummy_beam, eos;
#define POINTER(type, name, ...) type* name;
    SEARCH_ARRAYS(POINTER)
#undef POINTER

    HOST_DEVICE int64_t int_param(int search, IntParam column) const {
        return int_params[search * NUM_INT_PARAMS + column];
    }
    HOST_DEVICE float float_param(int search, FloatParam column) const {
        return float_params[search * NUM_FLOAT_PARAMS + column];
    }
    HOST_DEVICE const int32_t* beams_of(int search) const { return beam_ids + search * MAX_BEAMS; }
    HOST_DEVICE bool is_live(int search) const { return status[search] == SEARCHING; }
};

// The queries and searches of a step. A query is a beam at a position that this step computes.
struct StepBatch {
    int64_t num_queries, num_searches;
    const int32_t* query_beam;  // [num_queries]
    const int32_t* query_offset;  // position relative to the search's
    const int32_t* search_id;  // [num_searches]
    const int32_t* search_query;  // the query of the first beam; those of the other beams follow
    const int32_t* search_active;  // number of beams that choose
};

// What the model reads, by query.
struct QueryInputs {
    int64_t* tokens;
    int64_t* positions;
    int64_t* slots;
    int32_t* beams;
    int32_t* lengths;
};

// By query, best first by (key, then smaller token). Candidates from `stride` on do not exist.
struct Candidates {
    int64_t stride;
    int64_t* token;
    float* key;
    float* value;
    float* log_prob;
};

// The inputs of one query; its slot is entered into the table, its token into the pool. Queries of a search that is
// not live become queries of the dummy beam.
HOST_DEVICE inline void prepare_query(const SearchState& s, const StepBatch& batch, int64_t query, int64_t start_token,
                                      const QueryInputs& out) {
    const int search = s.search_of[batch.query_beam[query]];
    const bool live = s.is_live(search);
    const int beam = live ? batch.query_beam[query] : s.dummy_beam;
    const int position = live ? s.position[search] + batch.query_offset[query] : 0;
    const int slot = s.slot_mapping[beam * s.max_length + position];
    const int64_t token = position == 0 ? start_token : s.token[beam];
    s.slot_table[beam * s.max_length + position] = slot;
    s.token_pool[slot] = token;
    s.log_prob_pool[slot] = s.log_prob[beam];
    out.tokens[query] = token;
    out.positions[query] = position;
    out.slots[query] = slot;
    out.beams[query] = beam;
    out.lengths[query] = position + 1;
}

}  // namespace seamless
