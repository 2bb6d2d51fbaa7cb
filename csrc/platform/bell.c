#include "bell.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "semaphore.h"

_Static_assert(sizeof(sem_t) <= PDI_CACHE_LINE, "a sem_t fits its line");

/* Threads that a ring of the semaphore wakes at most; the count of sleepers is the
 * peer's word. */
#define MANY 64u

static sem_t *semaphore_of(struct pdi_bell *bell)
{
    return (sem_t *)(void *)bell->semaphore;
}

int pdi_bell_init(struct pdi_bell *bell, bool semaphore)
{
    if (semaphore && sem_init(semaphore_of(bell), 1, 0) < 0)
        return -errno;
    return 0;
}

int pdi_bell_sleep(struct pdi_bell *bell, bool semaphore, uint32_t seen, int64_t until)
{
    if (semaphore)
        return pdi_semaphore_sleep(semaphore_of(bell), until) == -EINTR ? -EINTR : 0;
    /* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time. Plain futex(2):
     * the newer futex_wait(2) is refused by CRI-O's seccomp profile. */
    struct timespec at = pdi_timespec(until);
    long rc = syscall(SYS_futex, &bell->rings, FUTEX_WAIT_BITSET, seen, &at, NULL,
                      FUTEX_BITSET_MATCH_ANY);
    return rc < 0 && errno == EINTR ? -EINTR : 0;
}

void pdi_bell_ring(struct pdi_bell *bell, bool semaphore, uint32_t sleepers)
{
    pdi_bump32(&bell->rings);
    if (semaphore) {
        int value;
        for (uint32_t i = 0; i < sleepers && i < MANY; i++)
            if (sem_getvalue(semaphore_of(bell), &value) < 0 || value >= (int)MANY ||
                (uint32_t)value >= sleepers || sem_post(semaphore_of(bell)) < 0)
                return;
        return;
    }
    (void)syscall(SYS_futex, &bell->rings, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

enum pdi_libc pdi_libc(void)
{
#ifdef __GLIBC__
    return PDI_LIBC_GLIBC;
#else
    return PDI_LIBC_OTHER;
#endif
}
