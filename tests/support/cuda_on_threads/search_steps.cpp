// Runs the launches of a decode step, as CudaSearch does, for every step of a file, and writes what they leave behind.
// tests/search/test_cuda_search.py writes the file: in native byte order, arrays as this program reads them.
#include <fstream>
#include <initializer_list>
#include <iostream>

#include "launch.h"

using namespace seamless;

namespace {

int64_t product(std::initializer_list<int64_t> sizes) {
    int64_t all = 1;
    for (const int64_t size : sizes) all *= size;
    return all;
}

// Memory of its own for each array, so that an address sanitizer sees what is read beyond it.
class Memory {
   public:
    template <typename T>
    T* array(std::initializer_list<int64_t> sizes) {
        arrays_.push_back(std::vector<char>(product(sizes) * sizeof(T)));
        return reinterpret_cast<T*>(arrays_.back().data());
    }
    template <typename T>
    T* read(std::istream& file, std::initializer_list<int64_t> sizes) {
        T* const values = array<T>(sizes);
        file.read(arrays_.back().data(), static_cast<std::streamsize>(arrays_.back().size()));
        return values;
    }
    void write(std::ostream& file) const {
        for (const auto& each : arrays_) file.write(each.data(), static_cast<std::streamsize>(each.size()));
    }

   private:
    std::vector<std::vector<char>> arrays_;
};

struct Header {
    int64_t beams, max_length, max_bad_word_tokens, slots, eos;  // of the state
    int64_t num_queries, num_searches, widest, num_bad_word_tokens, banned_width, vocab, candidates, needs_logits;
};

void run(const Header& h, std::istream& in, std::ostream& out) {
    Memory given, written;
    const int64_t beams = h.beams, max_length = h.max_length, max_bad_word_tokens = h.max_bad_word_tokens,
                  slots = h.slots, queries = h.num_queries;
    SearchState s{};
    s.beams = beams, s.max_length = max_length, s.max_bad_word_tokens = max_bad_word_tokens;
    s.dummy_beam = static_cast<int32_t>(beams - 1), s.eos = static_cast<int32_t>(h.eos);
#define READ(type, name, ...) s.name = written.read<type>(in, {__VA_ARGS__});
    SEARCH_ARRAYS(READ)
#undef READ
    StepBatch batch{};
    batch.num_queries = queries, batch.num_searches = h.num_searches;
    batch.query_beam = given.read<int32_t>(in, {queries});
    batch.query_offset = given.read<int32_t>(in, {queries});
    batch.search_id = given.read<int32_t>(in, {h.num_searches});
    batch.search_query = given.read<int32_t>(in, {h.num_searches});
    batch.search_active = given.read<int32_t>(in, {h.num_searches});
    Candidates candidates{h.candidates, nullptr, nullptr, nullptr, nullptr};
    candidates.token = written.read<int64_t>(in, {queries, h.candidates});
    for (float** each : {&candidates.key, &candidates.value, &candidates.log_prob})
        *each = written.read<float>(in, {queries, h.candidates});
    const float* logits = h.needs_logits ? given.read<float>(in, {queries, h.vocab}) : nullptr;

    QueryInputs inputs{};
    for (int64_t** each : {&inputs.tokens, &inputs.positions, &inputs.slots}) *each = written.array<int64_t>({queries});
    for (int32_t** each : {&inputs.beams, &inputs.lengths}) *each = written.array<int32_t>({queries});
    launch_prepare_inputs(s, batch, h.eos, inputs, nullptr);
    const int widest = static_cast<int>(h.widest);
    if (h.banned_width)
        launch_banned_tokens(s, batch, widest, h.num_bad_word_tokens, h.banned_width,
                             written.array<int64_t>({queries, h.banned_width}), nullptr);
    if (logits) launch_processed_candidates(s, batch, widest, logits, h.vocab, candidates, nullptr);
    launch_update_state(s, batch, candidates, nullptr);
    written.write(out);
}

}  // namespace

int main(int, char** paths) {
    std::ifstream in(paths[1], std::ios::binary);
    std::ofstream out(paths[2], std::ios::binary);
    Header header;
    while (in.read(reinterpret_cast<char*>(&header), sizeof header)) run(header, in, out);
    return out.flush() ? 0 : 1;
}
