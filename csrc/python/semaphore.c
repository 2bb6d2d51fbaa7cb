/* semaphore.c - podipc.Semaphore: a named POSIX semaphore. */
#include "../platform/semaphore.h"

#include <errno.h>

#include "../core/atomics.h"
#include "../core/error.h"
#include "../platform/named.h"
#include "blocking.h"
#include "name.h"
#include "types.h"

typedef struct {
    PyObject_HEAD pd_state *st;
    PyObject *name; /* str */
    PyObject *path; /* bytes */
    struct pdi_semaphore semaphore;
    int users;         /* calls that use `semaphore`; only under the GIL */
    pdi_word32 closed; /* the last user unmaps */
} Semaphore;

static Semaphore *semaphore_new(pd_state *st, PyObject *name, const char *path)
{
    PyTypeObject *type = st->types[PD_SEMAPHORE];
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Semaphore *self = (Semaphore *)alloc(type, 0);
    if (!self)
        return NULL;
    self->st = st;
    self->name = PyUnicode_DecodeFSDefault(PyBytes_AsString(name));
    self->path = PyBytes_FromString(path);
    if (self->name && self->path)
        return self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

struct how {
    bool create; /* else open */
    unsigned value, mode;
};

static PyObject *semaphore_get(pd_state *st, PyObject *name, struct how how)
{
    podipc_error err;
    char path[PDI_PATH_CAP];
    PyObject *bytes = pd_name_bytes(st, name);
    if (!bytes)
        return NULL;
    Semaphore *self = NULL;
    int rc = pdi_semaphore_path(PyBytes_AsString(bytes), path, &err);
    if (rc == 0) {
        self = semaphore_new(st, bytes, path);
        if (self && how.create)
            rc = pdi_semaphore_create(&self->semaphore, path, how.value, how.mode, &err);
        else if (self)
            rc = pdi_semaphore_open(&self->semaphore, path, &err);
    }
    if (rc < 0) {
        Py_CLEAR(self);
        pd_raise(st, rc, &err);
    }
    Py_DECREF(bytes);
    return (PyObject *)self;
}

PyDoc_STRVAR(create_doc,
             "create($type, /, name, value=1, *, mode=0o600)\n--\n\n"
             "Make a semaphore that stands at `value`, and give it a name in /dev/shm.\n\n"
             "mode\n"
             "    Who else may use it: 0o600 this UID, 0o660 a common group, 0o666 every\n"
             "    UID of the Pod. It is set whatever the umask.\n\n"
             "Of several processes that create one name, one succeeds. It outlives its\n"
             "processes, also killed ones, until someone calls `unlink`.\n\n"
             "Raises `AlreadyExists`, `NoSpace`, `NotPermitted`, `AddressError` (not a possible\n"
             "name: no slashes, at most 251 bytes), ValueError (value or mode).");

static PyObject *semaphore_create(PyObject *cls, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", "value", "mode", NULL};
    PyObject *name;
    long long value = 1;
    unsigned mode = 0600;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|L$I:create", keywords, &name, &value, &mode))
        return NULL;
    if (value < 0 || value > pdi_semaphore_max())
        return PyErr_Format(PyExc_ValueError, "value must be from 0 to %u, not %lld",
                            pdi_semaphore_max(), value);
    if (pd_check_mode(mode) < 0)
        return NULL;
    return semaphore_get(pd_state_of_type((PyTypeObject *)cls), name,
                         (struct how){.create = true, .value = (unsigned)value, .mode = mode});
}

PyDoc_STRVAR(open_doc,
             "open($type, /, name)\n--\n\n"
             "Open a semaphore that exists, made by `create` or by another program.\n\n"
             "Raises `NotFound`, `NotPermitted` (says both UIDs and the mode), `AddressError`\n"
             "(not a possible name, or not a semaphore of this C library is there).");

static PyObject *semaphore_open(PyObject *cls, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", NULL};
    PyObject *name;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:open", keywords, &name))
        return NULL;
    return semaphore_get(pd_state_of_type((PyTypeObject *)cls), name, (struct how){0});
}

/* ---- using and ending it ---- */

static int begin_use(Semaphore *self)
{
    if (pdi_peek32(&self->closed)) {
        pd_raise_text(self->st, PD_CLOSED, "the semaphore %R is closed", self->name);
        return -1;
    }
    self->users++;
    return 0;
}

static void end_use(Semaphore *self)
{
    if (--self->users == 0 && pdi_peek32(&self->closed))
        pdi_semaphore_close(&self->semaphore);
}

static int wait_step(void *op, int64_t until)
{
    Semaphore *self = op;
    return pdi_peek32(&self->closed) ? PODIPC_ECLOSED
                                     : pdi_semaphore_wait(self->semaphore.sem, until);
}

static PyObject *acquire(Semaphore *self, PyObject *timeout)
{
    int64_t deadline;
    if (pd_deadline(timeout, &deadline) < 0 || begin_use(self) < 0)
        return NULL;
    int rc = pd_block(wait_step, self, deadline, false);
    unsigned value = pdi_semaphore_value(self->semaphore.sem);
    end_use(self);
    if (rc == 0)
        Py_RETURN_TRUE;
    if (rc == PD_RAISED)
        return NULL;
    if (rc == PODIPC_ECLOSED)
        return pd_raise_text(self->st, PD_CLOSED, "the semaphore %R was closed during acquire()",
                             self->name);
    if (rc == -ETIMEDOUT)
        return pd_raise_text(self->st, PD_TIMEOUT,
                             "the semaphore %R was not released within %R s (it stands at %u). A "
                             "process that was killed between acquire() and release() never "
                             "releases: then release() in its place",
                             self->name, timeout, value);
    return pd_raise(self->st, rc, NULL);
}

PyDoc_STRVAR(acquire_doc,
             "acquire($self, /, timeout=None)\n--\n\n"
             "Take one: wait until the value is above 0, and lower it by 1. Returns True.\n\n"
             "timeout\n"
             "    Seconds; ``None`` waits for ever, 0 only tries. Counted on the monotonic\n"
             "    clock, so setting the time of day does not change it.\n\n"
             "Other threads run meanwhile, and Ctrl-C ends the wait. Raises `Timeout`, `Closed`\n"
             "(also if another thread closes it meanwhile).");

static PyObject *semaphore_acquire(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:acquire", keywords, &timeout))
        return NULL;
    /* acquire(False) of threading and multiprocessing would wait for 0 s, acquire(True) for 1. */
    if (PyBool_Check(timeout))
        return PyErr_Format(PyExc_TypeError,
                            "timeout is a number of seconds or None, not %R: "
                            "acquire(timeout=0) tries, acquire() waits",
                            timeout);
    return acquire((Semaphore *)op, timeout);
}

PyDoc_STRVAR(release_doc,
             "release($self, /, n=1)\n--\n\n"
             "Give `n` back: raise the value, and wake as many waiting processes. Never waits.\n\n"
             "Anyone may release, not only who acquired. Raises `SystemCallError` with errno\n"
             "EOVERFLOW if the value would pass 2147483647 (nothing is released then), `Closed`,\n"
             "ValueError.");

static PyObject *semaphore_release(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"n", NULL};
    Semaphore *self = (Semaphore *)op;
    long long n = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L:release", keywords, &n))
        return NULL;
    if (n < 1)
        return PyErr_Format(PyExc_ValueError, "n must be at least 1, not %lld", n);
    if (begin_use(self) < 0)
        return NULL;
    podipc_error err;
    int rc = -EOVERFLOW;
    if (n <= pdi_semaphore_max()) {
        /* Each is a system call if somebody waits. */
        PyThreadState *thread = n > 100 ? PyEval_SaveThread() : NULL;
        rc = pdi_semaphore_post(self->semaphore.sem, (unsigned)n);
        if (thread)
            PyEval_RestoreThread(thread);
    }
    if (rc < 0)
        pdi_fail(&err, rc, "sem_post",
                 "releasing %lld times a semaphore that stands at %u would pass its maximum, %u", n,
                 pdi_semaphore_value(self->semaphore.sem), pdi_semaphore_max());
    end_use(self);
    if (rc < 0)
        return pd_raise(self->st, rc, &err);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Give up this handle. Its name, its value and other processes keep it. A\n"
             "thread that waits in `acquire` gets `Closed`. Closing twice does nothing.");

static PyObject *semaphore_close(PyObject *op, PyObject *unused)
{
    Semaphore *self = (Semaphore *)op;
    (void)unused;
    pdi_poke32(&self->closed, true);
    self->users++;
    end_use(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unlink_doc,
             "unlink($self, /)\n--\n\n"
             "Remove the name. Who has it open keeps it until they close it.\n\n"
             "Does nothing if the name is gone or has been given to another semaphore since.\n"
             "Also possible after `close`. Raises `NotPermitted` (in /dev/shm only the owner and\n"
             "root may).");

static PyObject *semaphore_unlink(PyObject *op, PyObject *unused)
{
    Semaphore *self = (Semaphore *)op;
    (void)unused;
    podipc_error err;
    int rc = pdi_named_unlink(PyBytes_AsString(self->path), self->semaphore.dev,
                              self->semaphore.ino, &err);
    if (rc < 0)
        return pd_raise(self->st, rc, &err);
    Py_RETURN_NONE;
}

static PyObject *semaphore_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    PyObject *taken = acquire((Semaphore *)op, Py_None);
    if (!taken)
        return NULL;
    Py_DECREF(taken);
    return Py_NewRef(op);
}

static PyObject *semaphore_exit(PyObject *op, PyObject *unused)
{
    (void)unused;
    PyObject *none = PyTuple_New(0);
    PyObject *result = none ? semaphore_release(op, none, NULL) : NULL;
    Py_XDECREF(none);
    return result;
}

static PyObject *semaphore_repr(PyObject *op)
{
    Semaphore *self = (Semaphore *)op;
    if (pdi_peek32(&self->closed))
        return PyUnicode_FromFormat("<podipc.Semaphore %R: closed>", self->name);
    return PyUnicode_FromFormat("<podipc.Semaphore %R: value %u>", self->name,
                                pdi_semaphore_value(self->semaphore.sem));
}

static void semaphore_dealloc(PyObject *op)
{
    Semaphore *self = (Semaphore *)op;
    PyTypeObject *type = Py_TYPE(op);
    pdi_semaphore_close(&self->semaphore);
    Py_CLEAR(self->name);
    Py_CLEAR(self->path);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

static PyObject *get_name(PyObject *op, void *unused)
{
    (void)unused;
    return Py_NewRef(((Semaphore *)op)->name);
}

static PyObject *get_value(PyObject *op, void *unused)
{
    (void)unused;
    Semaphore *self = (Semaphore *)op;
    if (begin_use(self) < 0)
        return NULL;
    unsigned value = pdi_semaphore_value(self->semaphore.sem);
    end_use(self);
    return PyLong_FromUnsignedLong(value);
}

static PyObject *get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(pdi_peek32(&((Semaphore *)op)->closed) != 0);
}

PyDoc_STRVAR(semaphore_doc,
             "A POSIX semaphore with a name that all containers of a Pod see.\n\n"
             "Made by `create` and `open`. ``with semaphore:`` acquires, and releases at the end;\n"
             "`close` and `unlink` are separate. Any thread may use it, and several may wait. A\n"
             "forked child shares it and may go on using it.\n\n"
             "It belongs to nobody: a process that is killed between `acquire` and `release`\n"
             "does not give back, and nobody is told; wait with a timeout. Senders and receivers\n"
             "of podipc do notice the death of a peer.\n\n"
             "It is what ``sem_open`` of the C library opens: with glibc the file\n"
             "/dev/shm/sem.NAME. musl (Alpine) calls it /dev/shm/NAME and lays it out otherwise,\n"
             "so containers that share one must have the same C library.");

static PyMethodDef semaphore_methods[] = {
    {"create", (PyCFunction)(void (*)(void))semaphore_create,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS, create_doc},
    {"open", (PyCFunction)(void (*)(void))semaphore_open, METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     open_doc},
    {"acquire", (PyCFunction)(void (*)(void))semaphore_acquire, METH_VARARGS | METH_KEYWORDS,
     acquire_doc},
    {"release", (PyCFunction)(void (*)(void))semaphore_release, METH_VARARGS | METH_KEYWORDS,
     release_doc},
    {"close", semaphore_close, METH_NOARGS, close_doc},
    {"unlink", semaphore_unlink, METH_NOARGS, unlink_doc},
    {"__enter__", semaphore_enter, METH_NOARGS, NULL},
    {"__exit__", semaphore_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef semaphore_getset[] = {
    {"name", get_name, NULL, "The name it was created or opened by.", NULL},
    {"value", get_value, NULL,
     "How many can be acquired without waiting; may be old by the time it is seen.", NULL},
    {"closed", get_closed, NULL, "Whether `close` was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot semaphore_slots[] = {
    {Py_tp_doc, (void *)semaphore_doc}, {Py_tp_methods, semaphore_methods},
    {Py_tp_getset, semaphore_getset},   {Py_tp_repr, semaphore_repr},
    {Py_tp_dealloc, semaphore_dealloc}, {0, NULL},
};

PyType_Spec pd_semaphore_spec = {
    .name = "podipc.Semaphore",
    .basicsize = sizeof(Semaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = semaphore_slots,
};
