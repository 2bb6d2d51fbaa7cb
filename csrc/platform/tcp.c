#include "tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "../core/error.h"
#include "rendezvous.h"

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage room;
};

/* Its length, or 0 if `host` is not a loopback address. */
static socklen_t parse(const char *host, uint16_t port, union address *a)
{
    memset(a, 0, sizeof *a);
    if (!host || !*host || strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &a->v4.sin_addr) == 1) {
        a->v4.sin_family = AF_INET;
        a->v4.sin_port = htons(port);
        return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127 ? sizeof a->v4 : 0;
    }
    if (inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1) {
        a->v6.sin6_family = AF_INET6;
        a->v6.sin6_port = htons(port);
        return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr) ? sizeof a->v6 : 0;
    }
    return 0;
}

int pdi_tcp_check(const char *host, uint16_t port, podipc_error *err)
{
    union address a;
    if (port == 0)
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        "a port between 1 and 65535 is needed, as in tcp://127.0.0.1:7001");
    if (!parse(host, port, &a))
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        "%s is not a loopback address: containers of one Pod meet at 127.0.0.1 "
                        "(or ::1), and podipc listens nowhere else",
                        host);
    return 0;
}

/* A tensor is written in one call; waiting for more to join it only delays it. */
static int open_socket(const union address *a, int *fd)
{
    const int on = 1;
    *fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0)
        return -errno;
    (void)setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return 0;
}

int pdi_tcp_listen(const char *host, uint16_t port, int *fd, podipc_error *err)
{
    union address a;
    const int on = 1;
    socklen_t size = parse(host, port, &a);
    const char *call = "socket";
    int rc = open_socket(&a, fd);
    if (rc < 0)
        goto err;
    /* Connections of a predecessor in TIME_WAIT must not keep the port. */
    (void)setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    call = "bind";
    if (bind(*fd, &a.any, size) < 0) {
        rc = -errno;
        goto err;
    }
    call = "listen";
    if (listen(*fd, 128) < 0) {
        rc = -errno;
        goto err;
    }
    return 0;
err:
    pdi_close(fd);
    if (rc == -EADDRINUSE)
        return pdi_fail(err, rc, call,
                        "port %u is taken by another process of the Pod (its containers share all "
                        "ports): close it, or give this receiver another port",
                        (unsigned)port);
    return pdi_fail(err, rc, call, "could not listen on port %u of %s", (unsigned)port,
                    host ? host : "127.0.0.1");
}

int pdi_tcp_port(int fd, uint16_t *port)
{
    union address a;
    socklen_t size = sizeof a;
    if (getsockname(fd, &a.any, &size) < 0)
        return -errno;
    *port = ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
    return 0;
}

int pdi_tcp_connect(const char *host, uint16_t port, int *fd)
{
    union address a;
    socklen_t size = parse(host, port, &a);
    int rc = open_socket(&a, fd);
    if (rc < 0)
        return rc;
    if (connect(*fd, &a.any, size) == 0)
        return 0;
    if (errno == EINPROGRESS || errno == EINTR)
        return -EINPROGRESS;
    rc = -errno;
    pdi_close(fd);
    return rc;
}

bool pdi_tcp_is_itself(int fd)
{
    union address here, there;
    socklen_t size_here = sizeof here, size_there = sizeof there;
    memset(&here, 0, sizeof here);
    memset(&there, 0, sizeof there);
    return getsockname(fd, &here.any, &size_here) == 0 &&
           getpeername(fd, &there.any, &size_there) == 0 && size_here == size_there &&
           memcmp(&here, &there, size_here) == 0;
}
