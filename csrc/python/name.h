/* name.h - the `name` and `mode` arguments of Segment and Semaphore. */
#ifndef PD_NAME_H
#define PD_NAME_H

#include "errors.h"

/* The bytes of a str or os.PathLike: a new reference, or NULL with an exception set. */
static inline PyObject *pd_name_bytes(pd_state *st, PyObject *name)
{
    PyObject *bytes = NULL;
    if (PyUnicode_FSConverter(name, &bytes))
        return bytes;
    /* A null byte; anything else is a TypeError. */
    if (PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        pd_raise_text(st, PD_ADDRESS_ERROR, "the name %R contains a null byte", name);
    }
    return NULL;
}

/* 0, or -1 with ValueError set. */
static inline int pd_check_mode(unsigned mode)
{
    if ((mode & ~0666u) == 0)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "mode must be made of permissions to read and write, like 0o600 (this UID), 0o660 "
                 "(a common group) or 0o666 (every UID of the Pod)");
    return -1;
}

#endif
