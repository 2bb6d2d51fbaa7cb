#include "lockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "retry.h"

static int lock(int fd, int how)
{
    if (PDI_RETRY(flock(fd, how | LOCK_NB)) == 0)
        return 0;
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

int pdi_lockfile_make(int dirfd, const char *making, const char *name, uint32_t mode)
{
    int fd =
        PDI_RETRY(openat(dirfd, making, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd < 0)
        return -errno;
    int rc = fchmod(fd, mode) < 0 ? -errno : lock(fd, LOCK_EX);
    if (rc == 0 && renameat(dirfd, making, dirfd, name) < 0)
        rc = -errno;
    if (rc < 0) {
        (void)unlinkat(dirfd, making, 0);
        close(fd);
        return rc;
    }
    return fd;
}

int pdi_lockfile_held(int dirfd, const char *name)
{
    int fd = PDI_RETRY(openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd < 0)
        return errno == ELOOP || errno == ENXIO ? -ENOENT : -errno;
    int rc = lock(fd, LOCK_SH);
    struct stat st;
    if (rc == -EAGAIN)
        rc = 1;
    else if (rc == 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink == 0))
        /* Who leaves in order removes the name before the lock goes. */
        rc = -ENOENT;
    close(fd);
    return rc;
}

int pdi_lockfile_take(int fd)
{
    return lock(fd, LOCK_EX);
}
