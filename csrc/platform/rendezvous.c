#include "rendezvous.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "../core/error.h"
#include "dirmode.h"
#include "random.h"
#include "rename.h"
#include "retry.h"

/* Permissions of a directory whose files have `mode`: who may read and write may
 * also search. No sticky bit: whoever may join may remove what the dead left. */
static mode_t directory_mode(uint32_t mode)
{
    return (mode_t)(mode | (mode & 0444) >> 2);
}

/* Tells a directory that was made here from one that the user has made, for whoever
 * is the last to leave it. Of no effect on a directory; not handed on to what is made
 * in it. */
#define MADE_HERE S_ISUID

static int set_mode(const char *path, mode_t mode)
{
    int rc = pdi_set_directory_mode(path, mode);
    if (rc == -EPERM) /* of a seccomp profile that thinks of files: the directory will stay */
        rc = pdi_set_directory_mode(path, mode & ~(mode_t)MADE_HERE);
    return rc;
}

/* Bytes of what is added to a directory's name while it is being made. */
enum { MAKING = sizeof ".new0123456789abcdef" - 1 };

/* mkdir() obeys the umask and a later chmod() leaves a gap in which others are
 * refused, so the directory gets its permissions under another name. */
static int make_directory(const char *path, mode_t mode)
{
    char fresh[4200];
    int n =
        snprintf(fresh, sizeof fresh, "%s.new%016llx", path, (unsigned long long)pdi_random64());
    if (n < 0 || (size_t)n >= sizeof fresh)
        return -ENAMETOOLONG;
    if (mkdir(fresh, 0700) < 0)
        return -errno;
    int rc = set_mode(fresh, mode);
    if (rc == 0)
        rc = pdi_rename_new(fresh, path);
    if (rc < 0) {
        (void)rmdir(fresh);
        /* Not every file system of a volume can do it. */
        if (rc == -EINVAL || rc == -ENOSYS)
            rc = mkdir(path, mode) < 0 ? -errno : set_mode(path, mode);
    }
    return rc == -EEXIST ? 0 : rc;
}

static int make_parent(const char *path)
{
    return make_directory(path, 0777);
}

static int remove_parent(const char *path)
{
    return rmdir(path) < 0 ? -errno : 0;
}

/* Calls f with the directory above. */
static int with_parent(const char *path, int (*f)(const char *))
{
    char above[4200];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path || (size_t)(slash - path) >= sizeof above)
        return -ENOENT;
    memcpy(above, path, (size_t)(slash - path));
    above[slash - path] = '\0';
    return f(above);
}

static int refused(const char *path, int code, const char *call, podipc_error *err)
{
    struct stat st;
    if (code == -ENOTDIR || code == -ELOOP)
        return pdi_fail(err, PODIPC_EADDRESS, call,
                        "%s is not a directory; a channel needs one of its own", path);
    if (code == -ENAMETOOLONG)
        return pdi_fail(
            err, PODIPC_EADDRESS, call,
            "the path %.60s... is too long: it has %zu bytes; there is room for %d, and "
            "for %d in each of its parts",
            path, strlen(path), PATH_MAX - 1 - MAKING, NAME_MAX - MAKING);
    if (code == -EACCES && stat(path, &st) == 0)
        return pdi_fail(err, code, call,
                        "the channel directory %s belongs to UID %u with mode %04o and this "
                        "process is UID %u: open the channel with mode=0o666 on both sides, or "
                        "run both containers with the same runAsUser",
                        path, (unsigned)st.st_uid, (unsigned)st.st_mode & 03777,
                        (unsigned)geteuid());
    if (code == -ENOSPC)
        return pdi_fail(err, code, call,
                        "no space to make the channel directory %s: it needs one inode; free "
                        "something in the file system, or raise its size in the Pod's manifest",
                        path);
    return pdi_fail(err, code, call, "could not open the channel directory %s as UID %u", path,
                    (unsigned)geteuid());
}

static int open_directory(const char *path, int *dir)
{
    *dir = PDI_RETRY(open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (*dir < 0)
        return -errno;
    if (faccessat(*dir, ".", W_OK | X_OK, AT_EACCESS) < 0) {
        int rc = -errno;
        pdi_close(dir);
        return rc;
    }
    return 0;
}

int pdi_place_open(const char *path, uint32_t mode, bool named, int *dir, podipc_error *err)
{
    int rc = open_directory(path, dir);
    mode_t permissions = directory_mode(mode) | (named ? 0 : MADE_HERE);
    for (int tries = 0; rc == -ENOENT && tries < 16; tries++) {
        rc = make_directory(path, permissions);
        if (rc == -ENOENT && named) {
            rc = with_parent(path, make_parent);
            if (rc == 0)
                rc = make_directory(path, permissions);
        }
        /* -ENOENT of a named channel: another endpoint, leaving, has just removed
         * what we have found. */
        if (rc < 0 && (rc != -ENOENT || !named)) {
            if (named)
                (void)with_parent(path, remove_parent);
            return refused(path, rc, "mkdir", err);
        }
        rc = open_directory(path, dir);
    }
    return rc < 0 ? refused(path, rc, "open", err) : 0;
}

/* sun_path has room for 107 bytes, a directory's path may be longer: go by its
 * descriptor. */
static void address_of(int dir, const char *name, struct sockaddr_un *address)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    (void)snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s", dir, name);
}

int pdi_place_listen(const char *path, int dir, const char *name, uint32_t mode, int *sock,
                     podipc_error *err)
{
    char hidden[PDI_NAME + 1];
    struct sockaddr_un address;
    int rc;
    const char *call = "socket";
    (void)snprintf(hidden, sizeof hidden, ".%s", name);
    *sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*sock < 0)
        goto err;
    address_of(dir, hidden, &address);
    call = "bind";
    if (bind(*sock, (struct sockaddr *)&address, sizeof address) < 0)
        goto err;
    call = "listen";
    if (listen(*sock, 64) < 0)
        goto err;
    call = "chmod";
    if (fchmodat(dir, hidden, (mode_t)mode, 0) < 0)
        goto err;
    call = "rename";
    if (renameat(dir, hidden, dir, name) < 0)
        goto err;
    return 0;
err:
    rc = -errno;
    (void)unlinkat(dir, hidden, 0);
    pdi_close(sock);
    return pdi_fail(err, rc, call,
                    "could not make the socket %s/%s: it needs one inode and one descriptor; free "
                    "some in the file system, or raise its size in the Pod's manifest",
                    path, name);
}

struct unfinished {
    const char *name; /* of the channel */
    int dir;          /* the one above */
};

static void remove_unfinished(const char *name, void *arg)
{
    const struct unfinished *u = arg;
    size_t n = strlen(u->name);
    if (strncmp(name, u->name, n) == 0 && strncmp(name + n, ".new", 4) == 0 &&
        strspn(name + n + 4, "0123456789abcdef") == 16 && name[n + 20] == '\0')
        (void)unlinkat(u->dir, name, AT_REMOVEDIR);
}

void pdi_place_leave(const char *path, int dir, const char *name, bool named)
{
    (void)unlinkat(dir, name, 0);
    if (!named) {
        struct stat st;
        if (lstat(path, &st) == 0 && (st.st_mode & MADE_HERE))
            (void)rmdir(path);
        return;
    }
    /* Directories whose maker was killed before it could rename them; a living one
     * finds that its own is gone and makes another. */
    char above[4200];
    const char *slash = strrchr(path, '/');
    (void)snprintf(above, sizeof above, "%.*s", (int)(slash - path), path);
    struct unfinished u = {.name = slash + 1,
                           .dir = PDI_RETRY(open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC))};
    if (u.dir >= 0)
        (void)pdi_place_list(u.dir, remove_unfinished, &u);
    pdi_close(&u.dir);
    if (rmdir(path) == 0)
        (void)rmdir(above);
}

int pdi_place_connect(int dir, const char *name, int *sock)
{
    struct sockaddr_un address;
    *sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*sock < 0)
        return -errno;
    address_of(dir, name, &address);
    if (PDI_RETRY(connect(*sock, (struct sockaddr *)&address, sizeof address)) < 0) {
        int rc = -errno;
        pdi_close(sock);
        return rc;
    }
    return 0;
}

void pdi_place_sweep(int dir, const char *name)
{
    /* A plain file, too, refuses to be connected to. */
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISSOCK(st.st_mode))
        return;
    int sock;
    int rc = pdi_place_connect(dir, name, &sock);
    if (rc == 0)
        pdi_close(&sock);
    if (rc != -ECONNREFUSED)
        return;
    (void)unlinkat(dir, name, 0);
}

int pdi_place_watch(int dir, int *inotify)
{
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
    *inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (*inotify < 0)
        return -errno;
    if (inotify_add_watch(*inotify, path, IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR) < 0) {
        int rc = -errno;
        pdi_close(inotify);
        return rc;
    }
    return 0;
}

void pdi_place_watched(int inotify)
{
    char events[4096];
    while (read(inotify, events, sizeof events) > 0)
        ;
}

int pdi_place_list(int dir, void (*each)(const char *name, void *arg), void *arg)
{
    int fd = PDI_RETRY(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0)
        return -errno;
    DIR *d = fdopendir(fd);
    if (!d) {
        int rc = -errno;
        (void)close(fd);
        return rc;
    }
    for (struct dirent *entry; (entry = readdir(d)) != NULL;)
        each(entry->d_name, arg);
    (void)closedir(d);
    return 0;
}

union control {
    char bytes[CMSG_SPACE(sizeof(int) * PDI_PACKET_FDS)];
    struct cmsghdr align;
};

int pdi_packet_send(int sock, const void *data, size_t size, const int *fds, int n)
{
    union control control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n > 0) {
        memset(&control, 0, sizeof control);
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n);
    }
    ssize_t sent = PDI_RETRY(sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT));
    if (sent >= 0)
        return 0;
    /* Too many descriptors of this user are under way: the peer will take some. */
    return errno == EWOULDBLOCK || errno == ETOOMANYREFS || errno == ENOBUFS ? -EAGAIN : -errno;
}

ssize_t pdi_packet_recv(int sock, void *data, size_t cap, int fds[PDI_PACKET_FDS], int *n)
{
    union control control;
    struct iovec iov = {.iov_base = data, .iov_len = cap};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    *n = 0;
    ssize_t got;
    /* A peer that closed with packets of ours unread leaves ECONNRESET behind,
     * once, before what it had sent: that is not the end yet. */
    int resets = 0;
    do
        got = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ < 4)));
    if (got < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : errno == ECONNRESET ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (*n < PDI_PACKET_FDS)
                fds[(*n)++] = fd;
            else
                (void)close(fd);
        }
    }
    /* A packet without bytes counts as a hang-up: nobody sends one in good faith. */
    if (got == 0 || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        bool no_files = *n < PDI_PACKET_FDS && (msg.msg_flags & MSG_CTRUNC);
        while (*n > 0)
            (void)close(fds[--*n]);
        return got == 0 ? 0 : no_files ? -EMFILE : -EPROTO;
    }
    return got;
}

uid_t pdi_uid(void)
{
    return geteuid();
}

gid_t pdi_gid(void)
{
    return getegid();
}

gid_t pdi_place_group(int dir)
{
    struct stat st;
    return fstat(dir, &st) == 0 && (st.st_mode & S_ISGID) ? st.st_gid : getegid();
}

int pdi_packet_peer(int sock, gid_t group, struct pdi_peer *peer)
{
    struct ucred cred;
    socklen_t size = sizeof cred;
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return -errno;
    gid_t groups[256];
    *peer = (struct pdi_peer){.uid = cred.uid, .gid = cred.gid, .in_group = cred.gid == group};
    size = sizeof groups;
    if (!peer->in_group && getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0)
        for (size_t i = 0; i < size / sizeof *groups; i++)
            peer->in_group |= groups[i] == group;
    return 0;
}

int pdi_alarm_open(int *fd)
{
    *fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return *fd < 0 ? -errno : 0;
}

void pdi_alarm(int fd)
{
    uint64_t one = 1;
    (void)PDI_RETRY(write(fd, &one, sizeof one));
}

void pdi_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}
