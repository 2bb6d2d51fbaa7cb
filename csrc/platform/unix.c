#include "unix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../core/error.h"
#include "rendezvous.h"

/* sun_path has room for 107 bytes. A longer path is reached by the descriptor of
 * its directory, which goes to *dir and must stay open until the call is made. */
static int address_of(const char *path, struct sockaddr_un *a, int *dir)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    *dir = -1;
    size_t n = strlen(path);
    if (n < sizeof a->sun_path) {
        memcpy(a->sun_path, path, n);
        return 0;
    }
    const char *name = strrchr(path, '/');
    char above[4096];
    if (!name || (size_t)(name - path) >= sizeof above)
        return -ENAMETOOLONG;
    memcpy(above, path, (size_t)(name - path));
    above[name - path] = '\0';
    *dir = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir < 0)
        return -errno;
    int put = snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d%s", *dir, name);
    return put < 0 || (size_t)put >= sizeof a->sun_path ? -ENAMETOOLONG : 0;
}

static int call_at(const char *path, int fd, int (*call)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_un a;
    int dir;
    int rc = address_of(path, &a, &dir);
    if (rc == 0 && call(fd, (const struct sockaddr *)&a, sizeof a) < 0)
        rc = -errno;
    pdi_close(&dir);
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
        rc = call_at(path, fd, connect);
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
    rc = call_at(path, *fd, bind);
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
    if (rc == -ENAMETOOLONG)
        return pdi_fail(err, PODIPC_EADDRESS, call, "the name of the socket %s is too long", path);
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
    rc = call_at(path, *fd, connect);
    if (rc == 0)
        return 0;
    pdi_close(fd);
    if (rc == -EACCES)
        return pdi_special_denied(path, rc, "connect", err);
    return pdi_fail(err, rc, "connect", "could not connect to %s", path);
}
