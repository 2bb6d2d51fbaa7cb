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

enum { LAST_WORD = 64 << 10 };

static int send_buffer(int fd)
{
    int size = 0;
    socklen_t n = sizeof size;
    /* The kernel doubles what it is given, and tells the double. */
    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &n) == 0 ? size / 2 : 0;
}

static void set_send_buffer(int fd, int size)
{
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

void pdi_socket_widen(int fd, int bytes)
{
    set_send_buffer(fd, bytes);
    int got = send_buffer(fd);
    if (got > 2 * LAST_WORD)
        set_send_buffer(fd, got - LAST_WORD);
}

void pdi_socket_make_room(int fd)
{
    int now = send_buffer(fd);
    if (now > 0)
        set_send_buffer(fd, now + LAST_WORD);
}

void pdi_socket_end(int fd)
{
    (void)shutdown(fd, SHUT_WR);
}

void pdi_socket_hang_up(int fd)
{
    (void)shutdown(fd, SHUT_RDWR);
}
