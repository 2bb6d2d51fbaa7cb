/* segment.c - podipc.Segment: shared memory as a buffer. */
#include <errno.h>

#include "../platform/fork.h"
#include "../platform/memfd.h"
#include "../platform/memory.h"
#include "../platform/named.h"
#include "blocking.h"
#include "name.h"
#include "types.h"

typedef struct {
    PyObject_HEAD pd_state *st;
    PyObject *name; /* str, or None */
    PyObject *path; /* bytes, or NULL without a name */
    void *addr;     /* NULL: closed */
    int fd;         /* -1: closed */
    bool writable;
    bool created; /* by this object, so that it unlinks at the end of a with block ... */
    Py_ssize_t exports;
    struct pdi_memory_info info;
    struct pdi_fork_hook fork; /* ... unless it is a forked child's copy */
} Segment;

static void nothing_in_child(void *arg)
{
    (void)arg;
}

/* ---- making one ---- */

struct reserving {
    struct pdi_reservation room;
    podipc_error err;
};

static int reserve_step(void *op, int64_t until)
{
    struct reserving *r = op;
    return pdi_memory_reserve(&r->room, until, &r->err);
}

/* Reserves all bytes, without the GIL; a signal handler may end it. 0, or -1 with an
 * exception set. */
static int reserve_all(pd_state *st, struct pdi_reservation room)
{
    struct reserving r = {.room = room};
    int rc = pd_block(reserve_step, &r, PD_NEVER, true);
    if (rc < 0 && rc != PD_RAISED)
        pd_raise(st, rc, &r.err);
    return rc < 0 ? -1 : 0;
}

static Segment *segment_new(pd_state *st, PyObject *name, const char *path)
{
    PyTypeObject *type = st->types[PD_SEGMENT];
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Segment *self = (Segment *)alloc(type, 0);
    if (!self)
        return NULL;
    self->st = st;
    self->fd = -1;
    if (name && name != Py_None) {
        self->name = PyUnicode_DecodeFSDefault(PyBytes_AsString(name));
        self->path = PyBytes_FromString(path);
    } else {
        self->name = Py_NewRef(Py_None);
    }
    if (self->name && (!path || self->path))
        return self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

/* Takes `fd` over and maps it, if `addr` does not say that it is mapped already. All of
 * its bytes are reserved. 0, or -1 with an exception set. */
static int segment_take(Segment *self, int fd, void *addr, bool writable)
{
    podipc_error err;
    self->fd = fd;
    self->addr = addr;
    self->writable = writable;
    int rc = pdi_memory_look(fd, &self->info, &err);
    if (rc == 0 && !addr)
        rc = pdi_memory_map(fd, self->info.size, writable, &self->addr, &err);
    if (rc < 0)
        pd_raise(self->st, rc, &err);
    return rc;
}

static PyObject *create_anonymous(pd_state *st, size_t size)
{
    podipc_error err;
    struct pdi_memfd m;
    int rc = pdi_memory_allow(size, &err);
    if (rc == 0)
        rc = pdi_memfd_create("podipc-segment", size, false, true, &m, &err);
    if (rc < 0)
        return pd_raise(st, rc, &err);
    Segment *self = NULL;
    if (reserve_all(st, (struct pdi_reservation){.fd = m.fd, .size = size, .where = ""}) == 0)
        self = segment_new(st, NULL, NULL);
    if (!self) {
        pdi_memfd_close(&m);
        return NULL;
    }
    if (segment_take(self, m.fd, m.map, true) < 0)
        Py_CLEAR(self); /* with what it took */
    return (PyObject *)self;
}

static PyObject *create_named(pd_state *st, PyObject *name, uint64_t size, unsigned mode)
{
    podipc_error err;
    struct pdi_named n;
    char path[PDI_PATH_CAP];
    int rc = pdi_named_path(PyBytes_AsString(name), "", true, path, &err);
    if (rc == 0)
        rc = pdi_named_begin(&n, path, mode, &err);
    if (rc < 0)
        return pd_raise(st, rc, &err);
    Segment *self = NULL;
    if (reserve_all(st, (struct pdi_reservation){
                            .fd = n.fd, .size = size, .where = path, .fresh = true}) < 0)
        goto err;
    self = segment_new(st, name, path);
    if (!self)
        goto err;
    rc = pdi_fork_watch(&self->fork, nothing_in_child, NULL, NULL);
    if (rc < 0) {
        pd_raise(st, rc, NULL);
        goto err;
    }
    int fd = pdi_memory_dup(n.fd, &err);
    if (fd < 0) {
        pd_raise(st, fd, &err);
        goto err;
    }
    if (segment_take(self, fd, NULL, true) < 0)
        goto err;
    rc = pdi_named_publish(&n, &err);
    if (rc < 0) {
        pd_raise(st, rc, &err);
        goto err;
    }
    self->created = true;
    pdi_memory_close(n.fd);
    return (PyObject *)self;
err:
    Py_XDECREF((PyObject *)self);
    pdi_named_abandon(&n);
    return NULL;
}

PyDoc_STRVAR(create_doc,
             "create($type, /, size, name=None, *, mode=0o600)\n--\n\n"
             "Make shared memory of `size` bytes, all zero, writable here.\n\n"
             "name\n"
             "    ``None``: anonymous (a memfd). Hand ``fileno()`` to the other process\n"
             "    (``socket.send_fds``), which opens it with `from_fd`. It is sealed:\n"
             "    nobody can make it shorter. Not limited by the size of /dev/shm.\n"
             "    ``'frames'``: a name in /dev/shm, which the containers of a Pod share.\n"
             "    ``'/shared/frames'``: a file on a volume that both containers mount.\n"
             "mode\n"
             "    Who else may open it: 0o600 this UID, 0o660 a common group, 0o666\n"
             "    every UID of the Pod. It is set whatever the umask. Without a name\n"
             "    whoever has the descriptor may use it.\n\n"
             "All bytes are reserved before the name appears, so that neither a full\n"
             "/dev/shm nor the memory limit can kill a process that uses them; this\n"
             "container is charged for them. Of several processes that create one name,\n"
             "one succeeds. A segment in /dev/shm or on a volume outlives its processes,\n"
             "also killed ones, until someone calls `unlink`.\n\n"
             "Raises `AlreadyExists` (the name is taken), `NotFound` (the directory is not\n"
             "there), `NoSpace` (with ``need`` and ``have``), `MemoryLimit`, `NotPermitted`,\n"
             "`AddressError` (not a possible name), ValueError (size or mode).");

static PyObject *segment_create(PyObject *cls, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"size", "name", "mode", NULL};
    pd_state *st = pd_state_of_type((PyTypeObject *)cls);
    Py_ssize_t size;
    PyObject *name = Py_None;
    unsigned mode = 0600;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n|O$I:create", keywords, &size, &name, &mode))
        return NULL;
    if (size <= 0)
        return PyErr_Format(PyExc_ValueError, "size must be a number of bytes > 0, not %zd", size);
    if (pd_check_mode(mode) < 0)
        return NULL;
    if (name == Py_None)
        return create_anonymous(st, (size_t)size);
    PyObject *bytes = pd_name_bytes(st, name);
    if (!bytes)
        return NULL;
    PyObject *self = create_named(st, bytes, (uint64_t)size, mode);
    Py_DECREF(bytes);
    return self;
}

/* Takes `fd` over, whatever becomes of it. `name` and `path` may be NULL. */
static PyObject *adopt(pd_state *st, int fd, bool writable, PyObject *name, const char *path)
{
    struct pdi_memory_info info;
    podipc_error err;
    Segment *self = NULL;
    int rc = pdi_memory_look(fd, &info, &err);
    if (rc < 0) {
        pd_raise(st, rc, &err);
        goto err;
    }
    if (!info.regular || info.size == 0) {
        pd_raise_text(st, PD_ADDRESS_ERROR, "%s is not shared memory: %s",
                      path ? path : "the descriptor",
                      info.regular ? "it has no bytes" : "not a memfd or a regular file");
        goto err;
    }
    if (reserve_all(st, (struct pdi_reservation){.fd = fd,
                                                 .size = info.size,
                                                 .where = path ? path : "",
                                                 .read_only = !writable}) < 0)
        goto err;
    self = segment_new(st, name, path);
    if (!self)
        goto err;
    if (segment_take(self, fd, NULL, writable) == 0)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self); /* with what it took */
    return NULL;
err:
    pdi_memory_close(fd);
    return NULL;
}

PyDoc_STRVAR(open_doc,
             "open($type, /, name, *, writable=False, owner=None)\n--\n\n"
             "Map a segment that exists: a name in /dev/shm, or an absolute path.\n\n"
             "It is mapped read-only unless `writable`; a write is then refused by NumPy\n"
             "and memoryview. `owner` is the UID it must belong to, by default any: a Pod is\n"
             "one domain of trust, and whoever may write a segment that has a name may also\n"
             "cut it short, after which touching it ends the process with SIGBUS. Where that\n"
             "matters, hand over an anonymous segment.\n\n"
             "Raises `NotFound`, `NotPermitted` (says both UIDs and the mode), `AddressError`\n"
             "(not a possible name, or a symbolic link, FIFO, directory, empty or hard-linked\n"
             "file is there), `NoSpace` or `MemoryLimit` (another program made it without\n"
             "reserving its bytes, and there is no room for them).");

static PyObject *segment_open(PyObject *cls, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", "writable", "owner", NULL};
    pd_state *st = pd_state_of_type((PyTypeObject *)cls);
    PyObject *name, *owner_arg = Py_None;
    int writable = 0;
    long long owner = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$pO:open", keywords, &name, &writable,
                                     &owner_arg))
        return NULL;
    if (owner_arg != Py_None) {
        owner = PyLong_AsLongLong(owner_arg);
        if (owner == -1 && PyErr_Occurred())
            return NULL;
        if (owner < 0)
            return PyErr_Format(PyExc_ValueError, "owner must be a UID or None, not %R", owner_arg);
    }
    PyObject *bytes = pd_name_bytes(st, name);
    if (!bytes)
        return NULL;
    PyObject *self = NULL;
    char path[PDI_PATH_CAP];
    podipc_error err;
    int rc = pdi_named_path(PyBytes_AsString(bytes), "", true, path, &err);
    if (rc == 0)
        rc = pdi_named_open(path, writable, owner, &err);
    if (rc < 0)
        pd_raise(st, rc, &err);
    else
        self = adopt(st, rc, writable, bytes, path);
    Py_DECREF(bytes);
    return self;
}

PyDoc_STRVAR(from_fd_doc,
             "from_fd($type, /, fd, writable=False)\n--\n\n"
             "Map the memory behind a descriptor that another process handed over\n"
             "(``socket.recv_fds``), or that comes from elsewhere (a memfd or a file).\n\n"
             "`fd` is copied and stays the caller's. `sealed` tells whether anybody can still\n"
             "make the memory shorter, after which touching it would end the process.\n\n"
             "Raises `AddressError` (not memory), `NotPermitted` (`writable`, but the descriptor\n"
             "or a seal forbids it), `NoSpace`, `MemoryLimit`, `SystemCallError` (not an open\n"
             "descriptor).");

static PyObject *segment_from_fd(PyObject *cls, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "writable", NULL};
    pd_state *st = pd_state_of_type((PyTypeObject *)cls);
    int fd, writable = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|p:from_fd", keywords, &fd, &writable))
        return NULL;
    podipc_error err;
    int copy = pdi_memory_dup(fd, &err);
    if (copy < 0)
        return pd_raise(st, copy, &err);
    return adopt(st, copy, writable, NULL, NULL);
}

/* ---- using and ending it ---- */

static int check_open(Segment *self)
{
    if (self->addr)
        return 0;
    pd_raise_text(self->st, PD_CLOSED, "this Segment is closed");
    return -1;
}

static int segment_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Segment *self = (Segment *)op;
    view->obj = NULL;
    if (check_open(self) < 0)
        return -1;
    if (PyBuffer_FillInfo(view, op, self->addr, (Py_ssize_t)self->info.size, !self->writable,
                          flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void segment_releasebuffer(PyObject *op, Py_buffer *view)
{
    (void)view;
    ((Segment *)op)->exports--;
}

/* Nothing may be exported. */
static void segment_release(Segment *self)
{
    void *addr = self->addr;
    int fd = self->fd;
    self->addr = NULL;
    self->fd = -1;
    Py_BEGIN_ALLOW_THREADS pdi_memory_unmap(addr, self->info.size);
    pdi_memory_close(fd);
    Py_END_ALLOW_THREADS
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Unmap the memory here. Its name, and other processes, keep it.\n\n"
                        "Raises BufferError as long as an array or memoryview of it exists; then\n"
                        "nothing has changed. Closing twice does nothing.");

static PyObject *segment_close(PyObject *op, PyObject *unused)
{
    Segment *self = (Segment *)op;
    (void)unused;
    if (self->exports > 0)
        return PyErr_Format(PyExc_BufferError,
                            "cannot close %R: %zd array(s) or memoryview(s) still use its memory; "
                            "delete them first",
                            op, self->exports);
    segment_release(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unlink_doc,
             "unlink($self, /)\n--\n\n"
             "Remove the name. Who has the memory mapped keeps it until they close it.\n\n"
             "Does nothing if the name is gone or has been given to another segment since, or\n"
             "if there was none. Also possible after `close`. Nobody else does it: podipc never\n"
             "involves Python's resource_tracker, which unlinks what others still use.\n\n"
             "Raises `NotPermitted` (in /dev/shm only the owner and root may).");

static PyObject *segment_unlink(PyObject *op, PyObject *unused)
{
    Segment *self = (Segment *)op;
    (void)unused;
    if (!self->path)
        Py_RETURN_NONE;
    podipc_error err;
    int rc = pdi_named_unlink(PyBytes_AsString(self->path), self->info.dev, self->info.ino, &err);
    if (rc < 0)
        return pd_raise(self->st, rc, &err);
    Py_RETURN_NONE;
}

static PyObject *segment_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return check_open((Segment *)op) < 0 ? NULL : Py_NewRef(op);
}

static PyObject *segment_exit(PyObject *op, PyObject *args)
{
    Segment *self = (Segment *)op;
    PyObject *type = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : Py_None;
    if (self->created && !pdi_forked(&self->fork)) {
        PyObject *done = segment_unlink(op, NULL);
        if (!done)
            return NULL;
        Py_DECREF(done);
    }
    /* The traceback of an exception holds the frames that hold the arrays: a BufferError
     * would hide it. The memory goes when they do. */
    if (type != Py_None && self->exports > 0)
        Py_RETURN_NONE;
    return segment_close(op, NULL);
}

static PyObject *segment_fileno(PyObject *op, PyObject *unused)
{
    (void)unused;
    Segment *self = (Segment *)op;
    return check_open(self) < 0 ? NULL : PyLong_FromLong(self->fd);
}

static Py_ssize_t segment_length(PyObject *op)
{
    Segment *self = (Segment *)op;
    return check_open(self) < 0 ? -1 : (Py_ssize_t)self->info.size;
}

static PyObject *segment_repr(PyObject *op)
{
    Segment *self = (Segment *)op;
    return PyUnicode_FromFormat(
        "<podipc.Segment %R of %llu bytes, %s%s>", self->name, (unsigned long long)self->info.size,
        self->writable ? "writable" : "read-only", self->addr ? "" : ", closed");
}

static void segment_dealloc(PyObject *op)
{
    Segment *self = (Segment *)op;
    PyTypeObject *type = Py_TYPE(op);
    pdi_fork_forget(&self->fork);
    segment_release(self);
    Py_CLEAR(self->name);
    Py_CLEAR(self->path);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

static PyObject *get_name(PyObject *op, void *unused)
{
    (void)unused;
    return Py_NewRef(((Segment *)op)->name);
}

static PyObject *get_size(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Segment *)op)->info.size);
}

static PyObject *get_fd(PyObject *op, void *unused)
{
    return segment_fileno(op, unused);
}

static PyObject *get_writable(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Segment *)op)->writable);
}

static PyObject *get_sealed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Segment *)op)->info.sealed);
}

static PyObject *get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!((Segment *)op)->addr);
}

PyDoc_STRVAR(segment_doc,
             "Shared memory with the buffer protocol: ``numpy.frombuffer(segment, dtype)``\n"
             "(where types are checked: ``memoryview(segment)``, NumPy's stubs know no other).\n\n"
             "Made by `create`, `open` and `from_fd`. Starts on a page boundary. ``len()`` and\n"
             "`size` are its bytes. Any thread may use it. A forked child shares it and may go\n"
             "on using it. There is no locking: use a `Semaphore`, or send tensors with\n"
             "`podipc.sender`, which does all of this by itself.\n\n"
             "A ``with`` block closes it at its end, and unlinks its name if this object\n"
             "created it (in the process that did); what `open` or `from_fd` gave is only\n"
             "closed. Without ``with`` nothing is ever unlinked by itself. Where the block\n"
             "ends with arrays of the memory alive it raises BufferError, as `close` does;\n"
             "if it ends by an exception they keep the memory instead. Using a closed one\n"
             "raises `Closed`.");

static PyMethodDef segment_methods[] = {
    {"create", (PyCFunction)(void (*)(void))segment_create,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS, create_doc},
    {"open", (PyCFunction)(void (*)(void))segment_open, METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     open_doc},
    {"from_fd", (PyCFunction)(void (*)(void))segment_from_fd,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS, from_fd_doc},
    {"fileno", segment_fileno, METH_NOARGS,
     "fileno($self, /)\n--\n\nThe descriptor; it stays the segment's own. Raises `Closed`."},
    {"close", segment_close, METH_NOARGS, close_doc},
    {"unlink", segment_unlink, METH_NOARGS, unlink_doc},
    {"__enter__", segment_enter, METH_NOARGS, NULL},
    {"__exit__", segment_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef segment_getset[] = {
    {"name", get_name, NULL, "The name it was created or opened by, or None.", NULL},
    {"size", get_size, NULL, "Its size in bytes.", NULL},
    {"fd", get_fd, NULL, "The descriptor, as `fileno`.", NULL},
    {"writable", get_writable, NULL, "Whether it is mapped for writing here.", NULL},
    {"sealed", get_sealed, NULL, "Whether nobody can make it shorter any more.", NULL},
    {"closed", get_closed, NULL, "Whether `close` was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot segment_slots[] = {
    {Py_tp_doc, (void *)segment_doc},
    {Py_tp_methods, segment_methods},
    {Py_tp_getset, segment_getset},
    {Py_tp_repr, segment_repr},
    {Py_tp_dealloc, segment_dealloc},
    {Py_mp_length, segment_length},
    {Py_bf_getbuffer, segment_getbuffer},
    {Py_bf_releasebuffer, segment_releasebuffer},
    {0, NULL},
};

PyType_Spec pd_segment_spec = {
    .name = "podipc.Segment",
    .basicsize = sizeof(Segment),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = segment_slots,
};
