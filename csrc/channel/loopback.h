/* loopback.h - a loopback TCP connection that carries tensors both ways.
 *
 * Not a channel (no rendezvous, no budget, no redelivery): the plain building
 * block, with the frames of core/frame.h. Both ends greet, and each direction is a
 * stream of frames of its own, with sequence numbers of its own.
 *
 * One thread may be in pdi_loopback_send() and another in pdi_loopback_recv() at the
 * same time, and any in pdi_loopback_hang_up(). Nothing else at once. After fork() a
 * child may only free; all else returns PODIPC_EFORKED.
 */
#ifndef PDI_LOOPBACK_H
#define PDI_LOOPBACK_H

#include "../platform/fork.h"
#include "podipc.h"

/* ---- the listening end; filled in by open, owned by the caller ---- */

struct pdi_listener {
    int fd;
    uint16_t port; /* the real one, also if 0 was asked for */
    struct pdi_fork_hook fork;
};

struct pdi_loopback;

/* -EADDRINUSE; PODIPC_EADDRESS: not a loopback address. `l` must stay in place. */
int pdi_listener_open(struct pdi_listener *l, const char *host, uint16_t port, podipc_error *err);
/* -EAGAIN: nobody connected by `until`. *out is the caller's. */
int pdi_listener_accept(struct pdi_listener *l, int64_t until, struct pdi_loopback **out,
                        podipc_error *err);
/* Idempotent. */
void pdi_listener_close(struct pdi_listener *l);

/* ---- a connection ---- */

/* Of a connected socket, which it takes over, also on failure. Greets. */
int pdi_loopback_new(int fd, struct pdi_loopback **out, podipc_error *err);

/* One attempt to connect, kept over several calls; set fd to -1 at the start. */
struct pdi_connecting {
    const char *host;
    uint16_t port;
    int fd;
    bool refused; /* nobody listened when it was last tried */
};

/* Tries again and again while nobody listens. -EAGAIN: not by `until`. After any
 * other result nothing is left to give up. */
int pdi_loopback_connect(struct pdi_connecting *c, int64_t until, struct pdi_loopback **out,
                         podipc_error *err);
void pdi_loopback_connect_cancel(struct pdi_connecting *c);

/* Sends s->tensor with the bytes at s->data; podipc_send() says how. A sending that
 * is cancelled halfway is completed as one that the peer throws away.
 * PODIPC_EPEERDIED, PODIPC_ECLOSED: the other end, or this one, was closed. */
int pdi_loopback_send(struct pdi_loopback *l, podipc_sending *s, int64_t until, podipc_error *err);
void pdi_loopback_send_cancel(struct pdi_loopback *l, podipc_sending *s);

/* The next tensor. out->data was allocated by malloc() and is the caller's;
 * out->tensor.type is valid until the next call. What had come by a timeout is kept.
 * PODIPC_EMEMLIMIT: no memory for it; can be tried again. After PODIPC_ECORRUPT and
 * PODIPC_EVERSION the connection is of no use any more. */
int pdi_loopback_recv(struct pdi_loopback *l, int64_t until, podipc_message *out,
                      podipc_error *err);

/* Says goodbye, waiting at most until `until` for room to say it, and disconnects. No
 * other thread may be sending. What was sent still arrives. */
void pdi_loopback_close(struct pdi_loopback *l, int64_t until);
/* Makes calls of other threads return PODIPC_ECLOSED soon, and all later ones. */
void pdi_loopback_hang_up(struct pdi_loopback *l);
/* Its descriptor, still its own; -1 once closed or in a forked child. */
int pdi_loopback_fd(const struct pdi_loopback *l);
bool pdi_loopback_forked(struct pdi_loopback *l);
/* Closes without goodbye if it is open. */
void pdi_loopback_free(struct pdi_loopback *l);

#endif
