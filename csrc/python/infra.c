/* infra.c - the type Infra: what holds a Pod of the local runtime. podipc/pod/local/namespaces.py
 * is the interface on top of it. */
#include "state.h"

#include "../platform/fork.h"
#include "../platform/pidfd.h"
#include "../platform/pod.h"
#include "../platform/setup.h"
#include "blocking.h"
#include "errors.h"
#include "types.h"

/* Namespaces are made within milliseconds; only a host in trouble takes longer. */
#define PD_POD_TIMEOUT_NS INT64_C(30000000000)

typedef struct {
    PyObject_HEAD pd_state *state;
    struct pdi_pod pod;
    struct pdi_fork_hook hook;
} pd_infra;

static void infra_in_child(void *arg)
{
    pd_infra *self = arg;
    pdi_pod_forget(&self->pod);
}

struct opening {
    struct pdi_pod *pod;
    podipc_error *err;
};

static int step_open(void *op, int64_t until)
{
    struct opening *opening = op;
    return pdi_pod_ready(opening->pod, until, opening->err);
}

static PyObject *infra_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"shm_bytes", "isolate", NULL};
    unsigned long long shm_bytes;
    int isolate;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Kp:Infra", names, &shm_bytes, &isolate))
        return NULL;
    pd_infra *self = (pd_infra *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    self->state = pd_state_of_type(type);
    podipc_error err = {0};
    int rc = pdi_pod_open(&self->pod, shm_bytes, isolate, &err);
    if (rc == 0) {
        struct opening opening = {.pod = &self->pod, .err = &err};
        rc = pd_block(step_open, &opening, pdi_now() + PD_POD_TIMEOUT_NS, true);
    }
    if (rc == 0)
        rc = pdi_fork_watch(&self->hook, infra_in_child, self, NULL);
    if (rc == 0)
        return (PyObject *)self;
    Py_DECREF(self);
    if (rc == PD_RAISED)
        return NULL;
    if (rc == -ETIMEDOUT)
        return pd_raise_text(pd_state_of_type(type), PD_TIMEOUT,
                             "the namespaces of the Pod were not made within 30 s");
    return pd_raise(pd_state_of_type(type), rc, &err);
}

static void infra_release(pd_infra *self)
{
    struct pdi_pod pod = self->pod;
    self->pod.control = self->pod.pidfd = -1;
    self->pod.pid = 0;
    bool forked = pdi_forked(&self->hook);
    pdi_fork_forget(&self->hook);
    if (forked)
        return;
    Py_BEGIN_ALLOW_THREADS pdi_pod_close(&pod);
    Py_END_ALLOW_THREADS
}

static void infra_dealloc(PyObject *object)
{
    pd_infra *self = (pd_infra *)object;
    PyTypeObject *type = Py_TYPE(object);
    infra_release(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *infra_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    infra_release((pd_infra *)object);
    Py_RETURN_NONE;
}

static PyObject *infra_fileno(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    pd_infra *self = (pd_infra *)object;
    if (self->pod.pidfd < 0)
        return pd_raise_text(self->state, PD_CLOSED, "the Pod has been closed");
    return PyLong_FromLong(self->pod.pidfd);
}

static PyObject *infra_pid(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLong((long)((pd_infra *)object)->pod.pid);
}

static PyObject *infra_parts(PyObject *object, void *Py_UNUSED(closure))
{
    pd_infra *self = (pd_infra *)object;
    PyObject *parts = PyDict_New();
    if (!parts)
        return NULL;
    for (int i = 0; i < PDI_PART_COUNT; i++) {
        PyObject *error = PyLong_FromLong(self->pod.parts.error[i]);
        int rc = error ? PyDict_SetItemString(parts, pdi_part_name((enum pdi_part)i), error) : -1;
        Py_XDECREF(error);
        if (rc < 0) {
            Py_DECREF(parts);
            return NULL;
        }
    }
    return parts;
}

static PyObject *infra_refused(PyObject *object, void *Py_UNUSED(closure))
{
    pd_infra *self = (pd_infra *)object;
    if (self->pod.refused == PDI_STEP_NONE)
        Py_RETURN_NONE;
    return Py_BuildValue("(si)", pdi_step_text(self->pod.refused), self->pod.refused_errno);
}

/* The strings of a tuple of bytes, NULL at the end; freed with PyMem_Free(). */
static char **strings_of(PyObject *tuple)
{
    Py_ssize_t n = PyTuple_Size(tuple);
    char **strings = PyMem_Calloc((size_t)n + 1, sizeof *strings);
    if (!strings) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, i), &strings[i], NULL) < 0) {
            PyMem_Free(strings);
            return NULL;
        }
    return strings;
}

/* The numbers of a tuple of int as 32-bit words; freed with PyMem_Free(). */
static uint32_t *numbers_of(PyObject *tuple, size_t *count)
{
    Py_ssize_t n = PyTuple_Size(tuple);
    uint32_t *numbers = PyMem_Calloc((size_t)n + 1, sizeof *numbers);
    if (!numbers) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        unsigned long number = PyLong_AsUnsignedLong(PyTuple_GetItem(tuple, i));
        if (number == (unsigned long)-1 && PyErr_Occurred()) {
            PyMem_Free(numbers);
            return NULL;
        }
        numbers[i] = (uint32_t)number;
    }
    *count = (size_t)n;
    return numbers;
}

struct starting {
    struct pdi_start start;
    struct pdi_launch_spec spec;
    podipc_error err;
};

static int step_start(void *op, int64_t until)
{
    struct starting *s = op;
    return pdi_start_ready(&s->start, &s->spec, until, &s->err);
}

/* The description is complete: start it and wait until the program runs. */
static PyObject *start_with(pd_infra *self, struct starting *s)
{
    /* The control socket is used with the GIL held only, so that close() cannot interfere. */
    int rc = pdi_start_begin(self->pod.control, &s->spec, &s->start, &s->err);
    if (rc < 0)
        return pd_raise(self->state, rc, &s->err);
    rc = pd_block(step_start, s, pdi_now() + PD_POD_TIMEOUT_NS, true);
    if (rc == PD_RAISED || rc == -ETIMEDOUT)
        pdi_start_drop(&s->start);
    if (rc == PD_RAISED)
        return NULL;
    if (rc == -ETIMEDOUT)
        return pd_raise_text(self->state, PD_TIMEOUT,
                             "container '%s' did not get to its program within 30 s",
                             s->spec.hostname);
    if (rc < 0)
        return pd_raise(self->state, rc, &s->err);
    return Py_BuildValue("(iii)", (int)s->start.pid, s->start.pidfd, s->start.status);
}

static PyObject *infra_start(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "cwd",     "paths", "argv",      "env",
                            "fds",  "targets", "cpus",  "groups",    "uid",
                            "gid",  "umask",   "setup", "container", NULL};
    pd_infra *self = (pd_infra *)object;
    struct starting s = {0};
    PyObject *paths, *argv, *env, *fds, *targets, *groups, *setup;
    Py_ssize_t cpus_len;
    long long uid, gid, mask;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$syO!O!O!O!O!y#O!LLLO!i:start", names, &s.spec.hostname, &s.spec.cwd,
            &PyTuple_Type, &paths, &PyTuple_Type, &argv, &PyTuple_Type, &env, &PyTuple_Type, &fds,
            &PyTuple_Type, &targets, &s.spec.cpus, &cpus_len, &PyTuple_Type, &groups, &uid, &gid,
            &mask, &PyTuple_Type, &setup, &s.spec.container))
        return NULL;
    if (pdi_forked(&self->hook))
        return pd_raise_text(self->state, PD_FORKED_HANDLE,
                             "the Pod belongs to the parent of this process");
    if (self->pod.control < 0)
        return pd_raise_text(self->state, PD_CLOSED, "the Pod has been closed");
    s.spec.cpus_len = (size_t)cpus_len;
    s.spec.uid = uid;
    s.spec.gid = gid;
    s.spec.umask = mask;

    PyObject *result = NULL;
    char **lists[4] = {NULL};
    uint32_t *numbers[3] = {NULL, NULL, NULL};
    size_t target_count = 0;
    if (!(lists[0] = strings_of(paths)) || !(lists[1] = strings_of(argv)) ||
        !(lists[2] = strings_of(env)) || !(lists[3] = strings_of(setup)) ||
        !(numbers[0] = numbers_of(fds, &s.spec.fd_count)) ||
        !(numbers[1] = numbers_of(targets, &target_count)) ||
        !(numbers[2] = numbers_of(groups, &s.spec.group_count)))
        goto done;
    if (target_count != s.spec.fd_count || PyTuple_Size(setup) % PDI_SETUP_WORDS) {
        PyErr_SetString(PyExc_ValueError, "fds and targets, or setup, are of the wrong length");
        goto done;
    }
    s.spec.paths = lists[0];
    s.spec.argv = lists[1];
    s.spec.env = lists[2];
    s.spec.setup = lists[3];
    s.spec.fds = (const int *)numbers[0];
    s.spec.targets = (const int *)numbers[1];
    s.spec.groups = numbers[2];
    result = start_with(self, &s);
done:
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        PyMem_Free(lists[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        PyMem_Free(numbers[i]);
    return result;
}

PyDoc_STRVAR(infra_doc, "Infra(shm_bytes, isolate)\n--\n\n"
                        "Holds the namespaces of a Pod; used through podipc.pod.local.Pod.");
PyDoc_STRVAR(start_doc, "start($self, /, *, name, cwd, paths, argv, env, fds, targets, cpus,\n"
                        "      groups, uid, gid, umask, setup, container)\n--\n\n"
                        "Start a container, or a program in the one with that pidfd: its (pid,\n"
                        "pidfd, descriptor of its wait status). Without a program carry out the\n"
                        "operations of `setup` for the Pod: (0, -1, -1).");
PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Kill all of the Pod and wait until it is gone.");
PyDoc_STRVAR(fileno_doc, "fileno($self, /)\n--\n\n"
                         "A descriptor that is readable once all of the Pod is gone.");

static PyMethodDef infra_methods[] = {
    {"start", (PyCFunction)(void (*)(void))infra_start, METH_VARARGS | METH_KEYWORDS, start_doc},
    {"close", infra_close, METH_NOARGS, close_doc},
    {"fileno", infra_fileno, METH_NOARGS, fileno_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef infra_getset[] = {
    {"pid", infra_pid, NULL, "Its process, as seen from here; 0 when closed.", NULL},
    {"parts", infra_parts, NULL, "Part to 0 (made), -1 (not tried) or the errno of the refusal.",
     NULL},
    {"refused", infra_refused, NULL,
     "(what, errno) if namespaces were made but could not be used, else None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot infra_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)infra_doc},
    {Py_tp_new, infra_new},
    {Py_tp_dealloc, infra_dealloc},
    {Py_tp_methods, infra_methods},
    {Py_tp_getset, infra_getset},
    {0, NULL},
};

PyType_Spec pd_infra_spec = {
    .name = "podipc._core.Infra",
    .basicsize = sizeof(pd_infra),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = infra_slots,
};

PyObject *pd_pidfd_signal(PyObject *module, PyObject *args)
{
    int pidfd, number;
    if (!PyArg_ParseTuple(args, "ii:pidfd_signal", &pidfd, &number))
        return NULL;
    int rc = pdi_pidfd_signal(pidfd, number);
    if (rc < 0 && rc != -ESRCH)
        return pd_raise(PyModule_GetState(module), rc, NULL);
    return PyBool_FromLong(rc == 0);
}
