/* loopback_listener.c - podipc.LoopbackListener: where LoopbackStreams connect to. */
#include "../core/atomics.h"
#include "blocking.h"
#include "loopback.h"
#include "types.h"

typedef struct {
    PyObject_HEAD pd_state *st;
    struct pdi_listener listener;
    int users;         /* calls that use `listener`; only under the GIL */
    pdi_word32 closed; /* the last user closes */
} Listener;

static PyObject *listener_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"port", "host", NULL};
    pd_state *st = pd_state_of_type(type);
    long long port = 0;
    const char *host = "127.0.0.1";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Ls:LoopbackListener", keywords, &port, &host))
        return NULL;
    if (pd_check_port(st, port, 0) < 0)
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Listener *self = (Listener *)alloc(type, 0);
    if (!self)
        return NULL;
    podipc_error err;
    self->st = st;
    int rc = pdi_listener_open(&self->listener, host, (uint16_t)port, &err);
    if (rc == 0)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return pd_raise(st, rc, &err);
}

static int begin_use(Listener *self)
{
    if (pdi_peek32(&self->closed)) {
        pd_raise_text(self->st, PD_CLOSED, "this LoopbackListener is closed");
        return -1;
    }
    self->users++;
    return 0;
}

static void end_use(Listener *self)
{
    if (--self->users == 0 && pdi_peek32(&self->closed))
        pdi_listener_close(&self->listener);
}

struct accepting {
    Listener *self;
    struct pdi_loopback *connection;
    podipc_error err;
};

static int accept_step(void *op, int64_t until)
{
    struct accepting *a = op;
    if (pdi_peek32(&a->self->closed))
        return PODIPC_ECLOSED;
    return pdi_listener_accept(&a->self->listener, until, &a->connection, &a->err);
}

PyDoc_STRVAR(accept_doc,
             "accept($self, /, timeout=None)\n--\n\n"
             "Wait for a connection: the `LoopbackStream` to whoever connected.\n\n"
             "`timeout` is in seconds; ``None`` waits for ever, 0 only looks. Several threads may\n"
             "accept at once. Whether a podipc is at the other end shows at the first `recv`.\n\n"
             "Raises `Timeout`, `Closed` (also if another thread closes it meanwhile),\n"
             "`ForkedHandle`, `SystemCallError`.");

static PyObject *listener_accept(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    Listener *self = (Listener *)op;
    PyObject *timeout = Py_None;
    int64_t deadline;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:accept", keywords, &timeout))
        return NULL;
    if (pd_deadline(timeout, &deadline) < 0 || begin_use(self) < 0)
        return NULL;
    struct accepting a = {.self = self};
    int rc = pd_block(accept_step, &a, deadline, false);
    end_use(self);
    if (rc == 0)
        return pd_loopback_stream(self->st, a.connection);
    if (rc == PD_RAISED)
        return NULL;
    if (rc == PODIPC_ECLOSED)
        return pd_raise_text(self->st, PD_CLOSED,
                             "this LoopbackListener was closed during accept()");
    if (rc == -ETIMEDOUT)
        return pd_raise_text(self->st, PD_TIMEOUT, "nobody connected to port %u within %R s",
                             (unsigned)self->listener.port, timeout);
    return pd_raise(self->st, rc, &a.err);
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Stop listening. Streams that were accepted stay open; those that wait to be are\n"
             "dropped. A thread in `accept` gets `Closed`. Closing twice does nothing.");

static PyObject *listener_close(PyObject *op, PyObject *unused)
{
    Listener *self = (Listener *)op;
    (void)unused;
    pdi_poke32(&self->closed, 1);
    self->users++;
    end_use(self);
    Py_RETURN_NONE;
}

static PyObject *listener_enter(PyObject *op, PyObject *unused)
{
    Listener *self = (Listener *)op;
    (void)unused;
    if (begin_use(self) < 0)
        return NULL;
    end_use(self);
    return Py_NewRef(op);
}

static PyObject *listener_exit(PyObject *op, PyObject *unused)
{
    (void)unused;
    return listener_close(op, NULL);
}

static PyObject *listener_fileno(PyObject *op, PyObject *unused)
{
    Listener *self = (Listener *)op;
    (void)unused;
    if (begin_use(self) < 0)
        return NULL;
    int fd = self->listener.fd;
    end_use(self);
    if (fd < 0)
        return pd_raise_text(self->st, PD_FORKED_HANDLE,
                             "this LoopbackListener belongs to the parent of this process");
    return PyLong_FromLong(fd);
}

static PyObject *listener_repr(PyObject *op)
{
    Listener *self = (Listener *)op;
    return PyUnicode_FromFormat("<podipc.LoopbackListener on port %u%s>",
                                (unsigned)self->listener.port,
                                pdi_peek32(&self->closed) ? ", closed" : "");
}

static void listener_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    pdi_listener_close(&((Listener *)op)->listener);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

static PyObject *get_port(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((Listener *)op)->listener.port);
}

static PyObject *get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(pdi_peek32(&((Listener *)op)->closed) != 0);
}

PyDoc_STRVAR(
    listener_doc,
    "LoopbackListener(port=0, host='127.0.0.1')\n--\n\n"
    "Listens on loopback, which the containers of a Pod share, for `LoopbackStream.connect`.\n\n"
    "port\n"
    "    0 takes any free one; `port` tells which. No two containers of a Pod can have\n"
    "    the same.\n"
    "host\n"
    "    A loopback address: 127.0.0.0/8, ``::1`` or ``localhost``. Everybody in the Pod\n"
    "    can connect, nobody from outside of it: the Pod is the boundary of trust.\n\n"
    "Any thread may use it. A context manager: it is closed at the end of the block.\n"
    "A forked child cannot use it (`ForkedHandle`).\n\n"
    "Raises `AddressError`, `AddressInUse`, `NotPermitted` (ports below 1024).");

static PyMethodDef listener_methods[] = {
    {"accept", (PyCFunction)(void (*)(void))listener_accept, METH_VARARGS | METH_KEYWORDS,
     accept_doc},
    {"close", listener_close, METH_NOARGS, close_doc},
    {"fileno", listener_fileno, METH_NOARGS,
     "fileno($self, /)\n--\n\nThe descriptor of the socket, which stays its own; readable when\n"
     "somebody has connected. Raises `Closed`, `ForkedHandle`."},
    {"__enter__", listener_enter, METH_NOARGS, "__enter__($self, /)\n--\n\n"},
    {"__exit__", listener_exit, METH_VARARGS,
     "__exit__($self, exc_type, exc_value, traceback, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef listener_getset[] = {
    {"port", get_port, NULL, "The port, also if 0 was asked for.", NULL},
    {"closed", get_closed, NULL, "Whether `close` was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, (void *)listener_doc},
    {Py_tp_new, listener_new},
    {Py_tp_methods, listener_methods},
    {Py_tp_getset, listener_getset},
    {Py_tp_repr, listener_repr},
    {Py_tp_dealloc, listener_dealloc},
    {0, NULL},
};

PyType_Spec pd_loopback_listener_spec = {
    .name = "podipc.LoopbackListener",
    .basicsize = sizeof(Listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listener_slots,
};
