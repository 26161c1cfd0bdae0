// CpuSearch for Python, on views of torch's tensors.
#include "bindings.h"

#include "cpu.h"

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

StepBatch read_and_check(const SearchState& s, const py::tuple& fields) {
    const StepBatch batch = read_batch<Views>(fields);
    for (int64_t i = 0; i < batch.num_queries; ++i)
        require(batch.query_beam[i] >= 0 && batch.query_beam[i] < s.beams, "query_beam names a beam that does not exist");
    for (int64_t i = 0; i < batch.num_searches; ++i) {
        const int64_t id = batch.search_id[i], query = batch.search_query[i], active = batch.search_active[i];
        require(id >= 0 && id < s.beams, "search_id names a search that does not exist");
        if (id == s.dummy_beam) continue;
        require(active >= 1 && active <= s.int_param(static_cast<int>(id), NUM_BEAMS),
                "search_active must be 1 … the beams of the search");
        require(query >= 0 && query + active <= batch.num_queries,
                "search_query names a query that the step does not have");
    }
    return batch;
}

// Keeps the arrays alive whose memory it works on.
class BoundSearch {
   public:
    BoundSearch(py::dict arrays, int32_t eos)
        : arrays_(std::move(arrays)), state_(read_state<Views>(arrays_, eos)), search_(state_) {}

    void prepare_inputs(const py::tuple& fields, int64_t start_token, const py::tuple& out) {
        const StepBatch batch = read_and_check(state_, fields);
        search_.prepare_inputs(batch, start_token, read_inputs<Views>(out, batch.num_queries));
    }

    void update_state(const py::tuple& fields, const py::array& logits, int threads) {
        const StepBatch batch = read_and_check(state_, fields);
        const auto* values = elements<float>(logits, {batch.num_queries, -1}, "logits");
        require(logits.shape(1) >= 1, "logits has no columns");
        require(threads >= 1, "threads must be at least 1");
        py::gil_scoped_release release;
        search_.update_state(batch, values, logits.shape(1), threads);
    }

    void update_from_candidates(const py::tuple& fields, const py::tuple& candidates, int threads) {
        const StepBatch batch = read_and_check(state_, fields);
        require(threads >= 1, "threads must be at least 1");
        const Candidates given = read_candidates<Views>(candidates, batch.num_queries);
        py::gil_scoped_release release;
        search_.update_state(batch, given, threads);
    }

   private:
    py::dict arrays_;
    SearchState state_;
    CpuSearch search_;
};

}  // namespace

void bind_search(py::module_& m) {
    m.attr("SEARCH_SCHEMA") = SEARCH_SCHEMA;
    py::class_<BoundSearch>(m, "Search", "The search on a SearchState: engine/seamless_engine/search/native_search.py.")
        .def(py::init<py::dict, int32_t>(), "arrays by the names of SearchState, eos")
        .def("prepare_inputs", &BoundSearch::prepare_inputs, "batch, start token, inputs to write to")
        .def("update_state", &BoundSearch::update_state, "batch, logits, threads")
        .def("update_from_candidates", &BoundSearch::update_from_candidates, "batch, candidates, threads");
}

}  // namespace seamless
