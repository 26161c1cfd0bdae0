// What both modules check of the arrays that a search is given. `Memory` finds the elements of an array where it lies:
// Memory::of<T>(array, shape, name), a ValueError unless dtype, shape and batch are as expected.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "checks.h"
#include "search_state.h"

namespace seamless {

template <class Memory>
SearchState read_state(const py::dict& arrays, int32_t eos) {
    SearchState s{};
    const auto shape_of = [&](const char* name) { return Memory::shape(arrays[name]); };
    const auto tables = shape_of("slot_mapping"), bans = shape_of("bad_word_token"), pool = shape_of("token_pool");
    require(tables.size() == 2 && bans.size() == 2 && pool.size() == 1,
            "slot_mapping, bad_word_token or token_pool is misshapen");
    const int64_t rows = tables[0], length = tables[1], slots = pool[0];
    require(rows >= 1 && rows <= INT32_MAX, "slot_mapping has no rows, or too many");
    s.num_seqs = rows, s.max_length = length, s.max_bans = bans[1];
    s.dummy_beam = static_cast<int32_t>(rows - 1), s.eos = eos;
    const auto set = [&](auto*& field, const char* name, Shape shape) {
        using T = std::remove_const_t<std::remove_reference_t<decltype(*field)>>;
        field = Memory::template of<T>(arrays[name], shape, name);
    };
    set(s.search_of, "search_of", {rows});
    set(s.token, "token", {rows});
    set(s.log_prob, "log_prob", {rows});
    set(s.score, "score", {rows});
    set(s.slot_mapping, "slot_mapping", {rows, length});
    set(s.slot_table, "slot_table", {rows, length});
    set(s.finished_score, "finished_score", {rows});
    bool* occupied = nullptr;
    set(occupied, "finished_occupied", {rows});
    s.finished_occupied = reinterpret_cast<uint8_t*>(occupied);
    set(s.finished_length, "finished_length", {rows});
    set(s.finished_token, "finished_token", {rows});
    set(s.finished_log_prob, "finished_log_prob", {rows});
    set(s.finished_table, "finished_table", {rows, length});
    set(s.status, "status", {rows});
    set(s.position, "position", {rows});
    set(s.rows, "rows", {rows, MAX_BEAMS});
    set(s.whole, "whole", {rows, WHOLES});
    set(s.real, "real", {rows, REALS});
    set(s.norm, "norm", {rows, length});
    set(s.bad_word_token, "bad_word_token", {rows, s.max_bans});
    set(s.bad_word_offset, "bad_word_offset", {rows, s.max_bans});
    set(s.token_pool, "token_pool", {slots});
    set(s.log_prob_pool, "log_prob_pool", {slots});
    return s;
}

// fields: line_row, line_offset, search_id, search_line, search_active.
template <class Memory>
StepBatch read_layout(const py::tuple& fields) {
    require(fields.size() == 5, "a batch has five arrays");
    StepBatch batch{};
    batch.line_row = Memory::template of<int32_t>(fields[0], {-1}, "line_row");
    batch.lines = Memory::shape(fields[0])[0];
    batch.line_offset = Memory::template of<int32_t>(fields[1], {batch.lines}, "line_offset");
    batch.search_id = Memory::template of<int32_t>(fields[2], {-1}, "search_id");
    batch.searches = Memory::shape(fields[2])[0];
    batch.search_line = Memory::template of<int32_t>(fields[3], {batch.searches}, "search_line");
    batch.search_active = Memory::template of<int32_t>(fields[4], {batch.searches}, "search_active");
    return batch;
}

// fields: tokens, positions, slots, rows, lengths.
template <class Memory>
LineInputs read_inputs(const py::tuple& fields, int64_t lines) {
    require(fields.size() == 5, "the inputs of a step are five arrays");
    return {Memory::template of<int64_t>(fields[0], {lines}, "tokens"),
            Memory::template of<int64_t>(fields[1], {lines}, "positions"),
            Memory::template of<int64_t>(fields[2], {lines}, "slots"),
            Memory::template of<int32_t>(fields[3], {lines}, "rows"),
            Memory::template of<int32_t>(fields[4], {lines}, "lengths")};
}

// fields: tokens, key, value, log_prob.
template <class Memory>
Candidates read_candidates(const py::tuple& fields, int64_t lines) {
    require(fields.size() == 4, "candidates are four arrays");
    int64_t* const token = Memory::template of<int64_t>(fields[0], {lines, -1}, "candidates");
    const int64_t count = Memory::shape(fields[0])[1];
    return {count, token, Memory::template of<float>(fields[1], {lines, count}, "keys"),
            Memory::template of<float>(fields[2], {lines, count}, "values"),
            Memory::template of<float>(fields[3], {lines, count}, "log_probs")};
}

// Column names as the enumerations of search_state.h have them, for Python to compare with its own.
inline void name_columns(py::module_& m) {
    m.attr("WHOLE") = py::make_tuple("NUM_BEAMS", "MAX_LENGTH", "MIN_NEW_TOKENS", "STOP", "NGRAM", "BANS", "SAMPLE",
                                     "TOP_K", "SEED_LOW", "SEED_HIGH", "STREAM");
    m.attr("REAL") = py::make_tuple("REPETITION_PENALTY", "TEMPERATURE", "TAIL");
    m.attr("STATUS") = py::make_tuple("OVER", "SEARCHING", "BROKEN");
}

}  // namespace seamless
