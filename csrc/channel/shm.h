/* shm.h - what the files of the shm method share. See csrc/README.md for the way
 * of one tensor through them.
 *
 *   shm_endpoint.c   an endpoint: directory, socket, bell, waiting, closing
 *   shm_control.c    its control thread: finds peers, shakes hands, sees them go
 *   shm_sender.c     the sender: memory, copy, hand over
 *   shm_deliver.c    its receivers: rings, tickets, who gets what
 *   shm_memory.c     the sender's arenas
 *   shm_receiver.c   the receiver's data path
 *
 * Locking. Each endpoint has one mutex, private to its process. It guards
 * everything below that is not marked otherwise, is never held over a wait
 * (PDI_GOODBYE_NS apart), a large copy or a callback into Python, and is a leaf:
 * no other lock is taken under it. The control thread and any number of callers'
 * threads share it.
 */
#ifndef PDI_SHM_H
#define PDI_SHM_H

#include <pthread.h>

#include "../core/arena.h"
#include "../core/copy.h"
#include "../core/error.h"
#include "../core/ring.h"
#include "../platform/bell.h"
#include "../platform/clock.h"
#include "../platform/fork.h"
#include "../platform/memfd.h"
#include "../platform/rendezvous.h"
#include "channel.h"

enum { PDI_LINKS = 256, PDI_REFUSED = 16 }; /* peers of one endpoint, coming and going included */
#define PDI_GREETING_NS                                                                            \
    INT64_C(5000000000) /* a peer that has not shaken hands by then is dropped */

#define PDI_GOODBYE_NS INT64_C(100000000) /* for all peers together, at a close */

enum pdi_link_state {
    PDI_GREETING, /* connected, hands not shaken */
    PDI_ANSWERED, /* receiver: has sent its HELLO; joined with the sender's next packet */
    PDI_JOINED,
    PDI_LEAVING, /* said BYE; may still hold tensors */
    PDI_LOST,    /* hung up */
};

/* One peer. Embedded as first member in the sender's and receiver's own. */
struct pdi_link {
    struct pdi_link *next_settled;
    enum pdi_link_state state;
    bool said_bye;
    int sock;            /* -1: hung up */
    int64_t deadline;    /* of the greeting */
    char name[PDI_NAME]; /* of the peer's socket, where we connected to it; else "" */
    struct pdi_peer peer;
    struct pdi_hello hello;      /* what it said */
    struct pdi_memfd door, bell; /* the peer's */
};

struct pdi_endpoint;

/* What the control thread asks of the two roles. All are called with the lock held. */
struct pdi_role_ops {
    uint32_t role;
    /* A fresh link; freed by drop(). NULL: out of memory. */
    struct pdi_link *(*create)(struct pdi_endpoint *);
    /* The memfd that goes into our HELLO, first. -errno or PODIPC_E* on failure. */
    int (*own_fd)(struct pdi_link *);
    /* The peer's HELLO came: attach its first memfd (taken over). */
    int (*greet)(struct pdi_endpoint *, struct pdi_link *, int fd);
    /* The link is joined now. */
    void (*joined)(struct pdi_endpoint *, struct pdi_link *);
    /* A packet of a joined link, *fd is -1 or taken over by setting it to -1. 0;
     * PODIPC_ECORRUPT: it makes no sense, drop the peer; -errno: it cannot be taken
     * by this process, part with the peer. */
    int (*packet)(struct pdi_endpoint *, struct pdi_link *, const struct pdi_packet *, int *fd);
    /* Leaves a joined peer that did nothing wrong, in order: the link is not in the
     * table afterwards, or no more. NULL: peers send nothing that could fail so. */
    void (*part)(struct pdi_endpoint *, struct pdi_link *);
    /* The peer said goodbye. */
    void (*bye)(struct pdi_endpoint *, struct pdi_link *);
    /* The peer hung up; `link->sock` is closed. Joined links stay in the table
     * until the role removes them. */
    void (*lost)(struct pdi_endpoint *, struct pdi_link *);
    /* Frees a link that is in no table any more. */
    void (*drop)(struct pdi_link *);
    /* Something is to be done by the control thread in a few milliseconds. */
    bool (*tick)(struct pdi_endpoint *);
};

struct pdi_endpoint {
    const struct pdi_role_ops *role;
    pthread_mutex_t lock;
    struct pdi_fork_hook fork;
    pthread_t control;
    bool control_runs;
    bool closed;

    char *path;
    bool named; /* the directory above is podipc's own too */
    char name[PDI_NAME];
    int dir, listener, inotify, stop; /* descriptors; -1: none */
    uint32_t mode, flags, wait;
    uint64_t id;
    bool rescan; /* look through the directory again */
    bool retry;  /* a receiver could not be connected to for now */
    bool deaf;   /* out of descriptors: do not accept for a moment */

    struct pdi_memfd door_memory, bell_memory;
    struct pdi_door *door;
    struct pdi_bell *bell;
    uint32_t sleepers;
    bool can_spin;      /* not under a quota below two processors */
    pdi_word64 spin_ns; /* how long spinning has been worth it lately */
    /* Short sleeps until it is tried again: as many after the last vain try; still to come. */
    pdi_word32 spin_vain, spin_skip;
    pdi_word64 again; /* attempt anew by then, though nobody rings; 0: no need */

    struct pdi_link *links[PDI_LINKS];
    uint32_t link_count;
    struct pdi_link *settled; /* in no table, but with a socket that tells we live */
    pdi_word32 socket_full;   /* a peer did not read lately: a hint, unguarded */

    podipc_error complaint; /* a peer that could not join, reported once */
    bool has_complaint;
    char last_refusal[256];              /* for explain() */
    char last_failure[256];              /* of this side since somebody joined; for explain() */
    char refused[PDI_REFUSED][PDI_NAME]; /* names not to be tried again */
    uint32_t refused_count;
    uint64_t died; /* peers */
};

/* ---- shm_endpoint.c ---- */
/* Sets *ep up, joins the directory and starts the control thread. On failure *ep
 * holds nothing. */
int pdi_endpoint_open(struct pdi_endpoint *ep, const struct pdi_role_ops *role,
                      const podipc_options *options, podipc_error *err);
/* Stops the control thread, leaves the directory; the caller then settles its
 * links. True the first time. */
bool pdi_endpoint_close(struct pdi_endpoint *ep);
/* Releases what is left. After close, with no link left. */
void pdi_endpoint_free(struct pdi_endpoint *ep);

/* Calls attempt(arg) until it returns something other than -EAGAIN or `until` has
 * passed: at once, then spinning, then asleep. The lock is not held by the caller. */
int pdi_endpoint_wait(struct pdi_endpoint *ep, int (*attempt)(void *), void *arg, int64_t until);
/* Wakes this endpoint's own sleepers. */
void pdi_endpoint_wake(struct pdi_endpoint *ep);
/* Wakes the peer if it sleeps; call after publishing. */
static inline void pdi_link_call(struct pdi_endpoint *ep, struct pdi_link *link)
{
    pdi_bell_call(link->door.map, link->bell.map, ep->wait == PODIPC_WAIT_SEMAPHORE);
}
/* Is this process a forked child that the endpoint does not belong to? */
static inline bool pdi_endpoint_forked(struct pdi_endpoint *ep)
{
    return pdi_forked(&ep->fork);
}
int pdi_endpoint_forked_error(podipc_error *err);
int pdi_endpoint_closed_error(podipc_error *err);
/* Takes the complaint, if there is one: its code, else 0. Lock held. */
int pdi_endpoint_complaint(struct pdi_endpoint *ep, podipc_error *err);
void pdi_endpoint_explain(struct pdi_endpoint *ep, char *text, size_t cap);

/* ---- shm_control.c ---- */
void *pdi_control_main(void *endpoint);
/* The name of an endpoint's socket in the channel's directory. */
void pdi_socket_name(uint32_t role, uint64_t id, char name[PDI_NAME]);
/* Removes the sockets of dead endpoints from the directory. */
void pdi_control_sweep(struct pdi_endpoint *ep);
/* Adds to / removes from the table. Lock held. False: full. */
bool pdi_link_add(struct pdi_endpoint *ep, struct pdi_link *link);
void pdi_link_remove(struct pdi_endpoint *ep, struct pdi_link *link);
/* Frees what the common part holds. */
void pdi_link_clear(struct pdi_link *link);
/* Says goodbye; waits until then at most for room in the socket: of all the peers of
 * an endpoint together PDI_GOODBYE_NS, because its lock is held. */
void pdi_link_bye(struct pdi_link *link, int64_t until);
/* Sends a packet without a body. */
int pdi_link_packet(struct pdi_link *link, enum pdi_packet_kind kind, uint32_t arena, uint64_t size,
                    int fd);

/* ---- the sender ---- */
struct pdi_ticket {
    uint64_t position; /* of the message: it cannot come back before it was taken */
    uint64_t number;   /* of the message among all of this sender */
    uint32_t chunk;    /* PDI_NONE: free */
    uint32_t generation;
    uint32_t next; /* free list */
};

struct pdi_tx_link {
    struct pdi_link link;
    struct pdi_memfd ring_memory, returns_memory;
    struct pdi_ring_tx ring;
    struct pdi_ticket tickets[PDI_RETURN_SLOTS];
    uint32_t ticket_free;       /* head of the free list */
    uint32_t ticket_count;      /* ever used; the rest of the table is untouched */
    uint32_t out;               /* tickets in use */
    uint64_t known[PDI_ARENAS]; /* arena id + 1 announced for each slot; 0: none */
    uint32_t pending;           /* latest: chunk that waits for room, or PDI_NONE */
    struct pdi_descriptor pending_descriptor;
};

struct pdi_orphan {
    struct pdi_descriptor descriptor;
    uint64_t number;
    uint32_t chunk;
};

struct pdi_shm_sender {
    podipc_sender base;
    struct pdi_endpoint ep;
    struct pdi_pool pool;
    struct pdi_memfd memory[PDI_ARENAS];
    struct pdi_copy_plan copy;
    uint64_t next_number;
    struct pdi_orphan *orphans; /* in the order of their numbers; messages left untaken by receivers
                                   that are gone */
    uint32_t orphan_count, orphan_cap;
    uint64_t max_bytes;
    uint64_t deaths_to_report;
    uint32_t pace_vain; /* sends without a look after a vain one */
    uint32_t pace_skip; /* of those, still to come */
    uint32_t turn;      /* where to begin looking for a receiver */
    podipc_stats stats;
};

static inline struct pdi_tx_link *pdi_tx(struct pdi_link *link)
{
    return (struct pdi_tx_link *)(void *)link;
}
/* Does the receiver take the newest only? */
static inline bool pdi_is_latest(const struct pdi_tx_link *link)
{
    return (link->link.hello.flags & PDI_LATEST) != 0;
}
static inline void *pdi_chunk_data(struct pdi_shm_sender *tx, uint32_t chunk)
{
    const struct pdi_chunk *c = &tx->pool.chunks[chunk];
    return (char *)tx->memory[c->arena].map + c->offset;
}

/* ---- shm_memory.c; lock held in all ---- */
/* A chunk for n bytes with one reference. -EAGAIN: the budget is used up for now, or
 * not all of its memory could be committed by `until`. Gives the lock up meanwhile. */
int pdi_sender_take(struct pdi_shm_sender *tx, uint64_t n, int64_t until, uint32_t *chunk,
                    podipc_error *err);
/* Makes sure the peer has the arena of this chunk. -EAGAIN: it does not read. */
int pdi_sender_announce(struct pdi_shm_sender *tx, struct pdi_tx_link *link, uint32_t chunk);
/* Unmaps every arena that no loan is in; with `all`, every one. */
void pdi_sender_unmap(struct pdi_shm_sender *tx, bool all);

/* ---- shm_pace.c; lock not held ---- */
/* Before memory for n bytes is taken: lets receivers that are behind catch up, for
 * 200 us and until `until` at most. */
void pdi_sender_pace(struct pdi_shm_sender *tx, uint64_t n, int64_t until);

/* ---- shm_deliver.c; lock held in all ---- */
extern const struct pdi_role_ops pdi_sender_role;
/* Gives the tensor in `chunk` to one receiver, or to all. The caller keeps its own
 * reference. -EAGAIN: nobody has room. */
int pdi_sender_publish(struct pdi_shm_sender *tx, uint32_t chunk, const podipc_tensor *t,
                       uint32_t *reached);
/* Reads what the receivers let go. */
void pdi_sender_collect(struct pdi_shm_sender *tx);
/* Fills in what the links know: peers, queued, held. */
void pdi_sender_count(struct pdi_shm_sender *tx, podipc_stats *out);
/* Says goodbye to all receivers. How many messages nobody will get. */
uint64_t pdi_sender_part(struct pdi_shm_sender *tx);

#endif
