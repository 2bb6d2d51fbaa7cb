#include "socket.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

int pdi_socket_accept(int listener, int *fd)
{
    do
        *fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (*fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return *fd >= 0 ? 0 : errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

int pdi_socket_connected(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (poll(&p, 1, 0) == 0)
        return -EINPROGRESS;
    int failed = 0;
    socklen_t size = sizeof failed;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) < 0)
        return -errno;
    return -failed;
}

void pdi_socket_make_room(int fd, int bytes)
{
    int now = 0;
    socklen_t size = sizeof now;
    /* The kernel doubles what it is given, and tells what it made of it. */
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &now, &size) == 0) {
        now = now / 2 + bytes;
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &now, sizeof now);
    }
}

void pdi_socket_end(int fd)
{
    (void)shutdown(fd, SHUT_WR);
}
