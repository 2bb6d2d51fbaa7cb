/* receiver.c - the Python type Receiver, and the base of what it delivers. */
#include <stdio.h>

#include "arguments.h"
#include "array.h"
#include "blocking.h"
#include "endpoint.h"
#include "types.h"

typedef struct {
    PyObject_HEAD pd_state *st;
    podipc_receiver *rx;
    PyObject *address;
    pd_type_cache types;
    bool closed;
    bool busy; /* see pd_block() */
} ReceiverObject;

/* ---- the base of a received array: gives the memory back when it goes ---- */

typedef struct {
    PyObject_HEAD ReceiverObject *receiver;
    void *priv; /* the copy-on-write mapping, or NULL */
    /* What podipc_release() needs of the message. */
    const void *data;
    void *owner;
    uint64_t id, nbytes;
    uint32_t place;
} ReceivedObject;

static void received_dealloc(ReceivedObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    podipc_message message; /* not zeroed: half a KiB that nobody reads */
    message.data = self->data;
    message.owner = self->owner;
    message.id = self->id;
    message.place = self->place;
    message.tensor.nbytes = self->nbytes;
    if (self->priv)
        podipc_unmap_private(self->receiver->rx, &message, self->priv);
    podipc_release(self->receiver->rx, &message);
    Py_DECREF((PyObject *)self->receiver);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyType_Slot received_slots[] = {
    {Py_tp_dealloc, received_dealloc},
    {Py_tp_doc, "A received message under an array."},
    {0, NULL},
};

PyType_Spec pd_received_spec = {
    .name = "podipc._core.Received",
    .basicsize = sizeof(ReceivedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = received_slots,
};

/* ---- receiving ---- */

struct recv_op {
    podipc_receiver *rx;
    podipc_message *message;
    podipc_error err;
};

static int recv_step(void *arg, int64_t until)
{
    struct recv_op *op = arg;
    return podipc_recv(op->rx, until, op->message, &op->err);
}

static int check_open(ReceiverObject *self)
{
    if (!self->closed)
        return 0;
    pd_raise_text(self->st, PD_CLOSED, "this receiver of %U is closed", self->address);
    return -1;
}

static void fail(ReceiverObject *self, int rc, const podipc_error *err)
{
    if (rc == PD_RAISED)
        return;
    if (rc != -ETIMEDOUT) {
        pd_raise(self->st, rc, err);
        return;
    }
    char why[400];
    podipc_receiver_explain(self->rx, why, sizeof why);
    podipc_error timeout = {.code = rc};
    (void)snprintf(timeout.text, sizeof timeout.text, "Nothing came within the timeout. %s", why);
    pd_raise(self->st, rc, &timeout);
}

/* The array of a message that was just received; the message is the array's. */
static PyObject *array_of(ReceiverObject *self, podipc_message *message, bool writable)
{
    ReceivedObject *base = PyObject_New(ReceivedObject, self->st->types[PD_RECEIVED]);
    if (!base) {
        podipc_release(self->rx, message);
        return NULL;
    }
    base->receiver = (ReceiverObject *)Py_NewRef((PyObject *)self);
    base->priv = NULL;
    base->data = message->data;
    base->owner = message->owner;
    base->id = message->id;
    base->place = message->place;
    base->nbytes = message->tensor.nbytes;
    void *data = (void *)(uintptr_t)message->data;
    if (writable) {
        podipc_error err;
        int rc = podipc_map_private(self->rx, message, &base->priv, &err);
        if (rc < 0 && rc != -ENOTSUP) {
            base->priv = NULL;
            Py_DECREF((PyObject *)base);
            return pd_raise(self->st, rc, &err);
        }
        if (rc == 0)
            data = base->priv;
        else
            base->priv = NULL; /* the bytes are this process's own already */
    }
    return (PyObject *)pd_array_over(self->st, &self->types, &message->tensor, data, writable,
                                     (PyObject *)base);
}

static PyObject *receive(ReceiverObject *self, int64_t deadline, bool copy, bool writable)
{
    if (check_open(self) < 0)
        return NULL;
    podipc_message message;
    struct recv_op op;
    op.rx = self->rx;
    op.message = &message;
    int rc = pd_block(recv_step, &op, deadline, self->busy);
    if (rc < 0) {
        fail(self, rc, &op.err);
        return NULL;
    }
    bool scarce = message.scarce;
    PyObject *array = array_of(self, &message, writable && !copy && !scarce);
    if (!array || !(copy || scarce))
        return array;
    PyObject *own = (PyObject *)PyArray_NewCopy((PyArrayObject *)array, NPY_KEEPORDER);
    Py_DECREF((PyObject *)array);
    if (own && !copy && !writable)
        PyArray_CLEARFLAGS((PyArrayObject *)own, NPY_ARRAY_WRITEABLE);
    return own;
}

static PyObject *receiver_recv(ReceiverObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const char *const names[] = {"timeout", "copy", "writable", NULL};
    PyObject *given[3];
    int64_t deadline;
    if (pd_arguments("recv", names, 1, 0, args, nargs, kwnames, given) < 0 ||
        pd_deadline(given[0], &deadline) < 0)
        return NULL;
    int copy = given[1] ? PyObject_IsTrue(given[1]) : 0;
    int writable = given[2] && copy >= 0 ? PyObject_IsTrue(given[2]) : 0;
    if (copy < 0 || writable < 0)
        return NULL;
    return receive(self, deadline, copy != 0, writable != 0);
}

static PyObject *receiver_next(ReceiverObject *self)
{
    PyObject *array = receive(self, PD_NEVER, false, false);
    if (!array && PyErr_ExceptionMatches(self->st->exceptions[PD_CLOSED]))
        PyErr_Clear(); /* NULL without an exception ends the iteration */
    return array;
}

/* ---- the rest ---- */

static PyObject *receiver_stats(ReceiverObject *self, PyObject *Py_UNUSED(ignored))
{
    podipc_stats stats;
    PyThreadState *thread = PyEval_SaveThread(); /* another thread may be receiving */
    podipc_receiver_stats(self->rx, &stats);
    PyEval_RestoreThread(thread);
    return pd_stats_dict(&stats);
}

static void close_receiver(ReceiverObject *self)
{
    if (self->closed || !self->rx)
        return;
    self->closed = true;
    PyThreadState *thread = PyEval_SaveThread();
    podipc_receiver_close(self->rx);
    PyEval_RestoreThread(thread);
}

static PyObject *receiver_close(ReceiverObject *self, PyObject *Py_UNUSED(ignored))
{
    close_receiver(self);
    return Py_NewRef(Py_None);
}

static PyObject *receiver_enter(ReceiverObject *self, PyObject *Py_UNUSED(ignored))
{
    return check_open(self) < 0 ? NULL : Py_NewRef((PyObject *)self);
}

static PyObject *receiver_exit(ReceiverObject *self, PyObject *Py_UNUSED(args))
{
    return receiver_close(self, NULL);
}

static PyObject *receiver_address(ReceiverObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->address);
}

static PyObject *receiver_closed(ReceiverObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->closed);
}

static PyObject *receiver_repr(ReceiverObject *self)
{
    return PyUnicode_FromFormat("<podipc.Receiver %R%s>", self->address,
                                self->closed ? " closed" : "");
}

static PyObject *receiver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    pd_state *st = pd_state_of_type(type);
    podipc_options options;
    PyObject *address;
    if (pd_options(st, args, kwargs, true, &options, &address) < 0)
        return NULL;
    ReceiverObject *self = (ReceiverObject *)PyType_GenericAlloc(type, 0);
    if (!self) {
        Py_DECREF(address);
        return NULL;
    }
    self->st = st;
    self->address = address;
    self->closed = true;
    podipc_error err;
    int rc;
    Py_BEGIN_ALLOW_THREADS rc = podipc_receiver_open(&options, &self->rx, &err);
    Py_END_ALLOW_THREADS if (rc < 0)
    {
        self->rx = NULL;
        Py_DECREF((PyObject *)self);
        return pd_raise(st, rc, &err);
    }
    self->closed = false;
    /* A file is read from a disk. Asked without time to wait, a subscriber gives up on
     * a newer tensor at once. */
    self->busy = options.latest || options.method == PODIPC_FILE;
    return (PyObject *)self;
}

static void receiver_dealloc(ReceiverObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->rx) {
        close_receiver(self);
        podipc_receiver_free(self->rx);
    }
    pd_type_cache_clear(&self->types);
    Py_XDECREF(self->address);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(recv_doc, "recv($self, /, timeout=None, *, copy=False, writable=False)\n--\n\n"
                       "The next tensor, a read-only array over the shared pages.");
PyDoc_STRVAR(stats_doc, "stats($self, /)\n--\n\nCounters since the receiver was opened.");
PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nSay goodbye to the senders.");

static PyMethodDef receiver_methods[] = {
    {"recv", (PyCFunction)(void (*)(void))receiver_recv, METH_FASTCALL | METH_KEYWORDS, recv_doc},
    {"stats", (PyCFunction)receiver_stats, METH_NOARGS, stats_doc},
    {"close", (PyCFunction)receiver_close, METH_NOARGS, close_doc},
    {"__enter__", (PyCFunction)receiver_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)receiver_exit, METH_VARARGS,
     "__exit__($self, exc_type, exc_value, traceback, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef receiver_getset[] = {
    {"address", (getter)receiver_address, NULL, "The address it was opened with.", NULL},
    {"closed", (getter)receiver_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot receiver_slots[] = {
    {Py_tp_new, receiver_new},
    {Py_tp_dealloc, receiver_dealloc},
    {Py_tp_repr, receiver_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, receiver_next},
    {Py_tp_methods, receiver_methods},
    {Py_tp_getset, receiver_getset},
    {Py_tp_doc,
     "The receiving side of a channel; made by podipc.receiver() and podipc.subscriber()."},
    {0, NULL},
};

PyType_Spec pd_receiver_spec = {
    .name = "podipc._core.Receiver",
    .basicsize = sizeof(ReceiverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = receiver_slots,
};
