/* loopback_stream.c - podipc.LoopbackStream: tensors both ways over loopback TCP. */
#include <stdlib.h>

#include "../core/atomics.h"
#include "array.h"
#include "blocking.h"
#include "loopback.h"
#include "types.h"

/* A first try up to here keeps the GIL: giving it up costs more than the copy. */
#define KEEP_GIL 8192
/* How long close() tries to say goodbye to a peer that reads nothing. */
#define GOODBYE_NS 1000000000

/* One thread at a time in each direction; `sending` and `receiving` are held without
 * the GIL, so nobody may wait for them with it. close() waits for neither: it may come
 * from a signal handler in the thread that holds one. The last call to leave
 * disconnects. */
typedef struct {
    PyObject_HEAD pd_state *st;
    struct pdi_loopback *connection;
    PyThread_type_lock sending, receiving;
    pd_type_cache sent_types, received_types;
    int users; /* calls that use `connection`; only under the GIL */
    bool closed;
} Stream;

/* Takes `lock` unless *held; -EAGAIN: not by `until`. */
static int take(PyThread_type_lock lock, bool *held, int64_t until)
{
    if (*held)
        return 0;
    int64_t left = until == 0 ? 0 : until - pdi_now();
    *held = PyThread_acquire_lock_timed(lock, left > 0 ? left / 1000 : 0, 0) == PY_LOCK_ACQUIRED;
    return *held ? 0 : -EAGAIN;
}

PyObject *pd_loopback_stream(pd_state *st, struct pdi_loopback *connection)
{
    PyTypeObject *type = st->types[PD_LOOPBACK_STREAM];
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Stream *self = (Stream *)alloc(type, 0);
    if (!self) {
        pdi_loopback_free(connection);
        return NULL;
    }
    self->st = st;
    self->connection = connection;
    self->sending = PyThread_allocate_lock();
    self->receiving = PyThread_allocate_lock();
    if (self->sending && self->receiving)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return PyErr_NoMemory();
}

/* ---- connecting ---- */

struct connecting {
    struct pdi_connecting attempt;
    struct pdi_loopback *connection;
    podipc_error err;
};

static int connect_step(void *op, int64_t until)
{
    struct connecting *c = op;
    return pdi_loopback_connect(&c->attempt, until, &c->connection, &c->err);
}

PyDoc_STRVAR(
    connect_doc,
    "connect($type, /, port, host='127.0.0.1', timeout=None)\n--\n\n"
    "Connect to a `LoopbackListener` of any container of the Pod.\n\n"
    "Waits while nobody listens on `port`, so the two may start in any order. `timeout`\n"
    "is in seconds; ``None`` waits for ever, 0 tries once. `host` is a loopback address.\n\n"
    "Raises `Timeout`, `AddressError`, `SystemCallError`.");

static PyObject *stream_connect(PyObject *cls, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"port", "host", "timeout", NULL};
    pd_state *st = pd_state_of_type((PyTypeObject *)cls);
    long long port;
    const char *host = "127.0.0.1";
    PyObject *timeout = Py_None;
    int64_t deadline;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L|sO:connect", keywords, &port, &host,
                                     &timeout))
        return NULL;
    if (pd_check_port(st, port, 1) < 0 || pd_deadline(timeout, &deadline) < 0)
        return NULL;
    struct connecting c = {.attempt = {.host = host, .port = (uint16_t)port, .fd = -1}};
    int rc = pd_block(connect_step, &c, deadline, false);
    if (rc == 0)
        return pd_loopback_stream(st, c.connection);
    pdi_loopback_connect_cancel(&c.attempt);
    if (rc == PD_RAISED)
        return NULL;
    if (rc == -ETIMEDOUT)
        return pd_raise_text(st, PD_TIMEOUT,
                             "no LoopbackListener on port %lld of %s within %R s: it has not "
                             "started, listens on another port or address, or is in another Pod",
                             port, host, timeout);
    return pd_raise(st, rc, &c.err);
}

/* ---- sending ---- */

struct sending {
    Stream *self;
    bool held;
    podipc_sending sending;
    podipc_error err;
};

static int send_step(void *op, int64_t until)
{
    struct sending *s = op;
    int rc = take(s->self->sending, &s->held, until);
    return rc < 0 ? rc : pdi_loopback_send(s->self->connection, &s->sending, until, &s->err);
}

static void disconnect(Stream *self, int64_t patience)
{
    if (pdi_loopback_forked(self->connection))
        return;
    Py_BEGIN_ALLOW_THREADS pdi_loopback_close(self->connection,
                                              patience ? pdi_now() + patience : 0);
    Py_END_ALLOW_THREADS
}

static void end_use(Stream *self)
{
    if (--self->users == 0 && self->closed)
        disconnect(self, GOODBYE_NS);
}

static int check_usable(Stream *self)
{
    if (pdi_loopback_forked(self->connection))
        pd_raise_text(self->st, PD_FORKED_HANDLE,
                      "this LoopbackStream belongs to the parent of this process: connect anew "
                      "after fork()");
    else if (self->closed)
        pd_raise_text(self->st, PD_CLOSED, "this LoopbackStream is closed");
    else
        return 0;
    return -1;
}

/* `object` as an array whose bytes can be sent as they lie, and what it is. `text` is
 * what keeps t->type. */
static PyArrayObject *prepare(Stream *self, PyObject *object, podipc_tensor *t, PyObject **text)
{
    PyArrayObject *array = pd_as_array(self->st, object);
    if (!array)
        return NULL;
    if (pd_describe(self->st, &self->sent_types, PyArray_DESCR(array), PyArray_NDIM(array),
                    PyArray_DIMS(array), t, text) < 0) {
        Py_DECREF((PyObject *)array);
        return NULL;
    }
    if (PyArray_IS_C_CONTIGUOUS(array))
        return array;
    if (PyArray_IS_F_CONTIGUOUS(array)) {
        t->flags |= PODIPC_FORTRAN;
        return array;
    }
    PyArrayObject *packed = (PyArrayObject *)PyArray_NewCopy(array, NPY_CORDER);
    Py_DECREF((PyObject *)array);
    if (!packed)
        Py_DECREF(*text);
    return packed;
}

static PyObject *send_prepared(Stream *self, PyArrayObject *array, const podipc_tensor *t,
                               PyObject *timeout, int64_t deadline)
{
    struct sending s = {.self = self, .sending = {.tensor = t, .data = PyArray_DATA(array)}};
    self->users++;
    int rc = pd_block(send_step, &s, deadline, t->nbytes > KEEP_GIL);
    if (rc < 0 && s.held)
        pdi_loopback_send_cancel(self->connection, &s.sending);
    if (s.held)
        PyThread_release_lock(self->sending);
    end_use(self);
    if (rc == 0)
        Py_RETURN_NONE;
    if (rc == PD_RAISED)
        return NULL;
    if (rc == -ETIMEDOUT)
        return pd_raise_text(self->st, PD_TIMEOUT,
                             "sending %llu bytes did not end within %R s: the other end does not "
                             "receive fast enough",
                             (unsigned long long)t->nbytes, timeout);
    return pd_raise(self->st, rc, &s.err);
}

PyDoc_STRVAR(
    send_doc,
    "send($self, /, array, timeout=None)\n--\n\n"
    "Send one tensor: anything that `podipc.sender` takes, of any shape and dtype but object.\n\n"
    "Returns when the kernel has all of its bytes; whether the other end ever receives them\n"
    "is not known. Fortran order is kept, strided arrays are packed first. It must not be\n"
    "changed meanwhile. `timeout` is in seconds; ``None`` waits for ever. What was given up\n"
    "halfway (timeout, Ctrl-C) is never received, and the stream goes on.\n\n"
    "One thread may send while another receives; more wait for their turn. Two ends that\n"
    "only send large tensors to each other wait for ever.\n\n"
    "Raises `Timeout`, `PeerDied`, `Closed`, `UnsupportedTensor`, `ForkedHandle`.");

static PyObject *stream_send(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"array", "timeout", NULL};
    Stream *self = (Stream *)op;
    PyObject *object, *timeout = Py_None, *text = NULL;
    int64_t deadline;
    podipc_tensor t;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:send", keywords, &object, &timeout))
        return NULL;
    if (pd_deadline(timeout, &deadline) < 0 || check_usable(self) < 0)
        return NULL;
    PyArrayObject *array = prepare(self, object, &t, &text);
    PyObject *result = array ? send_prepared(self, array, &t, timeout, deadline) : NULL;
    Py_XDECREF((PyObject *)array);
    Py_XDECREF(text);
    return result;
}

/* ---- receiving ---- */

struct receiving {
    Stream *self;
    bool held;
    podipc_message message;
    podipc_error err;
};

static int recv_step(void *op, int64_t until)
{
    struct receiving *r = op;
    int rc = take(r->self->receiving, &r->held, until);
    return rc < 0 ? rc : pdi_loopback_recv(r->self->connection, until, &r->message, &r->err);
}

static void free_data(PyObject *capsule)
{
    free(PyCapsule_GetPointer(capsule, NULL));
}

static PyObject *to_array(Stream *self, podipc_message *message)
{
    void *data = (void *)(uintptr_t)message->data;
    PyObject *owner = PyCapsule_New(data, NULL, free_data);
    if (!owner) {
        free(data);
        return NULL;
    }
    return (PyObject *)pd_array_over(self->st, &self->received_types, &message->tensor, data, true,
                                     owner);
}

PyDoc_STRVAR(
    recv_doc,
    "recv($self, /, timeout=None)\n--\n\n"
    "Receive the next tensor: an ordinary, private, writable ndarray.\n\n"
    "`timeout` is in seconds; ``None`` waits for ever, 0 only looks. What had come of a\n"
    "tensor when the time was over is kept for the next call.\n\n"
    "Raises `Timeout`, `Closed` (the other end closed it and nothing is left, or this one\n"
    "did), `PeerDied` (the other end went away without closing), `MemoryLimit` (no memory\n"
    "for it; it can be tried again), `CorruptSegment` or `VersionMismatch` (no\n"
    "LoopbackStream of this podipc is at the other end), `ForkedHandle`.");

static PyObject *stream_recv(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    Stream *self = (Stream *)op;
    PyObject *timeout = Py_None, *result = NULL;
    int64_t deadline;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:recv", keywords, &timeout))
        return NULL;
    if (pd_deadline(timeout, &deadline) < 0 || check_usable(self) < 0)
        return NULL;
    struct receiving r = {.self = self};
    self->users++;
    int rc = pd_block(recv_step, &r, deadline, false);
    if (rc == 0)
        result = to_array(self, &r.message); /* while its type text cannot change */
    if (r.held)
        PyThread_release_lock(self->receiving);
    end_use(self);
    if (rc == 0 || rc == PD_RAISED)
        return result;
    if (rc == -ETIMEDOUT)
        return pd_raise_text(self->st, PD_TIMEOUT,
                             "no whole tensor came within %R s: the other end is connected, but "
                             "has not sent one",
                             timeout);
    return pd_raise(self->st, rc, &r.err);
}

/* ---- its end ---- */

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Say goodbye and disconnect. What was sent still arrives; then the other end gets\n"
             "`Closed`. What it sent and nobody received is lost. Threads in `send` or `recv`\n"
             "get `Closed`. Waits a second at most. Closing twice does nothing.");

static PyObject *stream_close(PyObject *op, PyObject *unused)
{
    Stream *self = (Stream *)op;
    (void)unused;
    if (!self->closed) {
        self->closed = true;
        pdi_loopback_hang_up(self->connection);
        self->users++;
        end_use(self);
    }
    Py_RETURN_NONE;
}

static PyObject *stream_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return check_usable((Stream *)op) < 0 ? NULL : Py_NewRef(op);
}

static PyObject *stream_exit(PyObject *op, PyObject *unused)
{
    (void)unused;
    return stream_close(op, NULL);
}

static PyObject *stream_fileno(PyObject *op, PyObject *unused)
{
    (void)unused;
    Stream *self = (Stream *)op;
    return check_usable(self) < 0 ? NULL : PyLong_FromLong(pdi_loopback_fd(self->connection));
}

static PyObject *stream_repr(PyObject *op)
{
    Stream *self = (Stream *)op;
    if (self->closed)
        return PyUnicode_FromString("<podipc.LoopbackStream, closed>");
    return PyUnicode_FromFormat("<podipc.LoopbackStream fd=%d>", pdi_loopback_fd(self->connection));
}

static void stream_dealloc(PyObject *op)
{
    Stream *self = (Stream *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (!self->closed)
        disconnect(self, 0);
    pdi_loopback_free(self->connection);
    if (self->sending)
        PyThread_free_lock(self->sending);
    if (self->receiving)
        PyThread_free_lock(self->receiving);
    pd_type_cache_clear(&self->sent_types);
    pd_type_cache_clear(&self->received_types);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

static PyObject *get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Stream *)op)->closed);
}

PyDoc_STRVAR(
    stream_doc,
    "A loopback TCP connection between two containers of a Pod that carries tensors both ways.\n\n"
    "Made by `connect` and `LoopbackListener.accept`. No copy is saved and nobody is found by\n"
    "name: `podipc.sender` with ``tcp://`` or ``shm://`` does more. Any thread may use it, one\n"
    "at a time in each direction. A context manager: it is closed at the end of the block.\n"
    "A forked child cannot use it (`ForkedHandle`).");

static PyMethodDef stream_methods[] = {
    {"connect", (PyCFunction)(void (*)(void))stream_connect,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS, connect_doc},
    {"send", (PyCFunction)(void (*)(void))stream_send, METH_VARARGS | METH_KEYWORDS, send_doc},
    {"recv", (PyCFunction)(void (*)(void))stream_recv, METH_VARARGS | METH_KEYWORDS, recv_doc},
    {"close", stream_close, METH_NOARGS, close_doc},
    {"fileno", stream_fileno, METH_NOARGS,
     "fileno($self, /)\n--\n\nThe descriptor of the socket, which stays its own; readable when\n"
     "something has come. Raises `Closed`, `ForkedHandle`."},
    {"__enter__", stream_enter, METH_NOARGS, "__enter__($self, /)\n--\n\n"},
    {"__exit__", stream_exit, METH_VARARGS,
     "__exit__($self, exc_type, exc_value, traceback, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef stream_getset[] = {
    {"closed", get_closed, NULL, "Whether `close` was called here.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, (void *)stream_doc}, {Py_tp_methods, stream_methods}, {Py_tp_getset, stream_getset},
    {Py_tp_repr, stream_repr},       {Py_tp_dealloc, stream_dealloc}, {0, NULL},
};

PyType_Spec pd_loopback_stream_spec = {
    .name = "podipc.LoopbackStream",
    .basicsize = sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stream_slots,
};
