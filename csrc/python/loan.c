/* loan.c - memory of a sender in Python's hands: the base object of an array that
 * lies in it, and the context manager of tx.loan(). */
#include <string.h>

#include "blocking.h"
#include "sender.h"
#include "types.h"

LoanedObject *pd_loaned_of(pd_state *st, PyArrayObject *array)
{
    PyObject *base = PyArray_BASE(array);
    while (base && PyArray_Check(base))
        base = PyArray_BASE((PyArrayObject *)base);
    return base && Py_TYPE(base) == st->types[PD_LOANED] ? (LoanedObject *)base : NULL;
}

static void loaned_dealloc(LoanedObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->sent)
        podipc_loan_let_go(self->sender->tx, &self->loan);
    else
        podipc_loan_discard(self->sender->tx, &self->loan);
    Py_DECREF((PyObject *)self->sender);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyType_Slot loaned_slots[] = {
    {Py_tp_dealloc, loaned_dealloc},
    {Py_tp_doc, "Memory of a sender under an array."},
    {0, NULL},
};

PyType_Spec pd_loaned_spec = {
    .name = "podipc._core.Loaned",
    .basicsize = sizeof(LoanedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = loaned_slots,
};

/* ---- with tx.loan(shape, dtype) as out: ... ---- */

typedef struct {
    PyObject_HEAD SenderObject *sender;
    PyArray_Descr *descr;
    PyObject *timeout; /* NULL: None */
    PyObject *array;   /* inside of the block */
    int ndim;
    npy_intp shape[PODIPC_MAX_DIMS];
} LoanObject;

PyObject *pd_loan_new(SenderObject *sender, PyArray_Descr *descr, int ndim, const npy_intp *shape,
                      PyObject *timeout)
{
    LoanObject *self = PyObject_New(LoanObject, sender->st->types[PD_LOAN]);
    if (!self)
        return NULL;
    self->sender = (SenderObject *)Py_NewRef((PyObject *)sender);
    Py_INCREF((PyObject *)descr);
    self->descr = descr;
    self->timeout = Py_XNewRef(timeout);
    self->array = NULL;
    self->ndim = ndim;
    memcpy(self->shape, shape, (size_t)ndim * sizeof *shape);
    return (PyObject *)self;
}

static PyObject *loan_enter(LoanObject *self, PyObject *Py_UNUSED(ignored))
{
    int64_t deadline;
    if (self->array) {
        PyErr_SetString(PyExc_RuntimeError, "this loan's block has already been entered");
        return NULL;
    }
    if (pd_deadline(self->timeout, &deadline) < 0)
        return NULL;
    self->array = pd_sender_empty(self->sender, self->descr, self->ndim, self->shape, deadline);
    return Py_XNewRef(self->array);
}

static PyObject *loan_exit(LoanObject *self, PyObject *args)
{
    PyObject *exc_type = NULL, *exc_value, *trace;
    int64_t deadline;
    if (!PyArg_UnpackTuple(args, "__exit__", 3, 3, &exc_type, &exc_value, &trace))
        return NULL;
    PyObject *array = self->array;
    if (!array) {
        PyErr_SetString(PyExc_RuntimeError, "this loan's block has not been entered");
        return NULL;
    }
    self->array = NULL;
    int64_t reached = 0;
    if (exc_type != Py_None)
        pd_loaned_of(self->sender->st, (PyArrayObject *)array)->given_up = true;
    else if (pd_deadline(self->timeout, &deadline) < 0)
        reached = -1;
    else
        reached = pd_sender_send(self->sender, array, deadline);
    Py_DECREF((PyObject *)array);
    return reached < 0 ? NULL : Py_NewRef(Py_None);
}

static void loan_dealloc(LoanObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF(self->array);
    Py_XDECREF(self->timeout);
    Py_DECREF((PyObject *)self->descr);
    Py_DECREF((PyObject *)self->sender);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef loan_methods[] = {
    {"__enter__", (PyCFunction)loan_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)loan_exit, METH_VARARGS,
     "__exit__($self, exc_type, exc_value, traceback, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loan_slots[] = {
    {Py_tp_dealloc, loan_dealloc},
    {Py_tp_methods, loan_methods},
    {Py_tp_doc, "What Sender.loan() returns: a block that yields an array to fill and sends it."},
    {0, NULL},
};

PyType_Spec pd_loan_spec = {
    .name = "podipc._core.Loan",
    .basicsize = sizeof(LoanObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = loan_slots,
};
