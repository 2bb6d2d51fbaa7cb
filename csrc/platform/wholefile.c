#include "wholefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lockfile.h"
#include "retry.h"

int pdi_wholefile_make(int dirfd, const char *name, uint32_t mode)
{
    int fd =
        PDI_RETRY(openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd < 0)
        return -errno;
    if (mode != 0600 && fchmod(fd, mode) < 0) {
        int rc = -errno;
        (void)unlinkat(dirfd, name, 0);
        close(fd);
        return rc;
    }
    return fd;
}

int pdi_wholefile_publish(int dirfd, const char *from, const char *to)
{
    return renameat(dirfd, from, dirfd, to) < 0 ? -errno : 0;
}

int pdi_wholefile_write(int fd, const void *bytes, size_t n, uint64_t offset)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t done = PDI_RETRY(pwrite(fd, p, n, (off_t)offset));
        if (done < 0)
            return -errno;
        if (done == 0)
            return -EIO;
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}

int pdi_wholefile_read(int fd, void *bytes, size_t n, uint64_t offset)
{
    char *p = bytes;
    while (n > 0) {
        ssize_t done = PDI_RETRY(pread(fd, p, n, (off_t)offset));
        if (done < 0)
            return -errno;
        if (done == 0)
            return -ENODATA;
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}

int pdi_wholefile_write_both(int fd, const void *head, size_t head_len, const void *body,
                             size_t body_len)
{
    struct iovec parts[2] = {{.iov_base = (void *)(uintptr_t)head, .iov_len = head_len},
                             {.iov_base = (void *)(uintptr_t)body, .iov_len = body_len}};
    ssize_t n = PDI_RETRY(pwritev(fd, parts, 2, 0));
    if (n < 0)
        return -errno;
    size_t done = (size_t)n;
    int rc = 0;
    if (done < head_len) {
        rc = pdi_wholefile_write(fd, (const char *)head + done, head_len - done, done);
        done = head_len;
    }
    if (rc == 0)
        rc = pdi_wholefile_write(fd, (const char *)body + (done - head_len),
                                 body_len - (done - head_len), done);
    return rc;
}

int pdi_wholefile_look(int dirfd, const char *name)
{
    int fd = PDI_RETRY(openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return -EINVAL;
}

void pdi_wholefile_drop(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* 0, or why the open and locked file is not to be taken. */
static int check(int fd, uint32_t mode, uint64_t *size)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_nlink == 0)
        return -ENOENT; /* somebody took it between our open and our lock */
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (st.st_nlink != 1)
        return -EMLINK;
    if ((mode & 077) == 0 && geteuid() != 0 && st.st_uid != geteuid())
        return -EPERM;
    *size = (uint64_t)st.st_size;
    return 0;
}

int pdi_wholefile_take(int dirfd, const char *name, uint32_t mode, uint64_t *size)
{
    int fd = PDI_RETRY(openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd < 0)
        return errno == ELOOP || errno == ENXIO ? -EINVAL : -errno;
    int rc = pdi_lockfile_take(fd);
    if (rc == 0)
        rc = check(fd, mode, size);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}
