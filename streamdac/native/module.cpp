// The Python module streamdac.native._native and its type Codec: a plan, built once. The GIL is released while kernels run.

#include <new>

#include "objects.h"

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
    return reinterpret_cast<PyObject*>(make_streams(self, decoding ? self->codec->decoder : self->codec->encoder, batch));
}

// Those of an argument that must be of this codec's `part`.
static Streams* claim(CodecObject* self, PyObject* object, const Part& part) {
    StreamsObject* given = reinterpret_cast<StreamsObject*>(object);
    if (given->owner == self && &given->streams->part() == &part) return idle(object);
    PyErr_SetString(PyExc_ValueError, "the state belongs to another plan or part");
    return nullptr;
}

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
    if (!a.open(audio, 'f', "audio", 2) || (depths != Py_None && !d.open(depths, 'i', "depths", 2))) return nullptr;
    if (!c.open(codes, 'i', "codes", 3, true)) return nullptr;
    Streams* streams = claim(self, given, self->codec->encoder);
    if (!streams) return nullptr;
    const int64_t batch = streams->batch(), deepest = c.size(2);
    if (!a.sized("audio", batch) || (depths != Py_None && !d.sized("depths", batch)) || !c.sized("codes", batch)) return nullptr;
    if (deepest > self->codec->quantizer.codebooks)
        return raise({"codebooks", deepest, self->codec->quantizer.codebooks}, "encode"), nullptr;
    Depths each;
    if (depths != Py_None) each = {d.integers(), d.size(1)};
    if (each.of && each.row != 1 && each.row < c.size(1)) return raise({"frames of the depths", each.row, c.size(1)}, "encode"), nullptr;
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

static PyObject* codec_reads_halves(PyObject* object, void*) {
    return PyBool_FromLong(reinterpret_cast<CodecObject*>(object)->codec->kernels.reads_halves);
}

static PyMethodDef codec_methods[] = {
    {"streams", codec_streams, METH_VARARGS, "streams(decoding, batch): fresh state of that many streams."},
    {"ready", codec_ready, METH_VARARGS, "ready(streams, rows, last): outputs of a push of that many samples or frames."},
    {"encode", codec_encode, METH_VARARGS, "encode(streams, audio [B, T], depths [B, 1 or F] or None for all K, codes [B, F, K] to be filled, last)."},
    {"decode", codec_decode, METH_VARARGS, "decode(streams, codes [B, F, K], audio [B, T] to be filled, last)."},
    {nullptr, nullptr, 0, nullptr}};

static PyGetSetDef codec_properties[] = {
    {"isa", codec_isa, nullptr, "The instruction set in use.", nullptr},
    {"reads_halves", codec_reads_halves, nullptr, "Whether weights that half precision holds are kept so.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

static PyType_Slot codec_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(codec_new)},         {Py_tp_dealloc, reinterpret_cast<void*>(codec_dealloc)},
    {Py_tp_methods, codec_methods},                          {Py_tp_getset, codec_properties},
    {Py_tp_doc, const_cast<char*>("A plan with packed weights; shared by any number of streams and threads.")},
    {0, nullptr}};

static PyType_Spec codec_spec = {"streamdac.native._native.Codec", sizeof(CodecObject), 0, Py_TPFLAGS_DEFAULT, codec_slots};

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
    if (codec_type && make_streams_type() && PyModule_AddType(module, codec_type) == 0 && PyModule_AddType(module, streams_type) == 0 &&
        PyModule_AddStringConstant(module, "build_stamp", STREAMDAC_BUILD_STAMP) == 0)
        return module;
    Py_DECREF(module);
    return nullptr;
}
