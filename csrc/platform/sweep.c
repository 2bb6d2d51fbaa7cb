#include "sweep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h> /* renameat */
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What getdents64() writes; readdir() would allocate. */
struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

static bool is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Whose directories may be closed to their owner. */
static int open_directory(int at, const char *name)
{
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(at, name, flags);
    if (fd < 0 && errno == EACCES && fchmodat(at, name, 0700, 0) == 0)
        fd = openat(at, name, flags);
    return fd < 0 ? -errno : fd;
}

/* true if that changed anything. */
static bool make_usable(int dir, const struct stat *st)
{
    return st->st_uid == geteuid() && (st->st_mode & 0700) != 0700 && fchmod(dir, 0700) == 0;
}

/* Removes all entries of `dir` but directories with something in them; the name
 * of the first of those goes to `next`, which is "" if there is none. true if any
 * was removed. */
static bool remove_entries(int dir, char next[NAME_MAX + 1])
{
    char buffer[8192] __attribute__((aligned(16)));
    bool removed = false;
    long n;
    next[0] = '\0';
    (void)lseek(dir, 0, SEEK_SET);
    while ((n = syscall(SYS_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n;) {
            struct entry *e = (struct entry *)(void *)(buffer + at);
            at += e->length;
            if (is_dot(e->name))
                continue;
            if (unlinkat(dir, e->name, 0) == 0 || unlinkat(dir, e->name, AT_REMOVEDIR) == 0)
                removed = true;
            else if ((errno == ENOTEMPTY || errno == EEXIST) && !next[0])
                memcpy(next, e->name, strlen(e->name) + 1);
        }
    return removed;
}

/* Empties one directory. A deep tree is made flat instead of being descended
 * into: the directories in a directory move up next to it, until there are none. */
static int empty(int top, dev_t device)
{
    char name[NAME_MAX + 1], inner[NAME_MAX + 1];
    for (;;) {
        bool progress = remove_entries(top, name);
        if (!name[0])
            return 0;
        int dir = open_directory(top, name);
        struct stat st;
        if (dir < 0)
            return dir;
        if (fstat(dir, &st) < 0 || st.st_dev != device) {
            close(dir);
            return -EXDEV;
        }
        progress |= make_usable(dir, &st);
        progress |= remove_entries(dir, inner);
        for (unsigned i = 0; inner[0]; i++) {
            char moved[32] = ".podipc-sweep-";
            for (unsigned k = 14, rest = i; k < 24; k++, rest /= 26)
                moved[k] = (char)('a' + rest % 26);
            if (renameat(dir, inner, top, moved) == 0) {
                progress = true;
                break;
            }
            /* To move a directory it has to be writable as well. */
            if (errno == EACCES && i == 0 && fchmodat(dir, inner, 0700, 0) == 0)
                continue;
            if (errno != ENOTEMPTY && errno != EEXIST)
                break;
        }
        close(dir);
        if (!progress)
            return -ENOTEMPTY;
    }
}

int pdi_sweep(const char *path)
{
    if (unlinkat(AT_FDCWD, path, 0) == 0 || errno == ENOENT)
        return 0;
    /* At once if it is empty, as the files of a cgroup do not count. */
    if (rmdir(path) == 0)
        return 0;
    int dir = open_directory(AT_FDCWD, path);
    if (dir < 0)
        return dir;
    struct stat st;
    int rc = fstat(dir, &st) == 0 ? 0 : -errno;
    if (rc == 0) {
        (void)make_usable(dir, &st);
        rc = empty(dir, st.st_dev);
    }
    close(dir);
    return rmdir(path) == 0 ? 0 : rc < 0 ? rc : -errno;
}
