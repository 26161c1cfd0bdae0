// Arrays from Python as pointers. A wrong dtype, shape or layout is a ValueError.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace seamless {

namespace py = pybind11;

[[noreturn]] inline void refuse(const std::string& what) { throw py::value_error(what); }

inline void require(bool holds, const char* what) {
    if (!holds) refuse(what);
}

using Shape = std::initializer_list<py::ssize_t>;  // −1 for any size

template <typename T>
void check_shape(const py::array& array, Shape shape, const char* name) {
    // Identity first: numpy has one object for each of these dtypes, and comparing dtypes is slow.
    static PyObject* const wanted = py::dtype::of<T>().release().ptr();
    if (py::detail::array_proxy(array.ptr())->descr != wanted && !py::handle(wanted).equal(array.dtype()))
        refuse(std::string(name) + " has dtype " + std::string(py::str(array.dtype())) + ", expected " +
               std::string(py::str(py::handle(wanted))));
    bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i)
        fits = shape.begin()[i] == -1 || shape.begin()[i] == array.shape(static_cast<py::ssize_t>(i));
    if (fits) return;
    std::string expected;
    for (auto size : shape) expected += (expected.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
    refuse(std::string(name) + " has shape " + std::string(py::str(array.attr("shape"))) + ", expected (" + expected +
           ")");
}

// Elements of type T, C-contiguous.
template <typename T>
const T* elements(const py::array& array, Shape shape, const char* name) {
    check_shape<T>(array, shape, name);
    if (!(array.flags() & py::array::c_style)) refuse(std::string(name) + " is not contiguous");
    return static_cast<const T*>(array.data());
}

// Elements of type T in rows, contiguous within a row; `stride` is set to the elements from row to row.
template <typename T>
const T* rows_of(const py::array& array, Shape shape, const char* name, int64_t& stride) {
    check_shape<T>(array, shape, name);
    py::ssize_t step = sizeof(T);
    for (py::ssize_t i = array.ndim() - 1; i > 0; step *= array.shape(i--))
        if (array.shape(i) > 1 && array.strides(i) != step) refuse(std::string(name) + " is not contiguous in a row");
    stride = array.strides(0) / static_cast<py::ssize_t>(sizeof(T));
    return static_cast<const T*>(array.data());
}

// The same, writable.
template <typename T>
T* writable(py::array& array, Shape shape, const char* name) {
    elements<T>(array, shape, name);
    if (!array.writeable()) refuse(std::string(name) + " is read-only");
    return static_cast<T*>(array.mutable_data());
}

}  // namespace seamless
