/* sender.c - the Python type Sender. */
#include "sender.h"

#include <inttypes.h>
#include <stdio.h>

#include "arguments.h"
#include "blocking.h"
#include "endpoint.h"
#include "types.h"

/* A first try up to here keeps the GIL: giving it up costs more than the copy. */
#define KEEP_GIL 8192

/* ---- steps, for pd_block() ---- */

struct send_op {
    podipc_sender *tx;
    podipc_sending sending;
    uint32_t reached;
    podipc_error err;
};

static int send_step(void *arg, int64_t until)
{
    struct send_op *op = arg;
    return podipc_send(op->tx, &op->sending, until, &op->reached, &op->err);
}

struct loan_op {
    podipc_sender *tx;
    const podipc_tensor *tensor;
    podipc_loan *loan;
    podipc_error err;
};

static int loan_step(void *arg, int64_t until)
{
    struct loan_op *op = arg;
    return podipc_loan_get(op->tx, op->tensor, until, op->loan, &op->err);
}

/* From the result of pd_block() to an exception. */
static void fail(SenderObject *self, int rc, const podipc_error *err, const char *what,
                 uint64_t nbytes)
{
    if (rc == PD_RAISED)
        return;
    if (rc != -ETIMEDOUT) {
        pd_raise(self->st, rc, err);
        return;
    }
    char why[400];
    podipc_sender_explain(self->tx, why, sizeof why);
    podipc_error timeout = {.code = rc};
    (void)snprintf(timeout.text, sizeof timeout.text, "%s of %" PRIu64 " bytes timed out. %s", what,
                   nbytes, why);
    pd_raise(self->st, rc, &timeout);
}

static int check_open(SenderObject *self)
{
    if (!self->closed)
        return 0;
    pd_raise_text(self->st, PD_CLOSED, "this sender of %U is closed", self->address);
    return -1;
}

/* ---- loans ---- */

static int get_loan(SenderObject *self, const podipc_tensor *t, int64_t deadline, podipc_loan *loan)
{
    struct loan_op op = {.tx = self->tx, .tensor = t, .loan = loan};
    int rc = pd_block(loan_step, &op, deadline, false);
    if (rc == 0)
        return 0;
    fail(self, rc, &op.err, "A loan", t->nbytes);
    return -1;
}

/* The array over a loan, which it takes over. */
static PyObject *loaned_array(SenderObject *self, const podipc_tensor *t, podipc_loan *loan)
{
    LoanedObject *loaned = PyObject_New(LoanedObject, self->st->types[PD_LOANED]);
    if (!loaned) {
        podipc_loan_discard(self->tx, loan);
        return NULL;
    }
    loaned->sender = (SenderObject *)Py_NewRef((PyObject *)self);
    loaned->loan = *loan;
    loaned->ndim = t->ndim;
    loaned->type_len = t->type_len;
    loaned->sent = loaned->given_up = false;
    return (PyObject *)pd_array_over(self->st, &self->types, t, loan->data, true,
                                     (PyObject *)loaned);
}

PyObject *pd_sender_empty(SenderObject *self, PyArray_Descr *descr, int ndim, const npy_intp *shape,
                          int64_t deadline)
{
    podipc_tensor t;
    podipc_loan loan;
    PyObject *text, *array = NULL;
    if (check_open(self) < 0 ||
        pd_describe(self->st, &self->types, descr, ndim, shape, &t, &text) < 0)
        return NULL;
    if (get_loan(self, &t, deadline, &loan) == 0)
        array = loaned_array(self, &t, &loan);
    Py_DECREF(text);
    return array;
}

/* ---- sending ---- */

static int64_t run(SenderObject *self, struct send_op *op, int64_t deadline, bool busy)
{
    uint64_t nbytes = op->sending.tensor->nbytes;
    int rc = pd_block(send_step, op, deadline, busy || self->busy);
    if (rc == 0)
        return op->reached;
    if (rc == -ETIMEDOUT || rc == PD_RAISED)
        podipc_send_cancel(self->tx, &op->sending);
    fail(self, rc, &op->err, "Sending", nbytes);
    return -1;
}

/* After a loan was sent: whoever still has the array may read it, no more. */
static void freeze(PyArrayObject *array)
{
    for (PyObject *o = (PyObject *)array; o && PyArray_Check(o);
         o = PyArray_BASE((PyArrayObject *)o))
        PyArray_CLEARFLAGS((PyArrayObject *)o, NPY_ARRAY_WRITEABLE);
}

/* Can the bytes of this loan be sent as they are, as this array? */
static bool fits_loan(const SenderObject *self, const LoanedObject *loaned, PyArrayObject *array,
                      const podipc_tensor *t)
{
    bool in_descriptor = t->ndim <= 8 && t->type_len <= 24;
    return loaned->sender == self && !loaned->sent && !loaned->given_up &&
           PyArray_DATA(array) == loaned->loan.data && t->nbytes == loaned->loan.size &&
           (in_descriptor || (t->ndim == loaned->ndim && t->type_len == loaned->type_len));
}

static int64_t send_loan(SenderObject *self, LoanedObject *loaned, PyArrayObject *array,
                         podipc_tensor *t, int64_t deadline)
{
    struct send_op op = {.tx = self->tx, .sending = {.tensor = t, .loan = &loaned->loan}};
    int64_t reached = run(self, &op, deadline, false);
    if (reached >= 0) {
        loaned->sent = true;
        freeze(array);
    }
    return reached;
}

/* A strided array is packed into a loan: one copy, as for any other. */
static int64_t send_strided(SenderObject *self, PyArrayObject *array, int64_t deadline)
{
    PyObject *packed = pd_sender_empty(self, PyArray_DESCR(array), PyArray_NDIM(array),
                                       PyArray_DIMS(array), deadline);
    if (!packed)
        return -1;
    int64_t reached = -1;
    if (PyArray_CopyInto((PyArrayObject *)packed, array) == 0)
        reached = pd_sender_send(self, packed, deadline);
    Py_DECREF(packed);
    return reached;
}

int64_t pd_sender_send(SenderObject *self, PyObject *object, int64_t deadline)
{
    if (check_open(self) < 0)
        return -1;
    PyArrayObject *array = pd_as_array(self->st, object);
    if (!array)
        return -1;
    int64_t reached = -1;
    podipc_tensor t;
    PyObject *text = NULL;
    if (pd_describe(self->st, &self->types, PyArray_DESCR(array), PyArray_NDIM(array),
                    PyArray_DIMS(array), &t, &text) < 0)
        goto done;
    bool c_order = PyArray_IS_C_CONTIGUOUS(array);
    if (!c_order && PyArray_IS_F_CONTIGUOUS(array))
        t.flags = PODIPC_FORTRAN;
    else if (!c_order) {
        reached = send_strided(self, array, deadline);
        goto done;
    }
    LoanedObject *loaned = PyArray_BASE(array) ? pd_loaned_of(self->st, array) : NULL;
    if (loaned && fits_loan(self, loaned, array, &t)) {
        reached = send_loan(self, loaned, array, &t, deadline);
        goto done;
    }
    struct send_op op = {.tx = self->tx, .sending = {.tensor = &t, .data = PyArray_DATA(array)}};
    reached = run(self, &op, deadline, t.nbytes > KEEP_GIL);
done:
    Py_XDECREF(text);
    Py_DECREF((PyObject *)array);
    return reached;
}

static PyObject *sender_send(SenderObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const char *const names[] = {"array", "timeout", NULL};
    PyObject *given[2];
    int64_t deadline;
    if (pd_arguments("send", names, 2, 1, args, nargs, kwnames, given) < 0 ||
        pd_deadline(given[1], &deadline) < 0)
        return NULL;
    int64_t reached = pd_sender_send(self, given[0], deadline);
    return reached < 0 ? NULL : PyLong_FromLongLong(reached);
}

/* The arguments of empty() and loan(). */
struct shape_arguments {
    npy_intp shape[PODIPC_MAX_DIMS];
    int ndim;
    PyArray_Descr *descr; /* a new reference */
    PyObject *timeout;    /* borrowed; NULL: not given */
};

static int shape_arguments(const char *function, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames, struct shape_arguments *a)
{
    static const char *const names[] = {"shape", "dtype", "timeout", NULL};
    PyObject *given[3];
    if (pd_arguments(function, names, 2, 1, args, nargs, kwnames, given) < 0)
        return -1;
    a->ndim = pd_shape(given[0], a->shape);
    a->timeout = given[2];
    a->descr = NULL;
    if (a->ndim < 0)
        return -1;
    if (given[1])
        return PyArray_DescrConverter(given[1], &a->descr) ? 0 : -1;
    a->descr = PyArray_DescrFromType(NPY_DOUBLE);
    return a->descr ? 0 : -1;
}

static PyObject *sender_empty(SenderObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    struct shape_arguments a;
    PyObject *result = NULL;
    int64_t deadline;
    if (shape_arguments("empty", args, nargs, kwnames, &a) < 0)
        return NULL;
    if (pd_deadline(a.timeout, &deadline) == 0)
        result = pd_sender_empty(self, a.descr, a.ndim, a.shape, deadline);
    Py_DECREF((PyObject *)a.descr);
    return result;
}

static PyObject *sender_loan(SenderObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    struct shape_arguments a;
    if (shape_arguments("loan", args, nargs, kwnames, &a) < 0)
        return NULL;
    PyObject *result = pd_loan_new(self, a.descr, a.ndim, a.shape, a.timeout);
    Py_DECREF((PyObject *)a.descr);
    return result;
}

/* ---- the rest ---- */

static PyObject *sender_stats(SenderObject *self, PyObject *Py_UNUSED(ignored))
{
    podipc_stats stats;
    PyThreadState *thread = PyEval_SaveThread(); /* another thread may be sending */
    podipc_sender_stats(self->tx, &stats);
    PyEval_RestoreThread(thread);
    return pd_stats_dict(&stats);
}

static int close_sender(SenderObject *self)
{
    if (self->closed || !self->tx)
        return 0;
    self->closed = true;
    PyThreadState *thread = PyEval_SaveThread();
    uint64_t undelivered = podipc_sender_close(self->tx);
    PyEval_RestoreThread(thread);
    if (undelivered == 0)
        return 0;
    return PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                            "%llu tensors sent to %U will reach nobody: their receivers left "
                            "without taking them, and no other came before this sender closed",
                            (unsigned long long)undelivered, self->address);
}

static PyObject *sender_close(SenderObject *self, PyObject *Py_UNUSED(ignored))
{
    return close_sender(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *sender_enter(SenderObject *self, PyObject *Py_UNUSED(ignored))
{
    return check_open(self) < 0 ? NULL : Py_NewRef((PyObject *)self);
}

static PyObject *sender_exit(SenderObject *self, PyObject *Py_UNUSED(args))
{
    return sender_close(self, NULL);
}

static PyObject *sender_address(SenderObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->address);
}

static PyObject *sender_closed(SenderObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->closed);
}

static PyObject *sender_repr(SenderObject *self)
{
    return PyUnicode_FromFormat("<podipc.Sender %R%s>", self->address,
                                self->closed ? " closed" : "");
}

static PyObject *sender_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    pd_state *st = pd_state_of_type(type);
    podipc_options options;
    PyObject *address;
    if (pd_options(st, args, kwargs, false, &options, &address) < 0)
        return NULL;
    SenderObject *self = (SenderObject *)PyType_GenericAlloc(type, 0);
    if (!self) {
        Py_DECREF(address);
        return NULL;
    }
    self->st = st;
    self->address = address;
    self->closed = true;
    podipc_error err;
    int rc;
    Py_BEGIN_ALLOW_THREADS rc = podipc_sender_open(&options, &self->tx, &err);
    Py_END_ALLOW_THREADS if (rc < 0)
    {
        self->tx = NULL;
        Py_DECREF((PyObject *)self);
        return pd_raise(st, rc, &err);
    }
    self->closed = false;
    self->busy = options.method == PODIPC_FILE; /* a file is written to a disk */
    return (PyObject *)self;
}

static void sender_dealloc(SenderObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->tx) {
        PyObject *pending_type, *pending, *trace;
        PyErr_Fetch(&pending_type, &pending, &trace);
        if (close_sender(self) < 0)
            PyErr_WriteUnraisable(self->address);
        podipc_sender_free(self->tx);
        PyErr_Restore(pending_type, pending, trace);
    }
    pd_type_cache_clear(&self->types);
    Py_XDECREF(self->address);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(send_doc, "send($self, /, array, timeout=None)\n--\n\n"
                       "Send one tensor; return how many receivers it was given to.");
PyDoc_STRVAR(loan_doc, "loan($self, /, shape, dtype='float64', *, timeout=None)\n--\n\n"
                       "A block in which a tensor is made where it will be sent from.");
PyDoc_STRVAR(empty_doc, "empty($self, /, shape, dtype='float64', *, timeout=None)\n--\n\n"
                        "A loan without a block: an array that send() sends without a copy.");
PyDoc_STRVAR(stats_doc, "stats($self, /)\n--\n\nCounters since the sender was opened.");
PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nSay goodbye to the receivers.");

static PyMethodDef sender_methods[] = {
    {"send", (PyCFunction)(void (*)(void))sender_send, METH_FASTCALL | METH_KEYWORDS, send_doc},
    {"loan", (PyCFunction)(void (*)(void))sender_loan, METH_FASTCALL | METH_KEYWORDS, loan_doc},
    {"empty", (PyCFunction)(void (*)(void))sender_empty, METH_FASTCALL | METH_KEYWORDS, empty_doc},
    {"stats", (PyCFunction)sender_stats, METH_NOARGS, stats_doc},
    {"close", (PyCFunction)sender_close, METH_NOARGS, close_doc},
    {"__enter__", (PyCFunction)sender_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)sender_exit, METH_VARARGS,
     "__exit__($self, exc_type, exc_value, traceback, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sender_getset[] = {
    {"address", (getter)sender_address, NULL, "The address it was opened with.", NULL},
    {"closed", (getter)sender_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_new, sender_new},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_repr, sender_repr},
    {Py_tp_methods, sender_methods},
    {Py_tp_getset, sender_getset},
    {Py_tp_doc, "The sending side of a channel; made by podipc.sender() and podipc.publisher()."},
    {0, NULL},
};

PyType_Spec pd_sender_spec = {
    .name = "podipc._core.Sender",
    .basicsize = sizeof(SenderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sender_slots,
};
