/* arguments.h - arguments of METH_FASTCALL | METH_KEYWORDS methods.
 *
 * PyArg_ParseTupleAndKeywords() takes as long as a whole send() of a small tensor
 * and needs a tuple; this does the same for a fixed list of names.
 */
#ifndef PD_ARGUMENTS_H
#define PD_ARGUMENTS_H

#include "state.h"

/* Puts the arguments into out[0..names), borrowed, NULL where not given. The first
 * `positional` may be given by position; the first `required` must be given. -1:
 * TypeError set. `names` ends with NULL. */
int pd_arguments(const char *function, const char *const *names, int positional, int required,
                 PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **out);

#endif
