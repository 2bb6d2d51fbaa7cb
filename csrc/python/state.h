/* state.h - what the module keeps, one set a module object, no statics.
 *
 * Every file that needs Python or NumPy includes this one first. Types are heap
 * types that cannot be subclassed, so an object finds the state of its module
 * with pd_state_of_type() once, when it is made, and keeps the pointer.
 */
#ifndef PD_STATE_H
#define PD_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* NumPy's C API is reached through one table, filled in by module.c. */
#define NPY_NO_DEPRECATED_API  NPY_1_23_API_VERSION
#define NPY_TARGET_VERSION     NPY_1_23_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL podipc_numpy_api
#ifndef PD_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
/* NumPy's headers are not written for -Wconversion. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include <numpy/arrayobject.h>
#pragma GCC diagnostic pop

#include "podipc.h"

/* The exceptions, in the order of pd_exceptions[] in errors.c. */
enum pd_exception {
    PD_PODIPC_ERROR,
    PD_TIMEOUT,
    PD_PEER_DIED,
    PD_CLOSED,
    PD_NO_SPACE,
    PD_MEMORY_LIMIT,
    PD_NOT_PERMITTED,
    PD_ADDRESS_ERROR,
    PD_ADDRESS_IN_USE,
    PD_ALREADY_EXISTS,
    PD_NOT_FOUND,
    PD_UNSUPPORTED_TENSOR,
    PD_VERSION_MISMATCH,
    PD_CORRUPT_SEGMENT,
    PD_FORKED_HANDLE,
    PD_SYSTEM_CALL_ERROR,
    PD_EXCEPTION_COUNT
};

/* The types, in the order of pd_types[] in module.c. */
enum pd_type {
    PD_SENDER,
    PD_RECEIVER,
    PD_LOAN,     /* the context manager of tx.loan() */
    PD_LOANED,   /* base of an array in shared memory that is being filled */
    PD_RECEIVED, /* base of a received array */
    PD_SEGMENT,
    PD_SEMAPHORE,
    PD_LOOPBACK_LISTENER,
    PD_LOOPBACK_STREAM,
    PD_INFRA, /* what holds a Pod of the local runtime */
    PD_TYPE_COUNT
};

typedef struct pd_state {
    PyObject *exceptions[PD_EXCEPTION_COUNT];
    PyTypeObject *types[PD_TYPE_COUNT];
    PyObject *encode_dtype; /* podipc.tensors, imported at first use */
    PyObject *decode_dtype;
    PyObject *as_array;
} pd_state;

/* The state of the module that defined `type`; borrowed. */
static inline pd_state *pd_state_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

#endif
