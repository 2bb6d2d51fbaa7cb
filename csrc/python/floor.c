#include "floor.h"

#include <errno.h>
#include <string.h>

#include "../platform/floor.h"
#include "errors.h"

static const char *const kinds[PDI_FLOOR_KINDS] = {
    [PDI_FLOOR_CACHE_LINE] = "cache-line",
    [PDI_FLOOR_FUTEX] = "futex",
    [PDI_FLOOR_PIPE] = "pipe",
    [PDI_FLOOR_UNIX] = "unix",
    [PDI_FLOOR_TCP] = "tcp",
    [PDI_FLOOR_MEMCPY] = "memcpy",
};

PyDoc_STRVAR(floor_doc,
             "floor($module, mechanism, size, rounds, cpus=(-1, -1), stream=False)\n--\n\n"
             "What this machine can do at best, in plain C between two processes.\n\n"
             "`mechanism` is cache-line, futex, pipe, unix, tcp or memcpy. Returns an array of\n"
             "int64, the nanoseconds of each of `rounds` round trips of `size` bytes there and\n"
             "8 bytes back, or with `stream` one figure for all of them one way. `cpus` are those\n"
             "of the two sides; -1: not pinned. Raises ValueError and SystemCallError.");

static int parse_kind(const char *name, enum pdi_floor_kind *kind)
{
    for (int i = 0; i < PDI_FLOOR_KINDS; i++) {
        if (strcmp(name, kinds[i]) == 0) {
            *kind = (enum pdi_floor_kind)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "no mechanism '%s'", name);
    return -1;
}

static PyObject *floor_measure(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"mechanism", "size", "rounds", "cpus", "stream", NULL};
    const char *mechanism;
    Py_ssize_t size;
    int rounds, stream = 0;
    struct pdi_floor_plan plan = {.cpus = {-1, -1}};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sni|(ii)p:floor", names, &mechanism, &size,
                                     &rounds, &plan.cpus[0], &plan.cpus[1], &stream) ||
        parse_kind(mechanism, &plan.kind) < 0)
        return NULL;
    bool words = plan.kind == PDI_FLOOR_CACHE_LINE || plan.kind == PDI_FLOOR_FUTEX;
    if (size < 1 || rounds < 1 || (stream && words)) {
        PyErr_SetString(PyExc_ValueError,
                        "size and rounds are at least 1; cache-line and futex have no stream");
        return NULL;
    }
    plan.size = (size_t)size;
    plan.rounds = (uint32_t)rounds;
    plan.stream = stream != 0;
    npy_intp n = stream ? 1 : rounds;
    PyObject *out = PyArray_SimpleNew(1, &n, NPY_INT64);
    if (!out)
        return NULL;
    int64_t *ns = PyArray_DATA((PyArrayObject *)out);
    podipc_error err;
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    rc = pdi_floor(&plan, ns, &err);
    Py_END_ALLOW_THREADS;
    if (rc < 0) {
        Py_DECREF(out);
        return pd_raise(PyModule_GetState(module), rc, &err);
    }
    return out;
}

static PyMethodDef functions[] = {
    {"floor", (PyCFunction)(void (*)(void))floor_measure, METH_VARARGS | METH_KEYWORDS, floor_doc},
    {NULL, NULL, 0, NULL},
};

int pd_floor_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
