// The search for Python: how both modules check the arrays that they are given. `Memory` finds the elements of an array:
// Memory::of<T>(array, shape, name), a ValueError unless dtype, shape and layout are as expected.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "checks.h"
#include "state.h"

namespace seamless {

// Adds the search to a module: `Search`, and SEARCH_SCHEMA, the fingerprint of the schema.py that it was built from.
void bind_search(py::module_& m);

template <class Memory>
SearchState read_state(const py::dict& arrays, int32_t eos) {
    const auto shape_of = [&](const char* name) { return Memory::shape(arrays[name]); };
    const auto tables = shape_of("slot_mapping"), words = shape_of("bad_word_token"), pool = shape_of("token_pool");
    require(tables.size() == 2 && words.size() == 2 && pool.size() == 1,
            "slot_mapping, bad_word_token or token_pool is misshapen");
    const int64_t beams = tables[0], max_length = tables[1], max_bad_word_tokens = words[1], slots = pool[0];
    require(beams >= 1 && beams <= INT32_MAX, "slot_mapping has no rows, or too many");
    SearchState s{};
    s.beams = beams, s.max_length = max_length, s.max_bad_word_tokens = max_bad_word_tokens;
    s.dummy_beam = static_cast<int32_t>(beams - 1), s.eos = eos;
#define READ(type, name, ...) s.name = Memory::template of<type>(arrays[#name], {__VA_ARGS__}, #name);
    SEARCH_ARRAYS(READ)
#undef READ
    return s;
}

// fields: query_beam, query_offset, search_id, search_query, search_active.
template <class Memory>
StepBatch read_batch(const py::tuple& fields) {
    require(fields.size() == 5, "a batch has five arrays");
    StepBatch batch{};
    batch.query_beam = Memory::template of<int32_t>(fields[0], {-1}, "query_beam");
    batch.num_queries = Memory::shape(fields[0])[0];
    batch.query_offset = Memory::template of<int32_t>(fields[1], {batch.num_queries}, "query_offset");
    batch.search_id = Memory::template of<int32_t>(fields[2], {-1}, "search_id");
    batch.num_searches = Memory::shape(fields[2])[0];
    batch.search_query = Memory::template of<int32_t>(fields[3], {batch.num_searches}, "search_query");
    batch.search_active = Memory::template of<int32_t>(fields[4], {batch.num_searches}, "search_active");
    return batch;
}

// fields: tokens, positions, slots, beams, lengths.
template <class Memory>
QueryInputs read_inputs(const py::tuple& fields, int64_t queries) {
    require(fields.size() == 5, "the inputs of a step are five arrays");
    return {Memory::template of<int64_t>(fields[0], {queries}, "tokens"),
            Memory::template of<int64_t>(fields[1], {queries}, "positions"),
            Memory::template of<int64_t>(fields[2], {queries}, "slots"),
            Memory::template of<int32_t>(fields[3], {queries}, "beams"),
            Memory::template of<int32_t>(fields[4], {queries}, "lengths")};
}

// fields: tokens, key, value, log_prob.
template <class Memory>
Candidates read_candidates(const py::tuple& fields, int64_t queries) {
    require(fields.size() == 4, "candidates are four arrays");
    int64_t* const token = Memory::template of<int64_t>(fields[0], {queries, -1}, "candidates");
    const int64_t count = Memory::shape(fields[0])[1];
    return {count, token, Memory::template of<float>(fields[1], {queries, count}, "keys"),
            Memory::template of<float>(fields[2], {queries, count}, "values"),
            Memory::template of<float>(fields[3], {queries, count}, "log_probs")};
}

}  // namespace seamless
