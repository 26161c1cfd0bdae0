// Memory for what a kernel keeps in between.
#pragma once

#include <cstdint>
#include <vector>

namespace seamless {

// One share for each thread, at least `each` floats, aligned to a line of the cache; `each` becomes the floats from share
// to share. Kept from call to call. What calls this may not call another that does.
inline float* shares_of(int threads, int64_t& each) {
    each = (each + 15) / 16 * 16;
    static thread_local std::vector<float> memory;
    if (memory.size() < static_cast<size_t>(threads * each + 16)) memory.resize(threads * each + 16);
    return memory.data() + (-(reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float)) & 15);
}

}  // namespace seamless
