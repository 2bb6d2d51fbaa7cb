#include "directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../core/error.h"
#include "../core/tensor_file.h"
#include "clock.h"
#include "dirmode.h"
#include "random.h"
#include "rename.h"
#include "retry.h"
#include "wholefile.h"

/* Longest part of a path that an error text shows; the advice must still fit. */
#define SHOWN   "%.160s"
#define GATE_NS 1000000000

/* Written into the gate of a directory that was made here. */
static const char made_here[] = "made by podipc\n";

static const char *kind_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFLNK:
        return "a symbolic link";
    case S_IFREG:
        return "a file";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFDIR:
        return "a directory";
    default:
        return "a device";
    }
}

int pdi_directory_refused(const char *path, int dirfd, const char *name, int code, const char *call,
                          uint32_t mode, podipc_error *err)
{
    struct stat st;
    const char *slash = name ? "/" : "";
    const char *file = name ? name : "";
    if (fstatat(dirfd, name ? name : path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return pdi_fail(err, code, call,
                        "%.160s%s%s cannot be reached by UID %u: give it access to every directory "
                        "above",
                        path, slash, file, (unsigned)geteuid());
    return pdi_fail(err, code, call,
                    "%.160s%s%s belongs to UID %u, group %u, mode %04o, and this process runs as "
                    "UID %u, group %u, asking for mode %04o: pass mode=0o666 on both sides, or "
                    "mode=0o660 with a group that both have (fsGroup)",
                    path, slash, file, (unsigned)st.st_uid, (unsigned)st.st_gid,
                    (unsigned)st.st_mode & 07777, (unsigned)geteuid(), (unsigned)getegid(),
                    (unsigned)mode);
}

static int fail_at(const char *path, int code, const char *call, uint32_t mode, podipc_error *err)
{
    struct stat st;
    switch (code) {
    case -EACCES:
    case -EPERM:
    case -EROFS:
        return pdi_directory_refused(path, AT_FDCWD, NULL, code, call, mode, err);
    case -ENOTDIR:
    case -ELOOP:
        if (lstat(path, &st) == 0 && !S_ISDIR(st.st_mode))
            return pdi_fail(err, PODIPC_EADDRESS, call,
                            SHOWN " is %s, and file:// needs a directory: remove it or give "
                                  "another path",
                            path, kind_name(st.st_mode));
        return pdi_fail(err, PODIPC_EADDRESS, call, "a part of " SHOWN " is not a directory", path);
    case -ENOENT:
        return pdi_fail(err, code, call,
                        "the directory above " SHOWN " does not exist: mount the volume there in "
                        "this container (volumeMounts), or give another path",
                        path);
    case -ENAMETOOLONG:
        return pdi_fail(err, PODIPC_EADDRESS, call, "the path " SHOWN "... is too long", path);
    default:
        return pdi_fail(err, code, call, "cannot use the directory " SHOWN, path);
    }
}

/* Makes the gate under a name of its own, then links it: it is there with its mode
 * and its content, or not at all. */
static int make_gate(int dirfd, uint32_t mode, bool made)
{
    char name[PDI_FILE_NAME];
    pdi_file_name_write(name, &(struct pdi_file_name){PDI_NAME_MAKING, .who = pdi_random64()});
    int fd =
        PDI_RETRY(openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd < 0)
        return -errno;
    int rc = fchmod(fd, mode) < 0 ? -errno : 0;
    if (rc == 0 && made)
        rc = pdi_wholefile_write(fd, made_here, sizeof made_here - 1, 0);
    if (rc == 0 && linkat(dirfd, name, dirfd, PDI_FILE_GATE, 0) < 0 && errno != EEXIST)
        rc = -errno;
    /* Where there are no hard links: two that do this at once leave one gate, and the
     * other finds out that its gate is not the one with the name. */
    if ((rc == -EPERM || rc == -EOPNOTSUPP || rc == -ENOSYS) &&
        renameat(dirfd, name, dirfd, PDI_FILE_GATE) == 0)
        rc = 0;
    (void)unlinkat(dirfd, name, 0);
    close(fd);
    return rc;
}

/* Removes what make_directory() did not finish. */
static void drop_directory(const char *path, int dirfd)
{
    (void)unlinkat(dirfd, PDI_FILE_GATE, 0);
    (void)rmdir(path);
}

/* Makes the directory beside its place, complete, and moves it there. */
static int make_directory(const char *path, uint32_t mode)
{
    size_t room = strlen(path) + 32;
    char *beside = malloc(room);
    if (!beside)
        return -ENOMEM;
    const char *last = strrchr(path, '/');
    int above = last ? (int)(last - path) + 1 : 0;
    (void)snprintf(beside, room, "%.*s.podipc-%016llx", above, path,
                   (unsigned long long)pdi_random64());
    int rc = 0;
    if (mkdir(beside, 0700) < 0) {
        rc = -errno;
        free(beside);
        return rc;
    }
    int fd = PDI_RETRY(open(beside, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (fd < 0)
        rc = -errno;
    if (rc == 0)
        rc = make_gate(fd, mode, true);
    /* Who may read may also search, and who may write must be able to remove. */
    if (rc == 0)
        rc = pdi_set_directory_mode(beside, mode | (mode & 0444) >> 2);
    if (rc == 0)
        rc = pdi_rename_new(beside, path);
    if (rc == -EINVAL || rc == -ENOSYS) /* no such flag here: an empty one may be replaced */
        rc = rename(beside, path) < 0 ? -errno : 0;
    if (rc < 0)
        drop_directory(beside, fd);
    if (fd >= 0)
        close(fd);
    free(beside);
    return rc == -EEXIST || rc == -ENOTEMPTY ? 0 : rc;
}

static int try_lock(int fd, int64_t ns)
{
    int64_t until = pdi_now() + ns;
    for (;;) {
        if (PDI_RETRY(flock(fd, LOCK_EX | LOCK_NB)) == 0)
            return 0;
        if (errno != EWOULDBLOCK)
            return -errno;
        if (pdi_now() >= until)
            return -EAGAIN;
        struct timespec pause = pdi_timespec(500000);
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

int pdi_directory_lock(struct pdi_directory *d, int64_t ns)
{
    return try_lock(d->gate, ns);
}

void pdi_directory_unlock(struct pdi_directory *d)
{
    (void)flock(d->gate, LOCK_UN);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether the descriptors still are what the names say; if not, the last one of
 * before has just removed them. */
static bool still_there(const struct pdi_directory *d)
{
    struct stat named, opened;
    return fstat(d->fd, &opened) == 0 &&
           fstatat(AT_FDCWD, d->path, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           same_file(&named, &opened) && fstat(d->gate, &opened) == 0 &&
           fstatat(d->fd, PDI_FILE_GATE, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           same_file(&named, &opened);
}

/* One attempt. -ESTALE: it went away meanwhile, try again. */
static int attempt(struct pdi_directory *d, podipc_error *err)
{
    d->fd = PDI_RETRY(open(d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (d->fd < 0 && errno == ENOENT) {
        int rc = make_directory(d->path, d->mode);
        if (rc < 0)
            return fail_at(d->path, rc, "mkdir", d->mode, err);
        return -ESTALE;
    }
    if (d->fd < 0)
        return fail_at(d->path, -errno, "open", d->mode, err);
    d->gate = PDI_RETRY(openat(d->fd, PDI_FILE_GATE, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (d->gate < 0 && errno == ENOENT) {
        int rc = make_gate(d->fd, d->mode, false);
        if (rc < 0 && rc != -ENOENT)
            return fail_at(d->path, rc, "open", d->mode, err);
        return -ESTALE;
    }
    struct stat st;
    int rc = d->gate < 0 || fstat(d->gate, &st) < 0 ? -errno : 0;
    if (rc == -EACCES || rc == -EPERM || rc == -EROFS)
        return pdi_directory_refused(d->path, d->fd, PDI_FILE_GATE, rc, "open", d->mode, err);
    if (rc < 0 && rc != -ELOOP && rc != -ENXIO && rc != -EISDIR)
        return fail_at(d->path, rc, "open", d->mode, err);
    if (rc < 0 || !S_ISREG(st.st_mode) || st.st_nlink > 2)
        return pdi_fail(err, PODIPC_EADDRESS, "open",
                        SHOWN "/" PDI_FILE_GATE " is not a plain file that podipc made: remove it "
                              "or give another directory",
                        d->path);
    rc = try_lock(d->gate, GATE_NS);
    if (rc == -EAGAIN)
        return pdi_fail(err, -EBUSY, "flock",
                        "another process has held " SHOWN "/" PDI_FILE_GATE " locked for a second: "
                        "is it stopped?",
                        d->path);
    if (rc < 0)
        return pdi_fail(err, rc, "flock", "files of " SHOWN " cannot be locked", d->path);
    return still_there(d) ? 0 : -ESTALE;
}

int pdi_directory_open(struct pdi_directory *d, const char *path, uint32_t mode, podipc_error *err)
{
    *d = (struct pdi_directory){.fd = -1, .gate = -1, .mode = mode, .path = strdup(path)};
    if (!d->path)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a path");
    /* A slash at the end would have open() follow a symbolic link. */
    for (size_t n = strlen(d->path); n > 1 && d->path[n - 1] == '/'; n--)
        d->path[n - 1] = '\0';
    int64_t until = pdi_now() + GATE_NS;
    int rc;
    while ((rc = attempt(d, err)) == -ESTALE && pdi_now() < until)
        pdi_directory_close(d);
    if (rc == -ESTALE)
        rc = pdi_fail(err, -EBUSY, "open", SHOWN " keeps being made and removed", path);
    if (rc < 0)
        pdi_directory_free(d);
    return rc;
}

void pdi_directory_close(struct pdi_directory *d)
{
    if (d->gate >= 0)
        close(d->gate);
    if (d->fd >= 0)
        close(d->fd);
    d->gate = d->fd = -1;
}

void pdi_directory_free(struct pdi_directory *d)
{
    pdi_directory_close(d);
    free(d->path);
    d->path = NULL;
}

static bool is_regular(const struct pdi_directory *d, const struct dirent *e)
{
    if (e->d_type != DT_UNKNOWN)
        return e->d_type == DT_REG;
    struct stat st;
    return fstatat(d->fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

int pdi_directory_list(const struct pdi_directory *d, void (*each)(void *arg, const char *name),
                       void *arg)
{
    int fd = PDI_RETRY(openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0)
        return -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    errno = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL; errno = 0)
        if (is_regular(d, e))
            each(arg, e->d_name);
    int rc = -errno;
    closedir(dir);
    return rc;
}

int pdi_directory_touch(const struct pdi_directory *d, const char *name)
{
    int fd =
        PDI_RETRY(openat(d->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd < 0)
        return errno == EEXIST ? 0 : -errno;
    int rc = fchmod(fd, d->mode) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

int pdi_directory_remove(const struct pdi_directory *d, const char *name)
{
    return unlinkat(d->fd, name, 0) < 0 ? -errno : 0;
}

bool pdi_directory_has(const struct pdi_directory *d, const char *name)
{
    struct stat st;
    return fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

void pdi_directory_retire(struct pdi_directory *d)
{
    char text[sizeof made_here] = {0};
    ssize_t n = PDI_RETRY(pread(d->gate, text, sizeof text, 0));
    bool made = n == (ssize_t)sizeof made_here - 1 && memcmp(text, made_here, (size_t)n) == 0;
    if (!still_there(d))
        return;
    (void)unlinkat(d->fd, PDI_FILE_GATE, 0);
    if (made)
        (void)rmdir(d->path);
}

uint64_t pdi_directory_space(const struct pdi_directory *d, bool *in_ram)
{
    struct statfs kind;
    *in_ram = fstatfs(d->fd, &kind) == 0 && (unsigned long)kind.f_type == TMPFS_MAGIC;
    struct statvfs fs;
    if (fstatvfs(d->fd, &fs) < 0 || fs.f_blocks == 0)
        return UINT64_MAX;
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}
