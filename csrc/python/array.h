/* array.h - between NumPy arrays and podipc_tensor. All need the GIL. */
#ifndef PD_ARRAY_H
#define PD_ARRAY_H

#include "state.h"

/* The last dtype seen, with its text: nearly every message has the same one. One
 * a handle. A dtype with fields can be changed in place (`dtype.names = ...`), so
 * such a one is described and made anew each time. Zeroed at the start;
 * pd_type_cache_clear() at the end. */
typedef struct pd_type_cache {
    PyArray_Descr *descr;
    PyObject *text; /* bytes */
} pd_type_cache;

void pd_type_cache_clear(pd_type_cache *cache);

/* A new reference to `object` as an ndarray that can be described: itself if it is
 * one, else what podipc.tensors.as_array() makes of it. NULL: UnsupportedTensor. */
PyArrayObject *pd_as_array(pd_state *st, PyObject *object);

/* Reads a shape= argument, an integer or a sequence of them. The number of
 * dimensions, or -1 with TypeError or ValueError set. (NumPy's converter gives
 * memory that cannot be freed through the stable ABI.) */
int pd_shape(PyObject *object, npy_intp shape[PODIPC_MAX_DIMS]);

/* Fills in *t for an array of this dtype and shape in C order. t->type lies in
 * *text, a new reference to be kept as long as *t is used: another thread may put
 * another dtype into the cache while this one waits. -1: UnsupportedTensor. */
int pd_describe(pd_state *st, pd_type_cache *cache, PyArray_Descr *descr, int ndim,
                const npy_intp *shape, podipc_tensor *t, PyObject **text);

/* A new array over the message's bytes at `data`, whose base is `base` (stolen,
 * also on failure). Checks that dtype, shape and size agree: CorruptSegment. */
PyArrayObject *pd_array_over(pd_state *st, pd_type_cache *cache, const podipc_tensor *t, void *data,
                             bool writable, PyObject *base);

#endif
