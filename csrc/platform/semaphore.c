#include "semaphore.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

#include "../core/error.h"
#include "clock.h"
#include "memory.h"

/* glibc keeps named semaphores apart by a prefix, musl does not. */
#ifdef __GLIBC__
#define PREFIX "sem."
#else
#define PREFIX ""
#endif

#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 30)
#define HAVE_CLOCKWAIT
#endif
#endif

#ifndef SEM_VALUE_MAX
#define SEM_VALUE_MAX INT_MAX
#endif

int pdi_semaphore_path(const char *name, char path[PDI_PATH_CAP], podipc_error *err)
{
    return pdi_named_path(name, PREFIX, false, path, err);
}

unsigned pdi_semaphore_max(void)
{
    return SEM_VALUE_MAX;
}

static int map_semaphore(struct pdi_semaphore *s, int fd, podipc_error *err)
{
    struct pdi_memory_info info;
    void *addr;
    int rc = pdi_memory_look(fd, &info, err);
    if (rc < 0)
        return rc;
    rc = pdi_memory_map(fd, sizeof(sem_t), true, &addr, err);
    if (rc < 0)
        return rc;
    *s = (struct pdi_semaphore){.sem = addr, .dev = info.dev, .ino = info.ino};
    return 0;
}

static int reserve_semaphore(const struct pdi_named *n, podipc_error *err)
{
    struct pdi_reservation room = {
        .fd = n->fd, .size = sizeof(sem_t), .where = n->path, .fresh = true};
    int rc;
    do
        rc = pdi_memory_reserve(&room, INT64_MAX, err);
    while (rc == -EAGAIN);
    return rc;
}

int pdi_semaphore_create(struct pdi_semaphore *s, const char *path, unsigned value, uint32_t mode,
                         podipc_error *err)
{
    struct pdi_named n;
    s->sem = NULL;
    int rc = pdi_named_begin(&n, path, mode, err);
    if (rc < 0)
        return rc;
    rc = reserve_semaphore(&n, err);
    if (rc < 0)
        goto err;
    rc = map_semaphore(s, n.fd, err);
    if (rc < 0)
        goto err;
    if (sem_init(s->sem, 1, value) < 0) {
        rc = pdi_fail(err, -errno, "sem_init", "cannot make a semaphore with value %u", value);
        goto err;
    }
    rc = pdi_named_publish(&n, err);
    if (rc < 0)
        goto err;
    pdi_memory_close(n.fd);
    return 0;
err:
    pdi_semaphore_close(s);
    pdi_named_abandon(&n);
    return rc;
}

int pdi_semaphore_open(struct pdi_semaphore *s, const char *path, podipc_error *err)
{
    struct pdi_memory_info info;
    s->sem = NULL;
    int fd = pdi_named_open(path, true, -1, err);
    if (fd < 0)
        return fd;
    int rc = pdi_memory_look(fd, &info, err);
    if (rc == 0 && info.size != sizeof(sem_t))
        rc = pdi_fail(
            err, PODIPC_EADDRESS, "",
            "%.160s has %llu bytes, a semaphore of this C library has %zu: it is something "
            "else, or was made under another C library",
            path, (unsigned long long)info.size, sizeof(sem_t));
    if (rc == 0)
        rc = map_semaphore(s, fd, err);
    pdi_memory_close(fd);
    return rc;
}

void pdi_semaphore_close(struct pdi_semaphore *s)
{
    if (s->sem)
        pdi_memory_unmap(s->sem, sizeof(sem_t));
    s->sem = NULL;
}

int pdi_semaphore_sleep(sem_t *sem, int64_t until)
{
#ifdef HAVE_CLOCKWAIT
    struct timespec at = pdi_timespec(until);
    return sem_clockwait(sem, CLOCK_MONOTONIC, &at) == 0 ? 0 : -errno;
#else
    /* sem_timedwait() goes by the time of day: short slices bound what setting it can do
     * to a wait. */
    enum { SLICE = 50000000 };
    for (;;) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t left = until - pdi_now();
        int64_t slice = left < 0 ? 0 : left < SLICE ? left : SLICE;
        struct timespec at = pdi_timespec((int64_t)now.tv_sec * 1000000000 + now.tv_nsec + slice);
        if (sem_timedwait(sem, &at) == 0)
            return 0;
        if (errno != ETIMEDOUT || left <= SLICE)
            return -errno;
    }
#endif
}

int pdi_semaphore_wait(sem_t *sem, int64_t until)
{
    while (sem_trywait(sem) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        if (until == 0 || pdi_now() >= until)
            return -EAGAIN;
        int rc = pdi_semaphore_sleep(sem, until);
        if (rc != -ETIMEDOUT)
            return rc == -EINTR ? -EAGAIN : rc;
    }
    return 0;
}

int pdi_semaphore_post(sem_t *sem, unsigned n)
{
    int value;
    if (sem_getvalue(sem, &value) < 0)
        return -errno;
    if (value < 0)
        value = 0;
    if (n > (unsigned)SEM_VALUE_MAX - (unsigned)value)
        return -EOVERFLOW;
    for (unsigned i = 0; i < n; i++) {
        if (sem_post(sem) == 0)
            continue;
        int rc = -errno;
        /* Others posted meanwhile: take back what they have not taken. */
        while (i-- > 0 && sem_trywait(sem) == 0)
            ;
        return rc;
    }
    return 0;
}

unsigned pdi_semaphore_value(sem_t *sem)
{
    int value = 0;
    (void)sem_getvalue(sem, &value);
    return value > 0 ? (unsigned)value : 0;
}
