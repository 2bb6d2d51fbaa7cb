/* module.c - podipc._core: multi-phase init, module state, the types. */
#define PD_IMPORTS_NUMPY
#include "state.h"

#include "errors.h"
#include "floor.h"
#include "types.h"

static const struct {
    const char *name; /* NULL: not to be found in the module */
    PyType_Spec *spec;
} pd_types[PD_TYPE_COUNT] = {
    [PD_SENDER] = {"Sender", &pd_sender_spec},
    [PD_RECEIVER] = {"Receiver", &pd_receiver_spec},
    [PD_LOAN] = {"Loan", &pd_loan_spec},
    [PD_LOANED] = {NULL, &pd_loaned_spec},
    [PD_RECEIVED] = {NULL, &pd_received_spec},
    [PD_SEGMENT] = {"Segment", &pd_segment_spec},
    [PD_SEMAPHORE] = {"Semaphore", &pd_semaphore_spec},
    [PD_LOOPBACK_LISTENER] = {"LoopbackListener", &pd_loopback_listener_spec},
    [PD_LOOPBACK_STREAM] = {"LoopbackStream", &pd_loopback_stream_spec},
    [PD_INFRA] = {"Infra", &pd_infra_spec},
};

static int module_exec(PyObject *module)
{
    pd_state *st = PyModule_GetState(module);
    if (PyArray_ImportNumPyAPI() < 0)
        return -1;
    if (pd_errors_init(module, st) < 0 || pd_floor_init(module) < 0)
        return -1;
    for (int i = 0; i < PD_TYPE_COUNT; i++) {
        st->types[i] = (PyTypeObject *)PyType_FromModuleAndSpec(module, pd_types[i].spec, NULL);
        if (!st->types[i])
            return -1;
        if (pd_types[i].name &&
            PyModule_AddObjectRef(module, pd_types[i].name, (PyObject *)st->types[i]) < 0)
            return -1;
    }
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    pd_state *st = PyModule_GetState(module);
    for (int i = 0; i < PD_EXCEPTION_COUNT; i++)
        Py_VISIT(st->exceptions[i]);
    for (int i = 0; i < PD_TYPE_COUNT; i++)
        Py_VISIT(st->types[i]);
    Py_VISIT(st->encode_dtype);
    Py_VISIT(st->decode_dtype);
    Py_VISIT(st->as_array);
    return 0;
}

static int module_clear(PyObject *module)
{
    pd_state *st = PyModule_GetState(module);
    for (int i = 0; i < PD_EXCEPTION_COUNT; i++)
        Py_CLEAR(st->exceptions[i]);
    for (int i = 0; i < PD_TYPE_COUNT; i++)
        Py_CLEAR(st->types[i]);
    Py_CLEAR(st->encode_dtype);
    Py_CLEAR(st->decode_dtype);
    Py_CLEAR(st->as_array);
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyMethodDef module_methods[] = {
    {"limits", pd_limits, METH_NOARGS,
     PyDoc_STR(
         "limits($module, /)\n--\n\n"
         "What this process may use: bytes of ``memory`` (its limit, at most what the\n"
         "machine has), ``memory_available`` under it, and ``cpus`` (by affinity and quota).")},
    {"pidfd_signal", pd_pidfd_signal, METH_VARARGS,
     PyDoc_STR("pidfd_signal($module, pidfd, number, /)\n--\n\n"
               "Send a signal; False if the process has ended.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "podipc._core",
    .m_doc = "The C core of podipc. Use the names in podipc instead.",
    .m_size = sizeof(pd_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
