// Return codes of the CUDA runtime as Python exceptions (RuntimeError). Launches are followed by check_launch.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace seamless {

inline void check_cuda(cudaError_t code, const char* what) {
    if (code != cudaSuccess)
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) +
                                 ")");
}

// Errors of a launch itself. Errors of the running kernel appear at the next synchronization.
inline void check_launch(const char* what) { check_cuda(cudaGetLastError(), what); }

}  // namespace seamless
