/* volume_census.c - who is there, who has gone, and tidying up after the dead. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/lockfile.h"
#include "../platform/wholefile.h"
#include "volume.h"

/* Between two censuses while there is other work: a twentieth of the time at most, but
 * a death is to be known within 100 ms. */
#define BUSY_NS 10000000
#define LATE_NS 60000000

/* A gap in the numbers up to here is closed by trying each. */
#define SMALL_GAP 64

static enum pdi_file_kind peer_kind(const struct pdi_member *e)
{
    return e->receiver ? PDI_NAME_SENDER : PDI_NAME_RECEIVER;
}

static void peer_name(const struct pdi_member *e, uint64_t id, char out[PDI_FILE_NAME])
{
    pdi_file_name_write(out, &(struct pdi_file_name){peer_kind(e), .who = id});
}

/* The peer of that number, new if need be; NULL if there is no memory, and then the
 * next census tries again. */
static struct pdi_peer *peer(struct pdi_member *e, uint64_t id)
{
    for (uint32_t i = 0; i < e->count; i++)
        if (e->peers[i].id == id)
            return &e->peers[i];
    if (e->count == e->cap) {
        uint32_t cap = e->cap ? e->cap * 2 : 4;
        struct pdi_peer *more = realloc(e->peers, cap * sizeof *more);
        if (!more) {
            e->census_again = true;
            return NULL;
        }
        e->peers = more;
        e->cap = cap;
    }
    struct pdi_peer *p = &e->peers[e->count++];
    *p = (struct pdi_peer){.id = id, .lowest = UINT64_MAX};
    return p;
}

static void see_name(struct pdi_member *e, const char *name, uint64_t id)
{
    int held = pdi_lockfile_held(e->dir.fd, name);
    struct pdi_peer *p = held == -ENOENT ? NULL : peer(e, id);
    if (!p)
        return;
    p->named = p->joined = true;
    p->unlocked = held == 0;
    p->old |= held == 0 && e->census_ended == 0;
    if (held < 0 && held != -EACCES && held != -EPERM) {
        e->unseen = held;
    } else if (held < 0 && p->state == PDI_PEER_LIVE) {
        p->state = PDI_PEER_REFUSED;
        p->untold = true;
    }
}

static void see(void *arg, const char *name)
{
    struct pdi_member *e = arg;
    struct pdi_file_name n = pdi_file_name_read(name);
    struct pdi_peer *p;
    if (n.kind == peer_kind(e)) {
        see_name(e, name, n.who);
    } else if ((n.kind == PDI_NAME_BYE || n.kind == PDI_NAME_DIED) && n.to == e->id) {
        if (!(p = peer(e, n.who)))
            return;
        p->bye |= n.kind == PDI_NAME_BYE;
        p->died |= n.kind == PDI_NAME_DIED;
        p->note = n.number;
    } else if (n.kind == PDI_NAME_TENSOR && e->receiver) {
        if (!(p = peer(e, n.who)))
            return;
        p->files++;
        if (n.number < p->lowest)
            p->lowest = n.number;
        if (n.number >= p->above)
            p->above = n.number + 1;
    }
}

static void before(struct pdi_peer *p)
{
    p->settled = p->state == PDI_PEER_CLOSED || p->state == PDI_PEER_DEAD;
    p->named = p->unlocked = p->bye = p->died = false;
    p->files = p->above = 0;
    p->lowest = UINT64_MAX;
}

static void drop_notes(struct pdi_member *e, const struct pdi_peer *p)
{
    char name[PDI_FILE_NAME];
    struct pdi_file_name n = {PDI_NAME_BYE, .to = e->id, .who = p->id};
    if (p->bye) {
        pdi_file_name_write(name, &n);
        (void)pdi_directory_remove(&e->dir, name);
    }
    if (p->died) {
        n.kind = PDI_NAME_DIED;
        n.number = p->note;
        pdi_file_name_write(name, &n);
        (void)pdi_directory_remove(&e->dir, name);
    }
}

/* What was published before the census began and was not found has been taken. */
static void learn_numbers(struct pdi_member *e, struct pdi_peer *p)
{
    uint64_t floor = p->lowest < p->known ? p->lowest : p->known;
    if (p->next < floor)
        p->next = floor;
    if (p->known < p->above)
        p->known = p->above;
    if (p->files > 0 && p->lowest > p->next && p->lowest - p->next > SMALL_GAP)
        e->census_again = true;
}

static void learn_state(struct pdi_member *e, struct pdi_peer *p)
{
    p->missing = p->named || p->bye || p->died ? 0 : p->missing + 1;
    if (p->state == PDI_PEER_LIVE) {
        if (p->bye) {
            p->joined = true;
            p->state = PDI_PEER_CLOSED;
        } else if (p->died || p->unlocked) {
            p->state = PDI_PEER_DEAD;
            p->lost = p->died ? p->note : 0;
        } else if (p->missing > 1) {
            /* A sender that left in order before we came has left tensors but no note;
             * one that we knew would have left a note. Receivers leave none to senders. */
            p->state = e->receiver && p->joined ? PDI_PEER_DEAD : PDI_PEER_CLOSED;
        } else if (p->missing > 0) {
            e->census_again = true;
        }
        if (p->state != PDI_PEER_LIVE && e->receiver)
            e->census_again = true;
    }
    drop_notes(e, p);
}

/* Whether nothing more can come of it. */
static bool finished(const struct pdi_member *e, const struct pdi_peer *p)
{
    switch (p->state) {
    case PDI_PEER_CLOSED:
        return !p->named && (!e->receiver || (p->settled && p->files == 0));
    case PDI_PEER_REPORTED:
    case PDI_PEER_REFUSED:
        return p->missing > 1 && p->files == 0 && !p->untold;
    default:
        return false;
    }
}

static void tidy(struct pdi_member *e, const struct pdi_peer *p);

int pdi_member_census(struct pdi_member *e, podipc_error *err)
{
    e->census_began = pdi_now();
    e->census_again = false;
    e->unseen = 0;
    for (uint32_t i = 0; i < e->count; i++)
        before(&e->peers[i]);
    int rc = pdi_directory_list(&e->dir, see, e);
    e->census_ended = pdi_now();
    if (rc < 0)
        return pdi_fail(err, rc == -ENOENT ? -ESTALE : rc, "readdir",
                        "cannot list %.200s; was it removed?", e->dir.path);
    if (e->unseen < 0) {
        e->census_again = true;
        return pdi_fail(err, e->unseen, "open", "cannot see who lives in %.200s", e->dir.path);
    }
    for (uint32_t i = 0; i < e->count; i++) {
        learn_numbers(e, &e->peers[i]);
        learn_state(e, &e->peers[i]);
        if (e->peers[i].state == PDI_PEER_REPORTED && e->peers[i].unlocked)
            tidy(e, &e->peers[i]);
    }
    for (uint32_t i = e->count; i-- > 0;) {
        if (!finished(e, &e->peers[i]))
            continue;
        /* Some file that looks like a tensor is not yet a sender. */
        if (e->peers[i].state == PDI_PEER_CLOSED && (e->peers[i].joined || e->peers[i].heard)) {
            e->ended = true;
            e->said = false;
        }
        e->peers[i] = e->peers[--e->count];
    }
    return 0;
}

bool pdi_member_census_due(const struct pdi_member *e, bool idle)
{
    int64_t took = e->census_ended - e->census_began, since = pdi_now() - e->census_ended;
    if (e->census_ended == 0)
        return true;
    if (idle)
        return e->census_again || since >= 2 * took;
    return since >= (took * 20 < BUSY_NS ? BUSY_NS : took * 20 > LATE_NS ? LATE_NS : took * 20);
}

/* How many tensors of sender `tx` the dead receiver held: its lock file says so. */
static uint64_t held_by(const struct pdi_member *e, uint64_t rx, uint64_t tx)
{
    char name[PDI_FILE_NAME];
    pdi_file_name_write(name, &(struct pdi_file_name){PDI_NAME_RECEIVER, .who = rx});
    struct pdi_file_holding entry;
    uint64_t held = 0;
    int fd = pdi_wholefile_look(e->dir.fd, name);
    if (fd < 0)
        return 0;
    for (uint32_t i = 0; i < PDI_FILE_HOLDINGS && held == 0; i++) {
        if (pdi_wholefile_read(fd, &entry, sizeof entry, i * sizeof entry) < 0)
            break;
        if (entry.sender == tx)
            held = entry.count;
    }
    pdi_wholefile_drop(fd);
    return held;
}

struct tidying {
    struct pdi_member *e;
    uint64_t dead;
};

static void tidy_one(void *arg, const char *name)
{
    const struct tidying *t = arg;
    struct pdi_member *e = t->e;
    struct pdi_file_name n = pdi_file_name_read(name);
    enum pdi_file_kind own_kind = e->receiver ? PDI_NAME_RECEIVER : PDI_NAME_SENDER;
    if (n.kind == own_kind && n.who != e->id) {
        if (pdi_lockfile_held(e->dir.fd, name) != 1)
            return;
        char note[PDI_FILE_NAME];
        struct pdi_file_name died = {PDI_NAME_DIED, .to = n.who, .who = t->dead};
        if (!e->receiver)
            died.number = held_by(e, t->dead, n.who);
        pdi_file_name_write(note, &died);
        (void)pdi_directory_touch(&e->dir, note);
    } else if ((n.kind == PDI_NAME_WRITING && n.who == t->dead) ||
               ((n.kind == PDI_NAME_BYE || n.kind == PDI_NAME_DIED) && n.to == t->dead)) {
        (void)pdi_directory_remove(&e->dir, name);
    }
}

/* Leaves nothing of a dead peer behind. If the gate is locked just now, a later
 * census comes here again. */
static void tidy(struct pdi_member *e, const struct pdi_peer *p)
{
    char name[PDI_FILE_NAME];
    peer_name(e, p->id, name);
    if (pdi_directory_lock(&e->dir, 0) < 0)
        return;
    struct tidying t = {e, p->id};
    if (pdi_lockfile_held(e->dir.fd, name) == 0 && pdi_directory_list(&e->dir, tidy_one, &t) == 0)
        (void)pdi_directory_remove(&e->dir, name);
    pdi_directory_unlock(&e->dir);
}

static int report_death(struct pdi_member *e, struct pdi_peer *p, uint64_t *lost, podipc_error *err)
{
    if (!e->receiver && p->unlocked)
        p->lost = held_by(e, p->id, e->id);
    *lost += p->lost;
    tidy(e, p);
    p->state = PDI_PEER_REPORTED;
    if (p->old && !p->heard)
        return 0;
    e->died++;
    /* Whoever closed before that was said has been told of. */
    e->ended = e->ended && !e->said;
    if (e->receiver)
        return pdi_fail(err, PODIPC_EPEERDIED, "",
                        "a sender of file://%.200s died without closing; what it had sent was "
                        "delivered",
                        e->dir.path);
    return pdi_fail(err, PODIPC_EPEERDIED, "",
                    "a receiver of file://%.200s died without closing, holding %" PRIu64
                    " tensors of this sender; what it had not taken waits for the next one",
                    e->dir.path, p->lost);
}

int pdi_member_report(struct pdi_member *e, uint64_t *lost, podipc_error *err)
{
    for (uint32_t i = 0; i < e->count; i++) {
        struct pdi_peer *p = &e->peers[i];
        if (p->state == PDI_PEER_REFUSED && p->untold) {
            char name[PDI_FILE_NAME];
            peer_name(e, p->id, name);
            p->untold = false;
            return pdi_directory_refused(e->dir.path, e->dir.fd, name, -EACCES, "open", e->dir.mode,
                                         err);
        }
        if (p->state != PDI_PEER_DEAD || (e->receiver && (!p->settled || p->files > 0)))
            continue;
        int rc = report_death(e, p, lost, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}
