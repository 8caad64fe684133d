// The Python objects of the module: Codec (module.cpp) and Streams (streams_object.cpp).
#pragma once

#include "binding.h"
#include "threads.h"

namespace streamdac {

struct CodecObject {
    PyObject_HEAD
    Codec* codec;
    Pool* pool;
    long pool_process;  // threads do not survive a fork
    int threads;
};

struct StreamsObject {
    PyObject_HEAD
    CodecObject* owner;
    Streams* streams;
    bool busy;  // a push is under way, without the GIL
};

extern PyTypeObject* streams_type;  // null until the module is imported

// The type; null with an error set.
PyTypeObject* make_streams_type();

// Fresh state of `batch` streams through `part` of the owner's plan; null with an error set.
StreamsObject* make_streams(CodecObject* owner, const Part& part, int64_t batch);

// The streams behind an object, not in use by another thread; null with an error set.
Streams* idle(PyObject* object);

// Marks streams as in use while kernels run without the GIL.
class Busy {
public:
    explicit Busy(PyObject* object) : flag_(reinterpret_cast<StreamsObject*>(object)->busy) { flag_ = true; }
    ~Busy() { flag_ = false; }

private:
    bool& flag_;
};

}  // namespace streamdac
