// The search on a GPU: a thread block for each search, and for each query that chooses.
#include <algorithm>

#include "beam_step.h"
#include "cuda_check.h"
#include "launch.h"
#include "scores.h"

namespace seamless {

namespace {

constexpr int STEP_THREADS = 128, QUERY_THREADS = 1024;

// The threads of a block.
struct BlockGroup {
    static __device__ int thread_rank() { return threadIdx.x; }
    static __device__ int size() { return blockDim.x; }
    static __device__ void sync() { __syncthreads(); }
    template <typename T>
    static __device__ T add(T* to, T by) {
        return atomicAdd(to, by);
    }
    // Threads of a warp that add to the same bin add once: most scores have the same first digit. `by` is below 2^52:
    // the sums of its two halves of 26 bits, over 32 threads, fit 32 bits.
    static __device__ void histogram_add(Weight* weights, uint32_t bin, Weight by) {
        const unsigned peers = __match_any_sync(__activemask(), bin);
        const Weight low = __reduce_add_sync(peers, static_cast<unsigned>(by & 0x3ffffff));
        const Weight high = __reduce_add_sync(peers, static_cast<unsigned>(by >> 26));
        if (threadIdx.x % 32 == __ffs(peers) - 1u) atomicAdd(&weights[bin], (high << 26) + low);
    }
    static __device__ void max(uint32_t* to, uint32_t by) { atomicMax(to, by); }
    static __device__ void bit_or(uint32_t* to, uint32_t bits) { atomicOr(to, bits); }
};

// The query of beam blockIdx.y of search blockIdx.x and its index; false if it does not choose.
__device__ bool query_of_block(const SearchState& s, const StepBatch& batch, int64_t& index, int& read) {
    const int search = batch.search_id[blockIdx.x];
    if (!s.is_live(search) || static_cast<int>(blockIdx.y) >= batch.search_active[blockIdx.x]) return false;
    index = batch.search_query[blockIdx.x] + blockIdx.y;
    read = s.position[search] + batch.query_offset[index] + 1;
    return true;
}

__global__ void prepare_inputs_kernel(SearchState s, StepBatch batch, int64_t start_token, QueryInputs out) {
    const int64_t query = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (query < batch.num_queries) prepare_query(s, batch, query, start_token, out);
}

__global__ void banned_tokens_kernel(SearchState s, StepBatch batch, int64_t num_bad_word_tokens, int64_t width,
                                     int64_t* banned) {
    int64_t index;
    int read;
    if (!query_of_block(s, batch, index, read)) return;
    const Query query{s, batch.search_id[blockIdx.x], static_cast<int>(blockIdx.y), read};
    for_each_banned_token(BlockGroup(), query, num_bad_word_tokens,
                          [&](int64_t column, int64_t token) { banned[index * width + column] = token; });
}

// The largest logit, and the logarithm of the sum of exp(logit − largest), added in an order that is always the same.
__device__ void normalise(const float* logits, int64_t vocab, float& largest, float& log_sum) {
    __shared__ float most[QUERY_THREADS];
    __shared__ double sums[QUERY_THREADS];
    float top = -INFINITY;
    for (int64_t i = threadIdx.x; i < vocab; i += QUERY_THREADS) top = fmaxf(top, logits[i]);
    most[threadIdx.x] = top;
    __syncthreads();
    for (int half = QUERY_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) most[threadIdx.x] = fmaxf(most[threadIdx.x], most[threadIdx.x + half]);
        __syncthreads();
    }
    largest = most[0];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < vocab; i += QUERY_THREADS) sum += expf(logits[i] - largest);
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = QUERY_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    log_sum = static_cast<float>(log(sums[0]));
}

// What sm_86 and sm_89 have for a block.
static_assert(sizeof(QueryScratch) + QUERY_THREADS * (sizeof(float) + sizeof(double)) + MAX_VOCAB / 4 <= 99 * 1024);

__global__ void __launch_bounds__(QUERY_THREADS)
    processed_candidates_kernel(SearchState s, StepBatch batch, const float* logits, int64_t vocab,
                                Candidates candidates) {
    extern __shared__ uint32_t bits[];
    __shared__ QueryScratch work;
    int64_t index;
    int read;
    if (!query_of_block(s, batch, index, read)) return;
    const Query query{s, batch.search_id[blockIdx.x], static_cast<int>(blockIdx.y), read};
    if (!query.needs_logits()) return;
    const float* own = logits + index * vocab;
    float largest, log_sum;
    normalise(own, vocab, largest, log_sum);
    const Scores scores(query, own, vocab, largest, log_sum, bits, bits + (vocab + 31) / 32, nullptr);
    choose_from_logits(BlockGroup(), scores, work, index * candidates.stride, candidates);
}

__global__ void __launch_bounds__(STEP_THREADS)
    update_state_kernel(SearchState s, StepBatch batch, Candidates candidates) {
    __shared__ BeamStep step;
    beam_step(BlockGroup(), s, batch, candidates, blockIdx.x, step);
}

// A block for each beam that any search of the batch could have.
dim3 blocks_by_beam(const StepBatch& batch, int beams) {
    return dim3(static_cast<unsigned>(batch.num_searches), static_cast<unsigned>(beams));
}

}  // namespace

void launch_prepare_inputs(const SearchState& state, const StepBatch& batch, int64_t start_token,
                           const QueryInputs& out, cudaStream_t stream) {
    if (batch.num_queries == 0) return;
    const auto blocks = static_cast<unsigned>((batch.num_queries + STEP_THREADS - 1) / STEP_THREADS);
    prepare_inputs_kernel<<<blocks, STEP_THREADS, 0, stream>>>(state, batch, start_token, out);
    check_launch("inputs of a decode step");
}

void launch_banned_tokens(const SearchState& state, const StepBatch& batch, int beams, int64_t num_bad_word_tokens,
                          int64_t width, int64_t* banned, cudaStream_t stream) {
    check_cuda(cudaMemsetAsync(banned, 0xff, batch.num_queries * width * sizeof(int64_t), stream), "banned tokens");
    if (batch.num_searches == 0) return;
    banned_tokens_kernel<<<blocks_by_beam(batch, beams), STEP_THREADS, 0, stream>>>(state, batch, num_bad_word_tokens,
                                                                                   width, banned);
    check_launch("banned tokens");
}

void launch_processed_candidates(const SearchState& state, const StepBatch& batch, int beams, const float* logits,
                                 int64_t vocab, const Candidates& candidates, cudaStream_t stream) {
    if (batch.num_searches == 0) return;
    const auto shared = static_cast<int>(2 * ((vocab + 31) / 32) * sizeof(uint32_t));
    check_cuda(cudaFuncSetAttribute(processed_candidates_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
               "shared memory for the bits of a vocabulary");
    processed_candidates_kernel<<<blocks_by_beam(batch, beams), QUERY_THREADS, shared, stream>>>(state, batch, logits,
                                                                                                vocab, candidates);
    check_launch("candidates of processed scores");
}

void launch_update_state(const SearchState& state, const StepBatch& batch, const Candidates& candidates,
                         cudaStream_t stream) {
    if (batch.num_searches == 0) return;
    const auto blocks = static_cast<unsigned>(batch.num_searches);
    update_state_kernel<<<blocks, STEP_THREADS, 0, stream>>>(state, batch, candidates);
    check_launch("beam step");
}

}  // namespace seamless
