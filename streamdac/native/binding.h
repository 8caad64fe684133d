// Small helpers between Python objects and the kernels.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

namespace streamdac {

// A C-contiguous buffer of 4-byte floats (f), half-precision numbers (e) or 8-byte integers (i), released at the end of its scope.
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }

    // False with a Python error set: `name` is not such a buffer.
    bool open(PyObject* object, char kind, const char* name, int dimensions, bool writable = false);

    int64_t size(int dimension) const { return int64_t(view_.shape[dimension]); }
    // False with a Python error set: the sizes differ from these.
    bool sized(const char* name, int64_t a, int64_t b = -1, int64_t c = -1) const;
    const float* floats() const { return static_cast<const float*>(view_.buf); }
    const uint16_t* halves() const { return static_cast<const uint16_t*>(view_.buf); }
    float* out_floats() const { return static_cast<float*>(view_.buf); }
    const int64_t* integers() const { return static_cast<const int64_t*>(view_.buf); }
    int64_t* out_integers() const { return static_cast<int64_t*>(view_.buf); }

private:
    Py_buffer view_ = {};
    bool held_ = false;
};

// Sets the Python error that a fault means; always false.
bool raise(const Fault& fault, const char* where);

// Fills a part with operations, a sequence of tuples as native_executor.py writes them. False with an error set.
bool read_part(Part& part, PyObject* operations, const char* where);
bool read_quantizer(Codec& codec, PyObject* quantizer);

}  // namespace streamdac
