#include "fifo.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/error.h"
#include "io.h"
#include "rendezvous.h"
#include "retry.h"

/* Opening to write fails unless somebody reads. */
static int probe(const char *path)
{
    int fd = PDI_RETRY(open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (fd < 0)
        return errno == ENXIO || errno == ENOENT ? 0 : -errno;
    (void)close(fd);
    return -EADDRINUSE;
}

static int make(const char *path, int *fd, podipc_error *err)
{
    if (mkfifo(path, 0600) < 0)
        return pdi_fail(err, -errno, "mkfifo", "could not make a FIFO at %s as UID %u", path,
                        (unsigned)geteuid());
    *fd = PDI_RETRY(open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (*fd >= 0)
        return 0;
    int rc = -errno;
    (void)unlink(path);
    return pdi_fail(err, rc, "open", "could not open the FIFO %s", path);
}

static const struct pdi_special fifo_kind = {.type = S_IFIFO, .probe = probe, .make = make};

int pdi_fifo_make(const char *path, uint32_t mode, const struct pdi_special_id *ours, int *fd,
                  struct pdi_special_id *id, podipc_error *err)
{
    return pdi_special_put(&fifo_kind, path, mode, ours, fd, id, err);
}

int pdi_fifo_mark_used(int fd, podipc_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || fchmod(fd, (st.st_mode & 07777) | S_ISVTX) < 0)
        return pdi_fail(err, -errno, "fchmod", "could not mark a FIFO as used");
    return 0;
}

void pdi_fifo_mark_closed(int fd)
{
    (void)fchmod(fd, 0);
}

int pdi_fifo_claim(const char *path, int *fd, podipc_error *err)
{
    struct stat st;
    *fd = -1;
    int rc = pdi_special_look(path, S_IFIFO, err);
    if (rc < 0)
        return rc;
    *fd = PDI_RETRY(open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (*fd < 0) {
        rc = -errno;
        return rc == -EACCES ? pdi_special_denied(path, rc, "open", err)
                             : pdi_fail(err, rc, "open", "could not open the FIFO %s", path);
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    if (fcntl(*fd, F_OFD_SETLK, &lock) < 0) {
        rc = errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
        if (rc != -EBUSY)
            rc = pdi_fail(err, rc, "fcntl", "could not lock the FIFO %s", path);
        goto err;
    }
    rc = -EAGAIN;
    if (pdi_unread(*fd) > 0)
        goto err;
    if (fstat(*fd, &st) < 0 || !S_ISFIFO(st.st_mode) || (st.st_mode & S_ISVTX) ||
        (st.st_mode & 0777) == 0)
        goto err;
    return 0;
err:
    pdi_close(fd);
    return rc;
}

bool pdi_fifo_was_closed(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (st.st_mode & 0777) == 0;
}

void pdi_fifo_make_room(int fd, int bytes)
{
    (void)fcntl(fd, F_SETPIPE_SZ, bytes);
}
