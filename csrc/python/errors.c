#include "errors.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* One row an exception: its name, the built-in it also is, what it means. */
static const struct {
    const char *name;
    const char *builtin;
    const char *doc;
} pd_exceptions[PD_EXCEPTION_COUNT] = {
    [PD_PODIPC_ERROR] =
        {"PodipcError", "Exception",
         "Base of every exception of podipc.\n\n"
         "Attributes: ``errno`` and ``call`` (the failing system call, where there\n"
         "was one), ``need`` and ``have`` (bytes, where it is about an amount)."},
    [PD_TIMEOUT] = {"Timeout", "TimeoutError",
                    "The timeout passed. The text says what was being waited for."},
    [PD_PEER_DIED] = {"PeerDied", "ConnectionError",
                      "A peer went away without closing. Raised once for each; the handle goes on\n"
                      "with whoever else has joined or joins."},
    [PD_CLOSED] = {"Closed", "EOFError",
                   "Every sender closed in order and nothing is left; or this handle is closed."},
    [PD_NO_SPACE] = {"NoSpace", "OSError", "A file system is full (errno ENOSPC)."},
    [PD_MEMORY_LIMIT] =
        {"MemoryLimit", "MemoryError",
         "The memory limit of the container, or the byte budget of the channel, is\n"
         "too small. Raised before memory is touched."},
    [PD_NOT_PERMITTED] = {"NotPermitted", "PermissionError",
                          "UID, mode or security profile do not allow it."},
    [PD_ADDRESS_ERROR] = {"AddressError", "ValueError",
                          "The address, or one of its options, is not valid."},
    [PD_ADDRESS_IN_USE] = {"AddressInUse", "OSError",
                           "The port or path is taken by another process of the Pod."},
    [PD_ALREADY_EXISTS] = {"AlreadyExists", "FileExistsError",
                           "Something with this name is there already."},
    [PD_NOT_FOUND] = {"NotFound", "FileNotFoundError",
                      "Nothing with this name is there, or not yet."},
    [PD_UNSUPPORTED_TENSOR] = {"UnsupportedTensor", "TypeError",
                               "This cannot be sent as a tensor."},
    [PD_VERSION_MISMATCH] =
        {"VersionMismatch", "RuntimeError",
         "The peer speaks another version, or has another page size, byte order\n"
         "or libc where that matters."},
    [PD_CORRUPT_SEGMENT] = {"CorruptSegment", "RuntimeError",
                            "What the peer wrote does not hold together."},
    [PD_FORKED_HANDLE] = {"ForkedHandle", "RuntimeError",
                          "The handle belongs to the parent of this process."},
    [PD_SYSTEM_CALL_ERROR] = {"SystemCallError", "OSError",
                              "A system call failed in a way that has no exception of its own."},
};

/* One table from a return value to an exception. */
static enum pd_exception from_rc(int rc)
{
    switch (rc) {
    case -ETIMEDOUT:
        return PD_TIMEOUT;
    case PODIPC_EPEERDIED:
    case -EPIPE:
    case -ECONNRESET:
        return PD_PEER_DIED;
    case PODIPC_ECLOSED:
        return PD_CLOSED;
    case -ENOSPC:
    case -EDQUOT:
        return PD_NO_SPACE;
    case -ENOMEM:
    case PODIPC_EMEMLIMIT:
        return PD_MEMORY_LIMIT;
    case -EACCES:
    case -EPERM:
    case -EROFS:
        return PD_NOT_PERMITTED;
    case -EADDRINUSE:
        return PD_ADDRESS_IN_USE;
    case -EEXIST:
        return PD_ALREADY_EXISTS;
    case -ENOENT:
    case -ENOTDIR:
        return PD_NOT_FOUND;
    case PODIPC_EADDRESS:
        return PD_ADDRESS_ERROR;
    case PODIPC_ETENSOR:
        return PD_UNSUPPORTED_TENSOR;
    case PODIPC_EVERSION:
        return PD_VERSION_MISMATCH;
    case PODIPC_ECORRUPT:
        return PD_CORRUPT_SEGMENT;
    case PODIPC_EFORKED:
        return PD_FORKED_HANDLE;
    default:
        return PD_SYSTEM_CALL_ERROR;
    }
}

/* The attributes of every exception, also of one that Python code raised. */
static PyObject *no_attributes(void)
{
    return Py_BuildValue("{s:O,s:O,s:O,s:O}", "errno", Py_None, "call", Py_None, "need", Py_None,
                         "have", Py_None);
}

int pd_errors_init(PyObject *module, pd_state *st)
{
    PyObject *builtins = PyImport_ImportModule("builtins");
    if (!builtins)
        return -1;
    int result = -1;
    for (int i = 0; i < PD_EXCEPTION_COUNT; i++) {
        PyObject *base = PyObject_GetAttrString(builtins, pd_exceptions[i].builtin);
        if (!base)
            goto done;
        PyObject *bases = i == PD_PODIPC_ERROR
                              ? PyTuple_Pack(1, base)
                              : PyTuple_Pack(2, st->exceptions[PD_PODIPC_ERROR], base);
        Py_DECREF(base);
        if (!bases)
            goto done;
        char name[64];
        PyOS_snprintf(name, sizeof name, "podipc.%s", pd_exceptions[i].name);
        PyObject *attributes = i == PD_PODIPC_ERROR ? no_attributes() : NULL;
        if (i != PD_PODIPC_ERROR || attributes)
            st->exceptions[i] =
                PyErr_NewExceptionWithDoc(name, pd_exceptions[i].doc, bases, attributes);
        Py_XDECREF(attributes);
        Py_DECREF(bases);
        if (!st->exceptions[i] ||
            PyModule_AddObjectRef(module, pd_exceptions[i].name, st->exceptions[i]) < 0)
            goto done;
    }
    result = 0;
done:
    Py_DECREF(builtins);
    return result;
}

static int set_number(PyObject *exception, const char *name, unsigned long long value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    if (!number)
        return -1;
    int rc = PyObject_SetAttrString(exception, name, number);
    Py_DECREF(number);
    return rc;
}

/* The attributes documented at PodipcError; what does not apply is None. */
static int set_attributes(PyObject *exception, int rc, const podipc_error *err)
{
    int sys_errno = err && err->sys_errno ? err->sys_errno : rc >= -4095 ? -rc : 0;
    if (rc == PODIPC_EMEMLIMIT)
        sys_errno = ENOMEM;
    bool amounts = err && (err->need || err->have);
    PyObject *call = err && err->call[0] ? PyUnicode_FromString(err->call) : Py_NewRef(Py_None);
    if (!call)
        return -1;
    int result = PyObject_SetAttrString(exception, "call", call);
    Py_DECREF(call);
    if (result == 0)
        result = sys_errno ? set_number(exception, "errno", (unsigned long long)sys_errno)
                           : PyObject_SetAttrString(exception, "errno", Py_None);
    if (result == 0)
        result = amounts ? set_number(exception, "need", err->need)
                         : PyObject_SetAttrString(exception, "need", Py_None);
    if (result == 0)
        result = amounts ? set_number(exception, "have", err->have)
                         : PyObject_SetAttrString(exception, "have", Py_None);
    return result;
}

static PyObject *raise_with(pd_state *st, enum pd_exception which, PyObject *text, int rc,
                            const podipc_error *err)
{
    if (!text)
        return NULL;
    PyObject *exception = PyObject_CallFunctionObjArgs(st->exceptions[which], text, NULL);
    Py_DECREF(text);
    if (!exception)
        return NULL;
    if (set_attributes(exception, rc, err) == 0)
        PyErr_SetObject(st->exceptions[which], exception);
    Py_DECREF(exception);
    return NULL;
}

PyObject *pd_raise(pd_state *st, int rc, const podipc_error *err)
{
    enum pd_exception which = from_rc(rc);
    PyObject *text = err && err->text[0]
                         ? PyUnicode_DecodeUTF8(err->text, (Py_ssize_t)strlen(err->text), "replace")
                     : rc >= -4095 ? PyUnicode_FromFormat("%s", strerror(-rc))
                                   : PyUnicode_FromFormat("%s", pd_exceptions[which].doc);
    return raise_with(st, which, text, rc, err);
}

PyObject *pd_raise_text(pd_state *st, enum pd_exception which, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    PyObject *text = PyUnicode_FromFormatV(format, ap);
    va_end(ap);
    int rc = which == PD_TIMEOUT ? -ETIMEDOUT : -5000; /* -5000: no errno of its own */
    return raise_with(st, which, text, rc, NULL);
}
