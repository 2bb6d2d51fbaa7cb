/* volume.c - joining and leaving a channel of files. */
#include "volume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/lockfile.h"
#include "../platform/random.h"
#include "../platform/wholefile.h"

/* How late a file is seen where inotify does not reach. After a change the next look
 * comes soon: the kernel tells that a dying process has closed its lock file just
 * before it drops the lock. */
#define SLICE_NS   40000000
#define STIRRED_NS 2000000

#define LEAVE_NS 1000000000 /* how long to try for the gate's lock */

/* What is found out, or done, while the directory is gone through. */
struct visit {
    struct pdi_member *e;
    bool company;     /* somebody else lives */
    uint64_t dropped; /* own tensors that nobody will get */
};

static void own_name(const struct pdi_member *e, char out[PDI_FILE_NAME])
{
    enum pdi_file_kind kind = e->receiver ? PDI_NAME_RECEIVER : PDI_NAME_SENDER;
    pdi_file_name_write(out, &(struct pdi_file_name){kind, .who = e->id});
}

/* Who is there when we come. Nobody is making anything while we hold the gate. */
static void look_around(void *arg, const char *name)
{
    struct visit *v = arg;
    struct pdi_file_name n = pdi_file_name_read(name);
    if (n.kind == PDI_NAME_MAKING)
        (void)pdi_directory_remove(&v->e->dir, name);
    if (n.kind == PDI_NAME_SENDER || n.kind == PDI_NAME_RECEIVER) {
        int held = pdi_lockfile_held(v->e->dir.fd, name);
        v->company |= held != 0 && held != -ENOENT;
    }
}

/* What nobody will ever look at. */
static void drop(void *arg, const char *name)
{
    struct visit *v = arg;
    struct pdi_file_name n = pdi_file_name_read(name);
    if (n.kind == PDI_NAME_OTHER || n.kind == PDI_NAME_GATE)
        return;
    if (pdi_directory_remove(&v->e->dir, name) == 0 && n.kind == PDI_NAME_TENSOR &&
        n.who == v->e->id)
        v->dropped++;
}

static void count_one(void *arg, const char *name)
{
    *(uint32_t *)arg += pdi_file_name_read(name).kind != PDI_NAME_GATE;
}

/* Joining failed: if the directory was made for this, it goes again. */
static void leave_empty(struct pdi_member *e)
{
    uint32_t others = 0;
    if (pdi_directory_list(&e->dir, count_one, &others) == 0 && others == 0)
        pdi_directory_retire(&e->dir);
}

int pdi_member_open(struct pdi_member *e, const podipc_options *o, bool receiver,
                    void (*in_child)(void *), void *arg, podipc_error *err)
{
    memset(e, 0, sizeof *e);
    e->dir.fd = e->dir.gate = e->own = -1;
    e->receiver = receiver;
    e->id = pdi_random64();
    pthread_mutex_init(&e->lock, NULL);
    int rc = pdi_watch_open(&e->watch);
    if (rc < 0) {
        pdi_fail(err, rc, "eventfd", "cannot open %s", o->path);
        goto err;
    }
    rc = pdi_directory_open(&e->dir, o->path, o->mode, err);
    if (rc < 0)
        goto err;
    /* If all are dead, what they left is of another time: nothing old comes as new. */
    struct visit v = {.e = e};
    if (pdi_directory_list(&e->dir, look_around, &v) == 0 && !v.company)
        (void)pdi_directory_list(&e->dir, drop, &v);
    char making[PDI_FILE_NAME], name[PDI_FILE_NAME];
    pdi_file_name_write(making, &(struct pdi_file_name){PDI_NAME_MAKING, .who = e->id});
    own_name(e, name);
    e->own = pdi_lockfile_make(e->dir.fd, making, name, o->mode);
    if (e->own == -EACCES || e->own == -EPERM || e->own == -EROFS) {
        rc = pdi_directory_refused(o->path, -1, NULL, e->own, "open", o->mode, err);
        goto err;
    }
    if (e->own < 0) {
        rc = pdi_fail(err, e->own, "open", "cannot make a file in %.200s", o->path);
        goto err;
    }
    rc = pdi_fork_watch(&e->fork, in_child, arg, &e->lock);
    if (rc < 0) {
        (void)pdi_directory_remove(&e->dir, name);
        pdi_fail(err, rc, "pthread_atfork", "cannot open %.200s", o->path);
        goto err;
    }
    (void)pdi_member_census(e, NULL); /* who is dead now has died before our time */
    pdi_directory_unlock(&e->dir);
    return 0;
err:
    if (e->dir.gate >= 0)
        leave_empty(e);
    pdi_wholefile_drop(e->own);
    pdi_directory_free(&e->dir);
    pdi_watch_close(&e->watch);
    pthread_mutex_destroy(&e->lock);
    return rc;
}

void pdi_member_in_child(struct pdi_member *e)
{
    pdi_wholefile_drop(e->own);
    e->own = -1;
    pdi_directory_close(&e->dir);
    pdi_watch_close(&e->watch);
}

/* Who is left; to every receiver, a note that we go. */
static void tell(void *arg, const char *name)
{
    struct visit *v = arg;
    struct pdi_member *e = v->e;
    struct pdi_file_name n = pdi_file_name_read(name);
    switch (n.kind) {
    case PDI_NAME_SENDER:
    case PDI_NAME_RECEIVER: {
        if (n.who == e->id)
            break;
        int held = pdi_lockfile_held(e->dir.fd, name);
        if (held == 0 || held == -ENOENT)
            break;
        v->company = true;
        if (!e->receiver && n.kind == PDI_NAME_RECEIVER) {
            char note[PDI_FILE_NAME];
            pdi_file_name_write(note,
                                &(struct pdi_file_name){PDI_NAME_BYE, .to = n.who, .who = e->id});
            (void)pdi_directory_touch(&e->dir, note);
        }
        break;
    }
    case PDI_NAME_WRITING:
        if (n.who == e->id)
            (void)pdi_directory_remove(&e->dir, name);
        break;
    case PDI_NAME_BYE:
    case PDI_NAME_DIED:
        if (n.to == e->id)
            (void)pdi_directory_remove(&e->dir, name);
        break;
    default:
        break;
    }
}

uint64_t pdi_member_leave(struct pdi_member *e)
{
    struct visit v = {.e = e};
    e->closed = true;
    /* Without the gate we still say goodbye, but leave the tidying to others. */
    bool locked = pdi_directory_lock(&e->dir, LEAVE_NS) == 0;
    int rc = pdi_directory_list(&e->dir, tell, &v);
    char name[PDI_FILE_NAME];
    own_name(e, name);
    (void)pdi_directory_remove(&e->dir, name);
    if (locked && rc == 0 && !v.company) {
        (void)pdi_directory_list(&e->dir, drop, &v);
        pdi_directory_retire(&e->dir);
    }
    /* At once, not when the handle is freed: a volume in use cannot be unmounted. */
    pdi_directory_close(&e->dir);
    /* The lock goes after the name: whoever finds it free can tell. */
    pdi_wholefile_drop(e->own);
    e->own = -1;
    return v.dropped;
}

void pdi_member_free(struct pdi_member *e)
{
    pdi_fork_forget(&e->fork);
    pdi_directory_free(&e->dir);
    pdi_watch_close(&e->watch);
    free(e->peers);
    pthread_mutex_destroy(&e->lock);
}

int pdi_member_usable(struct pdi_member *e, podipc_error *err)
{
    if (pdi_member_forked(e))
        return pdi_fail(err, PODIPC_EFORKED, "",
                        "this handle was opened by the parent of this process: open one of your "
                        "own after fork()");
    if (e->closed)
        return pdi_fail(err, PODIPC_ECLOSED, "", "this %s is closed",
                        e->receiver ? "receiver" : "sender");
    return 0;
}

uint32_t pdi_member_live(const struct pdi_member *e)
{
    uint32_t live = 0;
    for (uint32_t i = 0; i < e->count; i++)
        live += e->peers[i].state == PDI_PEER_LIVE && e->peers[i].named;
    return live;
}

void pdi_member_sleep(struct pdi_member *e, int64_t until)
{
    int64_t slice = pdi_now() + (e->stirred ? STIRRED_NS : SLICE_NS);
    pthread_mutex_unlock(&e->lock);
    bool stirred = pdi_watch_wait(&e->watch, until < slice ? until : slice);
    pthread_mutex_lock(&e->lock);
    e->stirred = stirred;
}
