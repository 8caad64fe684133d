// The Python type streamdac.native._native.Streams: state of streams in step.

#include "objects.h"

#include <cstring>
#include <new>

using namespace streamdac;

PyTypeObject* streamdac::streams_type;

Streams* streamdac::idle(PyObject* object) {
    StreamsObject* given = reinterpret_cast<StreamsObject*>(object);
    if (!given->busy) return given->streams;
    PyErr_SetString(PyExc_RuntimeError, "the state is in use by another thread");
    return nullptr;
}

StreamsObject* streamdac::make_streams(CodecObject* owner, const Part& part, int64_t batch) {
    StreamsObject* made = reinterpret_cast<StreamsObject*>(streams_type->tp_alloc(streams_type, 0));
    if (!made) return nullptr;
    Py_INCREF(owner);
    made->owner = owner;
    made->streams = new (std::nothrow) Streams(part, batch);
    if (made->streams && made->streams->start()) return made;
    Py_DECREF(made);
    return PyErr_NoMemory(), nullptr;
}

static void streams_dealloc(PyObject* object) {
    StreamsObject* self = reinterpret_cast<StreamsObject*>(object);
    delete self->streams;
    Py_XDECREF(self->owner);
    PyTypeObject* type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject* streams_slots(PyObject* object, PyObject*) {
    Streams* streams = idle(object);
    if (!streams) return nullptr;
    PyObject* list = PyList_New(0);
    for (int i = 0; list && i < streams->part().n_slots(); ++i) {
        PyObject* item = Py_BuildValue("LLL", (long long)streams->queue(i).rows, (long long)streams->part().slot(i).channels,
                                       (long long)streams->drop(i));
        if (!item || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static bool slot_at(Streams* streams, int slot) {
    if (slot >= 0 && slot < streams->part().n_slots()) return true;
    PyErr_Format(PyExc_ValueError, "slot %d of %d", slot, streams->part().n_slots());
    return false;
}

static PyObject* streams_read(PyObject* object, PyObject* arguments) {
    int slot;
    PyObject* to;
    if (!PyArg_ParseTuple(arguments, "iO", &slot, &to)) return nullptr;
    Streams* streams = idle(object);
    Buffer b;
    if (!streams || !slot_at(streams, slot) || !b.open(to, 'f', "buffer", 3, true)) return nullptr;
    Queue& q = streams->queue(slot);
    const int64_t channels = streams->part().slot(slot).channels;
    if (!b.sized("buffer", streams->batch(), q.rows, channels)) return nullptr;
    float* out = b.out_floats();
    for (int64_t s = 0; s < streams->batch(); ++s)
        for (int64_t r = 0; r < q.rows; ++r, out += channels) std::memcpy(out, q.at(s, r), size_t(channels) * sizeof(float));
    Py_RETURN_NONE;
}

static PyObject* streams_write(PyObject* object, PyObject* arguments) {
    int slot;
    long long drop;
    PyObject* from;
    if (!PyArg_ParseTuple(arguments, "iLO", &slot, &drop, &from)) return nullptr;
    Streams* streams = idle(object);
    Buffer b;
    if (!streams || !slot_at(streams, slot) || !b.open(from, 'f', "buffer", 3)) return nullptr;
    const Slot& kind = streams->part().slot(slot);
    if (!b.sized("buffer", streams->batch(), -1, kind.channels)) return nullptr;
    const int64_t rows = b.size(1);
    if (drop < 0 || drop > kind.drop) return raise({"samples to drop", drop, kind.drop}, "state"), nullptr;
    if (kind.split && drop && rows) return raise({"samples kept while some are to be dropped", rows, 0}, "state"), nullptr;
    if (slot == streams->part().memory_slot() && rows != kind.fresh) return raise({"frames of a memory", rows, kind.fresh}, "state"), nullptr;
    Queue& q = streams->queue(slot);
    q.begin = q.rows = 0;
    if (!q.reserve(streams->batch(), rows)) return PyErr_NoMemory();
    q.rows = rows;
    streams->drop(slot) = drop;
    const float* in = b.floats();
    for (int64_t s = 0; s < streams->batch(); ++s) {
        for (int64_t r = 0; r < rows; ++r, in += kind.channels) {
            std::memset(q.at(s, r), 0, size_t(q.row) * sizeof(float));
            std::memcpy(q.at(s, r), in, size_t(kind.channels) * sizeof(float));
        }
    }
    Py_RETURN_NONE;
}

// Row numbers from an int64 buffer, each below `batch`.
static bool open_rows(Buffer& buffer, PyObject* object, int64_t batch) {
    if (!buffer.open(object, 'i', "rows", 1)) return false;
    for (int64_t i = 0; i < buffer.size(0); ++i) {
        const int64_t row = buffer.integers()[i];
        if (row < 0 || row >= batch) return PyErr_Format(PyExc_ValueError, "row %lld of %lld", (long long)row, (long long)batch), false;
    }
    return true;
}

static PyObject* streams_rows(PyObject* object, PyObject* index) {
    StreamsObject* self = reinterpret_cast<StreamsObject*>(object);
    Streams* streams = idle(object);
    Buffer b;
    if (!streams || !open_rows(b, index, streams->batch())) return nullptr;
    if (b.size(0) == 0) return PyErr_Format(PyExc_ValueError, "no rows, need 1 to %lld", (long long)streams->batch());
    StreamsObject* made = make_streams(self->owner, streams->part(), b.size(0));
    if (!made) return nullptr;
    if (made->streams->copy_rows(*streams, b.integers(), b.size(0))) return reinterpret_cast<PyObject*>(made);
    Py_DECREF(made);
    return PyErr_NoMemory();
}

static PyObject* streams_put_rows(PyObject* object, PyObject* arguments) {
    PyObject *index, *from;
    if (!PyArg_ParseTuple(arguments, "OO!", &index, streams_type, &from)) return nullptr;
    Streams *streams = idle(object), *source = streams ? idle(from) : nullptr;
    Buffer b;
    if (!source || !open_rows(b, index, streams->batch())) return nullptr;
    if (&source->part() != &streams->part()) return PyErr_Format(PyExc_ValueError, "the state belongs to another plan or part");
    if (!b.sized("rows", source->batch())) return nullptr;
    if (const Fault fault = streams->put_rows(*source, b.integers(), b.size(0))) return raise(fault, "state"), nullptr;
    Py_RETURN_NONE;
}

static PyObject* streams_batch(PyObject* object, void*) {
    return PyLong_FromLongLong(reinterpret_cast<StreamsObject*>(object)->streams->batch());
}

static PyMethodDef streams_methods[] = {
    {"slots", streams_slots, METH_NOARGS, "slots(): (samples kept, channels, samples still to drop) of each."},
    {"read", streams_read, METH_VARARGS, "read(slot, buffer [B, n, C] to be filled)."},
    {"write", streams_write, METH_VARARGS, "write(slot, drop, buffer [B, n, C])."},
    {"rows", streams_rows, METH_O, "rows(index): a copy of some rows."},
    {"put_rows", streams_put_rows, METH_VARARGS, "put_rows(index, streams): write rows back."},
    {nullptr, nullptr, 0, nullptr}};

static PyGetSetDef streams_properties[] = {
    {"batch", streams_batch, nullptr, "Rows.", nullptr}, {nullptr, nullptr, nullptr, nullptr, nullptr}};

static PyType_Slot streams_slots_[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(streams_dealloc)},
    {Py_tp_methods, streams_methods},
    {Py_tp_getset, streams_properties},
    {Py_tp_doc, const_cast<char*>("State of streams in step through an encoder or a decoder.")},
    {0, nullptr}};

static PyType_Spec streams_spec = {"streamdac.native._native.Streams", sizeof(StreamsObject), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, streams_slots_};

PyTypeObject* streamdac::make_streams_type() {
    if (!streams_type) streams_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&streams_spec));
    return streams_type;
}
