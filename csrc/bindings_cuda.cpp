// The module seamless_kernels._csrc_cuda: device pointers and a stream as integers, no torch headers, so that one build
// serves any torch. Importing it needs no GPU; a launch without one raises RuntimeError.
#include <pybind11/pybind11.h>

#include "cuda_check.h"
#include "search/bindings.h"

namespace seamless {
void bind_cublaslt(py::module_& m);  // cublaslt_cuda.cpp
}

PYBIND11_MODULE(_csrc_cuda, m) {
    m.doc() = "CUDA kernels. Pointers and streams are integers.";
    m.attr("targets") = TARGETS;
    seamless::bind_search(m);
    seamless::bind_cublaslt(m);
}
