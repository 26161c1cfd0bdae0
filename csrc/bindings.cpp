// The module seamless_kernels._csrc: checks numpy views of tensors, and calls the kernels without the GIL.
#include <pybind11/stl.h>

#include <optional>

#include "checks.h"
#include "ops/conv1d.h"
#include "isa.h"
#include "ops/linear.h"
#include "ops/paged_attention.h"
#include "ops/quantize_rows.h"
#include "search/bindings.h"
#include "ops/top_candidates.h"

namespace {

namespace py = pybind11;
using namespace seamless;

// The arguments that both kinds of attention have.
PagedAttention attention(const py::array& q, const py::array& k, const py::array& v, const py::array& slot_table,
                         py::array& out) {
    PagedAttention p{};
    p.q = rows_of<float>(q, {-1, -1, -1}, "q", p.q_stride);
    p.queries = q.shape(0), p.heads = q.shape(1), p.d = q.shape(2);
    require(p.heads > 0 && p.d > 0, "q has no heads, or heads of size 0");
    p.k = elements<float>(k, {-1, p.heads, p.d}, "k_pool");
    p.v = elements<float>(v, {k.shape(0), p.heads, p.d}, "v_pool");
    p.slots = rows_of<int32_t>(slot_table, {-1, -1}, "slot_table", p.slots_stride);
    p.out = writable<float>(out, {p.queries, p.heads, p.d}, "out");
    return p;
}

void check_slots(const PagedAttention& p, int64_t width, int64_t slots) {
    for (int64_t table = 0; table < p.tables; ++table) {
        if (p.cu_queries && p.cu_queries[table] == p.cu_queries[table + 1]) continue;  // it is not read
        require(p.lengths[table] >= 1 && p.lengths[table] <= width, "lengths must be 1 … the width of slot_table");
        const int32_t* own = p.slots + (p.table_ids ? p.table_ids[table] : table) * p.slots_stride;
        uint32_t largest = 0;
        for (int32_t i = 0; i < p.lengths[table]; ++i) {
            const auto slot = static_cast<uint32_t>(own[i]);  // a negative one becomes large
            largest = slot > largest ? slot : largest;
        }
        require(largest < slots, "slot_table names a slot that the pool does not have");
    }
}

void set_table_ids(PagedAttention& p, const std::optional<py::array>& table_ids, int64_t rows) {
    if (table_ids) {
        p.table_ids = elements<int32_t>(*table_ids, {p.tables}, "table_ids");
        for (int64_t table = 0; table < p.tables; ++table)
            require(p.table_ids[table] >= 0 && p.table_ids[table] < rows,
                    "table_ids names a row that slot_table does not have");
    } else {
        require(rows == p.tables, "without table_ids slot_table must have a row for each of lengths");
    }
}

void self_attention(const py::array& q, const py::array& k, const py::array& v, const py::array& slot_table,
                    const py::array& lengths, const std::optional<py::array>& table_ids, py::array out, int threads) {
    PagedAttention p = attention(q, k, v, slot_table, out);
    p.tables = p.queries;
    p.lengths = elements<int32_t>(lengths, {p.queries}, "lengths");
    set_table_ids(p, table_ids, slot_table.shape(0));
    check_slots(p, slot_table.shape(1), k.shape(0));
    py::gil_scoped_release release;
    paged_attention(p, threads);
}

void cross_attention(const py::array& q, const py::array& k, const py::array& v, const py::array& slot_table,
                     const py::array& lengths, const std::optional<py::array>& table_ids, const py::array& cu_queries,
                     py::array out, int threads) {
    PagedAttention p = attention(q, k, v, slot_table, out);
    p.tables = lengths.size();
    p.lengths = elements<int32_t>(lengths, {p.tables}, "lengths");
    set_table_ids(p, table_ids, slot_table.shape(0));
    p.cu_queries = elements<int32_t>(cu_queries, {p.tables + 1}, "cu_queries");
    require(p.cu_queries[0] == 0 && p.cu_queries[p.tables] <= p.queries,
            "cu_queries must go from 0 to at most the length of q");
    for (int64_t table = 0; table < p.tables; ++table)
        require(p.cu_queries[table] <= p.cu_queries[table + 1], "cu_queries must not decrease");
    check_slots(p, slot_table.shape(1), k.shape(0));
    py::gil_scoped_release release;
    paged_attention(p, threads);
}

void candidates(const py::array& logits, int64_t count, const std::optional<py::array>& banned, py::array log_probs,
                py::array tokens, int threads) {
    TopCandidates p{};
    p.logits = rows_of<float>(logits, {-1, -1}, "logits", p.stride);
    p.queries = logits.shape(0), p.vocab = logits.shape(1), p.count = count;
    require(count >= 1 && count <= p.vocab, "count must be 1 … the vocabulary");
    p.log_probs = writable<float>(log_probs, {p.queries, count}, "log_probs");
    p.tokens = writable<int64_t>(tokens, {p.queries, count}, "tokens");
    if (banned) {
        p.banned = elements<int64_t>(*banned, {p.queries, -1}, "banned");
        p.num_banned = banned->shape(1);
        for (int64_t i = 0; i < p.queries * p.num_banned; ++i)
            require(p.banned[i] >= -1 && p.banned[i] < p.vocab, "banned names a token outside the vocabulary");
    }
    py::gil_scoped_release release;
    if (p.queries > 0) top_candidates(p, threads);
}

void quantize(const py::array& x, py::array values, py::array scale, int threads) {
    QuantizeRows p{};
    p.x = rows_of<float>(x, {-1, -1}, "x", p.stride);
    p.rows = x.shape(0), p.columns = x.shape(1);
    p.values = writable<int8_t>(values, {p.rows, p.columns}, "values");
    p.scale = writable<float>(scale, {p.rows}, "scale");
    py::gil_scoped_release release;
    quantize_rows(p, threads);
}

Format format_of(const std::string& name) {
    if (name == "float32") return Format::f32;
    if (name == "bfloat16") return Format::bf16;
    if (name == "float16") return Format::f16;
    refuse("no product of " + name);
}

// Rows of numbers of a format. 16-bit numbers come as int16, since numpy has no bfloat16.
const void* rows_in(Format format, const py::array& array, Shape shape, const char* name, int64_t& stride) {
    if (format == Format::f32) return rows_of<float>(array, shape, name, stride);
    return rows_of<int16_t>(array, shape, name, stride);
}

void product(const py::array& x, const py::array& weight, int64_t columns, const std::optional<py::array>& bias,
             const std::optional<py::array>& residual, py::array out, const std::string& format,
             const std::string& out_format, const std::string& activation, float scale, int threads) {
    Linear p{};
    p.format = format_of(format), p.out_format = format_of(out_format);
    require(p.out_format == p.format || p.out_format == Format::f32, "the result must have the dtype of x, or float32");
    p.x = rows_in(p.format, x, {-1, -1}, "x", p.x_stride);
    p.rows = x.shape(0), p.inner = x.shape(1), p.columns = columns;
    int64_t stride;
    require(columns >= 1 && p.inner >= 1, "the weight is empty");
    p.weight = rows_in(p.format, weight, {(columns + LINEAR_PANEL - 1) / LINEAR_PANEL, p.inner, LINEAR_PANEL},
                       "weight", stride);
    require(stride == p.inner * LINEAR_PANEL, "weight is not contiguous");
    if (bias) p.bias = elements<float>(*bias, {columns}, "bias");
    p.activation = activation == "relu" ? Activation::relu
                   : activation == "silu" ? Activation::silu
                   : activation == "glu"  ? Activation::glu
                                          : Activation::none;
    require(p.activation != Activation::glu || columns % 2 == 0, "GLU needs an even number of columns");
    p.scale = scale;
    if (residual) p.residual = rows_in(p.out_format, *residual, {p.rows, p.width()}, "residual", p.residual_stride);
    p.y = p.out_format == Format::f32 ? static_cast<void*>(writable<float>(out, {p.rows, p.width()}, "out"))
                                      : static_cast<void*>(writable<int16_t>(out, {p.rows, p.width()}, "out"));
    py::gil_scoped_release release;
    if (p.rows > 0) linear(p, threads);
}

PackedRows packed_rows(const py::array& x, const py::array& bounds) {
    PackedRows rows{};
    rows.x = rows_of<float>(x, {-1, -1}, "x", rows.stride);
    rows.rows = x.shape(0);
    rows.segments = bounds.size() - 1;
    rows.bounds = elements<int32_t>(bounds, {-1}, "cu_seqlens");
    require(rows.segments >= 0 && rows.bounds[0] == 0 && rows.bounds[rows.segments] == rows.rows,
            "cu_seqlens must go from 0 to the rows");
    for (int64_t i = 0; i < rows.segments; ++i)
        require(rows.bounds[i] <= rows.bounds[i + 1], "cu_seqlens must not decrease");
    return rows;
}

Filter filter(int64_t in, const py::array& weight, const py::array& bias, int64_t dilation) {
    Filter f{};
    f.in = in, f.out = bias.size(), f.dilation = dilation;
    require(f.in >= 1 && f.out >= 1 && dilation >= 1, "x and bias must have columns, and dilation must be at least 1");
    f.weight = elements<float>(weight, {(f.out + PANEL - 1) / PANEL, -1, PANEL}, "weight");
    f.taps = weight.shape(1) / f.in * 3 / 4;
    require(f.taps % 2 == 1 && f.terms() * f.in == weight.shape(1),
            "weight must be packed from an odd number of taps of x's columns");
    f.bias = elements<float>(bias, {f.out}, "bias");
    return f;
}

void convolution(const py::array& x, const py::array& weight, const py::array& bias, const py::array& bounds,
                 const std::optional<py::array>& residual, py::array out, int64_t dilation, float slope, float scale,
                 int threads) {
    const PackedRows rows = packed_rows(x, bounds);
    const Filter f = filter(x.shape(1), weight, bias, dilation);
    Result result{};
    result.y = writable<float>(out, {rows.rows, f.out}, "out");
    if (residual) result.residual = elements<float>(*residual, {rows.rows, f.out}, "residual");
    result.scale = scale;
    py::gil_scoped_release release;
    if (rows.rows > 0) conv1d(rows, f, slope, result, threads);
}

void pair_of_convolutions(const py::array& x, const py::array& weights, const py::array& biases,
                          const py::array& bounds, const std::optional<py::array>& total, py::array out,
                          int64_t dilation, float slope, float scale, int threads) {
    const PackedRows rows = packed_rows(x, bounds);
    const int64_t columns = x.shape(1);
    check_shape<float>(weights, {2, -1, -1, -1}, "weights");
    check_shape<float>(biases, {2, columns}, "biases");
    const auto part = [](const py::array& array, int i) { return py::array(array[py::int_(i)]); };
    const Filter first = filter(columns, part(weights, 0), part(biases, 0), dilation);
    const Filter second = filter(columns, part(weights, 1), part(biases, 1), 1);
    Result result{};
    result.y = writable<float>(out, {rows.rows, columns}, "out");
    result.residual = elements<float>(x, {-1, -1}, "x");
    if (total) result.total = elements<float>(*total, {rows.rows, columns}, "total");
    result.scale = scale;
    py::gil_scoped_release release;
    if (rows.rows > 0) conv_pair(rows, first, second, slope, result, threads);
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
    m.def("self_attention", &self_attention, "q, k_pool, v_pool, slot_table, lengths, table_ids or None, out, threads");
    m.def("cross_attention", &cross_attention,
          "q, k_pool, v_pool, slot_table, lengths, table_ids or None, cu_queries, out, threads");
    m.def("top_candidates", &candidates,
          "logits, count, banned or None, log_probs and tokens (written), threads");
    m.def("quantize_rows", &quantize, "x, values and scale (written), threads");
    m.def("linear", &product,
          "x, weight in panels, its columns, float32 bias or None, residual or None, out, format of x and weight, "
          "format of residual and out, activation, scale, threads");
    m.def("conv1d", &convolution,
          "x, weight in panels, bias, cu_seqlens, residual or None, out, dilation, slope, scale, threads");
    m.def("conv_pair", &pair_of_convolutions,
          "x, two weights in panels, two biases, cu_seqlens, total or None, out, dilation of the first, slope, scale, "
          "threads");
    m.def("instruction_sets", &instruction_sets, "Those of this processor, the best last.");
    m.def("instruction_set", [] { return NAMES[static_cast<int>(current_isa())]; }, "The one in use.");
    m.def("use_instruction_set", &use_instruction_set, "For tests: results differ in the last bits.");
    bind_search(m);
}
