/* loopback_connect.c - how the two ends of a loopback connection meet. */
#include <errno.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/io.h"
#include "../platform/rendezvous.h"
#include "../platform/socket.h"
#include "../platform/tcp.h"
#include "loopback.h"

static void close_in_child(void *arg)
{
    pdi_close(arg); /* an int * */
}

int pdi_listener_open(struct pdi_listener *l, const char *host, uint16_t port, podipc_error *err)
{
    *l = (struct pdi_listener){.fd = -1};
    int rc = pdi_tcp_check(host, port ? port : 1, err);
    if (rc == 0)
        rc = pdi_tcp_listen(host, port, &l->fd, err);
    if (rc < 0)
        return rc;
    rc = pdi_tcp_port(l->fd, &l->port);
    if (rc == 0)
        rc = pdi_fork_watch(&l->fork, close_in_child, &l->fd, NULL);
    if (rc == 0)
        return 0;
    pdi_close(&l->fd);
    return pdi_fail(err, rc, "getsockname", "cannot listen");
}

int pdi_listener_accept(struct pdi_listener *l, int64_t until, struct pdi_loopback **out,
                        podipc_error *err)
{
    int fd;
    if (pdi_forked(&l->fork))
        return pdi_fail(err, PODIPC_EFORKED, "",
                        "this listener belongs to the parent of this process: listen anew after "
                        "fork()");
    int rc = pdi_socket_accept(l->fd, &fd);
    if (rc == -EAGAIN && until != 0) {
        pdi_wait_one(l->fd, false, until);
        rc = pdi_socket_accept(l->fd, &fd);
    }
    if (rc == -EAGAIN)
        return rc;
    if (rc < 0)
        return pdi_fail(err, rc, "accept4", "cannot accept a connection on port %u",
                        (unsigned)l->port);
    return pdi_loopback_new(fd, out, err);
}

void pdi_listener_close(struct pdi_listener *l)
{
    pdi_fork_forget(&l->fork);
    pdi_close(&l->fd);
}

void pdi_loopback_connect_cancel(struct pdi_connecting *c)
{
    pdi_close(&c->fd);
}

/* 0: connected; -EAGAIN, with c->refused if it makes sense to begin anew; or -errno. */
static int connect_once(struct pdi_connecting *c, int64_t until)
{
    int rc = c->fd < 0 ? pdi_tcp_connect(c->host, c->port, &c->fd) : -EINPROGRESS;
    c->refused = false;
    if (rc == -EINPROGRESS) {
        if (until != 0)
            pdi_wait_one(c->fd, true, until);
        rc = pdi_socket_connected(c->fd);
        if (rc == -EINPROGRESS)
            return -EAGAIN;
    }
    if (rc == 0 && !pdi_tcp_is_itself(c->fd))
        return 0;
    pdi_loopback_connect_cancel(c);
    c->refused = rc == 0 || rc == -ECONNREFUSED;
    return c->refused ? -EAGAIN : rc;
}

int pdi_loopback_connect(struct pdi_connecting *c, int64_t until, struct pdi_loopback **out,
                         podipc_error *err)
{
    enum { PAUSE = 10000000 };
    int rc = pdi_tcp_check(c->host, c->port, err);
    if (rc < 0)
        return rc;
    for (;;) {
        rc = connect_once(c, until);
        if (rc == 0) {
            rc = pdi_loopback_new(c->fd, out, err);
            c->fd = -1;
            return rc;
        }
        if (rc != -EAGAIN)
            return pdi_fail(err, rc, "connect", "cannot connect to port %u of %s",
                            (unsigned)c->port, c->host ? c->host : "127.0.0.1");
        int64_t now = pdi_now();
        if (until == 0 || now >= until || !c->refused)
            return -EAGAIN;
        pdi_wait_one(-1, false, until - now > PAUSE ? now + PAUSE : until);
        if (pdi_now() >= until)
            return -EAGAIN;
    }
}
