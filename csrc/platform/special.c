#include "special.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../core/error.h"
#include "random.h"
#include "rendezvous.h"
#include "retry.h"

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "a regular file";
    case S_IFDIR:
        return "a directory";
    case S_IFLNK:
        return "a symbolic link";
    case S_IFSOCK:
        return "a socket";
    case S_IFIFO:
        return "a FIFO";
    default:
        return "a device";
    }
}

int pdi_special_denied(const char *path, int code, const char *call, podipc_error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return pdi_fail(err, code, call,
                        "UID %u may not use %s: make the directories above it searchable, or run "
                        "both containers with the same runAsUser",
                        (unsigned)geteuid(), path);
    return pdi_fail(err, code, call,
                    "%s belongs to UID %u with mode %04o and this process is UID %u: open the "
                    "receiver with mode=0o666 (or 0o660 and a common group), or run both "
                    "containers with the same runAsUser",
                    path, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777, (unsigned)geteuid());
}

int pdi_special_look(const char *path, mode_t type, podipc_error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return -ENOENT;
        return errno == EACCES ? pdi_special_denied(path, -EACCES, "lstat", err)
                               : pdi_fail(err, -errno, "lstat", "could not look at %s", path);
    }
    if ((st.st_mode & S_IFMT) == type)
        return 0;
    return pdi_fail(err, PODIPC_EADDRESS, "",
                    "%s is %s where %s is needed: give another path, or remove what is there", path,
                    type_name(st.st_mode), type_name(type));
}

/* -1 if it cannot be had soon. */
static int lock_directory(const char *directory)
{
    int fd = PDI_RETRY(open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const struct timespec pause = {.tv_nsec = 1000000};
    for (int tries = 0; fd >= 0 && PDI_RETRY(flock(fd, LOCK_EX | LOCK_NB)) < 0; tries++) {
        if (tries == 200 || errno != EWOULDBLOCK) {
            (void)close(fd);
            return -1;
        }
        (void)nanosleep(&pause, NULL);
    }
    return fd;
}

static bool is_at(const char *path, const struct pdi_special_id *id)
{
    struct stat st;
    return lstat(path, &st) == 0 && st.st_dev == id->dev && st.st_ino == id->ino;
}

static int check_free(const struct pdi_special *kind, const char *path,
                      const struct pdi_special_id *ours, podipc_error *err)
{
    int rc = pdi_special_look(path, kind->type, err);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0 || (ours && is_at(path, ours)))
        return rc;
    rc = kind->probe(path);
    if (rc == -EADDRINUSE)
        return pdi_fail(err, rc, "",
                        "another receiver listens on %s: close it, or give this one another path",
                        path);
    if (rc == -EACCES)
        return pdi_special_denied(path, rc, "open", err);
    return rc < 0 ? pdi_fail(err, rc, "connect", "could not see whether %s is in use", path) : 0;
}

static int put(const struct pdi_special *kind, const char *path, const char *fresh, uint32_t mode,
               int *fd, struct pdi_special_id *id, podipc_error *err)
{
    struct stat st;
    int rc = kind->make(fresh, fd, err);
    if (rc == -ENOENT) /* in the user's words, not of the name it has for a moment */
        return pdi_fail(err, rc, "open",
                        "there is no directory for %s: mount the shared volume there", path);
    if (rc < 0)
        return rc;
    const char *call = "chmod";
    if (chmod(fresh, (mode_t)mode) < 0)
        goto err;
    call = "lstat";
    if (lstat(fresh, &st) < 0)
        goto err;
    call = "rename";
    if (rename(fresh, path) < 0)
        goto err;
    *id = (struct pdi_special_id){.dev = st.st_dev, .ino = st.st_ino};
    return 0;
err:
    rc = -errno;
    (void)unlink(fresh);
    pdi_close(fd);
    return pdi_fail(err, rc, call, "could not put %s at %s", type_name(kind->type), path);
}

/* The directory of `path`, and a fresh name in it. */
static int split(const char *path, char **directory, char **fresh, podipc_error *err)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    *directory = n ? strndup(path, n) : strdup("./");
    *fresh = malloc(n + 16);
    if (!*directory || !*fresh)
        return pdi_fail(err, -ENOMEM, "malloc", "could not copy a path");
    (void)snprintf(*fresh, n + 16, "%.*s.pdi%08x", (int)n, path, (unsigned)pdi_random64());
    return 0;
}

int pdi_special_put(const struct pdi_special *kind, const char *path, uint32_t mode,
                    const struct pdi_special_id *ours, int *fd, struct pdi_special_id *id,
                    podipc_error *err)
{
    char *directory = NULL, *fresh = NULL;
    *fd = -1;
    int lock = -1;
    int rc = split(path, &directory, &fresh, err);
    if (rc < 0)
        goto out;
    lock = lock_directory(directory);
    rc = check_free(kind, path, ours, err);
    if (rc == 0)
        rc = put(kind, path, fresh, mode, fd, id, err);
out:
    pdi_close(&lock);
    free(directory);
    free(fresh);
    return rc;
}

void pdi_special_remove(const char *path, const struct pdi_special_id *id)
{
    char *directory = NULL, *fresh = NULL;
    if (split(path, &directory, &fresh, NULL) == 0) {
        int lock = lock_directory(directory);
        if (is_at(path, id))
            (void)unlink(path);
        pdi_close(&lock);
    }
    free(directory);
    free(fresh);
}
