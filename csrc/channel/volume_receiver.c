/* volume_receiver.c - the receiving side of file://.
 *
 * A file is copied whole into private memory before it counts as taken: on a volume
 * anybody could shorten a mapped file under the reader, which would be SIGBUS. See
 * csrc/README.md for what the copy costs.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/wholefile.h"
#include "blocks.h"
#include "channel.h"
#include "volume.h"

#define PIECE ((uint64_t)4 << 20) /* read at a time */
#define LOOKS 4                   /* at the directory in a row, to be sure */

struct receiver {
    podipc_receiver base;
    struct pdi_member e;
    struct pdi_blocks blocks; /* whole files */
    uint64_t max_bytes;
    bool starved;  /* tensors that are held use the budget up */
    uint32_t turn; /* whose tensors are looked for first */
    /* The file that is being taken; none if fd < 0. */
    int fd;
    struct pdi_file_name name;
    struct pdi_block *image;
    uint64_t size, done;
    uint64_t messages, bytes;
    /* What stands in the lock file, see struct pdi_file_holding. */
    pthread_mutex_t holding_lock; /* a leaf */
    int holding_fd;               /* e.own, or -1 after close */
    uint32_t holding_count;
    struct pdi_file_holding holding[PDI_FILE_HOLDINGS];
};

static struct receiver *from(podipc_receiver *rx)
{
    return (struct receiver *)rx;
}

/* One tensor of that sender more, or less, is held. */
static void note_holding(struct receiver *rx, uint64_t sender, bool more)
{
    pthread_mutex_lock(&rx->holding_lock);
    uint32_t i = 0, unused = PDI_FILE_HOLDINGS;
    for (; i < rx->holding_count && rx->holding[i].sender != sender; i++)
        if (rx->holding[i].sender == 0)
            unused = i;
    if (i == rx->holding_count && more)
        i = unused < i ? unused : i;
    if (i < PDI_FILE_HOLDINGS && (more || i < rx->holding_count)) {
        struct pdi_file_holding *h = &rx->holding[i];
        if (i == rx->holding_count)
            rx->holding_count++;
        h->count = more ? h->count + 1 : h->count - 1;
        h->sender = h->count > 0 ? sender : 0;
        if (rx->holding_fd >= 0)
            (void)pdi_wholefile_write(rx->holding_fd, h, sizeof *h, i * sizeof *h);
    }
    pthread_mutex_unlock(&rx->holding_lock);
}

static struct pdi_peer *peer_of(struct receiver *rx, uint64_t id)
{
    for (uint32_t i = 0; i < rx->e.count; i++)
        if (rx->e.peers[i].id == id)
            return &rx->e.peers[i];
    return NULL;
}

/* ---- taking ---- */

/* Gives the file back, if it still has its name, and forgets it. */
static void drop_file(struct receiver *rx)
{
    pdi_wholefile_drop(rx->fd);
    rx->fd = -1;
    if (rx->image)
        pdi_blocks_take_back(&rx->blocks, rx->image);
    rx->image = NULL;
}

static void path_of(const struct receiver *rx, char *text, size_t cap)
{
    char name[PDI_FILE_NAME];
    pdi_file_name_write(name, &rx->name);
    (void)snprintf(text, cap, "%.160s/%s", rx->e.dir.path, name);
}

/* Removes the file's name, which is what taking is. */
static int remove_file(struct receiver *rx, podipc_error *err)
{
    char name[PDI_FILE_NAME];
    pdi_file_name_write(name, &rx->name);
    int rc = pdi_directory_remove(&rx->e.dir, name);
    if (rc == -EACCES || rc == -EPERM || rc == -EROFS)
        return pdi_directory_refused(rx->e.dir.path, rx->e.dir.fd, ".", rc, "unlink",
                                     rx->e.dir.mode, err);
    if (rc < 0 && rc != -ENOENT)
        return pdi_fail(err, rc, "unlink", "cannot take a file from %.200s", rx->e.dir.path);
    return rc;
}

/* It can never be delivered: away with it, or the next call would find it again. */
static int remove_damaged(struct receiver *rx, int rc)
{
    int removed = remove_file(rx, NULL);
    if (removed < 0 && removed != -ENOENT) {
        struct pdi_peer *p = peer_of(rx, rx->name.who);
        if (p)
            p->state = PDI_PEER_REFUSED;
    }
    drop_file(rx);
    return rc;
}

static int check_head(struct receiver *rx, podipc_error *err)
{
    struct pdi_file_header head;
    char path[256];
    path_of(rx, path, sizeof path);
    if (rx->size < sizeof head)
        return pdi_file_check(NULL, rx->size, &rx->name, path, err);
    int rc = pdi_wholefile_read(rx->fd, &head, sizeof head, 0);
    if (rc < 0)
        return pdi_fail(err, PODIPC_ECORRUPT, "pread",
                        "%s cannot be read (errno %d); it was removed", path, -rc);
    rc = pdi_file_check(&head, rx->size, &rx->name, path, err);
    if (rc == 0 && head.nbytes > rx->max_bytes)
        return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", head.nbytes, rx->max_bytes,
                             "a tensor of %" PRIu64 " bytes is next in %.160s, and max_bytes of "
                             "this receiver is %" PRIu64 ": it stays there for a receiver with a "
                             "larger max_bytes, or a container with a larger memory limit",
                             head.nbytes, rx->e.dir.path, rx->max_bytes);
    return rc;
}

/* What is wrong with the file is wrong with all of that sender's, or with it alone. */
static int refuse(struct receiver *rx, int rc)
{
    if (rc == PODIPC_ECORRUPT)
        return remove_damaged(rx, rc);
    struct pdi_peer *p = peer_of(rx, rx->name.who);
    if (rc == PODIPC_EVERSION && p)
        p->state = PDI_PEER_REFUSED;
    drop_file(rx);
    return rc;
}

/* Opens the file of that number. 0: being taken (rx->fd); -ENOENT: there is none;
 * -EAGAIN: another receiver is at it; -ENOBUFS: tensors that are held use the budget up. */
static int open_file(struct receiver *rx, struct pdi_peer *p, uint64_t number, podipc_error *err)
{
    rx->name = (struct pdi_file_name){PDI_NAME_TENSOR, .who = p->id, .number = number};
    char name[PDI_FILE_NAME];
    pdi_file_name_write(name, &rx->name);
    int fd = pdi_wholefile_take(rx->e.dir.fd, name, rx->e.dir.mode, &rx->size);
    switch (fd) {
    case -ENOENT:
    case -EAGAIN:
        return fd;
    case -EINVAL: /* a link, a FIFO: nobody of ours made it, and a rename replaces it */
        return -ENOENT;
    case -EMLINK:
        /* Only this name of it goes; what else it is called is not ours. */
        (void)pdi_directory_remove(&rx->e.dir, name);
        return pdi_fail(err, PODIPC_ECORRUPT, "",
                        "%.200s/%s is a hard link, which no sender makes; it was removed",
                        rx->e.dir.path, name);
    case -EACCES:
    case -EPERM:
        p->state = PDI_PEER_REFUSED;
        return pdi_directory_refused(rx->e.dir.path, rx->e.dir.fd, name, fd, "open", rx->e.dir.mode,
                                     err);
    default:
        break;
    }
    if (fd < 0)
        return pdi_fail(err, fd, "open", "cannot open %.200s/%s", rx->e.dir.path, name);
    rx->fd = fd;
    rx->done = 0;
    int rc = check_head(rx, err);
    if (rc < 0)
        return refuse(rx, rc);
    rc = pdi_blocks_lend(&rx->blocks, rx->size, 0, &rx->image, err);
    if (rc < 0)
        drop_file(rx);
    return rc == -EAGAIN ? -ENOBUFS : rc;
}

/* Numbers that somebody else was taking: gone, or free again because he died. */
static int retry_skipped(struct receiver *rx, struct pdi_peer *p, podipc_error *err)
{
    for (uint32_t i = p->skipped_count; i-- > 0;) {
        int rc = open_file(rx, p, p->skipped[i], err);
        if (rc == -EAGAIN)
            continue;
        p->skipped[i] = p->skipped[--p->skipped_count];
        if (rc != -ENOENT)
            return rc;
    }
    return -ENOENT;
}

/* Finds the next tensor of one sender. 0: being taken; -ENOENT: none to be had now. */
static int find(struct receiver *rx, struct pdi_peer *p, podipc_error *err)
{
    if (p->state == PDI_PEER_REFUSED || p->state == PDI_PEER_REPORTED)
        return -ENOENT;
    int rc = p->skipped_count > 0 ? retry_skipped(rx, p, err) : -ENOENT;
    while (rc == -ENOENT && p->skipped_count < PDI_PEER_SKIPPED) {
        rc = open_file(rx, p, p->next, err);
        if (rc == -ENOENT && p->next >= p->known)
            return rc; /* not published yet, as far as we know */
        if (rc == -EAGAIN) {
            p->skipped[p->skipped_count++] = p->next;
            rc = -ENOENT;
        }
        /* Memory may be there next time; all else is done with this number. */
        if (rc != PODIPC_EMEMLIMIT && rc != -ENOBUFS && rc != -ENOMEM && rc != -EMFILE &&
            rc != -ENFILE)
            p->next++;
    }
    return rc;
}

static int find_any(struct receiver *rx, podipc_error *err)
{
    for (uint32_t i = 0; i < rx->e.count; i++) {
        uint32_t at = (rx->turn + i) % rx->e.count;
        int rc = find(rx, &rx->e.peers[at], err);
        if (rc != -ENOENT) {
            rx->turn = at + 1;
            return rc;
        }
    }
    return -ENOENT;
}

/* Reads on, and delivers the file when all of it is here. */
static int finish(struct receiver *rx, int64_t until, podipc_message *out, podipc_error *err)
{
    char *image = rx->image->data;
    while (rx->done < rx->size) {
        uint64_t left = rx->size - rx->done, n = left < PIECE ? left : PIECE;
        int rc = pdi_wholefile_read(rx->fd, image + rx->done, (size_t)n, rx->done);
        if (rc < 0) {
            char path[256];
            path_of(rx, path, sizeof path);
            pdi_fail(err, PODIPC_ECORRUPT, "pread",
                     "%s cannot be read, %" PRIu64 " bytes from its start (errno %d); it was "
                     "removed",
                     path, rx->done, -rc);
            return remove_damaged(rx, PODIPC_ECORRUPT);
        }
        rx->done += n;
        if (rx->done < rx->size && pdi_now() >= until)
            return -EAGAIN;
    }
    char path[256];
    path_of(rx, path, sizeof path);
    uint32_t payload;
    memset(out, 0, sizeof *out);
    int rc = pdi_file_read(image, rx->size, &rx->name, path, &out->tensor, &payload, err);
    if (rc < 0)
        return refuse(rx, rc);
    note_holding(rx, rx->name.who, true);
    rc = remove_file(rx, err);
    if (rc < 0) {
        note_holding(rx, rx->name.who, false);
        drop_file(rx);
        return rc;
    }
    out->data = image + payload;
    out->owner = rx->image;
    out->sender = out->id = rx->name.who;
    rx->messages++;
    rx->bytes += out->tensor.nbytes;
    struct pdi_peer *p = peer_of(rx, rx->name.who);
    if (p)
        p->heard = true;
    rx->image = NULL;
    drop_file(rx);
    return 0;
}

/* Whether every sender that had joined closed in order and nothing is left. */
static int all_closed(struct receiver *rx, podipc_error *err)
{
    if (!rx->e.ended || rx->e.census_again)
        return -EAGAIN;
    for (uint32_t i = 0; i < rx->e.count; i++)
        if (rx->e.peers[i].state <= PDI_PEER_DEAD)
            return -EAGAIN;
    rx->e.said = true;
    return pdi_fail(err, PODIPC_ECLOSED, "",
                    "every sender of file://%.200s has closed, and nothing is left",
                    rx->e.dir.path);
}

/* A census, and what it brought to light. */
static int look(struct receiver *rx, podipc_error *err)
{
    uint64_t lost = 0; /* of senders nothing is held */
    int rc = pdi_member_census(&rx->e, err);
    return rc < 0 ? rc : pdi_member_report(&rx->e, &lost, err);
}

/* As far as it goes without sleeping. */
static int advance(struct receiver *rx, int64_t until, podipc_message *out, podipc_error *err)
{
    int rc = pdi_member_usable(&rx->e, err);
    if (rc < 0)
        return rc;
    rx->starved = false;
    if (rx->fd < 0) {
        /* Also while there is plenty to take: others may have joined or died. */
        rc = pdi_member_census_due(&rx->e, false) ? look(rx, err) : 0;
        if (rc == 0)
            rc = find_any(rx, err);
        for (int i = 0; rc == -ENOENT && i < LOOKS && pdi_member_census_due(&rx->e, true); i++) {
            rc = look(rx, err);
            if (rc == 0)
                rc = find_any(rx, err);
        }
    }
    if (rx->fd >= 0)
        rc = finish(rx, until, out, err);
    if (rc == -ENOBUFS) {
        rx->starved = true;
        rx->e.stirred = true; /* no event tells that a tensor was let go */
        return -EAGAIN;
    }
    return rc == -ENOENT ? all_closed(rx, err) : rc;
}

static int receiver_recv(podipc_receiver *base, int64_t until, podipc_message *out,
                         podipc_error *err)
{
    struct receiver *rx = from(base);
    bool armed = false;
    pthread_mutex_lock(&rx->e.lock);
    int rc;
    while ((rc = advance(rx, until, out, err)) == -EAGAIN && pdi_now() < until) {
        if (rx->fd >= 0)
            continue;
        if (armed) {
            pdi_member_sleep(&rx->e, until);
        } else {
            /* Look once more after the watch is on: what came before makes no event. */
            pdi_watch_arm(&rx->e.watch, rx->e.dir.path, PDI_WATCH_ARRIVALS);
            rx->e.census_again = true;
            armed = true;
        }
    }
    pthread_mutex_unlock(&rx->e.lock);
    return rc;
}

static void receiver_release(podipc_receiver *base, podipc_message *m)
{
    struct receiver *rx = from(base);
    struct pdi_block *image = m->owner;
    /* What the blocks were at a fork is anybody's guess; in a child they stay. */
    if (!image || pdi_member_forked(&rx->e))
        return;
    m->owner = NULL;
    note_holding(rx, m->id, false);
    pdi_blocks_take_back(&rx->blocks, image);
}

/* ---- the rest ---- */

static void receiver_explain(podipc_receiver *base, char *text, size_t cap)
{
    struct receiver *rx = from(base);
    pthread_mutex_lock(&rx->e.lock);
    uint32_t live = pdi_member_live(&rx->e);
    uint64_t reserved, lent;
    pdi_blocks_count(&rx->blocks, &reserved, &lent);
    if (rx->starved)
        (void)snprintf(text, cap,
                       "Tensors that were received and not let go use up the budget: %" PRIu64
                       " of them, and max_bytes is %" PRIu64 ".",
                       lent, rx->max_bytes);
    else if (live > 0)
        (void)snprintf(text, cap, "%u sender%s opened %s and sent nothing.", live,
                       live == 1 ? " has" : "s have", rx->e.dir.path);
    else
        (void)snprintf(text, cap,
                       "No sender has opened %s. The other container must mount the same volume "
                       "there and open the same address.",
                       rx->e.dir.path);
    pthread_mutex_unlock(&rx->e.lock);
}

static void receiver_stats(podipc_receiver *base, podipc_stats *out)
{
    struct receiver *rx = from(base);
    pthread_mutex_lock(&rx->e.lock);
    if (rx->e.own >= 0 && pdi_member_census_due(&rx->e, true))
        (void)pdi_member_census(&rx->e, NULL);
    out->messages = rx->messages;
    out->bytes = rx->bytes;
    out->peers = pdi_member_live(&rx->e);
    out->peers_died = rx->e.died;
    for (uint32_t i = 0; i < rx->e.count; i++)
        out->queued += rx->e.peers[i].files;
    pdi_blocks_count(&rx->blocks, &out->reserved, &out->held);
    out->held -= rx->image != NULL;
    out->max_bytes = rx->max_bytes;
    pthread_mutex_unlock(&rx->e.lock);
}

static void receiver_close(podipc_receiver *base)
{
    struct receiver *rx = from(base);
    if (pdi_member_forked(&rx->e))
        return;
    pdi_watch_wake(&rx->e.watch);
    pthread_mutex_lock(&rx->e.lock);
    if (rx->e.closed) {
        pthread_mutex_unlock(&rx->e.lock);
        return;
    }
    drop_file(rx);
    pthread_mutex_lock(&rx->holding_lock);
    rx->holding_fd = -1;
    pthread_mutex_unlock(&rx->holding_lock);
    pdi_blocks_retire(&rx->blocks);
    (void)pdi_member_leave(&rx->e);
    pthread_mutex_unlock(&rx->e.lock);
}

static void receiver_free(podipc_receiver *base)
{
    struct receiver *rx = from(base);
    receiver_close(base);
    bool forked = pdi_member_forked(&rx->e);
    pdi_member_free(&rx->e);
    if (!forked)
        pdi_blocks_destroy(&rx->blocks);
    pthread_mutex_destroy(&rx->holding_lock);
    free(rx);
}

static const struct pdi_receiver_ops receiver_ops = {
    .recv = receiver_recv,
    .release = receiver_release,
    .explain = receiver_explain,
    .stats = receiver_stats,
    .close = receiver_close,
    .free = receiver_free,
};

static void in_child(void *arg)
{
    struct receiver *rx = arg;
    pdi_member_in_child(&rx->e);
    pdi_wholefile_drop(rx->fd);
    rx->fd = rx->holding_fd = -1;
}

int pdi_volume_receiver_open(const podipc_options *o, podipc_receiver **out, podipc_error *err)
{
    struct receiver *rx = calloc(1, sizeof *rx);
    if (!rx)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a receiver");
    rx->fd = -1;
    rx->max_bytes = o->max_bytes ? o->max_bytes : pdi_blocks_default_budget();
    int rc = pdi_blocks_init(&rx->blocks, rx->max_bytes + PDI_FILE_HEAD_MAX, -1);
    if (rc < 0) {
        free(rx);
        return pdi_fail(err, rc, "pthread_mutex_init", "cannot open a receiver");
    }
    rc = pdi_member_open(&rx->e, o, true, in_child, rx, err);
    if (rc < 0) {
        pdi_blocks_destroy(&rx->blocks);
        free(rx);
        return rc;
    }
    rx->base.ops = &receiver_ops;
    rx->holding_fd = rx->e.own;
    pthread_mutex_init(&rx->holding_lock, NULL);
    *out = &rx->base;
    return 0;
}
