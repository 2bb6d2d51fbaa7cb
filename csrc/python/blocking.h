/* blocking.h - how any call of podipc waits under Python; written once.
 *
 * A step does as much as it can until a given time and returns 0, -EAGAIN ("not
 * yet", its state kept, also early after EINTR), or an error. pd_block() tries
 * it once with the GIL held (the common case is that nothing has to be waited
 * for), then without, in slices: between two slices signal handlers run. A
 * slice is shorter than the 100 ms within which Ctrl-C must end any wait,
 * because a signal that arrives between the check and the sleep does not
 * interrupt that sleep.
 */
#ifndef PD_BLOCKING_H
#define PD_BLOCKING_H

#include <errno.h>
#include <math.h>

#include "../platform/clock.h"
#include "errors.h"

#define PD_SLICE_NS 50000000
#define PD_NEVER    INT64_MAX
#define PD_RAISED   (-6000) /* a Python exception is set */

typedef int (*pd_step)(void *op, int64_t until);

/* 0, an error of the step, -ETIMEDOUT, or PD_RAISED. With `busy` the first try
 * too is made without the GIL, and with the time there is: the step copies more than
 * a few KiB, or would do less without any time. */
static inline int pd_block(pd_step step, void *op, int64_t deadline, bool busy)
{
    int rc = -EAGAIN;
    if (!busy) {
        rc = step(op, 0);
        if (rc != -EAGAIN)
            return rc;
    }
    for (;;) {
        int64_t now = pdi_now();
        int64_t until = deadline - now > PD_SLICE_NS ? now + PD_SLICE_NS : deadline;
        PyThreadState *thread = PyEval_SaveThread();
        rc = step(op, until);
        PyEval_RestoreThread(thread);
        if (rc != -EAGAIN)
            return rc;
        if (PyErr_CheckSignals() < 0)
            return PD_RAISED;
        if (deadline != PD_NEVER && pdi_now() >= deadline)
            return -ETIMEDOUT;
    }
}

/* The deadline for a `timeout=` argument: None (or NULL) is never, else seconds
 * from now. 0, or -1 with ValueError or TypeError set. */
static inline int pd_deadline(PyObject *timeout, int64_t *deadline)
{
    *deadline = PD_NEVER;
    if (!timeout || timeout == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds >= 0)) {
        PyErr_Format(PyExc_ValueError,
                     "timeout must be a number of seconds >= 0, or None to wait for ever, not %R",
                     timeout);
        return -1;
    }
    if (seconds < 1e9)
        *deadline = pdi_now() + (int64_t)(seconds * 1e9);
    return 0;
}

#endif
