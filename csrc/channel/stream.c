#include "stream.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/fifo.h"
#include "../platform/tcp.h"
#include "../platform/unix.h"

static int refuse_many(const podipc_options *options, podipc_error *err)
{
    if (!options->broadcast && !options->latest)
        return 0;
    return pdi_fail(err, PODIPC_EADDRESS, "",
                    "publisher and subscriber need shared memory: a stream (tcp, unix, fifo) goes "
                    "to one receiver; use an address like shm://frames");
}

/* A file that could not be made, or a peer could never find. */
static int check_length(const char *path, podipc_error *err)
{
    const char *slash = strrchr(path, '/');
    size_t all = strlen(path), name = slash ? strlen(slash + 1) : all;
    if (name <= NAME_MAX && all < PATH_MAX)
        return 0;
    return pdi_fail(err, PODIPC_EADDRESS, "",
                    "the path %.60s... is too long: it has %zu bytes, its last part %zu; there is "
                    "room for %d and %d",
                    path, all, name, PATH_MAX - 1, NAME_MAX);
}

int pdi_stream_at_open(const podipc_options *options, struct pdi_stream_at *at, podipc_error *err)
{
    *at = (struct pdi_stream_at){
        .method = options->method, .mode = options->mode, .port = options->port};
    int rc = refuse_many(options, err);
    if (rc < 0)
        return rc;
    bool tcp = options->method == PODIPC_TCP;
    const char *path = options->path && *options->path ? options->path : tcp ? "127.0.0.1" : NULL;
    if (!path)
        return pdi_fail(err, PODIPC_EADDRESS, "", "a path is needed, as in %s:///shared/frames.%s",
                        options->method == PODIPC_FIFO ? "fifo" : "unix",
                        options->method == PODIPC_FIFO ? "fifo" : "sock");
    if (tcp) {
        rc = pdi_tcp_check(path, options->port, err);
        if (rc < 0)
            return rc;
        (void)snprintf(at->name, sizeof at->name, strchr(path, ':') ? "[%s]:%u" : "%s:%u", path,
                       (unsigned)options->port);
    } else {
        rc = check_length(path, err);
        if (rc < 0)
            return rc;
        (void)snprintf(at->name, sizeof at->name, "%s", path);
    }
    at->path = strdup(path);
    return at->path ? 0 : pdi_fail(err, -ENOMEM, "malloc", "could not copy a path");
}

void pdi_stream_at_close(struct pdi_stream_at *at)
{
    free(at->path);
    at->path = NULL;
}

const char *pdi_stream_at_advice(const struct pdi_stream_at *at)
{
    return at->method == PODIPC_TCP
               ? "check that both containers are in one Pod (same network namespace)"
               : "check that both containers mount the volume that holds this path";
}

int pdi_stream_listen(const struct pdi_stream_at *at, int *fd, struct pdi_special_id *id,
                      podipc_error *err)
{
    switch (at->method) {
    case PODIPC_TCP:
        return pdi_tcp_listen(at->path, at->port, fd, err);
    case PODIPC_UNIX:
        return pdi_unix_listen(at->path, at->mode, fd, id, err);
    default:
        return pdi_fifo_make(at->path, at->mode, NULL, fd, id, err);
    }
}

int pdi_stream_connect(const struct pdi_stream_at *at, int *fd, podipc_error *err)
{
    int rc;
    switch (at->method) {
    case PODIPC_TCP:
        rc = pdi_tcp_connect(at->path, at->port, fd);
        if (rc == 0 || rc == -EINPROGRESS || pdi_stream_not_yet(rc))
            return rc;
        return pdi_fail(err, rc, "connect", "could not connect to %s", at->name);
    case PODIPC_UNIX:
        return pdi_unix_connect(at->path, fd, err);
    default:
        return pdi_fifo_claim(at->path, fd, err);
    }
}

bool pdi_stream_not_yet(int rc)
{
    switch (rc) {
    case -ENOENT:
    case -ENXIO:
    case -EAGAIN:
    case -EBUSY:
    case -EPIPE:
    case -ECONNREFUSED:
    case -ECONNRESET:
    case -ETIMEDOUT:
        return true;
    default:
        return false;
    }
}
