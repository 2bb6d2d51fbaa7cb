/* test_rendezvous.c - directories, sockets and packets: what is sent arrives whole
 * with its descriptors or not at all, the dead are told from the living, and no
 * descriptor is lost on the way. */
#include "platform/rendezvous.h"
#include "platform/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "check.h"
#include "place.h"

struct ends {
    int dir, listener, client, server;
};

static void connected(struct ends *e, const char *path)
{
    MUST(pdi_place_open(path, 0600, false, &e->dir, NULL) == 0);
    MUST(pdi_place_listen("here", e->dir, "rx.0", 0600, &e->listener, NULL) == 0);
    MUST(pdi_place_connect(e->dir, "rx.0", &e->client) == 0);
    MUST(EVENTUALLY(pdi_socket_accept(e->listener, &e->server) == 0));
}

static void disconnected(struct ends *e, const char *path)
{
    pdi_close(&e->client);
    pdi_close(&e->server);
    pdi_close(&e->listener);
    pdi_place_leave(path, e->dir, "rx.0", false);
    pdi_close(&e->dir);
    CHECK(access(path, F_OK) < 0);
}

static ssize_t soon(int sock, void *data, size_t cap, int fds[PDI_PACKET_FDS], int *n)
{
    ssize_t got = -EAGAIN;
    (void)EVENTUALLY((got = pdi_packet_recv(sock, data, cap, fds, n)) != -EAGAIN);
    return got;
}

static uint64_t inode(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* One packet with n descriptors, also more than podipc would send. */
static void send_raw(int sock, const void *data, size_t size, const int *fds, size_t n)
{
    char control[CMSG_SPACE(32 * sizeof(int))];
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    memset(control, 0, sizeof control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    MUST(sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)size);
}

static void test_packets(void)
{
    char *path = place_path("packets"), data[64];
    int before = descriptors(), fds[PDI_PACKET_FDS], n = 77, files[9];
    struct ends e;
    connected(&e, path);
    CHECK(pdi_packet_recv(e.server, data, sizeof data, fds, &n) == -EAGAIN && n == 0);
    for (int i = 0; i < 9; i++) {
        char *name = place_path("file");
        files[i] = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        MUST(files[i] >= 0);
        unlink(name);
        free(name);
    }
    int with_files = descriptors();
    for (int count = 0; count <= PDI_PACKET_FDS; count++) {
        CHECK(pdi_packet_send(e.client, "hello", 5, files, count) == 0);
        CHECK(soon(e.server, data, sizeof data, fds, &n) == 5);
        CHECK(n == count && memcmp(data, "hello", 5) == 0);
        for (int i = 0; i < n; i++) {
            CHECK(inode(fds[i]) == inode(files[i]) && fds[i] != files[i]);
            CHECK(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
            close(fds[i]);
        }
    }
    /* More descriptors than a packet may have, an empty packet with some, one that is
     * too long with some: refused, and none is kept. */
    send_raw(e.client, "hello", 5, files, 9);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == -EPROTO && n == 0);
    CHECK(descriptors() == with_files);
    send_raw(e.client, "hello", 5, files, PDI_PACKET_FDS + 1);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == -EPROTO && n == 0);
    CHECK(descriptors() == with_files);
    send_raw(e.client, "", 0, files, PDI_PACKET_FDS);
    CHECK(soon(e.server, data, sizeof data, fds, &n) <= 0 && n == 0);
    CHECK(descriptors() == with_files);
    char large[1000] = {0};
    send_raw(e.client, large, sizeof large, files, 2);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == -EPROTO && n == 0);
    CHECK(descriptors() == with_files);
    /* The connection has survived all that. */
    CHECK(pdi_packet_send(e.client, "there", 5, NULL, 0) == 0);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == 5 && memcmp(data, "there", 5) == 0);

    /* Whoever does not read is not waited for. */
    int rc = 0, sent = 0;
    for (; sent < 100000 && (rc = pdi_packet_send(e.client, large, sizeof large, NULL, 0)) == 0;)
        sent++;
    CHECK(rc == -EAGAIN);
    char all[1000];
    for (int i = 0; i < sent; i++)
        if (soon(e.server, all, sizeof all, fds, &n) != sizeof large)
            CHECK(i == sent);
    CHECK(pdi_packet_recv(e.server, all, sizeof all, fds, &n) == -EAGAIN);

    /* What was sent before a hang-up arrives before its end. */
    CHECK(pdi_packet_send(e.server, "unread", 6, NULL, 0) == 0);
    CHECK(pdi_packet_send(e.client, "last", 4, files, 1) == 0);
    pdi_close(&e.client);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == 4 && n == 1);
    close(fds[0]);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == 0 && n == 0);
    CHECK(pdi_packet_send(e.server, "x", 1, NULL, 0) == -EPIPE);
    for (int i = 0; i < 9; i++)
        close(files[i]);
    disconnected(&e, path);
    CHECK(descriptors() == before);
    free(path);
}

static void test_hang_up(void)
{
    char *path = place_path("hangup"), data[8];
    struct ends e;
    int fds[PDI_PACKET_FDS], n;
    connected(&e, path);
    struct pdi_peer peer;
    CHECK(pdi_packet_peer(e.server, pdi_gid(), &peer) == 0);
    CHECK(peer.uid == pdi_uid() && peer.gid == pdi_gid() && peer.in_group);
    CHECK(pdi_socket_accept(e.listener, &n) == -EAGAIN);
    pdi_socket_hang_up(e.client);
    struct pollfd p[] = {{.fd = e.client, .events = POLLIN}, {.fd = e.server, .events = POLLIN}};
    CHECK(poll(p, 2, 10000) == 2);
    CHECK(soon(e.client, data, sizeof data, fds, &n) == 0);
    CHECK(soon(e.server, data, sizeof data, fds, &n) == 0);
    disconnected(&e, path);
    free(path);
}

/* ---- the living and the dead ---- */

static void test_the_dead_refuse(void)
{
    char *path = place_path("dead");
    int dir, sock, pipes[2];
    MUST(pipe2(pipes, O_CLOEXEC) == 0);
    pid_t child = fork_child();
    if (child == 0) {
        int listener;
        MUST(pdi_place_open(path, 0600, false, &dir, NULL) == 0);
        MUST(pdi_place_listen("here", dir, "rx.1", 0600, &listener, NULL) == 0);
        MUST(write(pipes[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    char byte;
    MUST(read(pipes[0], &byte, 1) == 1);
    MUST(pdi_place_open(path, 0600, false, &dir, NULL) == 0);
    CHECK(pdi_place_connect(dir, "rx.2", &sock) == -ENOENT);
    CHECK(pdi_place_connect(dir, "rx.1", &sock) == 0);
    pdi_place_sweep(dir, "rx.1");
    CHECK(names_in(path, true) == 1); /* it lives */
    kill_child(child);
    char data[8];
    int fds[PDI_PACKET_FDS], n;
    CHECK(soon(sock, data, sizeof data, fds, &n) == 0);
    pdi_close(&sock);
    CHECK(pdi_place_connect(dir, "rx.1", &sock) == -ECONNREFUSED && sock == -1);
    pdi_place_sweep(dir, "rx.1");
    CHECK(names_in(path, true) == 0);
    /* What is not a socket is not podipc's. */
    int file = openat(dir, "rx.3", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    pdi_place_sweep(dir, "rx.3");
    CHECK(names_in(path, true) == 1);
    close(file);
    unlinkat(dir, "rx.3", 0);
    pdi_place_leave(path, dir, "rx.4", false);
    CHECK(access(path, F_OK) < 0);
    pdi_close(&dir);
    close(pipes[0]);
    close(pipes[1]);
    free(path);
}

static void test_news_of_the_directory(void)
{
    char *path = place_path("news");
    int dir, inotify, listener;
    MUST(pdi_place_open(path, 0600, false, &dir, NULL) == 0);
    MUST(pdi_place_watch(dir, &inotify) == 0);
    struct pollfd p = {.fd = inotify, .events = POLLIN};
    CHECK(poll(&p, 1, 0) == 0);
    MUST(pdi_place_listen("here", dir, "rx.0", 0600, &listener, NULL) == 0);
    CHECK(poll(&p, 1, 10000) == 1);
    /* When its name is there it can be connected to: never before. */
    pdi_place_watched(inotify);
    CHECK(poll(&p, 1, 0) == 0);
    int sock;
    CHECK(pdi_place_connect(dir, "rx.0", &sock) == 0);
    pdi_close(&sock);
    pdi_close(&listener);
    pdi_place_leave(path, dir, "rx.0", false);
    CHECK(poll(&p, 1, 10000) == 1);
    pdi_close(&inotify);
    pdi_close(&dir);
    free(path);
}

/* ---- directories ---- */

static uint32_t mode_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint32_t)st.st_mode & 07777 : 0;
}

static void test_modes_do_not_depend_on_the_umask(void)
{
    static const uint32_t modes[] = {0600, 0660, 0666}, directories[] = {0700, 0770, 0777};
    static const mode_t masks[] = {0, 022, 077, 0777};
    for (int i = 0; i < 12; i++) {
        mode_t old = umask(masks[i / 3]);
        char *above = place_path("mode"), *path, *socket;
        MUST(asprintf(&path, "%s/c", above) > 0 && asprintf(&socket, "%s/rx.0", path) > 0);
        int dir, listener;
        CHECK(pdi_place_open(path, modes[i % 3], true, &dir, NULL) == 0);
        CHECK(mode_of(path) == directories[i % 3]);
        CHECK(mode_of(above) == 0777);
        CHECK(pdi_place_listen("here", dir, "rx.0", modes[i % 3], &listener, NULL) == 0);
        CHECK(mode_of(socket) == modes[i % 3]);
        pdi_close(&listener);
        pdi_place_leave(path, dir, "rx.0", true);
        CHECK(access(above, F_OK) < 0);
        pdi_close(&dir);
        (void)umask(old);
        free(above);
        free(path);
        free(socket);
    }
}

static void test_what_is_no_directory(void)
{
    char *path = place_path("no"), *link = place_path("link");
    int before = descriptors(), dir;
    podipc_error err;
    close(open(path, O_CREAT | O_WRONLY, 0600));
    CHECK(pdi_place_open(path, 0600, false, &dir, &err) == PODIPC_EADDRESS);
    CHECK(strstr(err.text, path));
    unlink(path);
    MUST(symlink("/tmp", link) == 0);
    CHECK(pdi_place_open(link, 0600, false, &dir, &err) == PODIPC_EADDRESS);
    unlink(link);
    MUST(mkfifo(path, 0600) == 0);
    CHECK(pdi_place_open(path, 0600, false, &dir, &err) == PODIPC_EADDRESS);
    unlink(path);
    CHECK(pdi_place_open("/proc/1/no/such", 0600, false, &dir, &err) < 0);
    CHECK(pdi_place_open("/proc/no", 0600, false, &dir, &err) < 0 && err.text[0]);
    CHECK(descriptors() == before);
    free(path);
    free(link);
}

/* Many come to one directory and go again, all at once: each finds its place in the
 * directory that is there under the name, and the last one removes it. */
static void test_coming_and_going(void)
{
    enum { MANY = 16, TIMES = 60 };
    char *above = place_path("race"), *path;
    MUST(asprintf(&path, "%s/channel", above) > 0);
    pid_t children[MANY];
    for (int i = 0; i < MANY; i++) {
        children[i] = fork_child();
        if (children[i] > 0)
            continue;
        char name[PDI_NAME];
        (void)snprintf(name, sizeof name, "rx.%d", i);
        for (int k = 0; k < TIMES; k++) {
            int dir, listener, sock, rc;
            podipc_error err;
            do {
                rc = pdi_place_open(path, 0600, true, &dir, &err);
                if (rc < 0) {
                    fprintf(stderr, "open: %s\n", err.text);
                    _exit(1);
                }
                rc = pdi_place_listen("here", dir, name, 0600, &listener, &err);
                if (rc == -ENOENT)
                    pdi_close(&dir);
            } while (rc == -ENOENT);
            if (rc < 0) {
                fprintf(stderr, "listen: %s\n", err.text);
                _exit(2);
            }
            /* Whoever comes by the path finds us. */
            int again;
            if (pdi_place_open(path, 0600, true, &again, NULL) != 0 ||
                pdi_place_connect(again, name, &sock) != 0)
                _exit(3);
            pdi_close(&sock);
            pdi_close(&again);
            pdi_close(&listener);
            pdi_place_leave(path, dir, name, true);
            pdi_close(&dir);
        }
        _exit(0);
    }
    for (int i = 0; i < MANY; i++) {
        int status = end_of(children[i]);
        CHECK(status == 0);
        if (status)
            fprintf(stderr, "child %d: %x\n", i, (unsigned)status);
    }
    CHECK(access(path, F_OK) < 0);
    CHECK(access(above, F_OK) < 0);
    (void)place_clear(above);
    free(above);
    free(path);
}

static void test_alarm(void)
{
    int fd;
    CHECK(pdi_alarm_open(&fd) == 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK(poll(&p, 1, 0) == 0);
    pdi_alarm(fd);
    pdi_alarm(fd);
    CHECK(poll(&p, 1, 10000) == 1);
    pdi_close(&fd);
    pdi_close(&fd);
    CHECK(fd == -1);
}

int main(void)
{
    place_begin("rendezvous");
    int before = descriptors();
    test_packets();
    test_hang_up();
    test_the_dead_refuse();
    test_news_of_the_directory();
    test_modes_do_not_depend_on_the_umask();
    test_what_is_no_directory();
    test_coming_and_going();
    test_alarm();
    CHECK(descriptors() == before);
    CHECK(names_in(place_base, true) == 1); /* "keep" */
    place_end();
    return checks_done();
}
