#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../core/error.h"
#include "cgroup.h"
#include "clock.h"

_Static_assert(sizeof(off_t) == 8, "file offsets must have 64 bits");

/* About 30 ms of clearing pages; the smallest a storm of signals lets through. */
#define STEP_MAX (32u << 20)
#define STEP_MIN (64u << 10)

/* Longest part of a path that an error text shows; the advice must still fit. */
#define SHOWN "%.160s"

static bool is_in_ram(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return true;
    switch ((unsigned long)fs.f_type) {
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
    case HUGETLBFS_MAGIC:
        return true;
    default:
        return false;
    }
}

int pdi_memory_look(int fd, struct pdi_memory_info *info, podipc_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return pdi_fail(err, -errno, "fstat", "cannot look at descriptor %d", fd);
    int seals = fcntl(fd, F_GET_SEALS);
    uint64_t stored = (uint64_t)st.st_blocks * 512;
    *info = (struct pdi_memory_info){
        .size = (uint64_t)st.st_size,
        .missing = (uint64_t)st.st_size > stored ? (uint64_t)st.st_size - stored : 0,
        .dev = st.st_dev,
        .ino = st.st_ino,
        .uid = st.st_uid,
        .mode = st.st_mode & 07777,
        .regular = S_ISREG(st.st_mode),
        .in_ram = is_in_ram(fd),
        .sealed = seals >= 0 && (seals & F_SEAL_SHRINK),
    };
    return 0;
}

/* Bytes the file system of `fd` still has for this process. */
static uint64_t space_left(int fd)
{
    struct statvfs fs;
    if (fstatvfs(fd, &fs) < 0)
        return UINT64_MAX;
    /* No size: the kernel's own mount behind a memfd, or a tmpfs without a limit. */
    if (fs.f_blocks == 0)
        return UINT64_MAX;
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static int no_space(const struct pdi_reservation *r, const char *call, uint64_t need, uint64_t have,
                    podipc_error *err)
{
    unsigned long long n = need, h = have;
    if (strncmp(r->where, "/dev/shm/", 9) == 0)
        return pdi_fail_need(err, -ENOSPC, call, need, have,
                             SHOWN " needs %llu bytes, /dev/shm has %llu left. It is 64 MiB by "
                                   "default: mount an emptyDir with `medium: Memory` and a larger "
                                   "`sizeLimit` at /dev/shm in every container of the Pod, or use "
                                   "name=None, which is limited by memory alone",
                             r->where, n, h);
    if (*r->where)
        return pdi_fail_need(err, -ENOSPC, call, need, have,
                             SHOWN " needs %llu bytes, its file system has %llu left: give the "
                                   "volume a larger size (`emptyDir.sizeLimit` in the Pod's "
                                   "manifest) or remove what is no longer used",
                             r->where, n, h);
    return pdi_fail_need(err, -ENOSPC, call, need, have,
                         "anonymous shared memory of %llu bytes is needed, %llu can be had", n, h);
}

int pdi_memory_allow(uint64_t need, podipc_error *err)
{
    uint64_t have = pdi_memory_available();
    if (need <= have)
        return 0;
    return pdi_fail_need(
        err, PODIPC_EMEMLIMIT, "", need, have,
        "%llu bytes of shared memory are needed, this container may take %llu more "
        "before it is killed for lack of memory: raise `resources.limits.memory` of "
        "the container that creates the memory (it pays for it), or make it smaller",
        (unsigned long long)need, (unsigned long long)have);
}

/* Refuses what cannot fit before a single page is taken. */
static int check_room(struct pdi_reservation *r, podipc_error *err)
{
    struct pdi_memory_info info;
    int rc = pdi_memory_look(r->fd, &info, err);
    if (rc < 0)
        return rc;
    uint64_t need = info.missing;
    if (r->size > info.size)
        need += r->size - info.size;
    /* A hole in a file on a disk costs nothing as long as it is only read. */
    if (need == 0 || (r->read_only && !info.in_ram)) {
        r->done = r->size;
        return 0;
    }
    uint64_t have = space_left(r->fd);
    if (need > have)
        return no_space(r, "", need, have, err);
    return info.in_ram ? pdi_memory_allow(need, err) : 0;
}

/* For file systems without fallocate(): NFS before 4.2, 9p, some FUSE. */
static int write_zeros(int fd, uint64_t offset, uint64_t count)
{
    static const char zeros[STEP_MIN];
    while (count > 0) {
        size_t n = count < sizeof zeros ? (size_t)count : sizeof zeros;
        ssize_t written = pwrite(fd, zeros, n, (off_t)offset);
        if (written < 0)
            return -errno;
        offset += (uint64_t)written;
        count -= (uint64_t)written;
    }
    return 0;
}

static int reserve_step(struct pdi_reservation *r, podipc_error *err)
{
    uint64_t left = r->size - r->done;
    uint64_t n = left < r->step ? left : r->step;
    const char *call = r->by_writing ? "pwrite" : "fallocate";
    int rc = r->by_writing                                       ? write_zeros(r->fd, r->done, n)
             : fallocate(r->fd, 0, (off_t)r->done, (off_t)n) < 0 ? -errno
                                                                 : 0;
    switch (rc) {
    case 0:
        r->done += n;
        return 0;
    case -EINTR:
        /* Some kernels give back what an interrupted call got: smaller steps make progress
         * also when signals come faster than pages can be cleared. */
        r->step = r->step / 2 > STEP_MIN ? r->step / 2 : STEP_MIN;
        return -EAGAIN;
    case -EOPNOTSUPP:
        if (!r->fresh) {
            r->done = r->size; /* it has bytes of its own; they cannot be reserved */
            return 0;
        }
        r->by_writing = true;
        return 0;
    case -EBADF:
        return pdi_fail(err, -EACCES, call,
                        "the descriptor was opened for reading only, and %llu bytes of the file "
                        "have no storage yet",
                        (unsigned long long)left);
    case -ENOSPC:
    case -EDQUOT:
        return no_space(r, call, left, space_left(r->fd), err);
    default:
        return pdi_fail(err, rc, call, "cannot reserve %llu bytes for %s" SHOWN,
                        (unsigned long long)r->size, *r->where ? "" : "anonymous shared memory",
                        r->where);
    }
}

int pdi_memory_reserve(struct pdi_reservation *r, int64_t until, podipc_error *err)
{
    if (r->step == 0) {
        int rc = check_room(r, err);
        if (rc < 0)
            return rc;
        r->step = STEP_MAX;
    }
    if (r->read_only)
        return 0;
    while (r->done < r->size) {
        int rc = reserve_step(r, err);
        if (rc < 0)
            return rc;
        if (r->done < r->size && pdi_now() >= until)
            return -EAGAIN;
    }
    return 0;
}

int pdi_memory_map(int fd, uint64_t size, bool writable, void **addr, podipc_error *err)
{
    int prot = PROT_READ | (writable ? PROT_WRITE : 0);
    void *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return pdi_fail(err, -errno, "mmap", "cannot map %llu bytes of shared memory%s",
                        (unsigned long long)size, writable ? " for writing" : "");
    *addr = p;
    return 0;
}

void pdi_memory_unmap(void *addr, uint64_t size)
{
    if (addr)
        (void)munmap(addr, size);
}

int pdi_memory_dup(int fd, podipc_error *err)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return pdi_fail(err, -errno, "fcntl(F_DUPFD_CLOEXEC)", "cannot copy descriptor %d", fd);
    return copy;
}

void pdi_memory_close(int fd)
{
    if (fd >= 0)
        (void)close(fd);
}
