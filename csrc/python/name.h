/* name.h - the `name` and `mode` arguments of Segment and Semaphore. */
#ifndef PD_NAME_H
#define PD_NAME_H

#include <string.h>

#include "errors.h"

/* The bytes of a str or os.PathLike: a new reference, or NULL with an exception set. */
static inline PyObject *pd_name_bytes(pd_state *st, PyObject *name)
{
    PyObject *bytes = NULL;
    if (!PyUnicode_FSConverter(name, &bytes))
        return NULL;
    if (strlen(PyBytes_AsString(bytes)) == (size_t)PyBytes_Size(bytes))
        return bytes;
    Py_DECREF(bytes);
    return pd_raise_text(st, PD_ADDRESS_ERROR, "the name %R contains a null byte", name);
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
