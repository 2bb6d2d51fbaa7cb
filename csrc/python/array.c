#include "array.h"

#include <string.h>

#include "errors.h"

void pd_type_cache_clear(pd_type_cache *cache)
{
    Py_XDECREF((PyObject *)cache->descr);
    cache->descr = NULL;
    Py_CLEAR(cache->text);
}

static void remember(pd_type_cache *cache, PyArray_Descr *descr, PyObject *text)
{
    PyArray_Descr *old_descr = cache->descr;
    PyObject *old_text = cache->text;
    Py_INCREF((PyObject *)descr);
    cache->descr = descr;
    cache->text = Py_NewRef(text);
    Py_XDECREF((PyObject *)old_descr);
    Py_XDECREF(old_text);
}

/* A function of podipc.tensors, imported when it is first needed. Borrowed. */
static PyObject *from_tensors(PyObject **slot, const char *name)
{
    if (*slot)
        return *slot;
    PyObject *module = PyImport_ImportModule("podipc.tensors");
    if (!module)
        return NULL;
    *slot = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *slot;
}

PyArrayObject *pd_as_array(pd_state *st, PyObject *object)
{
    if (PyArray_CheckExact(object))
        return (PyArrayObject *)Py_NewRef(object);
    PyObject *convert = from_tensors(&st->as_array, "as_array");
    PyObject *array = convert ? PyObject_CallFunctionObjArgs(convert, object, NULL) : NULL;
    if (array && !PyArray_Check(array)) {
        Py_DECREF((PyObject *)array);
        PyErr_SetString(PyExc_SystemError, "podipc.tensors.as_array() gave no array");
        return NULL;
    }
    return (PyArrayObject *)array;
}

int pd_shape(PyObject *object, npy_intp shape[PODIPC_MAX_DIMS])
{
    if (PyIndex_Check(object)) {
        shape[0] = PyNumber_AsSsize_t(object, PyExc_ValueError);
        return shape[0] == -1 && PyErr_Occurred() ? -1 : 1;
    }
    Py_ssize_t ndim = PySequence_Size(object);
    if (ndim < 0)
        return -1;
    if (ndim > PODIPC_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "a tensor may have %d dimensions at most, not %zd",
                     PODIPC_MAX_DIMS, ndim);
        return -1;
    }
    for (Py_ssize_t i = 0; i < ndim; i++) {
        PyObject *item = PySequence_GetItem(object, i);
        shape[i] = item ? PyNumber_AsSsize_t(item, PyExc_ValueError) : -1;
        Py_XDECREF(item);
        if (shape[i] == -1 && PyErr_Occurred())
            return -1;
    }
    return (int)ndim;
}

/* The text of a dtype; a new reference. */
static PyObject *text_of(pd_state *st, pd_type_cache *cache, PyArray_Descr *descr)
{
    if (descr == cache->descr)
        return Py_NewRef(cache->text);
    PyObject *encode = from_tensors(&st->encode_dtype, "encode_dtype");
    PyObject *text = encode ? PyObject_CallFunctionObjArgs(encode, (PyObject *)descr, NULL) : NULL;
    if (text && (!PyBytes_Check(text) || PyBytes_Size(text) > UINT16_MAX)) {
        Py_CLEAR(text);
        pd_raise_text(st, PD_UNSUPPORTED_TENSOR,
                      "the description of this dtype takes more than 65535 bytes");
    }
    if (text && !PyDataType_HASFIELDS(descr))
        remember(cache, descr, text);
    return text;
}

int pd_describe(pd_state *st, pd_type_cache *cache, PyArray_Descr *descr, int ndim,
                const npy_intp *shape, podipc_tensor *t, PyObject **text)
{
    if (ndim > PODIPC_MAX_DIMS) {
        pd_raise_text(st, PD_UNSUPPORTED_TENSOR, "a tensor may have %d dimensions at most, not %d",
                      PODIPC_MAX_DIMS, ndim);
        return -1;
    }
    t->flags = 0;
    t->ndim = (uint32_t)ndim;
    t->nbytes = (uint64_t)PyDataType_ELSIZE(descr);
    bool overflow = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0) {
            PyErr_SetString(PyExc_ValueError, "negative dimensions are not allowed");
            return -1;
        }
        t->shape[i] = shape[i];
        overflow |= __builtin_mul_overflow(t->nbytes, (uint64_t)shape[i], &t->nbytes);
    }
    /* A zero later on hides an overflow before it: NumPy refuses such shapes too. */
    if (overflow || t->nbytes > (uint64_t)INT64_MAX) {
        pd_raise_text(st, PD_UNSUPPORTED_TENSOR, "a tensor of this shape and dtype is too large");
        return -1;
    }
    *text = text_of(st, cache, descr);
    if (!*text)
        return -1;
    t->type = PyBytes_AsString(*text);
    t->type_len = (uint32_t)PyBytes_Size(*text);
    return 0;
}

/* The dtype that a text stands for; a new reference. */
static PyArray_Descr *descr_of(pd_state *st, pd_type_cache *cache, const podipc_tensor *t)
{
    if (cache->text && (size_t)PyBytes_Size(cache->text) == t->type_len &&
        memcmp(PyBytes_AsString(cache->text), t->type, t->type_len) == 0) {
        Py_INCREF((PyObject *)cache->descr);
        return cache->descr;
    }
    /* The text may lie in memory that its writer can still change: from here on
     * only this copy counts. */
    PyObject *text = PyBytes_FromStringAndSize(t->type, (Py_ssize_t)t->type_len);
    PyObject *decode = text ? from_tensors(&st->decode_dtype, "decode_dtype") : NULL;
    PyObject *descr = decode ? PyObject_CallFunctionObjArgs(decode, text, NULL) : NULL;
    if (descr && !PyArray_DescrCheck(descr)) {
        PyErr_SetString(PyExc_SystemError, "podipc.tensors.decode_dtype() gave no dtype");
        Py_CLEAR(descr);
    }
    if (descr && !PyDataType_HASFIELDS((PyArray_Descr *)descr))
        remember(cache, (PyArray_Descr *)descr, text);
    Py_XDECREF(text);
    return (PyArray_Descr *)descr;
}

static bool size_agrees(const podipc_tensor *t, PyArray_Descr *descr)
{
    uint64_t nbytes = (uint64_t)PyDataType_ELSIZE(descr);
    for (uint32_t i = 0; i < t->ndim; i++)
        if (t->shape[i] < 0 || __builtin_mul_overflow(nbytes, (uint64_t)t->shape[i], &nbytes))
            return false;
    return nbytes == t->nbytes;
}

PyArrayObject *pd_array_over(pd_state *st, pd_type_cache *cache, const podipc_tensor *t, void *data,
                             bool writable, PyObject *base)
{
    PyArray_Descr *descr = descr_of(st, cache, t);
    if (!descr) {
        Py_DECREF(base);
        return NULL;
    }
    npy_intp shape[PODIPC_MAX_DIMS];
    for (uint32_t i = 0; i < t->ndim; i++)
        shape[i] = (npy_intp)t->shape[i];
    if (!size_agrees(t, descr)) {
        Py_DECREF((PyObject *)descr);
        Py_DECREF(base);
        pd_raise_text(st, PD_CORRUPT_SEGMENT,
                      "the sender announced a tensor whose dtype, shape and size do not agree");
        return NULL;
    }
    int flags = writable ? NPY_ARRAY_WRITEABLE : 0;
    if (t->flags & PODIPC_FORTRAN)
        flags |= NPY_ARRAY_F_CONTIGUOUS;
    PyArrayObject *array = (PyArrayObject *)PyArray_NewFromDescr(&PyArray_Type, descr, (int)t->ndim,
                                                                 shape, NULL, data, flags, NULL);
    if (!array) {
        Py_DECREF(base);
        return NULL;
    }
    if (PyArray_SetBaseObject(array, base) < 0) {
        Py_DECREF((PyObject *)array);
        return NULL;
    }
    return array;
}
