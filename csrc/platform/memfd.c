#include "memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/error.h"
#include "cgroup.h"
#include "huge.h"
#include "retry.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
/* Hosts with vm.memfd_noexec=2 refuse a memfd that could be executed. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int pdi_memfd_create(const char *name, size_t size, bool commit, bool shared, struct pdi_memfd *m,
                     podipc_error *err)
{
    int rc;
    *m = (struct pdi_memfd){.fd = -1, .size = size};
    m->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (m->fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        m->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->fd < 0)
        return pdi_fail(err, -errno, "memfd_create", "could not make shared memory of %zu bytes",
                        size);
    if (PDI_RETRY(ftruncate(m->fd, (off_t)size)) < 0) {
        rc = pdi_fail(err, -errno, "ftruncate", "could not size shared memory to %zu bytes", size);
        goto err;
    }
    if (commit) {
        rc = pdi_memfd_commit(m, 0, size, err);
        if (rc < 0)
            goto err;
    }
    m->map = pdi_huge_map(size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd);
    if (m->map == MAP_FAILED) {
        m->map = NULL;
        rc = pdi_fail(err, -errno, "mmap", "could not map %zu bytes of shared memory", size);
        goto err;
    }
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (shared ? 0 : F_SEAL_FUTURE_WRITE);
    if (fcntl(m->fd, F_ADD_SEALS, seals) < 0) {
        rc = pdi_fail(err, -errno, "fcntl(F_ADD_SEALS)",
                      "could not seal shared memory: Linux 5.1 or newer is needed");
        goto err;
    }
    return 0;
err:
    pdi_memfd_close(m);
    return rc;
}

int pdi_memfd_limit(uint64_t need, uint64_t available, podipc_error *err)
{
    return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", need, available,
                         "%llu bytes of memory are needed, but only %llu are left under this "
                         "container's memory limit: raise resources.limits.memory, or pass a "
                         "smaller max_bytes and let receivers free tensors earlier",
                         (unsigned long long)need, (unsigned long long)available);
}

int pdi_memfd_commit(struct pdi_memfd *m, uint64_t offset, uint64_t size, podipc_error *err)
{
    /* Past the memory limit of a container the kernel answers fallocate() with
     * SIGKILL, not with an error: look before. */
    uint64_t available = pdi_memory_available();
    if (size > available)
        return pdi_memfd_limit(size, available, err);
    if (m->map && !pdi_peek32(&m->no_huge) && !pdi_huge_commit(m->fd, m->map, offset, size))
        pdi_poke32(&m->no_huge, 1);
    /* One that a signal interrupts gives back what it got: under a fast timer only a
     * smaller step gets to its end. */
    uint64_t step = size;
    for (uint64_t done = 0; done < size;) {
        uint64_t n = size - done < step ? size - done : step;
        if (fallocate(m->fd, 0, (off_t)(offset + done), (off_t)n) == 0)
            done += n;
        else if (errno == EINTR)
            step = step > 2 * pdi_page_size() ? step / 2 : step;
        else
            return pdi_fail_need(err, -errno, "fallocate", size, available,
                                 "could not allocate %llu bytes of shared memory",
                                 (unsigned long long)size);
    }
    /* The pages exist now; entering them in the page table at once is cheaper
     * than a fault each. Old kernels do not know how, and need not. */
    if (m->map)
        (void)madvise((char *)m->map + offset, size, MADV_POPULATE_WRITE);
    return 0;
}

int pdi_memfd_attach(int fd, uint64_t size, bool writable, struct pdi_memfd *m)
{
    *m = (struct pdi_memfd){.fd = fd, .size = size};
    int rc = PODIPC_ECORRUPT;
    int need = F_SEAL_SHRINK | (writable ? 0 : F_SEAL_FUTURE_WRITE);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & need) != need)
        goto err;
    struct stat st;
    if (fstat(fd, &st) < 0 || size == 0 || size > SIZE_MAX || (uint64_t)st.st_size < size)
        goto err;
    m->map = pdi_huge_map((size_t)size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd);
    if (m->map == MAP_FAILED) {
        m->map = NULL;
        rc = -errno;
        goto err;
    }
    return 0;
err:
    pdi_memfd_close(m);
    return rc;
}

int pdi_memfd_map_private(const struct pdi_memfd *m, uint64_t offset, uint64_t size, void **addr)
{
    uint64_t lead = offset & (pdi_page_size() - 1);
    char *map = mmap(NULL, (size_t)(size + lead), PROT_READ | PROT_WRITE, MAP_PRIVATE, m->fd,
                     (off_t)(offset - lead));
    if (map == MAP_FAILED)
        return -errno;
    *addr = map + lead;
    return 0;
}

void pdi_memfd_unmap_private(void *addr, uint64_t size)
{
    uint64_t lead = (uint64_t)(uintptr_t)addr & (pdi_page_size() - 1);
    (void)munmap((char *)addr - lead, (size_t)(size + lead));
}

void pdi_memfd_close_fd(struct pdi_memfd *m)
{
    if (m->fd >= 0)
        (void)close(m->fd);
    m->fd = -1;
}

void pdi_memfd_close(struct pdi_memfd *m)
{
    if (m->map)
        (void)munmap(m->map, m->size);
    m->map = NULL;
    pdi_memfd_close_fd(m);
}

uint64_t pdi_page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}
