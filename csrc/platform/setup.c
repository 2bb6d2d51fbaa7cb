#include "setup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sweep.h"

static long number(const char *text, int base)
{
    long value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * base + (*text - '0');
    return value;
}

/* With its parents. Not -EEXIST if it is there. */
static int make_directory(const char *path, mode_t mode)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len >= sizeof part)
        return -ENAMETOOLONG;
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char kept = part[i];
        part[i] = '\0';
        if (mkdir(part, 0755) < 0) {
            int error = errno;
            struct stat there;
            /* On a read-only file system an existing directory may be answered with EROFS. */
            if (stat(part, &there) < 0 || !S_ISDIR(there.st_mode))
                return -error;
        } else if (kept == '\0' && chmod(part, mode) < 0) {
            return -errno;
        }
        part[i] = kept;
    }
    return 0;
}

static int make_file(const char *path)
{
    char parent[PATH_MAX];
    struct stat there;
    if (stat(path, &there) == 0)
        return 0;
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    if (len >= sizeof parent)
        return -ENAMETOOLONG;
    memcpy(parent, path, len);
    parent[len] = '\0';
    int rc = len ? make_directory(parent, 0755) : 0;
    if (rc < 0)
        return rc;
    int fd = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

/* A remount has to repeat what is locked for the owner of a user namespace. */
static int make_read_only(const char *target)
{
    static const struct {
        unsigned long from, to;
    } flags[] = {{ST_NOSUID, MS_NOSUID},         {ST_NODEV, MS_NODEV},
                 {ST_NOEXEC, MS_NOEXEC},         {ST_NOATIME, MS_NOATIME},
                 {ST_NODIRATIME, MS_NODIRATIME}, {ST_RELATIME, MS_RELATIME}};
    struct statvfs now;
    if (statvfs(target, &now) < 0)
        return -errno;
    unsigned long wanted = MS_REMOUNT | MS_BIND | MS_RDONLY;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (now.f_flag & flags[i].from)
            wanted |= flags[i].to;
    return mount(NULL, target, NULL, wanted, NULL) == 0 ? 0 : -errno;
}

static int bind_mount(const char *source, const char *target, const char *flags)
{
    struct stat there;
    int rc = 0;
    if (strchr(flags, 's') && stat(source, &there) < 0)
        rc = make_directory(source, 0777);
    if (rc < 0)
        return rc;
    if (stat(source, &there) < 0)
        return errno == ENOENT && strchr(flags, 't') ? 0 : -errno;
    if (strchr(flags, 'm'))
        rc = S_ISDIR(there.st_mode) ? make_directory(target, 0755) : make_file(target);
    if (rc == 0 && mount(source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
        rc = -errno;
    if (rc == 0 && strchr(flags, 'r'))
        rc = make_read_only(target);
    return rc;
}

static int own(const char *path, const char *gid, const char *mode)
{
    if (*gid && chown(path, (uid_t)-1, (gid_t)number(gid, 10)) < 0)
        return -errno;
    return chmod(path, (mode_t)number(mode, 8)) == 0 ? 0 : -errno;
}

static int pivot(const char *root, const char *old)
{
    if (chdir(root) < 0)
        return -errno;
    if (*old && mkdir(old, 0755) < 0)
        return -errno;
    /* With the same directory for both, the old root lies on top of the new one
     * and can be taken off without ever having had a place. */
    if (syscall(SYS_pivot_root, ".", *old ? old : ".") < 0)
        return -errno;
    if (!*old && umount2(".", MNT_DETACH) < 0)
        return -errno;
    return chdir("/") == 0 ? 0 : -errno;
}

static int join(const char *cgroup)
{
    char path[PATH_MAX];
    static const char name[] = "/cgroup.procs";
    size_t len = strlen(cgroup);
    if (len + sizeof name > sizeof path)
        return -ENAMETOOLONG;
    memcpy(path, cgroup, len);
    memcpy(path + len, name, sizeof name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = write(fd, "0", 1) == 1 ? 0 : -errno;
    close(fd);
    return rc;
}

static int carry_out(char *const *op, struct pdi_at_end *at_end)
{
    const char *word = op[0], *a = op[1], *b = op[2], *c = op[3];
    if (strcmp(word, "tmpfs") == 0)
        return mount("tmpfs", a, "tmpfs", MS_NOSUID | MS_NODEV, b) == 0 ? 0 : -errno;
    if (strcmp(word, "bind") == 0)
        return bind_mount(a, b, c);
    if (strcmp(word, "mkdir") == 0)
        return make_directory(a, (mode_t)number(b, 8));
    if (strcmp(word, "own") == 0)
        return own(a, b, c);
    if (strcmp(word, "symlink") == 0)
        return symlink(a, b) == 0 ? 0 : -errno;
    if (strcmp(word, "pivot") == 0)
        return pivot(a, b);
    if (strcmp(word, "join") == 0)
        return join(a);
    if (strcmp(word, "at-end") == 0) {
        if (!at_end || at_end->count == PDI_SETUP_AT_END)
            return -ENOSPC;
        at_end->paths[at_end->count++] = a;
        return 0;
    }
    return -EINVAL;
}

int pdi_setup_run(char *const *list, struct pdi_at_end *at_end, size_t *failed)
{
    mode_t before = umask(0);
    int rc = 0;
    for (*failed = 0; rc == 0 && *list; list += PDI_SETUP_WORDS) {
        rc = carry_out(list, at_end);
        if (rc == 0)
            ++*failed;
    }
    (void)umask(before);
    return rc;
}

void pdi_setup_end(const struct pdi_at_end *at_end)
{
    for (size_t i = at_end->count; i > 0; i--)
        pdi_sweep(at_end->paths[i - 1]);
}
