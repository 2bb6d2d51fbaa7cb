/* shm_receiver.c - the receiver's side of the data path. */
#include "shm.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/descriptor.h"
#include "../platform/socket.h"

/* How long a subscriber with latest=True waits for a newer tensor that it knows
 * to be on its way, before it takes the one it has. */
#define LATEST_PATIENCE_NS INT64_C(10000000)

struct rx_arena {
    struct pdi_memfd memory;
    uint32_t id;
    uint32_t held; /* messages of it with the user: it must stay mapped */
};

struct rx_link {
    struct pdi_link link;
    struct pdi_memfd ring_memory, returns_memory;
    struct pdi_ring_rx ring;
    struct rx_arena arenas[PDI_ARENAS]; /* by id mod PDI_ARENAS */
    uint64_t held;                      /* messages with the user */
    bool broken;                        /* wrote what cannot be: nothing more is taken */
    bool settled;                       /* in no table; lives for its messages alone */
    struct shm_receiver *rx;
};

struct shm_receiver {
    podipc_receiver base;
    struct pdi_endpoint ep;
    uint32_t turn;
    bool ended;           /* a sender closed in order since that was last said, */
    bool said;            /* or it was said, and until another joins is said again */
    podipc_message stash; /* latest: in hand while a newer one is on its way */
    bool stashed;
    int64_t nudged_at; /* when the newer one was asked for; 0: not asked */
    podipc_stats stats;
};

static struct rx_link *rx_of(struct pdi_link *link)
{
    return (struct rx_link *)(void *)link;
}

static struct shm_receiver *receiver_of(struct pdi_endpoint *ep)
{
    return (struct shm_receiver *)(void *)((char *)ep - offsetof(struct shm_receiver, ep));
}

/* ---- links ---- */

static struct pdi_link *create(struct pdi_endpoint *ep)
{
    struct rx_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->link.sock = link->link.door.fd = link->link.bell.fd = -1;
    link->ring_memory.fd = link->returns_memory.fd = -1;
    for (uint32_t i = 0; i < PDI_ARENAS; i++)
        link->arenas[i].memory.fd = -1;
    link->rx = receiver_of(ep);
    return &link->link;
}

static void drop(struct pdi_link *l)
{
    struct rx_link *link = rx_of(l);
    pdi_link_clear(l);
    pdi_memfd_close(&link->ring_memory);
    pdi_memfd_close(&link->returns_memory);
    for (uint32_t i = 0; i < PDI_ARENAS; i++)
        pdi_memfd_close(&link->arenas[i].memory);
    free(link);
}

static int own_fd(struct pdi_link *l)
{
    return rx_of(l)->returns_memory.fd;
}

static int greet(struct pdi_endpoint *ep, struct pdi_link *l, int fd)
{
    (void)ep;
    struct rx_link *link = rx_of(l);
    int rc = pdi_memfd_attach(fd, sizeof(struct pdi_ring), false, &link->ring_memory);
    if (rc < 0)
        return rc;
    pdi_memfd_close_fd(&link->ring_memory);
    rc = pdi_memfd_create("podipc-returns", sizeof(struct pdi_returns), true, false,
                          &link->returns_memory, NULL);
    link->ring.ring = link->ring_memory.map;
    link->ring.returns = link->returns_memory.map;
    return rc;
}

static void joined(struct pdi_endpoint *ep, struct pdi_link *link)
{
    pdi_memfd_close_fd(&rx_of(link)->returns_memory);
    struct shm_receiver *rx = receiver_of(ep);
    rx->ended = rx->ended && !rx->said;
    rx->said = false;
}

static int packet(struct pdi_endpoint *ep, struct pdi_link *l, const struct pdi_packet *p, int *fd)
{
    (void)ep;
    struct rx_link *link = rx_of(l);
    struct rx_arena *arena = &link->arenas[p->arena % PDI_ARENAS];
    /* Only a broken sender takes away what it has lent. */
    if (arena->held > 0)
        return PODIPC_ECORRUPT;
    if (p->kind == PDI_GONE) {
        if (arena->id == p->arena)
            pdi_memfd_close(&arena->memory);
        return 0;
    }
    if (p->kind != PDI_ARENA || *fd < 0)
        return PODIPC_ECORRUPT;
    pdi_memfd_close(&arena->memory);
    arena->id = p->arena;
    int rc = pdi_memfd_attach(*fd, p->size, false, &arena->memory);
    *fd = -1;
    return rc;
}

static void bye(struct pdi_endpoint *ep, struct pdi_link *link)
{
    (void)ep;
    (void)link;
}

static void lost(struct pdi_endpoint *ep, struct pdi_link *link)
{
    (void)ep;
    (void)link;
}

static bool tick(struct pdi_endpoint *ep)
{
    (void)ep;
    return false;
}

/* Takes a link out of the table; it is freed with its last message. */
static void settle(struct shm_receiver *rx, struct rx_link *link)
{
    pdi_link_remove(&rx->ep, &link->link);
    if (link->held == 0) {
        drop(&link->link);
        return;
    }
    link->settled = true;
    link->link.next_settled = rx->ep.settled;
    rx->ep.settled = &link->link;
}

/* The sender takes back what was not taken, and connects anew when it looks through the
 * directory. As at a close, the socket stays open while the user holds tensors. */
static void part(struct pdi_endpoint *ep, struct pdi_link *link)
{
    pdi_link_bye(link, pdi_now() + PDI_GOODBYE_NS);
    settle(receiver_of(ep), rx_of(link));
}

static const struct pdi_role_ops role = {
    .role = PDI_ROLE_RECEIVER,
    .create = create,
    .own_fd = own_fd,
    .greet = greet,
    .joined = joined,
    .packet = packet,
    .part = part,
    .bye = bye,
    .lost = lost,
    .drop = drop,
    .tick = tick,
};

/* ---- receiving ---- */

static void give_back(struct rx_link *link, uint32_t ticket, uint32_t generation)
{
    if (link->link.state == PDI_LOST)
        return;
    pdi_ring_return(&link->ring, ticket, generation);
    pdi_link_call(&link->rx->ep, &link->link);
}

/* The next message of one link. -EAGAIN: none; PODIPC_ECORRUPT. */
static int next_of(struct rx_link *link, podipc_message *out)
{
    struct pdi_descriptor d;
    if (link->broken || !link->ring.ring || !pdi_ring_copy(&link->ring, &d))
        return -EAGAIN;
    struct rx_arena *arena = &link->arenas[d.arena % PDI_ARENAS];
    if (!arena->memory.map || arena->id != d.arena) {
        /* Still on its way through the socket, unless the socket has ended. */
        if (link->link.state != PDI_LOST)
            return -EAGAIN;
        return PODIPC_ECORRUPT;
    }
    int rc = pdi_descriptor_read(&d, arena->memory.map, arena->memory.size, &out->tensor);
    if (rc < 0)
        return rc;
    if (out->tensor.type == (const char *)d.type) {
        memcpy(out->short_type, d.type, sizeof d.type);
        out->tensor.type = out->short_type;
    }
    out->data = (const char *)arena->memory.map + d.offset;
    out->owner = link;
    out->id = (uint64_t)d.generation << 32 | d.ticket;
    out->place = d.arena % PDI_ARENAS;
    out->sender = link->link.hello.id;
    pdi_ring_take(&link->ring);
    arena->held++;
    link->held++;
    out->scarce = link->held > PDI_RETURN_SLOTS / 2;
    /* A sender that waits for room in the ring. */
    if (link->link.state != PDI_LOST)
        pdi_link_call(&link->rx->ep, &link->link);
    return 0;
}

static void let_go(struct shm_receiver *rx, const podipc_message *message)
{
    struct rx_link *link = message->owner;
    link->arenas[message->place].held--;
    give_back(link, (uint32_t)message->id, (uint32_t)(message->id >> 32));
    if (--link->held == 0 && link->settled) {
        struct pdi_link **at = &rx->ep.settled;
        while (*at != &link->link)
            at = &(*at)->next_settled;
        *at = link->link.next_settled;
        drop(&link->link);
    }
}

/* A link with nothing left whose sender is gone: say so once. 0: go on. */
static int farewell(struct shm_receiver *rx, struct rx_link *link, podipc_error *err)
{
    bool in_order = link->link.said_bye, broken = link->broken;
    settle(rx, link);
    if (in_order) {
        rx->ended = true;
        return 0;
    }
    rx->ep.died++;
    if (broken)
        return 0; /* already reported */
    return pdi_fail(err, PODIPC_EPEERDIED, "",
                    "a sender of %s died; everything it had sent was delivered", rx->ep.path);
}

static int corrupt(struct rx_link *link, podipc_error *err)
{
    link->broken = true;
    if (link->link.sock >= 0)
        pdi_socket_hang_up(link->link.sock);
    return pdi_fail(err, PODIPC_ECORRUPT, "",
                    "a sender of %s wrote a message that does not fit its own memory; it was "
                    "disconnected",
                    link->rx->ep.path);
}

static int next_message(struct shm_receiver *rx, podipc_message *out, podipc_error *err)
{
    struct pdi_endpoint *ep = &rx->ep;
    for (uint32_t i = 0; i < ep->link_count; i++) {
        struct rx_link *link = rx_of(ep->links[(rx->turn + i) % ep->link_count]);
        int rc = next_of(link, out);
        if (rc == 0) {
            if (ep->link_count > 1)
                rx->turn++;
            return 0;
        }
        if (rc != -EAGAIN)
            return corrupt(link, err);
        /* Not before the control thread has seen the end of the socket: it may be
         * polling it, and arenas may still be in it. */
        if (link->link.state == PDI_LOST) {
            rc = farewell(rx, link, err);
            if (rc < 0)
                return rc;
            i = UINT32_MAX; /* the table changed: from the beginning */
        }
    }
    return -EAGAIN;
}

static int receive(struct shm_receiver *rx, podipc_message *out, podipc_error *err)
{
    int rc = next_message(rx, out, err);
    if (rc != -EAGAIN)
        return rc;
    /* Whatever the order they left in: nobody is there, and every death was told. */
    if (rx->ended && rx->ep.link_count == 0) {
        rx->said = true;
        return pdi_fail(err, PODIPC_ECLOSED, "",
                        "every sender of %s has closed and nothing is left", rx->ep.path);
    }
    return rx->ep.has_complaint ? pdi_endpoint_complaint(&rx->ep, err) : -EAGAIN;
}

static void move_message(podipc_message *to, const podipc_message *from)
{
    *to = *from;
    if (from->tensor.type == from->short_type)
        to->tensor.type = to->short_type;
}

/* Is a still newer tensor waiting behind a full ring, and worth waiting for? Its
 * sender pushes it when it hears that there is room. */
static bool newer_is_coming(struct shm_receiver *rx)
{
    int64_t now = pdi_now();
    bool pending = false, late = now - rx->nudged_at >= LATEST_PATIENCE_NS;
    bool nudge = rx->nudged_at == 0 || (late && !rx->stashed);
    for (uint32_t i = 0; i < rx->ep.link_count; i++) {
        struct rx_link *link = rx_of(rx->ep.links[i]);
        if (link->link.state != PDI_JOINED || !pdi_peek32(&link->ring.ring->pending))
            continue;
        pending = true;
        if (nudge)
            (void)pdi_link_packet(&link->link, PDI_NUDGE, 0, 0, -1);
    }
    if (pending && nudge)
        rx->nudged_at = now;
    return pending && (nudge || !late);
}

/* The newest tensor there is; the older ones are let go and counted. The `last` attempt
 * of a call hands out what is in hand, though a newer one is on its way. */
static int receive_latest(struct shm_receiver *rx, podipc_message *out, bool last,
                          podipc_error *err)
{
    podipc_message next;
    int rc;
    while ((rc = receive(rx, &next, err)) == 0) {
        if (rx->stashed) {
            let_go(rx, &rx->stash);
            rx->stats.skipped++;
        } else {
            rx->nudged_at = 0; /* whatever an earlier call has asked for */
        }
        move_message(&rx->stash, &next);
        rx->stashed = true;
    }
    pdi_poke64(&rx->ep.again, 0);
    if (rc == -EAGAIN && newer_is_coming(rx) && !(last && rx->stashed)) {
        if (rx->stashed)
            pdi_poke64(&rx->ep.again, (uint64_t)(rx->nudged_at + LATEST_PATIENCE_NS));
        return -EAGAIN;
    }
    if (!rx->stashed)
        return rc;
    if (rc != -EAGAIN && rc != PODIPC_ECLOSED && err) {
        /* First the tensor, at the next call the error. */
        rx->ep.complaint = *err;
        rx->ep.has_complaint = true;
    }
    rx->nudged_at = 0;
    rx->stashed = false;
    move_message(out, &rx->stash);
    return 0;
}

struct attempt {
    struct shm_receiver *rx;
    podipc_message *out;
    bool last; /* no time is left for another */
    podipc_error *err;
};

static int recv_attempt(void *arg)
{
    struct attempt *a = arg;
    struct shm_receiver *rx = a->rx;
    pthread_mutex_lock(&rx->ep.lock);
    int rc = rx->ep.closed               ? pdi_endpoint_closed_error(a->err)
             : rx->ep.flags & PDI_LATEST ? receive_latest(rx, a->out, a->last, a->err)
                                         : receive(rx, a->out, a->err);
    if (rc == 0) {
        rx->stats.messages++;
        rx->stats.bytes += a->out->tensor.nbytes;
    }
    pthread_mutex_unlock(&rx->ep.lock);
    return rc;
}

static int recv_op(podipc_receiver *base, int64_t until, podipc_message *out, podipc_error *err)
{
    struct shm_receiver *rx = (struct shm_receiver *)base;
    if (pdi_endpoint_forked(&rx->ep))
        return pdi_endpoint_forked_error(err);
    struct attempt a = {.rx = rx, .out = out, .err = err};
    int rc = pdi_endpoint_wait(&rx->ep, recv_attempt, &a, until);
    if (rc == -EAGAIN && (rx->ep.flags & PDI_LATEST) && pdi_now() >= until) {
        a.last = true;
        rc = recv_attempt(&a);
    }
    return rc;
}

static void release(podipc_receiver *base, podipc_message *message)
{
    struct shm_receiver *rx = (struct shm_receiver *)base;
    if (pdi_endpoint_forked(&rx->ep))
        return;
    pthread_mutex_lock(&rx->ep.lock);
    let_go(rx, message);
    pthread_mutex_unlock(&rx->ep.lock);
}

static int map_private(podipc_receiver *base, const podipc_message *message, void **addr,
                       podipc_error *err)
{
    struct shm_receiver *rx = (struct shm_receiver *)base;
    struct rx_link *link = message->owner;
    const struct pdi_memfd *memory = &link->arenas[message->place].memory;
    uint64_t size = message->tensor.nbytes ? message->tensor.nbytes : 1;
    pthread_mutex_lock(&rx->ep.lock);
    int rc = pdi_memfd_map_private(
        memory, (uint64_t)((const char *)message->data - (const char *)memory->map), size, addr);
    pthread_mutex_unlock(&rx->ep.lock);
    if (rc < 0)
        return pdi_fail(err, rc, "mmap", "could not map %llu bytes copy-on-write",
                        (unsigned long long)size);
    return 0;
}

static void unmap_private(const podipc_message *message, void *addr)
{
    pdi_memfd_unmap_private(addr, message->tensor.nbytes ? message->tensor.nbytes : 1);
}

/* ---- opening and closing ---- */

static void explain(podipc_receiver *base, char *text, size_t cap)
{
    pdi_endpoint_explain(&((struct shm_receiver *)base)->ep, text, cap);
}

static void stats(podipc_receiver *base, podipc_stats *out)
{
    struct shm_receiver *rx = (struct shm_receiver *)base;
    pthread_mutex_lock(&rx->ep.lock);
    *out = rx->stats;
    for (uint32_t i = 0; i < rx->ep.link_count; i++) {
        struct rx_link *link = rx_of(rx->ep.links[i]);
        out->peers += link->link.state == PDI_JOINED;
        out->held += link->held;
    }
    for (struct pdi_link *link = rx->ep.settled; link; link = link->next_settled)
        out->held += rx_of(link)->held;
    out->peers_died = rx->ep.died;
    pthread_mutex_unlock(&rx->ep.lock);
}

static void close_op(podipc_receiver *base)
{
    struct shm_receiver *rx = (struct shm_receiver *)base;
    if (!pdi_endpoint_close(&rx->ep))
        return;
    bool forked = pdi_endpoint_forked(&rx->ep);
    pthread_mutex_lock(&rx->ep.lock);
    if (rx->stashed) {
        rx->stashed = false;
        let_go(rx, &rx->stash);
    }
    int64_t until = pdi_now() + PDI_GOODBYE_NS;
    while (rx->ep.link_count > 0) {
        struct rx_link *link = rx_of(rx->ep.links[0]);
        /* The socket stays open while the user holds tensors: its end would tell
         * the sender that their memory is free. Goodbye also to a sender whose first
         * packet we have not read: for it we may have joined. */
        if (!forked && (link->link.state == PDI_JOINED || link->link.state == PDI_ANSWERED))
            pdi_link_bye(&link->link, until);
        settle(rx, link);
    }
    pthread_mutex_unlock(&rx->ep.lock);
}

static void free_op(podipc_receiver *base)
{
    struct shm_receiver *rx = (struct shm_receiver *)base;
    close_op(base);
    pdi_endpoint_free(&rx->ep);
    free(rx);
}

static const struct pdi_receiver_ops receiver_ops = {
    .recv = recv_op,
    .release = release,
    .map_private = map_private,
    .unmap_private = unmap_private,
    .explain = explain,
    .stats = stats,
    .close = close_op,
    .free = free_op,
};

int pdi_shm_receiver_open(const podipc_options *options, podipc_receiver **out, podipc_error *err)
{
    struct shm_receiver *rx = calloc(1, sizeof *rx);
    if (!rx)
        return pdi_fail(err, -ENOMEM, "calloc", "could not allocate a receiver");
    rx->base.ops = &receiver_ops;
    int rc = pdi_endpoint_open(&rx->ep, &role, options, err);
    if (rc < 0) {
        free(rx);
        return rc;
    }
    *out = &rx->base;
    return 0;
}
