/* errors.h - from a failed call to a Python exception. */
#ifndef PD_ERRORS_H
#define PD_ERRORS_H

#include "state.h"

/* Makes the exception classes and adds them to `module`. 0, or -1 with an exception set. */
int pd_errors_init(PyObject *module, pd_state *st);

/* Sets the exception that `rc` (never 0) stands for, with the text and amounts
 * of `err` (may be NULL) and its errno and failing call as attributes. Returns
 * NULL, so that it can be returned. Needs the GIL. */
PyObject *pd_raise(pd_state *st, int rc, const podipc_error *err);

/* Sets `which` with a formatted text (PyUnicode_FromFormat). Returns NULL. */
PyObject *pd_raise_text(pd_state *st, enum pd_exception which, const char *format, ...);

#endif
