// The search on a GPU for Python. Tensors come as they are, by __cuda_array_interface__; a stream is an integer.
#include <algorithm>

#include "search_bind.h"
#include "search_bindings.h"
#include "search_cuda.h"

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

    void begin(const py::tuple& fields, int64_t start_token, const py::tuple& out, uintptr_t stream) const {
        const StepBatch batch = read_layout<Device>(fields);
        launch_begin(state_, batch, start_token, read_inputs<Device>(out, batch.lines), stream_of(stream));
    }

    void ban(const py::tuple& fields, int beams, int64_t words, const py::object& banned, uintptr_t stream) const {
        const StepBatch batch = read_layout<Device>(fields);
        require_beams(beams);
        require(words >= 0 && words <= state_.max_bans, "words must be 0 … the width of bad_word_token");
        auto* const list = Device::of<int64_t>(banned, {batch.lines, -1}, "banned");
        const int64_t width = Device::shape(banned)[1];
        require(width >= 1 + words, "banned has too few columns");
        launch_bans(state_, batch, beams, words, width, list, stream_of(stream));
    }

    void choose_special(const py::tuple& fields, int beams, const py::object& logits, const py::tuple& candidates,
                        uintptr_t stream) const {
        const StepBatch batch = read_layout<Device>(fields);
        require_beams(beams);
        const float* const values = Device::of<float>(logits, {batch.lines, -1}, "logits");
        const int64_t vocab = Device::shape(logits)[1];
        require(vocab >= 1 && vocab <= MAX_VOCAB, "the vocabulary is empty, or too large for shared memory");
        const Candidates out = read_candidates<Device>(candidates, batch.lines);
        require(out.stride >= std::min<int64_t>(2 * beams, vocab), "there must be 2 · beams candidates of each line");
        launch_special(state_, batch, beams, values, vocab, out, stream_of(stream));
    }

    void commit(const py::tuple& fields, const py::tuple& candidates, uintptr_t stream) const {
        const StepBatch batch = read_layout<Device>(fields);
        launch_commit(state_, batch, read_candidates<Device>(candidates, batch.lines), stream_of(stream));
    }

   private:
    py::dict tensors_;
    SearchState state_;
};

}  // namespace

void bind_search(py::module_& m) {
    name_columns(m);
    py::class_<BoundSearch>(m, "Search", "The beam step on a SearchState; see engine/seamless_engine/search/native_search.py.")
        .def(py::init<py::dict, int32_t>(), "tensors by the names of SearchState, eos")
        .def("begin", &BoundSearch::begin, "batch, start token, inputs to write to, stream")
        .def("ban", &BoundSearch::ban, "batch, beams, words, list to write to, stream")
        .def("choose_special", &BoundSearch::choose_special, "batch, beams, logits, candidates to change, stream")
        .def("commit", &BoundSearch::commit, "batch, candidates, stream");
}

}  // namespace seamless
