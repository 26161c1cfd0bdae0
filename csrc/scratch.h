// Scratch memory of CPU kernels.
#pragma once

#include <cstdint>
#include <vector>

namespace seamless {

// One share for each thread of at least `each` floats, aligned to a cache line; `each` becomes the stride of the
// shares. The memory is kept from call to call. A function that uses it must not call another one that does.
inline float* shares_of(int threads, int64_t& each) {
    each = (each + 15) / 16 * 16;
    static thread_local std::vector<float> memory;
    if (memory.size() < static_cast<size_t>(threads * each + 16)) memory.resize(threads * each + 16);
    return memory.data() + (-(reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float)) & 15);
}

}  // namespace seamless
