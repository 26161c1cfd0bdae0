// As much of CUDA's runtime as csrc/search needs, on threads of a CPU. The blocks of a launch run one after another. The
// threads of a block are threads of the process and never in lockstep: each is the only active thread of its warp.
// Shared memory is filled with other bytes before each block. The program ends where the threads of a block do not meet
// at the same barriers, which CUDA leaves undefined.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __shared__ static __attribute__((section("shared_memory")))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern char __start_shared_memory[], __stop_shared_memory[];  // made by the linker

namespace cuda_on_threads {

constexpr int BEGIN = -1, END = -2;  // of a kernel

inline thread_local int rank = 0, reached = 0;  // reached: number of barriers of the kernel
inline int skipped = 0;  // a barrier of the kernel at which no thread waits: a planted race

// The threads of a block: the caller of `run` and others, which live as long as the program.
class Block {
   public:
    explicit Block(int threads) : meetings_(threads), tags_{meetings_, meetings_} {
        for (auto& barrier : barriers_) pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(threads));
        for (int i = 1; i < threads; ++i)
            std::thread([this, i] {
                rank = i;
                for (;;) turn();
            }).detach();
    }
    void run(const std::function<void()>& kernel) {
        kernel_ = &kernel;
        turn();
    }
    // All threads wait, and must have come from the same barrier.
    void meet(int tag) {
        const int other = meetings_[rank]++ % 2;
        std::vector<int>& tags = tags_[other];
        tags[rank] = tag;
        pthread_barrier_wait(&barriers_[other]);
        if (tags[0] == tag) return;
        std::fprintf(stderr, "thread %d is at barrier %d, thread 0 at %d\n", rank, tag, tags[0]);
        std::_Exit(1);
    }

   private:
    void turn() {
        meet(BEGIN);
        reached = 0;
        (*kernel_)();
        meet(END);
    }

    std::vector<int> meetings_;  // of each thread
    // Meetings use these in turn. With one barrier, a thread that leaves it late would be ordered after what the others
    // have done since, and its race with that would not be seen.
    pthread_barrier_t barriers_[2];
    std::vector<int> tags_[2];  // from where each thread came
    const std::function<void()>* kernel_ = nullptr;
};

inline Block* block = nullptr;  // that runs
inline std::vector<char> dynamic_memory;

inline Block& block_of(int threads) {
    static auto& blocks = *new std::map<int, Block*>;  // never destroyed: their threads wait
    Block*& found = blocks[threads];
    if (!found) found = new Block(threads);
    return *found;
}

}  // namespace cuda_on_threads

struct ThreadIndex {
    struct {
        operator unsigned() const { return cuda_on_threads::rank; }
    } x;
};
inline const ThreadIndex threadIdx{};
inline dim3 blockIdx, blockDim;

inline void __syncthreads() {
    const int number = ++cuda_on_threads::reached;
    if (number != cuda_on_threads::skipped) cuda_on_threads::block->meet(number);
}

template <typename T>
T atomicAdd(T* to, T by) {
    return __atomic_fetch_add(to, by, __ATOMIC_RELAXED);
}
inline uint32_t atomicOr(uint32_t* to, uint32_t bits) { return __atomic_fetch_or(to, bits, __ATOMIC_RELAXED); }
inline uint32_t atomicMax(uint32_t* to, uint32_t by) {
    uint32_t old = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (old < by && !__atomic_compare_exchange_n(to, &old, by, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline unsigned __activemask() { return 1u << (threadIdx.x & 31); }
template <typename T>
unsigned __match_any_sync(unsigned mask, T) {
    return mask;
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) { return value; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t last_error = cudaSuccess;
inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration argument"; }
inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorInvalidConfiguration"; }
inline cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t) {
    std::memset(to, byte, bytes);
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
    return cudaSuccess;
}

// The array whose size a launch names: `extern __shared__` in CUDA.
template <typename T>
T* dynamic_shared() {
    return reinterpret_cast<T*>(cuda_on_threads::dynamic_memory.data());
}

// The barrier of this kernel that PLANTED_RACE names, as "kernel:number".
inline int planted_race(const std::string& kernel) {
    const char* value = std::getenv("PLANTED_RACE");
    const std::string named = value ? value : "", prefix = kernel + ":";
    return named.rfind(prefix, 0) == 0 ? std::stoi(named.substr(prefix.size())) : 0;
}

// kernel<<<blocks, threads, shared, stream>>>(…) of CUDA.
template <class... Parameters>
auto launch(const char* name, void (*kernel)(Parameters...), dim3 blocks, int threads, size_t shared, cudaStream_t) {
    return [=](Parameters... arguments) {
        using namespace cuda_on_threads;
        if (blocks.x * blocks.y == 0) last_error = cudaErrorInvalidConfiguration;
        skipped = planted_race(name);
        block = &block_of(threads);
        blockDim = dim3(threads);
        static unsigned char poison = 0;
        for (blockIdx.y = 0; blockIdx.y < blocks.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < blocks.x; ++blockIdx.x) {
                poison = static_cast<unsigned char>(poison * 5 + 17);
                std::memset(__start_shared_memory, poison, __stop_shared_memory - __start_shared_memory);
                dynamic_memory = std::vector<char>(shared, static_cast<char>(poison));
                block->run([&] { kernel(arguments...); });
            }
    };
}
