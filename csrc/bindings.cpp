// The module seamless_kernels._csrc: numpy views of tensors in, checked, and on to the kernels without the GIL.
#include <pybind11/stl.h>

#include <optional>

#include "checks.h"
#include "isa.h"
#include "paged_attention.h"
#include "search_bind.h"
#include "top_candidates.h"

namespace {

namespace py = pybind11;
using namespace seamless;

// q, out, tables and lengths of both kinds of attention; the slots of the first `lengths` of each table.
PagedAttention attention(const py::array& q, const py::array& k, const py::array& v, const py::array& slot_table,
                         py::array& out) {
    PagedAttention p{};
    p.q = rows_of<float>(q, {-1, -1, -1}, "q", p.q_stride);
    p.rows = q.shape(0), p.heads = q.shape(1), p.d = q.shape(2);
    require(p.heads > 0 && p.d > 0, "q has no heads, or heads of size 0");
    p.k = elements<float>(k, {-1, p.heads, p.d}, "k_pool");
    p.v = elements<float>(v, {k.shape(0), p.heads, p.d}, "v_pool");
    p.slots = rows_of<int32_t>(slot_table, {-1, -1}, "slot_table", p.slots_stride);
    p.out = writable<float>(out, {p.rows, p.heads, p.d}, "out");
    return p;
}

void check_slots(const PagedAttention& p, int64_t width, int64_t slots) {
    for (int64_t table = 0; table < p.tables; ++table) {
        if (p.cu_rows && p.cu_rows[table] == p.cu_rows[table + 1]) continue;  // nobody reads it
        require(p.lengths[table] >= 1 && p.lengths[table] <= width, "lengths must be 1 … the width of slot_table");
        const int32_t* own = p.slots + (p.table_of ? p.table_of[table] : table) * p.slots_stride;
        uint32_t largest = 0;
        for (int32_t i = 0; i < p.lengths[table]; ++i) {
            const auto slot = static_cast<uint32_t>(own[i]);  // a negative one becomes large
            largest = slot > largest ? slot : largest;
        }
        require(largest < slots, "slot_table names a slot that the pool does not have");
    }
}

void read_lines(PagedAttention& p, const std::optional<py::array>& lines, int64_t count) {
    if (lines) {
        p.table_of = elements<int32_t>(*lines, {p.tables}, "lines");
        for (int64_t table = 0; table < p.tables; ++table)
            require(p.table_of[table] >= 0 && p.table_of[table] < count, "lines names one that slot_table does not have");
    } else {
        require(count == p.tables, "slot_table must have a line for each of lengths, or `lines` be given");
    }
}

void self_attention(const py::array& q, const py::array& k, const py::array& v, const py::array& slot_table,
                    const py::array& lengths, const std::optional<py::array>& lines, py::array out, int threads) {
    PagedAttention p = attention(q, k, v, slot_table, out);
    p.tables = p.rows;
    p.lengths = elements<int32_t>(lengths, {p.rows}, "lengths");
    read_lines(p, lines, slot_table.shape(0));
    check_slots(p, slot_table.shape(1), k.shape(0));
    py::gil_scoped_release release;
    paged_attention(p, threads);
}

void cross_attention(const py::array& q, const py::array& k, const py::array& v, const py::array& slot_table,
                     const py::array& lengths, const std::optional<py::array>& lines, const py::array& cu_rows,
                     py::array out, int threads) {
    PagedAttention p = attention(q, k, v, slot_table, out);
    p.tables = lengths.size();
    p.lengths = elements<int32_t>(lengths, {p.tables}, "lengths");
    read_lines(p, lines, slot_table.shape(0));
    p.cu_rows = elements<int32_t>(cu_rows, {p.tables + 1}, "cu_rows");
    require(p.cu_rows[0] == 0 && p.cu_rows[p.tables] <= p.rows, "cu_rows must go from 0 to at most the rows of q");
    for (int64_t table = 0; table < p.tables; ++table)
        require(p.cu_rows[table] <= p.cu_rows[table + 1], "cu_rows must not decrease");
    check_slots(p, slot_table.shape(1), k.shape(0));
    py::gil_scoped_release release;
    paged_attention(p, threads);
}

void candidates(const py::array& logits, int64_t count, const std::optional<py::array>& banned, py::array log_probs,
                py::array tokens, int threads) {
    TopCandidates p{};
    p.logits = rows_of<float>(logits, {-1, -1}, "logits", p.stride);
    p.rows = logits.shape(0), p.vocab = logits.shape(1), p.count = count;
    require(count >= 1 && count <= p.vocab, "count must be 1 … the vocabulary");
    p.log_probs = writable<float>(log_probs, {p.rows, count}, "log_probs");
    p.tokens = writable<int64_t>(tokens, {p.rows, count}, "tokens");
    if (banned) {
        p.banned = elements<int64_t>(*banned, {p.rows, -1}, "banned");
        p.bans = banned->shape(1);
        for (int64_t i = 0; i < p.rows * p.bans; ++i)
            require(p.banned[i] >= -1 && p.banned[i] < p.vocab, "banned names a token outside the vocabulary");
    }
    py::gil_scoped_release release;
    if (p.rows > 0) top_candidates(p, threads);
}

const char* const NAMES[] = {"plain", "avx2", "avx512"};

std::vector<std::string> instruction_sets() { return {NAMES, NAMES + static_cast<int>(best_isa()) + 1}; }

void use_instruction_set(const std::string& name) {
    for (int i = 0; i <= static_cast<int>(best_isa()); ++i)
        if (name == NAMES[i]) return use_isa(static_cast<Isa>(i));
    refuse("this processor, or this build, does not have the instruction set " + name);
}

}  // namespace

PYBIND11_MODULE(_csrc, m) {
    m.doc() = "CPU kernels. Arrays are views of torch tensors; wrong ones raise ValueError.";
    m.def("self_attention", &self_attention, "q, k_pool, v_pool, slot_table, lengths, lines or None, out, threads");
    m.def("cross_attention", &cross_attention,
          "q, k_pool, v_pool, slot_table, lengths, lines or None, cu_rows, out, threads");
    m.def("top_candidates", &candidates,
          "logits, count, banned or None, log_probs and tokens to write to, threads");
    m.def("instruction_sets", &instruction_sets, "Those that can be used here, best last.");
    m.def("instruction_set", [] { return NAMES[static_cast<int>(current_isa())]; }, "The one in use.");
    m.def("use_instruction_set", &use_instruction_set, "For tests: results differ in the last bits.");
    bind_search(m);
}
