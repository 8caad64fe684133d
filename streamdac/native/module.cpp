// The Python module streamdac.native._native: Codec (a plan, built once) and Streams (state of streams in step).
// The GIL is released while kernels run.

#include "binding.h"

#include <new>

#include "threads.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
static long process_id() { return long(getpid()); }
#else
static long process_id() { return 0; }
#endif

#ifndef STREAMDAC_BUILD_STAMP
#define STREAMDAC_BUILD_STAMP ""
#endif

using namespace streamdac;

static PyTypeObject* codec_type;
static PyTypeObject* streams_type;

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

// ---------------------------------------------------------------- Codec

static PyObject* codec_new(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
    static const char* const names[] = {"encoder", "quantizer", "decoder", "latent", "hop", "threads", "isa", nullptr};
    PyObject *encoder, *quantizer, *decoder;
    long long latent, hop;
    int threads;
    const char* isa;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOOLLiz", const_cast<char**>(names), &encoder, &quantizer, &decoder,
                                     &latent, &hop, &threads, &isa))
        return nullptr;
    const Kernels* kernels = find_kernels(isa);
    if (!kernels) return PyErr_Format(PyExc_ValueError, "this machine has no instruction set %s", isa);
    if (threads < 1 || threads > 1024) return PyErr_Format(PyExc_ValueError, "%d threads, need 1 to 1024", threads);
    CodecObject* self = reinterpret_cast<CodecObject*>(type->tp_alloc(type, 0));
    if (!self) return nullptr;
    self->threads = threads;
    self->codec = new (std::nothrow) Codec(*kernels, latent, hop);
    bool good = self->codec != nullptr;
    if (!good) PyErr_NoMemory();
    good = good && read_part(self->codec->encoder, encoder, "encoder") && read_quantizer(*self->codec, quantizer) &&
           read_part(self->codec->decoder, decoder, "decoder");
    if (good) {
        const Fault fault = self->codec->check();
        good = !fault || raise(fault, "plan");
    }
    if (good) return reinterpret_cast<PyObject*>(self);
    Py_DECREF(self);
    return nullptr;
}

static void codec_dealloc(PyObject* object) {
    CodecObject* self = reinterpret_cast<CodecObject*>(object);
    if (self->pool && self->pool_process == process_id()) delete self->pool;
    delete self->codec;
    PyTypeObject* type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static Pool* pool_of(CodecObject* self) {
    if (self->threads == 1) return nullptr;
    if (!self->pool || self->pool_process != process_id()) {
        self->pool = Pool::create(self->threads);
        self->pool_process = process_id();
    }
    return self->pool;
}

static PyObject* codec_streams(PyObject* object, PyObject* arguments) {
    CodecObject* self = reinterpret_cast<CodecObject*>(object);
    int decoding;
    long long batch;
    if (!PyArg_ParseTuple(arguments, "pL", &decoding, &batch)) return nullptr;
    if (batch < 1 || batch > 1 << 20) return PyErr_Format(PyExc_ValueError, "%lld streams, need 1 to %d", batch, 1 << 20);
    StreamsObject* made = reinterpret_cast<StreamsObject*>(streams_type->tp_alloc(streams_type, 0));
    if (!made) return nullptr;
    Py_INCREF(self);
    made->owner = self;
    made->streams = new (std::nothrow) Streams(decoding ? self->codec->decoder : self->codec->encoder, batch);
    if (made->streams && made->streams->start()) return reinterpret_cast<PyObject*>(made);
    Py_DECREF(made);
    return PyErr_NoMemory();
}

// The streams behind an object, not in use by another thread; null with an error set.
static Streams* idle(PyObject* object) {
    StreamsObject* given = reinterpret_cast<StreamsObject*>(object);
    if (!given->busy) return given->streams;
    PyErr_SetString(PyExc_RuntimeError, "the state is in use by another thread");
    return nullptr;
}

// Those of an argument that must be of this codec's `part`.
static Streams* claim(CodecObject* self, PyObject* object, const Part& part) {
    StreamsObject* given = reinterpret_cast<StreamsObject*>(object);
    if (given->owner == self && &given->streams->part() == &part) return idle(object);
    PyErr_SetString(PyExc_ValueError, "the state belongs to another plan or part");
    return nullptr;
}

// Marks streams as in use while kernels run without the GIL.
class Busy {
public:
    explicit Busy(PyObject* object) : flag_(reinterpret_cast<StreamsObject*>(object)->busy) { flag_ = true; }
    ~Busy() { flag_ = false; }

private:
    bool& flag_;
};

static PyObject* codec_ready(PyObject* object, PyObject* arguments) {
    CodecObject* self = reinterpret_cast<CodecObject*>(object);
    PyObject* given;
    long long rows;
    int last;
    if (!PyArg_ParseTuple(arguments, "O!Lp", streams_type, &given, &rows, &last)) return nullptr;
    if (rows < 0 || rows > int64_t(1) << 40) return PyErr_Format(PyExc_ValueError, "%lld rows", rows);
    Streams* streams = claim(self, given, reinterpret_cast<StreamsObject*>(given)->streams->part());
    int64_t outputs;
    if (!streams) return nullptr;
    if (const Fault fault = streams->ready(rows, last != 0, &outputs)) return raise(fault, "push"), nullptr;
    return PyLong_FromLongLong(outputs);
}

static PyObject* codec_encode(PyObject* object, PyObject* arguments) {
    CodecObject* self = reinterpret_cast<CodecObject*>(object);
    PyObject *given, *audio, *depths, *codes;
    int last;
    if (!PyArg_ParseTuple(arguments, "O!OOOp", streams_type, &given, &audio, &depths, &codes, &last)) return nullptr;
    Buffer a, d, c;
    if (!a.open(audio, 'f', "audio", 2) || (depths != Py_None && !d.open(depths, 'i', "depths", 1))) return nullptr;
    if (!c.open(codes, 'i', "codes", 3, true)) return nullptr;
    Streams* streams = claim(self, given, self->codec->encoder);
    if (!streams) return nullptr;
    const int64_t batch = streams->batch(), deepest = c.size(2);
    if (!a.sized("audio", batch) || (depths != Py_None && !d.sized("depths", batch)) || !c.sized("codes", batch)) return nullptr;
    if (deepest > self->codec->quantizer.codebooks)
        return raise({"codebooks", deepest, self->codec->quantizer.codebooks}, "encode"), nullptr;
    const int64_t* each = depths == Py_None ? nullptr : d.integers();
    Pool* pool = pool_of(self);
    Fault fault;
    const Busy busy(given);
    Py_BEGIN_ALLOW_THREADS
    fault = self->codec->encode(*streams, pool, a.floats(), a.size(1), last != 0, each, deepest, c.out_integers(), c.size(1));
    Py_END_ALLOW_THREADS
    if (fault) return raise(fault, "encode"), nullptr;
    Py_RETURN_NONE;
}

static PyObject* codec_decode(PyObject* object, PyObject* arguments) {
    CodecObject* self = reinterpret_cast<CodecObject*>(object);
    PyObject *given, *codes, *audio;
    int last;
    if (!PyArg_ParseTuple(arguments, "O!OOp", streams_type, &given, &codes, &audio, &last)) return nullptr;
    Buffer c, a;
    if (!c.open(codes, 'i', "codes", 3) || !a.open(audio, 'f', "audio", 2, true)) return nullptr;
    Streams* streams = claim(self, given, self->codec->decoder);
    if (!streams) return nullptr;
    if (!c.sized("codes", streams->batch()) || !a.sized("audio", streams->batch())) return nullptr;
    if (c.size(2) > self->codec->quantizer.codebooks)
        return raise({"codebooks", c.size(2), self->codec->quantizer.codebooks}, "decode"), nullptr;
    Pool* pool = pool_of(self);
    Fault fault;
    const Busy busy(given);
    Py_BEGIN_ALLOW_THREADS
    fault = self->codec->decode(*streams, pool, c.integers(), c.size(1), c.size(2), last != 0, a.out_floats(), a.size(1));
    Py_END_ALLOW_THREADS
    if (fault) return raise(fault, "decode"), nullptr;
    Py_RETURN_NONE;
}

static PyObject* codec_isa(PyObject* object, void*) {
    return PyUnicode_FromString(reinterpret_cast<CodecObject*>(object)->codec->kernels.name);
}

static PyMethodDef codec_methods[] = {
    {"streams", codec_streams, METH_VARARGS, "streams(decoding, batch): fresh state of that many streams."},
    {"ready", codec_ready, METH_VARARGS, "ready(streams, rows, last): outputs of a push of that many samples or frames."},
    {"encode", codec_encode, METH_VARARGS, "encode(streams, audio [B, T], depths [B] or None for all K, codes [B, F, K] to be filled, last)."},
    {"decode", codec_decode, METH_VARARGS, "decode(streams, codes [B, F, K], audio [B, T] to be filled, last)."},
    {nullptr, nullptr, 0, nullptr}};

static PyGetSetDef codec_properties[] = {
    {"isa", codec_isa, nullptr, "The instruction set in use.", nullptr}, {nullptr, nullptr, nullptr, nullptr, nullptr}};

static PyType_Slot codec_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(codec_new)},         {Py_tp_dealloc, reinterpret_cast<void*>(codec_dealloc)},
    {Py_tp_methods, codec_methods},                          {Py_tp_getset, codec_properties},
    {Py_tp_doc, const_cast<char*>("A plan with packed weights; shared by any number of streams and threads.")},
    {0, nullptr}};

static PyType_Spec codec_spec = {"streamdac.native._native.Codec", sizeof(CodecObject), 0, Py_TPFLAGS_DEFAULT, codec_slots};

// ---------------------------------------------------------------- Streams

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
    StreamsObject* made = reinterpret_cast<StreamsObject*>(streams_type->tp_alloc(streams_type, 0));
    if (!made) return nullptr;
    Py_INCREF(self->owner);
    made->owner = self->owner;
    made->streams = new (std::nothrow) Streams(streams->part(), b.size(0));
    if (made->streams && made->streams->start() && made->streams->copy_rows(*streams, b.integers(), b.size(0)))
        return reinterpret_cast<PyObject*>(made);
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

// ---------------------------------------------------------------- module

static PyObject* instruction_sets(PyObject*, PyObject*) {
    PyObject* list = PyList_New(0);
    for (const char* name : {"avx512", "avx2", "baseline"}) {
        if (!list || !find_kernels(name)) continue;
        PyObject* item = PyUnicode_FromString(name);
        if (!item || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyMethodDef module_methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, "instruction_sets(): those of this machine, the widest first."},
    {nullptr, nullptr, 0, nullptr}};

static PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "_native", "Kernels of the native executor.", -1,
                                        module_methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__native() {
    PyObject* module = PyModule_Create(&module_definition);
    if (!module) return nullptr;
    codec_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&codec_spec));
    streams_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&streams_spec));
    if (codec_type && streams_type && PyModule_AddType(module, codec_type) == 0 && PyModule_AddType(module, streams_type) == 0 &&
        PyModule_AddStringConstant(module, "build_stamp", STREAMDAC_BUILD_STAMP) == 0)
        return module;
    Py_DECREF(module);
    return nullptr;
}
