#include "named.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/error.h"
#include "random.h"
#include "rename.h"
#include "retry.h"

#define SHM_DIR "/dev/shm"

/* Longest part of a path that an error text shows; the advice must still fit. */
#define SHOWN "%.160s"

/* Names in /dev/shm that mean something else there. */
static bool is_taken_by_others(const char *name)
{
    return strncmp(name, "sem.", 4) == 0 || strcmp(name, "podipc") == 0;
}

static int path_in_shm(const char *name, const char *prefix, char path[PDI_PATH_CAP],
                       podipc_error *err)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return pdi_fail(err, PODIPC_EADDRESS, "", "'%s' is a directory, not a name", name);
    if (!*prefix && is_taken_by_others(name))
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        "'" SHOWN "' cannot be the name of a segment: in " SHM_DIR " the names "
                        "'sem.*' are the C library's semaphores and 'podipc' is the directory of "
                        "podipc's channels",
                        name);
    if (strlen(prefix) + strlen(name) > NAME_MAX)
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        "the name '%.40s...' has %zu bytes, at most %zu are possible", name,
                        strlen(name), NAME_MAX - strlen(prefix));
    (void)snprintf(path, PDI_PATH_CAP, SHM_DIR "/%s%s", prefix, name);
    return 0;
}

int pdi_named_path(const char *name, const char *prefix, bool volumes, char path[PDI_PATH_CAP],
                   podipc_error *err)
{
    if (!*name)
        return pdi_fail(err, PODIPC_EADDRESS, "", "the name is empty");
    const char *slash = strrchr(name, '/');
    if (!slash)
        return path_in_shm(name, prefix, path, err);
    if (!volumes)
        return pdi_fail(
            err, PODIPC_EADDRESS, "",
            "'" SHOWN "' contains a slash: a name here is one in " SHM_DIR ", like 'frames'", name);
    if (*name != '/')
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        "'" SHOWN "' is neither a name in " SHM_DIR
                        " like 'frames' nor an absolute "
                        "path on a volume like '/shared/frames'",
                        name);
    if (slash == name)
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        "'" SHOWN
                        "' is in the root directory, which containers do not share: leave "
                        "the slash out for a name in " SHM_DIR
                        ", or use a path on a volume that both containers mount",
                        name);
    if (!slash[1] || strcmp(slash, "/.") == 0 || strcmp(slash, "/..") == 0)
        return pdi_fail(err, PODIPC_EADDRESS, "", "'" SHOWN "' names a directory, not a file",
                        name);
    if (strlen(name) >= PDI_PATH_CAP - 32)
        return pdi_fail(err, PODIPC_EADDRESS, "", "the path '%.40s...' is too long (%zu bytes)",
                        name, strlen(name));
    (void)snprintf(path, PDI_PATH_CAP, "%s", name);
    return 0;
}

static const char *kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "a file";
    case S_IFDIR:
        return "a directory";
    case S_IFLNK:
        return "a symbolic link, which is not followed";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    default:
        return "a device";
    }
}

/* The directory part of `path`, for opening: never empty, "/dev/shm" for "/dev/shm/x". */
static void parent_of(const char *path, char dir[PDI_PATH_CAP])
{
    (void)snprintf(dir, PDI_PATH_CAP, "%s", path);
    char *slash = strrchr(dir, '/');
    slash[slash == dir ? 1 : 0] = '\0';
}

static int fail_exists(const char *path, podipc_error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return pdi_fail(err, -EEXIST, "linkat", "the name " SHOWN " was taken for a moment", path);
    return pdi_fail(err, -EEXIST, "linkat",
                    SHOWN " is already there: %s of %lld bytes, UID %u, mode %04o. Open it, choose "
                          "another name, or unlink it if it is left over from a crash",
                    path, kind_of(st.st_mode), (long long)st.st_size, (unsigned)st.st_uid,
                    (unsigned)st.st_mode & 07777);
}

/* Why a file cannot be made in the directory of `path`. */
static int fail_create(const char *path, int rc, const char *call, podipc_error *err)
{
    char dir[PDI_PATH_CAP];
    struct stat st;
    parent_of(path, dir);
    if (rc == -EEXIST)
        return fail_exists(path, err);
    if (rc == -ENOENT)
        return pdi_fail(err, rc, call,
                        "the directory " SHOWN
                        " is not there: mount a volume at that path in every "
                        "container that is to use it",
                        dir);
    if (rc == -EROFS)
        return pdi_fail(err, rc, call,
                        SHOWN " cannot be made on a read-only file system: with "
                              "`readOnlyRootFilesystem` only volumes can be written, and those "
                              "without `readOnly: true`",
                        path);
    if ((rc == -EACCES || rc == -EPERM) && stat(dir, &st) == 0)
        return pdi_fail(err, rc, call,
                        SHOWN
                        " cannot be made: its directory belongs to UID %u, GID %u, mode %04o, "
                        "this process runs as UID %u, GID %u. Set `fsGroup` in the Pod's "
                        "securityContext, or run both containers as one UID",
                        path, (unsigned)st.st_uid, (unsigned)st.st_gid,
                        (unsigned)st.st_mode & 07777, (unsigned)geteuid(), (unsigned)getegid());
    return pdi_fail(err, rc, call, SHOWN " cannot be made", path);
}

/* A file under a temporary name, where the file system has none without. 0 or -errno. */
static int begin_with_temp(struct pdi_named *n)
{
    parent_of(n->path, n->temp);
    size_t used = strlen(n->temp);
    (void)snprintf(n->temp + used, sizeof n->temp - used, "/.podipc-%016llx",
                   (unsigned long long)pdi_random64());
    n->fd = PDI_RETRY(open(n->temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (n->fd < 0) {
        int rc = -errno;
        *n->temp = '\0';
        return rc;
    }
    return 0;
}

int pdi_named_begin(struct pdi_named *n, const char *path, uint32_t mode, podipc_error *err)
{
    struct stat st;
    n->fd = -1;
    *n->temp = '\0';
    (void)snprintf(n->path, sizeof n->path, "%s", path);
    /* Said now rather than after gigabytes were reserved; publishing decides. */
    if (lstat(path, &st) == 0)
        return fail_exists(path, err);
    parent_of(path, n->temp);
    n->fd = PDI_RETRY(open(n->temp, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
    int rc = n->fd < 0 ? -errno : 0;
    *n->temp = '\0';
    /* How "no O_TMPFILE here" is said: by the file system, by kernels or sandboxes
     * that do not know the flag and see a directory opened for writing. */
    if (rc == -EOPNOTSUPP || rc == -EISDIR || rc == -EINVAL)
        rc = begin_with_temp(n);
    if (rc < 0)
        return fail_create(path, rc, "open", err);
    if (fchmod(n->fd, mode) < 0) {
        rc = fail_create(path, -errno, "fchmod", err);
        pdi_named_abandon(n);
    }
    return rc;
}

/* Renames without replacing. NFS cannot; there a hard link does the same, except that
 * for a moment the file has two names, and an opener in that moment is refused. */
static int publish_temp(struct pdi_named *n)
{
    int rc = pdi_rename_new(n->temp, n->path);
    if (rc == -EINVAL || rc == -ENOSYS) {
        rc = link(n->temp, n->path) < 0 ? -errno : 0;
        if (rc == 0)
            (void)unlink(n->temp);
    }
    if (rc == 0)
        *n->temp = '\0';
    return rc;
}

int pdi_named_publish(struct pdi_named *n, podipc_error *err)
{
    int rc = 0;
    if (*n->temp) {
        rc = publish_temp(n);
    } else {
        char self[64];
        (void)snprintf(self, sizeof self, "/proc/self/fd/%d", n->fd);
        if (linkat(AT_FDCWD, self, AT_FDCWD, n->path, AT_SYMLINK_FOLLOW) < 0)
            rc = -errno;
        /* Without /proc there is this, which older kernels allow to the privileged only. */
        if (rc == -ENOENT && linkat(n->fd, "", AT_FDCWD, n->path, AT_EMPTY_PATH) == 0)
            rc = 0;
        else if (rc == -ENOENT && errno == EEXIST)
            rc = -EEXIST;
    }
    return rc < 0 ? fail_create(n->path, rc, "linkat", err) : 0;
}

void pdi_named_abandon(struct pdi_named *n)
{
    if (*n->temp)
        (void)unlink(n->temp);
    if (n->fd >= 0)
        (void)close(n->fd);
    *n->temp = '\0';
    n->fd = -1;
}

/* Why what is at `path` could not be opened. */
static int fail_open(const char *path, bool writable, int rc, const struct stat *st,
                     podipc_error *err)
{
    if (rc == -EACCES || rc == -EPERM) {
        if (!st)
            return pdi_fail(err, rc, "open",
                            SHOWN " cannot be reached by UID %u: a directory on the way is closed "
                                  "to it",
                            path, (unsigned)geteuid());
        return pdi_fail(
            err, rc, "open",
            SHOWN " belongs to UID %u, GID %u, mode %04o, and this process, UID %u, GID "
                  "%u, may not %s it: create it with mode=0o660 (a common group) or "
                  "mode=0o666 (every UID of the Pod)",
            path, (unsigned)st->st_uid, (unsigned)st->st_gid, (unsigned)st->st_mode & 07777,
            (unsigned)geteuid(), (unsigned)getegid(), writable ? "write" : "read");
    }
    if ((rc == -ENOENT || rc == -ENOTDIR) && strncmp(path, SHM_DIR "/", sizeof SHM_DIR) == 0)
        return pdi_fail(err, rc, "open",
                        SHOWN " is not there: not created yet, unlinked, or created in another Pod "
                              "(the containers of one share " SHM_DIR ", others do not)",
                        path);
    if (rc == -ENOENT || rc == -ENOTDIR)
        return pdi_fail(err, rc, "open",
                        SHOWN " is not there: not created yet, unlinked, or not on a volume that "
                              "both containers mount at this path",
                        path);
    return pdi_fail(err, rc, "open", SHOWN " cannot be opened", path);
}

/* Refuses what may be somebody else's trap. */
static int check_found(const char *path, const struct stat *st, int64_t owner, podipc_error *err)
{
    if (!S_ISREG(st->st_mode))
        return pdi_fail(err, PODIPC_EADDRESS, "", SHOWN " is %s, not shared memory", path,
                        kind_of(st->st_mode));
    if (st->st_nlink > 1)
        return pdi_fail(err, PODIPC_EADDRESS, "",
                        SHOWN
                        " has %u names (hard links), shared memory has one: it may be somebody "
                        "else's file",
                        path, (unsigned)st->st_nlink);
    if (owner >= 0 && st->st_uid != (uid_t)owner)
        return pdi_fail(err, -EACCES, "", SHOWN " belongs to UID %u, not to UID %lld as required",
                        path, (unsigned)st->st_uid, (long long)owner);
    return 0;
}

int pdi_named_open(const char *path, bool writable, int64_t owner, podipc_error *err)
{
    struct stat st;
    /* Before opening, because opening a FIFO or a device can have effects. */
    if (lstat(path, &st) < 0)
        return fail_open(path, writable, -errno, NULL, err);
    int rc = check_found(path, &st, owner, err);
    if (rc < 0)
        return rc;
    int fd = PDI_RETRY(open(path, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK |
                                      O_NOCTTY | O_CLOEXEC));
    if (fd < 0)
        return fail_open(path, writable, -errno, &st, err);
    /* And after, because it may have been replaced in between. */
    rc = fstat(fd, &st) < 0 ? pdi_fail(err, -errno, "fstat", SHOWN " cannot be looked at", path)
                            : check_found(path, &st, owner, err);
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    return fd;
}

int pdi_named_unlink(const char *path, uint64_t dev, uint64_t ino, podipc_error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : fail_open(path, true, -errno, NULL, err);
    if (st.st_dev != dev || st.st_ino != ino)
        return 0;
    if (unlink(path) < 0 && errno != ENOENT)
        return pdi_fail(err, -errno, "unlink",
                        SHOWN
                        " cannot be removed: it belongs to UID %u, this process runs as UID %u",
                        path, (unsigned)st.st_uid, (unsigned)geteuid());
    return 0;
}
