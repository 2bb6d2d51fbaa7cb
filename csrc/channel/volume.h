/* volume.h - what the sender and the receiver of file:// have in common.
 *
 * An endpoint is a locked file in the channel's directory, a tensor is another file;
 * the names are in tensor_file.h. There is no connection and no shared memory: each
 * side looks at the directory (a census), and sleeps until it changes.
 *
 * How the end of a sender becomes known to receivers, each once:
 *  - In order: under the gate's lock it leaves a note ("bye") to every receiver that
 *    lives, removes its name, then its lock goes.
 *  - By death: its name stays, and is not locked any more. A receiver that has
 *    delivered all of its tensors reports it and tidies up: under the gate's lock, a
 *    note ("died") to every other receiver that lives, then the unfinished files and
 *    last the name are removed. Whoever dies while tidying up has left the name, so
 *    the next one does it again; a note about what one has reported already is
 *    dropped, and what was reported is remembered until name and notes are gone.
 * A receiver's death becomes known to senders in the same way; one that closes in
 * order is simply gone.
 *
 * What was sent lives as long as somebody of the channel does: the last endpoint that
 * closes in order removes everything, and so does one that joins where all are dead,
 * so that nothing old comes as new.
 *
 * Reading a directory is not one moment in time: what comes or goes meanwhile may be
 * missed. So "nothing of it is there" is believed only from a census that began after
 * the thing in question had stopped changing, or twice in a row.
 */
#ifndef PDI_VOLUME_H
#define PDI_VOLUME_H

#include <pthread.h>

#include "../core/tensor_file.h"
#include "../platform/directory.h"
#include "../platform/fork.h"
#include "../platform/watch.h"
#include "podipc.h"

enum pdi_peer_state {
    PDI_PEER_LIVE,
    PDI_PEER_CLOSED,   /* in order; what it sent may still be there */
    PDI_PEER_DEAD,     /* not reported yet; what it sent may still be there */
    PDI_PEER_REPORTED, /* died, the user knows; its name may still be there */
    PDI_PEER_REFUSED,  /* not to be read by this UID or version; left alone */
};

enum { PDI_PEER_SKIPPED = 8 };

/* What is known about one endpoint of the other side. */
struct pdi_peer {
    uint64_t id;
    enum pdi_peer_state state;
    bool old;     /* died before we joined */
    bool heard;   /* one of its tensors was delivered */
    bool untold;  /* REFUSED, and the user does not know yet */
    bool settled; /* was CLOSED or DEAD before the last census began */
    /* Found in the last census: */
    bool joined; /* its name or its goodbye was seen */
    bool named, unlocked, bye, died;
    uint64_t note;                 /* the number in the note about its death */
    uint64_t files, lowest, above; /* its tensors: count, lowest number, highest plus one */
    uint32_t missing;              /* how many times in a row it had neither name nor note */
    uint64_t lost; /* of a receiver: tensors of this sender that it held when it died */
    /* Of a sender: numbers below `known` were published; what is below `next`, but for
     * `skipped`, was taken. */
    uint64_t known;
    uint64_t next;
    uint64_t skipped[PDI_PEER_SKIPPED]; /* being taken by others, who may die */
    uint32_t skipped_count;
};

struct pdi_member {
    struct pdi_directory dir;
    struct pdi_watch watch;
    struct pdi_fork_hook fork;
    pthread_mutex_t lock; /* guards all that is below, and what each side adds */
    bool receiver;
    bool closed;
    uint64_t id;
    int own; /* the locked file */
    struct pdi_peer *peers;
    uint32_t count, cap;
    int64_t census_began, census_ended;
    bool census_again; /* the last one left a question open */
    int unseen;        /* why the last one could not look at some lock file, or 0 */
    bool ended;        /* a sender went in order, */
    bool said;         /* and the user was told that all are gone since */
    bool stirred;      /* something had changed when the last sleep ended */
    uint64_t died;
};

/* Joins: directory, lock file, watch. `in_child` closes the descriptors of the side
 * in a forked child and calls pdi_member_in_child(). */
int pdi_member_open(struct pdi_member *e, const podipc_options *o, bool receiver,
                    void (*in_child)(void *), void *arg, podipc_error *err);
void pdi_member_in_child(struct pdi_member *e);
/* Leaves in order. Returns how many tensors of `e` were dropped because nobody is
 * left to receive them. With the lock held; once. */
uint64_t pdi_member_leave(struct pdi_member *e);
void pdi_member_free(struct pdi_member *e);

/* Whether this is a child of the process that opened it. */
static inline bool pdi_member_forked(const struct pdi_member *e)
{
    return pdi_forked(&e->fork);
}

/* With the lock held: PODIPC_EFORKED, PODIPC_ECLOSED or 0. */
int pdi_member_usable(struct pdi_member *e, podipc_error *err);

/* Looks at the directory. With the lock held. 0 or -errno. */
int pdi_member_census(struct pdi_member *e, podipc_error *err);
/* Whether a census is due: seldom while there is other work, more often when idle. */
bool pdi_member_census_due(const struct pdi_member *e, bool idle);
/* A death or refusal that the user does not know of yet: tidies up after it, fills in
 * *err and returns its code; 0 if there is none. Those of senders count only when
 * nothing of them is left. */
int pdi_member_report(struct pdi_member *e, uint64_t *lost, podipc_error *err);
uint32_t pdi_member_live(const struct pdi_member *e);
/* Sleeps for a while, until something changes or `until`, with the lock released. */
void pdi_member_sleep(struct pdi_member *e, int64_t until);

#endif
