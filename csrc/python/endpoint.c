#include "endpoint.h"

#include <string.h>

#include "errors.h"

static const char *const methods[] = {
    [PODIPC_SHM] = "shm",   [PODIPC_TCP] = "tcp",   [PODIPC_UNIX] = "unix",
    [PODIPC_FIFO] = "fifo", [PODIPC_FILE] = "file",
};

static const char *const waits[] = {
    [PODIPC_WAIT_ADAPTIVE] = "adaptive",
    [PODIPC_WAIT_BLOCK] = "block",
    [PODIPC_WAIT_SPIN] = "spin",
    [PODIPC_WAIT_SEMAPHORE] = "semaphore",
};

static int index_of(pd_state *st, const char *what, const char *word, const char *const *words,
                    size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return (int)i;
    pd_raise_text(st, PD_ADDRESS_ERROR, "unknown %s '%s'", what, word);
    return -1;
}

int pd_options(pd_state *st, PyObject *args, PyObject *kwargs, bool receiver,
               podipc_options *options, PyObject **address)
{
    static const char *const sender_names[] = {"address",   "method", "path", "port",
                                               "wait",      "named",  "mode", "max_bytes",
                                               "broadcast", NULL};
    static const char *const receiver_names[] = {"address",   "method", "path", "port",
                                                 "wait",      "named",  "mode", "max_bytes",
                                                 "broadcast", "latest", NULL};
    const char *method, *wait = "adaptive";
    unsigned int port = 0, mode = 0600;
    unsigned long long max_bytes = 0;
    int named = 0, broadcast = 0, latest = 0;
    memset(options, 0, sizeof *options);
    *address = NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, receiver ? "Uss|$IspIKpp:Receiver" : "Uss|$IspIKp:Sender",
            (char **)(uintptr_t)(receiver ? receiver_names : sender_names), address, &method,
            &options->path, &port, &wait, &named, &mode, &max_bytes, &broadcast, &latest))
        return -1;
    int m = index_of(st, "method", method, methods, sizeof methods / sizeof *methods);
    int w = m < 0 ? -1 : index_of(st, "wait option", wait, waits, sizeof waits / sizeof *waits);
    if (w < 0)
        return -1;
    if (mode != 0600 && mode != 0660 && mode != 0666) {
        PyErr_Format(PyExc_ValueError,
                     "mode must be 0o600 (this UID), 0o660 (a common group) or 0o666 (any UID of "
                     "the Pod), not %u",
                     mode);
        return -1;
    }
    if (port > UINT16_MAX) {
        pd_raise_text(st, PD_ADDRESS_ERROR, "a port is at most 65535, not %u", port);
        return -1;
    }
    options->method = (podipc_method)m;
    options->wait = (podipc_wait)w;
    options->port = (uint16_t)port;
    options->named = named != 0;
    options->mode = mode;
    options->max_bytes = max_bytes;
    options->broadcast = broadcast != 0;
    options->latest = latest != 0;
    Py_INCREF(*address);
    return 0;
}

PyObject *pd_stats_dict(const podipc_stats *s)
{
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "messages",
                         s->messages, "bytes", s->bytes, "peers", s->peers, "peers_died",
                         s->peers_died, "queued", s->queued, "held", s->held, "redelivered",
                         s->redelivered, "lost_taken", s->lost_taken, "skipped", s->skipped,
                         "unheard", s->unheard, "reserved", s->reserved, "max_bytes", s->max_bytes);
}
