// The search on a GPU: a block for each search, and for each line that chooses.
#include <algorithm>

#include "cuda_check.h"
#include "search.h"
#include "search_cuda.h"
#include "search_scores.h"

namespace seamless {

namespace {

constexpr int STEP_THREADS = 128, LINE_THREADS = 512;

// A thread block.
struct Block {
    static __device__ int lane() { return threadIdx.x; }
    static __device__ int lanes() { return blockDim.x; }
    static __device__ void sync() { __syncthreads(); }
    template <typename T>
    static __device__ T add(T* to, T by) {
        return atomicAdd(to, by);
    }
    // The lanes of a warp that add to one place add once: most scores share their first digit.
    static __device__ void tally(Mass* weights, uint32_t which, Mass by) {
        const unsigned peers = __match_any_sync(__activemask(), which);
        Mass sum = 0;
        for (unsigned rest = peers; rest; rest &= rest - 1) sum += __shfl_sync(peers, by, __ffs(rest) - 1);
        if ((threadIdx.x & 31) == __ffs(peers) - 1) atomicAdd(&weights[which], sum);
    }
    static __device__ void raise(uint32_t* to, uint32_t by) { atomicMax(to, by); }
    static __device__ void join(uint32_t* to, uint32_t bits) { atomicOr(to, bits); }
};

// The line of beam blockIdx.y of search blockIdx.x; false if it does not choose.
__device__ bool chooses(const SearchState& s, const StepBatch& batch, int64_t& line, int& read) {
    const int search = batch.search_id[blockIdx.x];
    if (!s.live(search) || static_cast<int>(blockIdx.y) >= batch.search_active[blockIdx.x]) return false;
    line = batch.search_line[blockIdx.x] + blockIdx.y;
    read = s.position[search] + batch.line_offset[line] + 1;
    return true;
}

__global__ void begin_kernel(SearchState s, StepBatch batch, int64_t start_token, LineInputs out) {
    const int64_t line = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (line < batch.lines) begin_line(s, batch, line, start_token, out);
}

__global__ void bans_kernel(SearchState s, StepBatch batch, int64_t words, int64_t width, int64_t* banned) {
    int64_t line;
    int read;
    if (!chooses(s, batch, line, read)) return;
    const Chooser chooser{s, batch.search_id[blockIdx.x], static_cast<int>(blockIdx.y), read};
    each_ban(Block(), chooser, words, [&](int64_t index, int64_t token) { banned[line * width + index] = token; });
}

// The largest logit, and the logarithm of the sum of exp(logit − largest); sums are added in an order of their own.
__device__ void normalise(const float* logits, int64_t vocab, float& largest, float& log_sum) {
    __shared__ float most[LINE_THREADS];
    __shared__ double sums[LINE_THREADS];
    float top = -INFINITY;
    for (int64_t i = threadIdx.x; i < vocab; i += LINE_THREADS) top = fmaxf(top, logits[i]);
    most[threadIdx.x] = top;
    __syncthreads();
    for (int half = LINE_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) most[threadIdx.x] = fmaxf(most[threadIdx.x], most[threadIdx.x + half]);
        __syncthreads();
    }
    largest = most[0];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < vocab; i += LINE_THREADS) sum += expf(logits[i] - largest);
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = LINE_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    log_sum = static_cast<float>(log(sums[0]));
}

__global__ void __launch_bounds__(LINE_THREADS)
    special_kernel(SearchState s, StepBatch batch, const float* logits, int64_t vocab, Candidates candidates) {
    extern __shared__ uint32_t bits[];
    __shared__ LineWork work;
    int64_t line;
    int read;
    if (!chooses(s, batch, line, read)) return;
    const Chooser chooser{s, batch.search_id[blockIdx.x], static_cast<int>(blockIdx.y), read};
    if (!chooser.special()) return;
    const float* row = logits + line * vocab;
    float largest, log_sum;
    normalise(row, vocab, largest, log_sum);
    const Scores scores{chooser, Noise(chooser), row, vocab, largest, log_sum, bits, bits + (vocab + 31) / 32, nullptr,
                        chooser.beams() == 1, chooser.samples(), chooser.penalty(),
                        s.real_of(chooser.search, TEMPERATURE), 0};
    special_line(Block(), scores, work, line * candidates.stride, candidates);
}

__global__ void __launch_bounds__(STEP_THREADS)
    commit_kernel(SearchState s, StepBatch batch, Candidates candidates) {
    __shared__ BeamStep step;
    beam_step(Block(), s, batch, candidates, blockIdx.x, step);
}

dim3 choosers(const StepBatch& batch, int beams) {
    return dim3(static_cast<unsigned>(batch.searches), static_cast<unsigned>(beams));
}

}  // namespace

void launch_begin(const SearchState& state, const StepBatch& batch, int64_t start_token, const LineInputs& out,
                  cudaStream_t stream) {
    if (batch.lines == 0) return;
    const auto blocks = static_cast<unsigned>((batch.lines + STEP_THREADS - 1) / STEP_THREADS);
    begin_kernel<<<blocks, STEP_THREADS, 0, stream>>>(state, batch, start_token, out);
    check_launch("begin of a decode step");
}

void launch_bans(const SearchState& state, const StepBatch& batch, int beams, int64_t words, int64_t width,
                 int64_t* banned, cudaStream_t stream) {
    check_cuda(cudaMemsetAsync(banned, 0xff, batch.lines * width * sizeof(int64_t), stream), "banned tokens");
    if (batch.searches == 0) return;
    bans_kernel<<<choosers(batch, beams), STEP_THREADS, 0, stream>>>(state, batch, words, width, banned);
    check_launch("banned tokens");
}

void launch_special(const SearchState& state, const StepBatch& batch, int beams, const float* logits, int64_t vocab,
                    const Candidates& candidates, cudaStream_t stream) {
    if (batch.searches == 0) return;
    const auto shared = static_cast<int>(2 * ((vocab + 31) / 32) * sizeof(uint32_t));
    check_cuda(cudaFuncSetAttribute(special_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
               "shared memory for the bits of a vocabulary");
    special_kernel<<<choosers(batch, beams), LINE_THREADS, shared, stream>>>(state, batch, logits, vocab, candidates);
    check_launch("candidates of changed scores");
}

void launch_commit(const SearchState& state, const StepBatch& batch, const Candidates& candidates,
                   cudaStream_t stream) {
    if (batch.searches == 0) return;
    const auto blocks = static_cast<unsigned>(batch.searches);
    commit_kernel<<<blocks, STEP_THREADS, 0, stream>>>(state, batch, candidates);
    check_launch("beam step");
}

}  // namespace seamless
