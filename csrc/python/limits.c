/* limits.c - what this container may use, as the core itself sees it. */
#include "state.h"

#include "../platform/cgroup.h"
#include "types.h"

PyObject *pd_limits(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{sKsKsd}", "memory", (unsigned long long)pdi_memory_limit(),
                         "memory_available", (unsigned long long)pdi_memory_available(), "cpus",
                         pdi_cpus());
}
