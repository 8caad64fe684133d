// Plans as Python tuples and buffers, every size checked before a number is read.

#include "binding.h"

#include <new>

namespace streamdac {

bool Buffer::open(PyObject* object, char kind, const char* name, int dimensions, bool writable) {
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &view_, flags) < 0) return false;
    held_ = true;
    const char* format = view_.format ? view_.format : "B";
    const bool right = kind == 'e'   ? std::strcmp(format, "e") == 0 && view_.itemsize == 2
                       : kind == 'f' ? std::strcmp(format, "f") == 0 && view_.itemsize == 4
                                     : (std::strcmp(format, "l") == 0 || std::strcmp(format, "q") == 0) && view_.itemsize == 8;
    if (!right) {
        PyErr_Format(PyExc_ValueError, "%s has items of type %s, need %s", name, format,
                     kind == 'e'   ? "float16"
                     : kind == 'f' ? "float32"
                                   : "int64");
        return false;
    }
    if (view_.ndim != dimensions) {
        PyErr_Format(PyExc_ValueError, "%s has %d dimensions, need %d", name, view_.ndim, dimensions);
        return false;
    }
    return true;
}

bool Buffer::sized(const char* name, int64_t a, int64_t b, int64_t c) const {
    const int64_t wanted[] = {a, b, c};
    for (int i = 0; i < view_.ndim; ++i) {
        if (wanted[i] >= 0 && size(i) != wanted[i]) {
            PyErr_Format(PyExc_ValueError, "%s has %lld items in dimension %d, need %lld", name, (long long)size(i), i,
                         (long long)wanted[i]);
            return false;
        }
    }
    return true;
}

bool raise(const Fault& fault, const char* where) {
    if (fault.what == NO_MEMORY.what) PyErr_NoMemory();
    else
        PyErr_Format(PyExc_ValueError, "%s: %s: got %lld, need %lld", where, fault.what, (long long)fault.got,
                     (long long)fault.need);
    return false;
}

// A weight of three dimensions: float32, or float16 with `factors`, one for each output. False with an error set.
static bool read_weight(PyObject* weight, PyObject* factors, int64_t taps, Buffer& w, Buffer& f, Given* given) {
    const bool halved = factors != Py_None;
    if (!w.open(weight, halved ? 'e' : 'f', "weight", 3) || !w.sized("weight", taps)) return false;
    if (!halved) return given->floats = w.floats(), true;
    if (!f.open(factors, 'f', "factors", 1) || !f.sized("factors", w.size(2))) return false;
    given->halves = w.halves(), given->factors = f.floats();
    return true;
}

static bool read_conv(Part& part, PyObject* operation, const char* where) {
    const char* name;
    long long kernel, dilation, stride, left, right;
    PyObject *weight, *factors, *bias;
    if (!PyArg_ParseTuple(operation, "sLLLLLOOO", &name, &kernel, &dilation, &stride, &left, &right, &weight, &factors, &bias))
        return false;
    Buffer w, f, b;
    Given given;
    if (!read_weight(weight, factors, kernel, w, f, &given)) return false;
    if (!b.open(bias, 'f', "bias", 1) || !b.sized("bias", w.size(2))) return false;
    const Fault fault = part.add_conv({kernel, dilation, stride, left, right}, w.size(1), w.size(2), given, b.floats());
    return !fault || raise(fault, where);
}

static bool read_transpose(Part& part, PyObject* operation, const char* where) {
    const char* name;
    long long stride, trim_left, trim_right;
    PyObject *weight, *factors, *bias;
    if (!PyArg_ParseTuple(operation, "sLLLOOO", &name, &stride, &trim_left, &trim_right, &weight, &factors, &bias)) return false;
    Buffer w, f, b;
    Given given;
    if (!read_weight(weight, factors, 2, w, f, &given)) return false;
    if (!b.open(bias, 'f', "bias", 1) || !b.sized("bias", w.size(2))) return false;
    const Fault fault = part.add_transpose(stride, trim_left, trim_right, w.size(1), w.size(2), given, b.floats());
    return !fault || raise(fault, where);
}

static bool read_snake(Part& part, PyObject* operation, const char* where) {
    const char* name;
    PyObject *alpha, *inverse;
    if (!PyArg_ParseTuple(operation, "sOO", &name, &alpha, &inverse)) return false;
    Buffer a, i;
    if (!a.open(alpha, 'f', "alpha", 1) || !i.open(inverse, 'f', "inverse", 1)) return false;
    if (!i.sized("inverse", a.size(0))) return false;
    const Fault fault = part.add_snake(a.size(0), a.floats(), i.floats());
    return !fault || raise(fault, where);
}

// (block, window, least, most), sharpness, floor, low-pass, knots, own taps and taps around the lag.
static bool read_long_term(Part& part, PyObject* operation, const char* where) {
    const char* name;
    long long block, window, least, most;
    float sharpness, floor;
    PyObject *low_pass, *knots, *own, *past;
    if (!PyArg_ParseTuple(operation, "sLLLLffOOOO", &name, &block, &window, &least, &most, &sharpness, &floor, &low_pass, &knots,
                          &own, &past))
        return false;
    Buffer l, k, o, p;
    if (!l.open(low_pass, 'f', "low_pass", 1) || !k.open(knots, 'f', "knots", 1)) return false;
    if (!o.open(own, 'f', "own", 2) || !p.open(past, 'f', "past", 2)) return false;
    if (!k.sized("knots", o.size(0) + 1) || !p.sized("past", o.size(0), o.size(1))) return false;
    LongTerm* filter = new (std::nothrow) LongTerm();
    if (!filter || !filter->low_pass.allocate(l.size(0)) || !filter->knots.allocate(k.size(0)) ||
        !filter->own.allocate(o.size(0) * o.size(1)) || !filter->past.allocate(p.size(0) * p.size(1))) {
        delete filter;
        return raise(NO_MEMORY, where);
    }
    filter->block = block, filter->window = window, filter->least = least, filter->most = most;
    filter->sharpness = sharpness, filter->floor = floor;
    filter->filters = o.size(0), filter->taps = o.size(1);
    copy_values(filter->low_pass.data(), l.floats(), l.size(0));
    copy_values(filter->knots.data(), k.floats(), k.size(0));
    copy_values(filter->own.data(), o.floats(), filter->own.count());
    copy_values(filter->past.data(), p.floats(), filter->past.count());
    const Fault fault = part.add_long_term(filter);
    return !fault || raise(fault, where);
}

static bool read_operation(Part& part, PyObject* operation, const char* where) {
    if (!PyTuple_Check(operation) || PyTuple_GET_SIZE(operation) == 0) {
        PyErr_Format(PyExc_ValueError, "%s: an operation is not a tuple that begins with its name", where);
        return false;
    }
    const char* name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(operation, 0));
    if (!name) return false;
    Fault fault;
    if (std::strcmp(name, "conv") == 0) return read_conv(part, operation, where);
    if (std::strcmp(name, "transpose") == 0) return read_transpose(part, operation, where);
    if (std::strcmp(name, "snake") == 0) return read_snake(part, operation, where);
    if (std::strcmp(name, "long_term") == 0) return read_long_term(part, operation, where);
    if (std::strcmp(name, "split") == 0) {
        long long channels, crop;
        if (!PyArg_ParseTuple(operation, "sLL", &name, &channels, &crop)) return false;
        fault = part.add_split(channels, crop);
    } else if (std::strcmp(name, "memory") == 0) {
        long long frames, channels;
        if (!PyArg_ParseTuple(operation, "sLL", &name, &frames, &channels)) return false;
        fault = part.add_memory(frames, channels);
    } else if (std::strcmp(name, "join") == 0) {
        fault = part.add_join();
    } else if (std::strcmp(name, "tanh") == 0) {
        fault = part.add_tanh();
    } else {
        PyErr_Format(PyExc_ValueError, "%s: no operation is called %s", where, name);
        return false;
    }
    return !fault || raise(fault, where);
}

bool read_part(Part& part, PyObject* operations, const char* where) {
    PyObject* list = PySequence_Fast(operations, "a part is a sequence of operations");
    if (!list) return false;
    bool good = true;
    for (Py_ssize_t i = 0; good && i < PySequence_Fast_GET_SIZE(list); ++i)
        good = read_operation(part, PySequence_Fast_GET_ITEM(list, i), where);
    Py_DECREF(list);
    if (!good) return false;
    const Fault fault = part.finish();
    return !fault || raise(fault, where);
}

// (codebooks, first_weight, first_bias, second_weight, second_bias, last_weight, last_bias), shaped as in plan.Prediction.
static bool read_predictor(Codec& codec, PyObject* prediction, int64_t latent) {
    PyObject *first, *first_bias, *second, *second_bias, *last, *last_bias;
    long long codebooks;
    if (!PyTuple_Check(prediction)) return PyErr_SetString(PyExc_TypeError, "a prediction is a tuple or None"), false;
    if (!PyArg_ParseTuple(prediction, "LOOOOOO", &codebooks, &first, &first_bias, &second, &second_bias, &last, &last_bias))
        return false;
    Buffer f, fb, s, sb, l, lb;
    if (!f.open(first, 'f', "first_weight", 2) || !fb.open(first_bias, 'f', "first_bias", 1)) return false;
    if (!s.open(second, 'f', "second_weight", 2) || !sb.open(second_bias, 'f', "second_bias", 1)) return false;
    if (!l.open(last, 'f', "last_weight", 2) || !lb.open(last_bias, 'f', "last_bias", 1)) return false;
    const int64_t frames = f.size(0) / latent, width = f.size(1);
    if (!f.sized("first_weight", frames * latent) || !fb.sized("first_bias", width)) return false;
    if (!s.sized("second_weight", width, width) || !sb.sized("second_bias", width)) return false;
    if (!l.sized("last_weight", frames * latent + width, latent) || !lb.sized("last_bias", latent)) return false;
    const Fault fault = codec.predictor.build(codec.kernels, codebooks, latent, frames, width, f.floats(), fb.floats(), s.floats(),
                                              sb.floats(), l.floats(), lb.floats());
    return !fault || raise(fault, "predictor");
}

// (in_weight, in_bias, directions, rows, cross, out_weight, out_bias, prediction or None), shaped as in plan.Quantizer.
bool read_quantizer(Codec& codec, PyObject* quantizer) {
    PyObject *in_weight, *in_bias, *directions, *rows, *cross, *out_weight, *out_bias, *prediction;
    if (!PyArg_ParseTuple(quantizer, "OOOOO!OOO", &in_weight, &in_bias, &directions, &rows, &PyTuple_Type, &cross, &out_weight,
                          &out_bias, &prediction))
        return false;
    Buffer iw, ib, di, ro, ow, ob;
    if (!iw.open(in_weight, 'f', "in_weight", 2) || !ib.open(in_bias, 'f', "in_bias", 1)) return false;
    if (!di.open(directions, 'f', "directions", 3) || !ro.open(rows, 'f', "rows", 3)) return false;
    if (!ow.open(out_weight, 'f', "out_weight", 2) || !ob.open(out_bias, 'f', "out_bias", 2)) return false;
    const int64_t n = ro.size(0), entries = ro.size(1), dims = ro.size(2), latent = ow.size(1);
    if (!iw.sized("in_weight", latent, n * dims) || !ib.sized("in_bias", n * dims)) return false;
    if (!di.sized("directions", n, dims, entries) || !ow.sized("out_weight", n * dims)) return false;
    if (!ob.sized("out_bias", n + 1, latent)) return false;
    if (PyTuple_GET_SIZE(cross) != n) {
        PyErr_Format(PyExc_ValueError, "cross has %zd matrices, need %lld", PyTuple_GET_SIZE(cross), (long long)n);
        return false;
    }
    Buffer* matrices = new (std::nothrow) Buffer[size_t(n)];
    Array<const float*> pointers;
    bool good = matrices && pointers.allocate(n);
    if (!good) PyErr_NoMemory();
    for (int64_t k = 0; good && k < n; ++k) {
        good = matrices[k].open(PyTuple_GET_ITEM(cross, k), 'f', "cross", 2) &&
               matrices[k].sized("cross", dims, (n - 1 - k) * dims);
        if (good) pointers[k] = matrices[k].floats();
    }
    if (good) {
        const Fault fault = codec.quantizer.build(codec.kernels, latent, n, entries, dims, iw.floats(), ib.floats(),
                                                  di.floats(), ro.floats(), pointers.data(), ow.floats(), ob.floats());
        good = !fault || raise(fault, "quantizer");
    }
    delete[] matrices;
    return good && (prediction == Py_None || read_predictor(codec, prediction, latent));
}

}  // namespace streamdac
