/* semaphore.h - POSIX semaphores that processes share.
 *
 * A named semaphore is a file in /dev/shm that holds a sem_t. sem_open() makes
 * it with a mode cut down by the umask, and follows no rules of ours about what may
 * be at the name; so it is done here with named.h, in the same place and form, and
 * sem_open() of other programs opens it as its own.
 */
#ifndef PDI_SEMAPHORE_H
#define PDI_SEMAPHORE_H

#include <semaphore.h>

#include "named.h"

struct pdi_semaphore {
    sem_t *sem;
    uint64_t dev, ino; /* identity, for pdi_named_unlink() */
};

/* The path of the semaphore called `name` under this C library. 0 or PODIPC_EADDRESS. */
int pdi_semaphore_path(const char *name, char path[PDI_PATH_CAP], podipc_error *err);

/* Fill *s; the caller closes it. Errors as in named.h; -ENOSPC; -EINVAL for a value
 * above SEM_VALUE_MAX. Opening checks that the file has the size of a sem_t. */
int pdi_semaphore_create(struct pdi_semaphore *s, const char *path, unsigned value, uint32_t mode,
                         podipc_error *err);
int pdi_semaphore_open(struct pdi_semaphore *s, const char *path, podipc_error *err);
/* Nobody may be waiting on it in this process. The name and other processes keep it. */
void pdi_semaphore_close(struct pdi_semaphore *s);

/* The highest value. */
unsigned pdi_semaphore_max(void);

/* Any thread, any process, on any shared sem_t. */

/* Takes one. -EAGAIN: none by `until`, or a signal came. */
int pdi_semaphore_wait(sem_t *sem, int64_t until);
/* Sleeps, once, until there is one to take: 0, taken; -ETIMEDOUT; -EINTR after a signal.
 * Unlike the libc's, not bound to the time of day. */
int pdi_semaphore_sleep(sem_t *sem, int64_t until);
/* Gives `n` back. -EOVERFLOW if the value would exceed SEM_VALUE_MAX; then none is given. */
int pdi_semaphore_post(sem_t *sem, unsigned n);
/* What it stood at; may be old by the time it is looked at. */
unsigned pdi_semaphore_value(sem_t *sem);

#endif
