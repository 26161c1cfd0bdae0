// What a step of the search reads and writes, and its beginning: what every line of the model reads.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define HOST_DEVICE __device__  // each compiler sees its own side only
#else
#define HOST_DEVICE
#endif

namespace seamless {

constexpr int MAX_BEAMS = 64;
constexpr int MAX_WIDTH = 2 * MAX_BEAMS;  // candidates of a beam
constexpr int PROMPT_LENGTH = 2;
constexpr float NEVER = -1.0e9f;  // the reference's score of an empty slot

enum Status : int32_t { OVER, SEARCHING, BROKEN };

// Columns of `whole` and `real`.
enum IntParam {
    NUM_BEAMS,
    MAX_LENGTH,  // prompt and generation
    MIN_NEW_TOKENS,
    STOP,  // 0: when no running beam can win at its length; 1: when num_beams are finished; 2: at any length
    NGRAM,
    BANS,
    SAMPLE,
    TOP_K,
    SEED_LOW,
    SEED_HIGH,
    STREAM,
    WHOLES
};
enum FloatParam { REPETITION_PENALTY, TEMPERATURE, TAIL, REALS };

// The tensors of engine/seamless_engine/search/state.py, by the same names.
struct SearchState {
    int64_t num_seqs, max_length, max_bans;  // num_seqs: with the dummy one, which is the last
    int32_t dummy_beam, eos;
    // By row.
    const int32_t* search_of;
    int64_t* token;
    float* log_prob;
    float* score;
    const int32_t* slot_mapping;
    int32_t* slot_table;
    float* finished_score;
    uint8_t* finished_occupied;
    int32_t* finished_length;
    int64_t* finished_token;
    float* finished_log_prob;
    int32_t* finished_table;
    // By search.
    int32_t* status;
    int32_t* position;
    const int32_t* rows;
    const int64_t* whole;
    const float* real;
    const float* norm;
    const int32_t* bad_word_token;
    const int32_t* bad_word_offset;
    // By slot.
    int64_t* token_pool;
    float* log_prob_pool;

    HOST_DEVICE int64_t whole_of(int search, IntParam column) const { return whole[search * WHOLES + column]; }
    HOST_DEVICE float real_of(int search, FloatParam column) const { return real[search * REALS + column]; }
    HOST_DEVICE const int32_t* rows_of(int search) const { return rows + search * MAX_BEAMS; }
    HOST_DEVICE bool live(int search) const { return status[search] == SEARCHING; }
};

struct StepBatch {
    int64_t lines, searches;
    const int32_t* line_row;  // [lines]
    const int32_t* line_offset;
    const int32_t* search_id;  // [searches]
    const int32_t* search_line;
    const int32_t* search_active;
};

// What the model reads, by line.
struct LineInputs {
    int64_t* tokens;
    int64_t* positions;
    int64_t* slots;
    int32_t* rows;
    int32_t* lengths;
};

// By line, best first by (key, then smaller token); those from `stride` on cannot be chosen.
struct Candidates {
    int64_t stride;
    int64_t* token;
    float* key;
    float* value;
    float* log_prob;
};

HOST_DEVICE inline void begin_line(const SearchState& s, const StepBatch& batch, int64_t line, int64_t start_token,
                                   const LineInputs& out) {
    const int search = s.search_of[batch.line_row[line]];
    const bool live = s.live(search);
    const int row = live ? batch.line_row[line] : s.dummy_beam;
    const int position = live ? s.position[search] + batch.line_offset[line] : 0;
    const int slot = s.slot_mapping[row * s.max_length + position];
    const int64_t token = position == 0 ? start_token : s.token[row];
    s.slot_table[row * s.max_length + position] = slot;
    s.token_pool[slot] = token;
    s.log_prob_pool[slot] = s.log_prob[row];
    out.tokens[line] = token;
    out.positions[line] = position;
    out.slots[line] = slot;
    out.rows[line] = row;
    out.lengths[line] = position + 1;
}

}  // namespace seamless
