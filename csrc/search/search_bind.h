// The search's part of a module.
#pragma once

#include <pybind11/pybind11.h>

namespace seamless {

void bind_search(pybind11::module_& m);

}  // namespace seamless
