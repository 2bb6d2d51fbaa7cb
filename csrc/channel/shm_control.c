/* shm_control.c - the control thread of an endpoint.
 *
 * It never takes the GIL, so that a sender deep in a numpy call can still be
 * joined and a dead peer is noticed at once. Senders connect to receivers; both
 * listen, so that `podipc ls` can ask who is there.
 */
#include "shm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../platform/poller.h"
#include "../platform/socket.h"

/* Of a path: what is said of it must fit the text of a refusal. */
#define SHOWN "%.44s"

#define TICK_MS   5
#define SOON_MS   100
#define RESCAN_MS 1000 /* look through the directory without being told */

bool pdi_link_add(struct pdi_endpoint *ep, struct pdi_link *link)
{
    if (ep->link_count == PDI_LINKS)
        return false;
    ep->links[ep->link_count++] = link;
    return true;
}

void pdi_link_remove(struct pdi_endpoint *ep, struct pdi_link *link)
{
    for (uint32_t i = 0; i < ep->link_count; i++)
        if (ep->links[i] == link) {
            /* Their order is kept: one poll round hears of a death before it hears of
             * whoever came after it. */
            ep->link_count--;
            memmove(&ep->links[i], &ep->links[i + 1], (ep->link_count - i) * sizeof ep->links[i]);
            return;
        }
}

void pdi_link_clear(struct pdi_link *link)
{
    pdi_close(&link->sock);
    pdi_memfd_close(&link->door);
    pdi_memfd_close(&link->bell);
}

void pdi_link_bye(struct pdi_link *link, int64_t until)
{
    /* An orderly close must not look like a death because the socket was full. */
    while (pdi_link_packet(link, PDI_BYE, 0, 0, -1) == -EAGAIN && pdi_now() < until) {
        struct pollfd p = {.fd = link->sock, .events = POLLOUT};
        (void)pdi_poll(&p, 1, pdi_poll_ms(until));
    }
}

int pdi_link_packet(struct pdi_link *link, enum pdi_packet_kind kind, uint32_t arena, uint64_t size,
                    int fd)
{
    struct pdi_packet packet = {.magic = PDI_MAGIC,
                                .protocol = PDI_PROTOCOL,
                                .kind = (uint16_t)kind,
                                .arena = arena,
                                .size = size};
    return pdi_packet_send(link->sock, &packet, sizeof packet, &fd, fd >= 0 ? 1 : 0);
}

static struct pdi_hello own_hello(const struct pdi_endpoint *ep)
{
    return (struct pdi_hello){
        .head = {.magic = PDI_MAGIC, .protocol = PDI_PROTOCOL, .kind = PDI_HELLO},
        .byte_order = PDI_BYTE_ORDER,
        .page_size = (uint32_t)pdi_page_size(),
        .libc = pdi_libc(),
        .wait = ep->wait,
        .role = ep->role->role,
        .flags = ep->flags,
        .uid = pdi_uid(),
        .gid = pdi_gid(),
        .mode = ep->mode,
        .id = ep->id,
    };
}

static int send_hello(struct pdi_endpoint *ep, struct pdi_link *link)
{
    struct pdi_hello hello = own_hello(ep);
    int fds[3] = {ep->role->own_fd(link), ep->door_memory.fd, ep->bell_memory.fd};
    if (fds[0] < 0)
        return fds[0];
    return pdi_packet_send(link->sock, &hello, sizeof hello, fds, 3);
}

/* Remembers why a peer could not join, for the user of this side. */
static void complain(struct pdi_endpoint *ep, int code, const char *text)
{
    (void)snprintf(ep->last_refusal, sizeof ep->last_refusal, "%s", text);
    ep->has_complaint = true;
    ep->complaint = (podipc_error){.code = code};
    if (code >= -4095)
        ep->complaint.sys_errno = -code;
    (void)snprintf(ep->complaint.text, sizeof ep->complaint.text, "%s", text);
    pdi_endpoint_wake(ep);
}

/* Remembers what this process could not do, for explain(): it is tried again. */
static void could_not(struct pdi_endpoint *ep, const char *what, int rc)
{
    char why[96];
    if (rc == -EMFILE)
        (void)snprintf(why, sizeof why,
                       "it has no descriptors left; raise the limit on open files (ulimit -n)");
    else if (rc == -ENFILE)
        (void)snprintf(why, sizeof why, "the node has no descriptors left (fs.file-max)");
    else if (rc == -ENOMEM || rc == PODIPC_EMEMLIMIT)
        (void)snprintf(why, sizeof why, "its memory is used up; raise resources.limits.memory");
    else
        (void)snprintf(why, sizeof why, "errno %d", -rc);
    (void)snprintf(ep->last_failure, sizeof ep->last_failure, "this process could not %.80s: %s",
                   what, why);
}

/* A refusal is final for that endpoint; a restarted one has another name. */
static void remember_refused(struct pdi_endpoint *ep, const char *name)
{
    (void)snprintf(ep->refused[ep->refused_count++ % PDI_REFUSED], PDI_NAME, "%s", name);
}

static bool was_refused(const struct pdi_endpoint *ep, const char *name)
{
    for (int i = 0; i < PDI_REFUSED; i++)
        if (strcmp(ep->refused[i], name) == 0)
            return true;
    return false;
}

static void refuse(struct pdi_endpoint *ep, int sock, int code, const char *text)
{
    struct pdi_refusal r = {.hello = own_hello(ep), .code = code};
    r.hello.head.kind = PDI_REFUSE;
    (void)snprintf(r.text, sizeof r.text, "%s", text);
    (void)pdi_packet_send(sock, &r, sizeof r, NULL, 0);
    (void)snprintf(ep->last_refusal, sizeof ep->last_refusal, "%s", text);
}

static const char *role_name(uint32_t role)
{
    return role == PDI_ROLE_SENDER ? "sender" : "receiver";
}

/* What the file permissions of `mode` would say, for a peer seen on a socket. */
static bool may_join(const struct pdi_endpoint *ep, const struct pdi_peer *peer)
{
    return peer->uid == pdi_uid() || peer->uid == 0 || (ep->mode & 0006) == 0006 ||
           ((ep->mode & 0060) == 0060 && peer->in_group);
}

static void not_permitted(const struct pdi_endpoint *ep, const struct pdi_link *link, char *text,
                          size_t cap)
{
    (void)snprintf(text, cap,
                   "the %s has UID %u and opened " SHOWN " with mode=0o%03o, which does not let "
                   "the %s, UID %u, join: pass mode=0o666 (or 0o660 and a common group) on both "
                   "sides, or give both the same runAsUser",
                   role_name(ep->role->role), (unsigned)pdi_uid(), ep->path, ep->mode,
                   ep->role->role == PDI_ROLE_SENDER ? "receiver" : "sender",
                   (unsigned)link->peer.uid);
}

/* Can we work together? 0, or a code with the reason in `text`. */
static int compatible(const struct pdi_endpoint *ep, const struct pdi_hello *peer, char *text,
                      size_t cap)
{
    struct pdi_hello own = own_hello(ep);
    const char *what = NULL;
    unsigned long mine = 0, theirs = 0;
    if (peer->head.protocol != PDI_PROTOCOL)
        what = "protocol version", mine = PDI_PROTOCOL, theirs = peer->head.protocol;
    else if (peer->byte_order != own.byte_order)
        what = "byte order", mine = own.byte_order, theirs = peer->byte_order;
    else if (peer->page_size != own.page_size)
        what = "page size", mine = own.page_size, theirs = peer->page_size;
    else if ((peer->wait == PODIPC_WAIT_SEMAPHORE) != (own.wait == PODIPC_WAIT_SEMAPHORE)) {
        (void)snprintf(text, cap,
                       "one side waits with ?wait=semaphore and the other does not: give both "
                       "the same option");
        return PODIPC_EADDRESS;
    } else if (own.wait == PODIPC_WAIT_SEMAPHORE && peer->libc != own.libc) {
        (void)snprintf(text, cap,
                       "?wait=semaphore needs the same libc on both sides (glibc and musl lay "
                       "sem_t out differently): use another ?wait= or the same base image");
        return PODIPC_EVERSION;
    } else if ((peer->flags & PDI_BROADCAST) != (own.flags & PDI_BROADCAST)) {
        (void)snprintf(text, cap,
                       "one side is a publisher or subscriber and the other a sender or receiver "
                       "of " SHOWN ": use the same pair on both sides",
                       ep->path);
        return PODIPC_EADDRESS;
    }
    if (!what)
        return 0;
    (void)snprintf(text, cap,
                   "the %s has %s %lu, the %s has %lu: install the same version of podipc in both "
                   "containers (and run both on the same kind of machine)",
                   role_name(ep->role->role), what, mine, role_name(peer->role), theirs);
    return PODIPC_EVERSION;
}

static void close_all(int *fds, int n)
{
    for (int i = 0; i < n; i++)
        pdi_close(&fds[i]);
}

static void join(struct pdi_endpoint *ep, struct pdi_link *link)
{
    link->state = PDI_JOINED;
    ep->last_failure[0] = '\0';
    ep->role->joined(ep, link);
    pdi_endpoint_wake(ep);
}

/* The peer's first packet. False: drop it. */
static bool greet(struct pdi_endpoint *ep, struct pdi_link *link, const void *data, size_t size,
                  int fds[PDI_PACKET_FDS], int n)
{
    char text[256] = "";
    struct pdi_refusal packet;
    memset(&packet, 0, sizeof packet);
    memcpy(&packet, data, size < sizeof packet ? size : sizeof packet);
    const struct pdi_hello *hello = &packet.hello;
    bool answer = link->name[0] == '\0'; /* we were connected to, and speak second */
    int rc = 0;
    if (size < sizeof hello->head + 8 || hello->head.magic != PDI_MAGIC)
        goto no;
    if (hello->head.kind == PDI_REFUSE) {
        packet.text[sizeof packet.text - 1] = '\0';
        int code = packet.code;
        if (code == -EUSERS) { /* for now: there may be room when it is tried again */
            (void)snprintf(ep->last_refusal, sizeof ep->last_refusal, "%s", packet.text);
            goto no;
        }
        if (code != -EACCES && code != PODIPC_EADDRESS)
            code = PODIPC_EVERSION;
        complain(ep, code, packet.text[0] ? packet.text : "the peer refused");
        remember_refused(ep, link->name);
        goto no;
    }
    if (hello->head.kind != PDI_HELLO)
        goto no;
    rc = compatible(ep, hello, text, sizeof text);
    if (rc < 0) {
        refuse(ep, link->sock, rc, text);
        complain(ep, rc, text);
        remember_refused(ep, link->name);
        goto no;
    }
    if (size != sizeof *hello)
        goto no;
    if (hello->role == PDI_ROLE_PROBE) {
        struct pdi_hello own = own_hello(ep);
        (void)pdi_packet_send(link->sock, &own, sizeof own, NULL, 0);
        goto no;
    }
    if (hello->role == ep->role->role || n != 3)
        goto no;
    if (!may_join(ep, &link->peer)) {
        not_permitted(ep, link, text, sizeof text);
        refuse(ep, link->sock, -EACCES, text);
        goto no;
    }
    link->hello = *hello;
    rc = pdi_memfd_attach(fds[1], sizeof(struct pdi_door), false, &link->door);
    fds[1] = -1;
    if (rc == 0) {
        rc = pdi_memfd_attach(fds[2], sizeof(struct pdi_bell), true, &link->bell);
        fds[2] = -1;
    }
    if (rc == 0) {
        rc = ep->role->greet(ep, link, fds[0]);
        fds[0] = -1;
    }
    if (rc == 0 && answer)
        rc = send_hello(ep, link);
    close_all(fds, n);
    if (rc < 0 && rc != PODIPC_ECORRUPT && rc != -EPIPE && rc != -ECONNRESET)
        could_not(ep, "map or make the memory that is shared with a peer", rc);
    if (rc < 0)
        return false;
    /* Mapped: the descriptors have done their work. */
    pdi_memfd_close_fd(&link->door);
    pdi_memfd_close_fd(&link->bell);
    /* We answered: has the other read it? Its next packet tells. */
    if (answer) {
        link->state = PDI_ANSWERED;
        return true;
    }
    if (pdi_link_packet(link, PDI_HERE, 0, 0, -1) < 0)
        return false;
    join(ep, link);
    return true;
no:
    close_all(fds, n);
    return false;
}

/* As pdi_role_ops.packet. */
static int one_packet(struct pdi_endpoint *ep, struct pdi_link *link, const void *data, size_t size,
                      int fds[PDI_PACKET_FDS], int n)
{
    if (link->state == PDI_GREETING)
        return greet(ep, link, data, size, fds, n) ? 0 : PODIPC_ECORRUPT;
    struct pdi_packet packet;
    int rc = PODIPC_ECORRUPT;
    if (size == sizeof packet && n <= 1) {
        memcpy(&packet, data, sizeof packet);
        if (n == 0)
            fds[0] = -1;
        if (packet.magic == PDI_MAGIC && packet.protocol == PDI_PROTOCOL)
            rc = 0;
        if (rc == 0 && link->state == PDI_ANSWERED)
            join(ep, link);
        if (rc < 0 || packet.kind == PDI_HERE) {
            /* nothing more in it */
        } else if (packet.kind == PDI_BYE) {
            if (!link->said_bye) {
                link->said_bye = true;
                link->state = PDI_LEAVING;
                ep->role->bye(ep, link);
                pdi_endpoint_wake(ep);
            }
        } else {
            rc = ep->role->packet(ep, link, &packet, &fds[0]);
            pdi_endpoint_wake(ep);
        }
        n = 1;
    }
    close_all(fds, n);
    return rc;
}

void pdi_socket_name(uint32_t role, uint64_t id, char name[PDI_NAME])
{
    (void)snprintf(name, PDI_NAME, "%s.%016llx", role == PDI_ROLE_SENDER ? "tx" : "rx",
                   (unsigned long long)id);
}

/* "rx." or "tx." and the 16 hexadecimal digits of an id: nothing else in the
 * directory is ours to touch. */
static bool is_socket_name(const char *name, const char *role)
{
    return strncmp(name, role, 3) == 0 && strspn(name + 3, "0123456789abcdef") == 16 &&
           name[19] == '\0';
}

static void sweep(const char *name, void *arg)
{
    const struct pdi_endpoint *ep = arg;
    const char *shown = name + (name[0] == '.');
    if ((is_socket_name(shown, "rx.") || is_socket_name(shown, "tx.")) &&
        strcmp(shown, ep->name) != 0)
        pdi_place_sweep(ep->dir, name);
}

void pdi_control_sweep(struct pdi_endpoint *ep)
{
    (void)pdi_place_list(ep->dir, sweep, ep);
}

static void hang_up(struct pdi_endpoint *ep, struct pdi_link *link)
{
    pdi_close(&link->sock);
    bool known = link->state != PDI_GREETING && link->state != PDI_ANSWERED;
    if (known && !link->said_bye) {
        char name[PDI_NAME];
        pdi_socket_name(link->hello.role, link->hello.id, name);
        pdi_place_sweep(ep->dir, name);
    }
    link->state = PDI_LOST;
    if (!known) {
        pdi_link_remove(ep, link);
        ep->role->drop(link);
        return;
    }
    ep->role->lost(ep, link);
    pdi_endpoint_wake(ep);
}

/* Reads everything the peer has sent. */
static void read_link(struct pdi_endpoint *ep, struct pdi_link *link)
{
    union {
        struct pdi_refusal largest;
        char bytes[sizeof(struct pdi_refusal)];
    } packet;
    for (;;) {
        int fds[PDI_PACKET_FDS], n;
        ssize_t size = pdi_packet_recv(link->sock, &packet, sizeof packet, fds, &n);
        if (size == -EAGAIN)
            return;
        int rc = (int)size;
        if (size > 0)
            rc = one_packet(ep, link, &packet, (size_t)size, fds, n);
        if (size > 0 && rc == 0)
            continue;
        if (rc == -EMFILE)
            complain(ep, rc,
                     "a peer sent memory that this process has no descriptors left to take: raise "
                     "the limit on open files (ulimit -n)");
        else if (rc == -ENOMEM)
            complain(ep, rc,
                     "a peer sent memory that this process could not map: raise its limit on "
                     "address space (ulimit -v), or the node's vm.max_map_count");
        if ((rc == -EMFILE || rc == -ENOMEM) && link->state == PDI_JOINED && ep->role->part)
            ep->role->part(ep, link);
        else
            hang_up(ep, link);
        return;
    }
}

static struct pdi_link *new_link(struct pdi_endpoint *ep, int sock, const char *name)
{
    if (ep->link_count == PDI_LINKS) {
        char text[256];
        (void)snprintf(text, sizeof text,
                       "a %s in " SHOWN " has %d peers, which is the most: use another channel, or "
                       "close some",
                       role_name(ep->role->role), ep->path, PDI_LINKS);
        refuse(ep, sock, -EUSERS, text);
    }
    struct pdi_link *link = ep->link_count < PDI_LINKS ? ep->role->create(ep) : NULL;
    if (!link) {
        pdi_close(&sock);
        return NULL;
    }
    link->sock = sock;
    link->state = PDI_GREETING;
    link->deadline = pdi_now() + PDI_GREETING_NS;
    (void)snprintf(link->name, sizeof link->name, "%s", name);
    if (pdi_packet_peer(sock, pdi_place_group(ep->dir), &link->peer) < 0) {
        ep->role->drop(link);
        return NULL;
    }
    (void)pdi_link_add(ep, link);
    return link;
}

static void accept_all(struct pdi_endpoint *ep)
{
    int sock, rc;
    while ((rc = pdi_socket_accept(ep->listener, &sock)) == 0)
        (void)new_link(ep, sock, "");
    ep->deaf = rc != -EAGAIN;
    if (ep->deaf)
        could_not(ep, "let a peer in", rc);
}

/* A name in the directory: connect to receivers we do not know yet. */
static void consider(const char *name, void *arg)
{
    struct pdi_endpoint *ep = arg;
    if (!is_socket_name(name, "rx."))
        return;
    if (was_refused(ep, name))
        return;
    /* One that said goodbye and is still there will join anew. */
    for (uint32_t i = 0; i < ep->link_count; i++)
        if (ep->links[i]->state != PDI_LEAVING && strcmp(ep->links[i]->name, name) == 0)
            return;
    int sock;
    int rc = pdi_place_connect(ep->dir, name, &sock);
    if (rc == -ECONNREFUSED) {
        pdi_place_sweep(ep->dir, name);
        return;
    }
    if (rc == -EACCES || rc == -EPERM) {
        char text[256];
        (void)snprintf(text, sizeof text,
                       "a receiver in " SHOWN
                       " does not let this process, UID %u, connect: open the "
                       "receiver with mode=0o666 (or 0o660 and a common group), or run both "
                       "containers with the same runAsUser",
                       ep->path, (unsigned)pdi_uid());
        complain(ep, -EACCES, text);
        remember_refused(ep, name);
        return;
    }
    if (rc < 0 && rc != -ENOENT) {
        ep->retry = true;
        if (rc != -EAGAIN) /* it has been connected to by too many it has not let in yet */
            could_not(ep, "connect to a receiver", rc);
    }
    if (rc < 0)
        return;
    struct pdi_link *link = new_link(ep, sock, name);
    ep->retry |= !link;
    if (!link)
        return;
    if (!may_join(ep, &link->peer)) {
        char text[256];
        not_permitted(ep, link, text, sizeof text);
        refuse(ep, link->sock, -EACCES, text);
        complain(ep, -EACCES, text);
        remember_refused(ep, name);
        hang_up(ep, link);
        return;
    }
    rc = send_hello(ep, link);
    if (rc < 0) {
        if (rc != -EPIPE && rc != -ECONNRESET && rc != -EAGAIN)
            could_not(ep, "make the memory that is shared with a receiver", rc);
        hang_up(ep, link);
        ep->retry = true;
    }
}

static void drop_late(struct pdi_endpoint *ep)
{
    int64_t now = pdi_now();
    for (uint32_t i = ep->link_count; i-- > 0;)
        if ((ep->links[i]->state == PDI_GREETING || ep->links[i]->state == PDI_ANSWERED) &&
            ep->links[i]->deadline < now) {
            hang_up(ep, ep->links[i]);
            ep->retry = true;
        }
}

/* How long poll() may sleep. Lock held. */
static int patience(struct pdi_endpoint *ep)
{
    if (ep->role->tick(ep))
        return TICK_MS;
    if (ep->deaf || ep->retry)
        return SOON_MS;
    for (uint32_t i = 0; i < ep->link_count; i++)
        if (ep->links[i]->state == PDI_GREETING || ep->links[i]->state == PDI_ANSWERED)
            return SOON_MS;
    /* inotify may not reach over every kind of volume. */
    return ep->role->role == PDI_ROLE_SENDER ? RESCAN_MS : -1;
}

void *pdi_control_main(void *endpoint)
{
    struct pdi_endpoint *ep = endpoint;
    struct pollfd polls[3 + PDI_LINKS];
    struct pdi_link *polled[PDI_LINKS];
    bool sender = ep->role->role == PDI_ROLE_SENDER;
    pdi_control_sweep(ep);
    pthread_mutex_lock(&ep->lock);
    while (!ep->closed) {
        if (sender && ep->rescan) {
            ep->rescan = ep->retry = false;
            int rc = pdi_place_list(ep->dir, consider, ep);
            if (rc < 0)
                could_not(ep, "look for receivers in the directory", rc);
        }
        polls[0] = (struct pollfd){.fd = ep->stop, .events = POLLIN};
        polls[1] = (struct pollfd){.fd = ep->deaf ? -1 : ep->listener, .events = POLLIN};
        polls[2] = (struct pollfd){.fd = sender ? ep->inotify : -1, .events = POLLIN};
        uint32_t count = ep->link_count;
        for (uint32_t i = 0; i < count; i++) {
            polled[i] = ep->links[i];
            polls[3 + i] = (struct pollfd){.fd = polled[i]->sock, .events = POLLIN};
        }
        int ms = patience(ep);
        pthread_mutex_unlock(&ep->lock);
        int ready = pdi_poll(polls, 3 + count, ms);
        pthread_mutex_lock(&ep->lock);
        if (ep->closed)
            break;
        if (ready == 0 && (ms == RESCAN_MS || ep->retry))
            ep->rescan = true;
        if (ready > 0 && polls[2].revents) {
            pdi_place_watched(ep->inotify);
            ep->rescan = true;
        }
        /* Only this thread adds links or frees those that have a socket, so what
         * was polled is still there unless an earlier round here removed it. */
        for (uint32_t i = 0; ready > 0 && i < count; i++)
            if (polls[3 + i].revents && polled[i]->sock >= 0)
                read_link(ep, polled[i]);
        if (ep->deaf || (ready > 0 && polls[1].revents))
            accept_all(ep);
        drop_late(ep);
    }
    pthread_mutex_unlock(&ep->lock);
    return NULL;
}
