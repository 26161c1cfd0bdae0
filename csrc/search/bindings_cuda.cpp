// The search on a GPU for Python. Tensors come as they are, by __cuda_array_interface__; a stream is an integer.
#include <algorithm>

#include "bindings.h"
#include "launch.h"

namespace seamless {

namespace {

template <typename T>
constexpr const char* TYPE = nullptr;
template <>
constexpr const char* TYPE<bool> = "|b1";
template <>
constexpr const char* TYPE<int32_t> = "<i4";
template <>
constexpr const char* TYPE<int64_t> = "<i8";
template <>
constexpr const char* TYPE<float> = "<f4";

struct Device {
    static py::dict interface(const py::handle& object) {
        if (!py::hasattr(object, "__cuda_array_interface__")) throw py::type_error("the search takes CUDA tensors");
        return object.attr("__cuda_array_interface__");
    }
    static std::vector<int64_t> shape(const py::handle& object) {
        std::vector<int64_t> sizes;
        for (const auto& size : py::tuple(interface(object)["shape"])) sizes.push_back(size.cast<int64_t>());
        return sizes;
    }
    template <typename T>
    static T* of(const py::handle& object, Shape expected, const char* name) {
        const py::dict described = interface(object);
        const auto type = described["typestr"].cast<std::string>();
        if (type != TYPE<T>) refuse(std::string(name) + " has elements " + type + ", expected " + TYPE<T>);
        const auto sizes = shape(object);
        bool fits = sizes.size() == expected.size();
        for (size_t i = 0; fits && i < sizes.size(); ++i)
            fits = expected.begin()[i] == -1 || expected.begin()[i] == sizes[i];
        if (!fits) refuse(std::string(name) + " has the wrong shape: " + std::string(py::str(described["shape"])));
        if (described.contains("strides") && !described["strides"].is_none())
            refuse(std::string(name) + " is not contiguous");
        return reinterpret_cast<T*>(py::tuple(described["data"])[0].cast<uintptr_t>());
    }
};

cudaStream_t stream_of(uintptr_t handle) { return reinterpret_cast<cudaStream_t>(handle); }

void require_beams(int beams) { require(beams >= 1 && beams <= MAX_BEAMS, "beams must be 1 … 64"); }

// Keeps the tensors alive whose memory it works on.
class BoundSearch {
   public:
    BoundSearch(py::dict tensors, int32_t eos)
        : tensors_(std::move(tensors)), state_(read_state<Device>(tensors_, eos)) {}

    void prepare_inputs(const py::tuple& fields, int64_t start_token, const py::tuple& out, uintptr_t stream) const {
        const StepBatch batch = read_batch<Device>(fields);
        launch_prepare_inputs(state_, batch, start_token, read_inputs<Device>(out, batch.num_queries),
                              stream_of(stream));
    }

    void banned_tokens(const py::tuple& fields, int beams, int64_t num_bad_word_tokens, const py::object& banned,
                       uintptr_t stream) const {
        const StepBatch batch = read_batch<Device>(fields);
        require_beams(beams);
        require(num_bad_word_tokens >= 0 && num_bad_word_tokens <= state_.max_bad_word_tokens,
                "num_bad_word_tokens must be 0 … the width of bad_word_token");
        auto* const tokens = Device::of<int64_t>(banned, {batch.num_queries, -1}, "banned");
        const int64_t width = Device::shape(banned)[1];
        require(width >= 1 + num_bad_word_tokens, "banned has too few columns");
        launch_banned_tokens(state_, batch, beams, num_bad_word_tokens, width, tokens, stream_of(stream));
    }

    void processed_candidates(const py::tuple& fields, int beams, const py::object& logits,
                              const py::tuple& candidates, uintptr_t stream) const {
        const StepBatch batch = read_batch<Device>(fields);
        require_beams(beams);
        const float* const values = Device::of<float>(logits, {batch.num_queries, -1}, "logits");
        const int64_t vocab = Device::shape(logits)[1];
        require(vocab >= 1 && vocab <= MAX_VOCAB, "the vocabulary is empty, or too large for shared memory");
        const Candidates out = read_candidates<Device>(candidates, batch.num_queries);
        require(out.stride >= std::min<int64_t>(2 * beams, vocab), "there must be 2 · beams candidates of each query");
        launch_processed_candidates(state_, batch, beams, values, vocab, out, stream_of(stream));
    }

    void update_from_candidates(const py::tuple& fields, const py::tuple& candidates, uintptr_t stream) const {
        const StepBatch batch = read_batch<Device>(fields);
        launch_update_state(state_, batch, read_candidates<Device>(candidates, batch.num_queries), stream_of(stream));
    }

   private:
    py::dict tensors_;
    SearchState state_;
};

}  // namespace

void bind_search(py::module_& m) {
    m.attr("SEARCH_SCHEMA") = SEARCH_SCHEMA;
    py::class_<BoundSearch>(m, "Search", "The search on a SearchState: engine/seamless_engine/search/native_search.py.")
        .def(py::init<py::dict, int32_t>(), "tensors by the names of SearchState, eos")
        .def("prepare_inputs", &BoundSearch::prepare_inputs, "batch, start token, inputs to write to, stream")
        .def("banned_tokens", &BoundSearch::banned_tokens,
             "batch, beams, number of bad word tokens, tokens to write to, stream")
        .def("processed_candidates", &BoundSearch::processed_candidates,
             "batch, beams, logits, candidates to change, stream")
        .def("update_from_candidates", &BoundSearch::update_from_candidates, "batch, candidates, stream");
}

}  // namespace seamless
