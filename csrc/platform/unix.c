#include "unix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../core/error.h"
#include "rendezvous.h"
#include "retry.h"

/* Calls with the address of `path`. sun_path has room for 107 bytes: what is longer is
 * reached through a descriptor, that of the socket itself, or with `fresh` of the
 * directory in which it is to be made. */
static int call_at(const char *path, int fd, bool fresh,
                   int (*call)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    int near = -1, rc = 0;
    if (n < sizeof a.sun_path) {
        memcpy(a.sun_path, path, n);
    } else {
        char above[PATH_MAX];
        const char *name = fresh ? strrchr(path, '/') : path + n;
        if (!name || (size_t)(name - path) >= sizeof above)
            return -ENAMETOOLONG;
        memcpy(above, path, (size_t)(name - path));
        above[name - path] = '\0';
        near = PDI_RETRY(open(above, O_PATH | O_CLOEXEC | (fresh ? O_DIRECTORY : O_NOFOLLOW)));
        if (near < 0)
            return -errno;
        int put = snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d%s", near, name);
        if (put < 0 || (size_t)put >= sizeof a.sun_path)
            rc = -ENAMETOOLONG;
    }
    if (rc == 0 && PDI_RETRY(call(fd, (const struct sockaddr *)&a, sizeof a)) < 0)
        rc = -errno;
    pdi_close(&near);
    return rc;
}

static int open_socket(int *fd)
{
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return *fd < 0 ? -errno : 0;
}

/* A listener accepts a connection without its owner doing anything. */
static int probe(const char *path)
{
    int fd;
    int rc = open_socket(&fd);
    if (rc == 0)
        rc = call_at(path, fd, false, connect);
    pdi_close(&fd);
    if (rc == 0 || rc == -EAGAIN || rc == -EINPROGRESS)
        return -EADDRINUSE;
    return rc == -ECONNREFUSED || rc == -ENOENT ? 0 : rc;
}

static int make(const char *path, int *fd, podipc_error *err)
{
    const char *call = "socket";
    int rc = open_socket(fd);
    if (rc < 0)
        goto err;
    call = "bind";
    rc = call_at(path, *fd, true, bind);
    if (rc < 0)
        goto err;
    call = "listen";
    if (listen(*fd, 128) < 0) {
        rc = -errno;
        (void)unlink(path);
        goto err;
    }
    return 0;
err:
    pdi_close(fd);
    return pdi_fail(err, rc, call, "could not make a socket at %s as UID %u", path,
                    (unsigned)geteuid());
}

static const struct pdi_special socket_kind = {.type = S_IFSOCK, .probe = probe, .make = make};

int pdi_unix_listen(const char *path, uint32_t mode, int *fd, struct pdi_special_id *id,
                    podipc_error *err)
{
    return pdi_special_put(&socket_kind, path, mode, NULL, fd, id, err);
}

int pdi_unix_connect(const char *path, int *fd, podipc_error *err)
{
    *fd = -1;
    int rc = pdi_special_look(path, S_IFSOCK, err);
    if (rc < 0)
        return rc;
    rc = open_socket(fd);
    if (rc < 0)
        return pdi_fail(err, rc, "socket", "could not make a socket to connect to %s", path);
    rc = call_at(path, *fd, false, connect);
    if (rc == 0)
        return 0;
    pdi_close(fd);
    if (rc == -EACCES)
        return pdi_special_denied(path, rc, "connect", err);
    return pdi_fail(err, rc, "connect", "could not connect to %s", path);
}
