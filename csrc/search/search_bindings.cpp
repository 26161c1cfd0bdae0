// CpuSearch for Python, with views of torch's tensors.
#include "search_bindings.h"

#include "search_bind.h"
#include "search_cpu.h"

namespace seamless {

namespace {

struct Views {
    static py::array array(const py::handle& object) {
        if (!py::isinstance<py::array>(object)) throw py::type_error("the search takes numpy arrays");
        return py::reinterpret_borrow<py::array>(object);
    }
    static std::vector<int64_t> shape(const py::handle& object) {
        const py::array view = array(object);
        return {view.shape(), view.shape() + view.ndim()};
    }
    template <typename T>
    static T* of(const py::handle& object, Shape shape, const char* name) {
        py::array view = array(object);
        return writable<T>(view, shape, name);
    }
};

void check_layout(const SearchState& s, const StepBatch& batch) {
    for (int64_t i = 0; i < batch.lines; ++i)
        require(batch.line_row[i] >= 0 && batch.line_row[i] < s.num_seqs, "line_row names a row that does not exist");
    for (int64_t i = 0; i < batch.searches; ++i) {
        const int64_t id = batch.search_id[i], line = batch.search_line[i], active = batch.search_active[i];
        require(id >= 0 && id < s.num_seqs, "search_id names a search that does not exist");
        if (id == s.dummy_beam) continue;
        require(active >= 1 && active <= s.whole_of(static_cast<int>(id), NUM_BEAMS),
                "search_active must be 1 … the beams of the search");
        require(line >= 0 && line + active <= batch.lines, "search_line names a line that the step does not have");
    }
}

// Keeps the arrays alive whose memory it works on.
class BoundSearch {
   public:
    BoundSearch(py::dict arrays, int32_t eos)
        : arrays_(std::move(arrays)), state_(read_state<Views>(arrays_, eos)), search_(state_) {}

    void begin(const py::tuple& fields, int64_t start_token, const py::tuple& out) {
        const StepBatch batch = read_layout<Views>(fields);
        check_layout(state_, batch);
        search_.begin(batch, start_token, read_inputs<Views>(out, batch.lines));
    }

    void update_state(const py::tuple& fields, const py::array& logits, int threads) {
        const StepBatch batch = read_layout<Views>(fields);
        check_layout(state_, batch);
        const auto* values = elements<float>(logits, {batch.lines, -1}, "logits");
        require(logits.shape(1) >= 1, "logits has no columns");
        require(threads >= 1, "threads must be at least 1");
        py::gil_scoped_release release;
        search_.update_state(batch, values, logits.shape(1), threads);
    }

    void commit(const py::tuple& fields, const py::tuple& candidates, int threads) {
        const StepBatch batch = read_layout<Views>(fields);
        check_layout(state_, batch);
        require(threads >= 1, "threads must be at least 1");
        const Candidates given = read_candidates<Views>(candidates, batch.lines);
        py::gil_scoped_release release;
        search_.commit(batch, given, threads);
    }

   private:
    py::dict arrays_;
    SearchState state_;
    CpuSearch search_;
};

}  // namespace

void bind_search(py::module_& m) {
    name_columns(m);
    py::class_<BoundSearch>(m, "Search", "The beam step on a SearchState; see engine/seamless_engine/search/native_search.py.")
        .def(py::init<py::dict, int32_t>(), "arrays by the names of SearchState, eos")
        .def("begin", &BoundSearch::begin, "batch, start token, inputs to write to")
        .def("update_state", &BoundSearch::update_state, "batch, logits, threads")
        .def("commit", &BoundSearch::commit, "batch, candidates, threads");
}

}  // namespace seamless
