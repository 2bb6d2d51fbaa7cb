/* fork.h - what a fork() does to open endpoints.
 *
 * A forked child inherits the descriptors of its parent. As long as it lives,
 * the parent's sockets and locks stay open, and the parent's death would go
 * unnoticed. There is no "close on fork" in Linux, so this is the one registry
 * the process has (pthread_atfork allows no other way): in the child, the
 * descriptors of every registered endpoint are closed and its `forked` flag set.
 */
#ifndef PDI_FORK_H
#define PDI_FORK_H

#include <pthread.h>
#include <stdbool.h>

#include "../core/atomics.h"

struct pdi_fork_hook {
    struct pdi_fork_hook *next, *prev;
    pdi_word32 forked;           /* 1 in a child of the process that registered it */
    void (*in_child)(void *arg); /* closes descriptors; async-signal-safe; takes no lock */
    void *arg;
    pthread_mutex_t *lock; /* if not NULL: held over fork(), so that the child finds what it
                              guards whole; never held while (un)registering */
};

/* Registers `hook`, which the caller owns and keeps in place until
 * pdi_fork_forget(). `lock` may be NULL. Any thread. 0 or -errno. */
int pdi_fork_watch(struct pdi_fork_hook *hook, void (*in_child)(void *), void *arg,
                   pthread_mutex_t *lock);
/* Any thread; also in a child. Idempotent. */
void pdi_fork_forget(struct pdi_fork_hook *hook);

/* Is this a child of the process that registered the hook? Any thread. */
static inline bool pdi_forked(const struct pdi_fork_hook *hook)
{
    return pdi_peek32(&hook->forked) != 0;
}

#endif
