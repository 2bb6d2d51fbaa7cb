/* test_volume.c - file://: real processes on real directories, killed for real. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/tensor_file.h"
#include "platform/clock.h"
#include "podipc.h"

#define PATIENCE INT64_C(30000000000)
#define SOON     INT64_C(300000000)

static int passed, failed;
static const char *base; /* of all the directories that tests use */

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                             \
            failed++;                                                                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)
/* In helpers and children, where going on makes no sense. */
#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond, errno);           \
            _exit(99);                                                                             \
        }                                                                                          \
    } while (0)

static char *fresh_path(const char *name)
{
    static int counter;
    char *path;
    MUST(asprintf(&path, "%s/%s-%d", base, name, counter++) > 0);
    return path;
}

static podipc_options options(const char *path)
{
    return (podipc_options){.method = PODIPC_FILE, .path = path, .mode = 0600};
}

static podipc_sender *open_tx(podipc_options o)
{
    podipc_sender *tx;
    podipc_error err;
    if (podipc_sender_open(&o, &tx, &err) != 0) {
        fprintf(stderr, "open: %s\n", err.text);
        _exit(98);
    }
    return tx;
}

static podipc_receiver *open_rx(podipc_options o)
{
    podipc_receiver *rx;
    podipc_error err;
    if (podipc_receiver_open(&o, &rx, &err) != 0) {
        fprintf(stderr, "open: %s\n", err.text);
        _exit(98);
    }
    return rx;
}

static podipc_tensor vector(uint64_t n)
{
    return (podipc_tensor){
        .nbytes = n * 8, .ndim = 1, .type_len = 3, .type = "<u8", .shape = {(int64_t)n}};
}

/* Word i of tensor `number`: torn or mixed up tensors do not add up. */
static uint64_t word(uint64_t number, uint64_t i)
{
    return number * UINT64_C(0x9e3779b97f4a7c15) + i;
}

static uint64_t *make(uint64_t number, uint64_t n)
{
    uint64_t *data = malloc(n * 8 + 8);
    MUST(data);
    for (uint64_t i = 0; i < n; i++)
        data[i] = i == 0 ? number : word(number, i);
    return data;
}

static int send_for(podipc_sender *tx, uint64_t number, uint64_t n, int64_t ns, podipc_error *err)
{
    podipc_tensor t = vector(n);
    uint64_t *data = make(number, n);
    podipc_sending s = {.tensor = &t, .data = data};
    int rc = podipc_send(tx, &s, pdi_now() + ns, NULL, err);
    if (rc == -EAGAIN)
        podipc_send_cancel(tx, &s);
    free(data);
    return rc;
}

static int send_one(podipc_sender *tx, uint64_t number, uint64_t n)
{
    podipc_error err = {0};
    int rc = send_for(tx, number, n, PATIENCE, &err);
    if (rc != 0 && rc != PODIPC_EPEERDIED)
        fprintf(stderr, "send: %d %s\n", rc, err.text);
    return rc;
}

/* The number of the tensor, or a negative error; -1 if it is not whole. */
static int64_t recv_for(podipc_receiver *rx, int64_t ns, uint64_t *from, podipc_error *err)
{
    podipc_message m;
    int rc = podipc_recv(rx, pdi_now() + ns, &m, err);
    if (rc < 0)
        return rc;
    const uint64_t *data = m.data;
    uint64_t n = m.tensor.nbytes / 8;
    int64_t result = n ? (int64_t)data[0] : 0;
    if ((uintptr_t)m.data % PODIPC_TENSOR_ALIGN != 0 || m.tensor.ndim != 1 ||
        m.tensor.shape[0] != (int64_t)n || m.tensor.type_len != 3 ||
        memcmp(m.tensor.type, "<u8", 3) != 0)
        result = -1;
    for (uint64_t i = 1; i < n; i++)
        if (data[i] != word((uint64_t)result, i))
            result = -1;
    if (from)
        *from = m.sender;
    podipc_release(rx, &m);
    return result;
}

static int64_t recv_one(podipc_receiver *rx)
{
    podipc_error err = {0};
    int64_t rc = recv_for(rx, PATIENCE, NULL, &err);
    if (rc < 0 && rc != PODIPC_EPEERDIED && rc != PODIPC_ECLOSED)
        fprintf(stderr, "recv: %lld %s\n", (long long)rc, err.text);
    return rc;
}

/* How many entries, hidden ones included; -1 if there is no such directory. */
static int entries(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static int with_prefix(const char *path, const char *prefix, char found[PDI_FILE_NAME])
{
    DIR *d = opendir(path);
    int n = 0;
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d));)
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0) {
            n++;
            if (found)
                snprintf(found, PDI_FILE_NAME, "%.63s", e->d_name);
        }
    closedir(d);
    return n;
}

/* ---- children ---- */

struct child {
    pid_t pid;
    int out; /* what it says */
};

static struct child spawn(void (*run)(const char *path, int say), const char *path)
{
    int fds[2];
    MUST(pipe2(fds, O_CLOEXEC) == 0);
    struct child c = {.pid = fork(), .out = fds[0]};
    MUST(c.pid >= 0);
    if (c.pid == 0) {
        close(fds[0]);
        run(path, fds[1]);
        _exit(0);
    }
    close(fds[1]);
    return c;
}

static void say(int fd, int64_t value)
{
    MUST(write(fd, &value, sizeof value) == sizeof value);
}

/* What it says next; INT64_MIN when it has ended. */
static int64_t hear(struct child *c)
{
    int64_t value;
    ssize_t n;
    do
        n = read(c->out, &value, sizeof value);
    while (n < 0 && errno == EINTR);
    return n == sizeof value ? value : INT64_MIN;
}

static int end(struct child *c, int sig)
{
    int status;
    if (sig)
        kill(c->pid, sig);
    MUST(waitpid(c->pid, &status, 0) == c->pid);
    close(c->out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- tests ---- */

static void test_round_trip(void)
{
    char *path = fresh_path("round");
    podipc_sender *tx = open_tx(options(path));
    podipc_receiver *rx = open_rx(options(path));
    const uint64_t sizes[] = {0, 1, 7, 100, 4096, 131072, 131073, 200000, 1u << 20};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t number = sizes[i] ? i + 1 : 0;
        CHECK(send_one(tx, number, sizes[i]) == 0);
        CHECK(recv_one(rx) == (int64_t)number);
    }
    podipc_stats stats;
    podipc_sender_stats(tx, &stats);
    CHECK(stats.messages == 9 && stats.queued == 0 && stats.peers == 1);
    podipc_receiver_stats(rx, &stats);
    CHECK(stats.messages == 9 && stats.held == 0 && stats.peers == 1);
    CHECK(podipc_sender_close(tx) == 0);
    CHECK(recv_one(rx) == PODIPC_ECLOSED);
    CHECK(recv_one(rx) == PODIPC_ECLOSED);
    podipc_receiver_close(rx);
    CHECK(entries(path) == -1);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    passed++;
    free(path);
}

static void test_message_after_close(void)
{
    char *path = fresh_path("after");
    podipc_sender *tx = open_tx(options(path));
    podipc_receiver *rx = open_rx(options(path));
    podipc_tensor t = {.nbytes = 48,
                       .flags = PODIPC_FORTRAN,
                       .ndim = 3,
                       .type_len = 40,
                       .type = "{\"a long type text, as of a struct dtype\"",
                       .shape = {1, 2, 3}};
    podipc_loan loan;
    CHECK(podipc_loan_get(tx, &t, 0, &loan, NULL) == 0);
    CHECK((uintptr_t)loan.data % PODIPC_TENSOR_ALIGN == 0 && loan.size == 48);
    memset(loan.data, 'x', 48);
    podipc_sending s = {.tensor = &t, .loan = &loan};
    CHECK(podipc_send(tx, &s, pdi_now() + PATIENCE, NULL, NULL) == 0);
    podipc_loan_let_go(tx, &loan);
    podipc_message m;
    CHECK(podipc_recv(rx, pdi_now() + PATIENCE, &m, NULL) == 0);
    podipc_sender_free(tx);
    podipc_receiver_close(rx);
    CHECK(entries(path) == -1);
    CHECK(m.tensor.ndim == 3 && m.tensor.shape[1] == 2 && m.tensor.shape[2] == 3);
    CHECK(m.tensor.flags == PODIPC_FORTRAN && m.tensor.type_len == 40);
    CHECK(memcmp(m.tensor.type, t.type, 40) == 0);
    CHECK(memcmp(m.data, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 48) == 0);
    void *again;
    CHECK(podipc_map_private(rx, &m, &again, NULL) == -ENOTSUP);
    podipc_release(rx, &m);
    podipc_receiver_free(rx);
    passed++;
    free(path);
}

static void test_waits_end(void)
{
    char *path = fresh_path("waits");
    podipc_sender *tx = open_tx(options(path));
    podipc_error err;
    int64_t start = pdi_now();
    CHECK(send_for(tx, 1, 4, SOON, &err) == -EAGAIN);
    CHECK(pdi_now() - start >= SOON && pdi_now() - start < PATIENCE);
    char text[512];
    podipc_sender_explain(tx, text, sizeof text);
    CHECK(strstr(text, "No receiver has opened") && strstr(text, path));
    podipc_receiver *rx = open_rx(options(path));
    CHECK(recv_for(rx, SOON, NULL, &err) == -EAGAIN);
    podipc_receiver_explain(rx, text, sizeof text);
    CHECK(strstr(text, "1 sender has opened"));
    CHECK(recv_for(rx, 0, NULL, &err) == -EAGAIN);
    CHECK(send_one(tx, 3, 4) == 0);
    CHECK(recv_one(rx) == 3);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* Back-pressure: bytes waiting in the directory stay below max_bytes. */
static void test_budget(void)
{
    char *path = fresh_path("budget");
    podipc_options o = options(path);
    o.max_bytes = 64 << 10;
    podipc_sender *tx = open_tx(o);
    podipc_receiver *rx = open_rx(options(path));
    podipc_error err;
    int sent = 0;
    while (send_for(tx, (uint64_t)sent, 1000, SOON, &err) == 0)
        sent++;
    CHECK(sent == 8); /* of 8 KiB each */
    CHECK(send_for(tx, 99, 100000, SOON, &err) == PODIPC_EMEMLIMIT);
    CHECK(err.need > 800000 && err.have == 65536);
    CHECK(recv_one(rx) == 0);
    CHECK(send_for(tx, 8, 1000, PATIENCE, &err) == 0);
    for (int i = 1; i < 9; i++)
        CHECK(recv_one(rx) == i);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

static void send_forever(const char *path, int out)
{
    podipc_sender *tx = open_tx(options(path));
    for (uint64_t i = 0;; i++) {
        MUST(send_one(tx, i, i % 2 ? 10 : 20000) == 0);
        say(out, (int64_t)i);
    }
}

static void send_ten(const char *path, int out)
{
    podipc_sender *tx = open_tx(options(path));
    for (uint64_t i = 0; i < 10; i++)
        MUST(send_one(tx, i, 100) == 0);
    say(out, 10);
    pause();
}

static void test_sender_dies(void)
{
    char *path = fresh_path("txdies");
    podipc_receiver *rx = open_rx(options(path));
    struct child c = spawn(send_ten, path);
    CHECK(hear(&c) == 10);
    CHECK(recv_one(rx) == 0);
    CHECK(end(&c, SIGKILL) == -SIGKILL);
    for (int i = 1; i < 10; i++)
        CHECK(recv_one(rx) == i);
    CHECK(recv_one(rx) == PODIPC_EPEERDIED);
    podipc_error err;
    CHECK(recv_for(rx, SOON, NULL, &err) == -EAGAIN); /* once, and not Closed */
    CHECK(with_prefix(path, "tx.", NULL) == 0);
    /* The restarted one goes on. */
    podipc_sender *tx = open_tx(options(path));
    CHECK(send_one(tx, 77, 5) == 0);
    CHECK(recv_one(rx) == 77);
    podipc_sender_free(tx);
    CHECK(recv_one(rx) == PODIPC_ECLOSED);
    podipc_stats stats;
    podipc_receiver_stats(rx, &stats);
    CHECK(stats.peers_died == 1 && stats.peers == 0);
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* Killed at any point while it sends: what it said it sent arrives, whole, in order. */
static void test_sender_killed_anywhere(void)
{
    char *path = fresh_path("anywhere");
    podipc_receiver *rx = open_rx(options(path));
    for (int round = 0; round < 20; round++) {
        struct child c = spawn(send_forever, path);
        int64_t got = -1;
        for (int i = 0; i <= round; i++)
            CHECK(recv_one(rx) == ++got);
        usleep((useconds_t)(round * 137));
        kill(c.pid, SIGKILL);
        int64_t said = -1;
        for (int64_t v; (v = hear(&c)) != INT64_MIN;)
            said = v;
        end(&c, 0);
        int64_t next;
        while ((next = recv_one(rx)) >= 0)
            CHECK(next == ++got);
        CHECK(next == PODIPC_EPEERDIED);
        CHECK(got == said || got == said + 1);
        CHECK(with_prefix(path, ".t.", NULL) == 0);
    }
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

static void recv_three_and_hold(const char *path, int out)
{
    podipc_receiver *rx = open_rx(options(path));
    podipc_message m[3];
    for (int i = 0; i < 3; i++) {
        MUST(podipc_recv(rx, pdi_now() + PATIENCE, &m[i], NULL) == 0);
        say(out, *(const int64_t *)m[i].data);
    }
    podipc_release(rx, &m[1]);
    say(out, -1);
    pause();
}

static void test_receiver_dies(void)
{
    char *path = fresh_path("rxdies");
    podipc_sender *tx = open_tx(options(path));
    struct child c = spawn(recv_three_and_hold, path);
    for (uint64_t i = 0; i < 6; i++)
        CHECK(send_one(tx, i, 50) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(hear(&c) == i);
    CHECK(hear(&c) == -1);
    CHECK(end(&c, SIGKILL) == -SIGKILL);
    usleep(100000); /* within which a death is known */
    podipc_error err;
    CHECK(send_for(tx, 100, 50, PATIENCE, &err) == PODIPC_EPEERDIED);
    CHECK(strstr(err.text, "holding 2 tensors"));
    CHECK(send_for(tx, 100, 50, SOON, &err) == -EAGAIN); /* once; then it waits for the next */
    podipc_stats stats;
    podipc_sender_stats(tx, &stats);
    CHECK(stats.lost_taken == 2 && stats.peers_died == 1 && stats.queued == 3);
    CHECK(with_prefix(path, "rx.", NULL) == 0);
    podipc_receiver *rx = open_rx(options(path));
    CHECK(send_one(tx, 6, 50) == 0);
    for (int i = 3; i < 7; i++)
        CHECK(recv_one(rx) == i);
    podipc_sender_free(tx);
    CHECK(recv_one(rx) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* Each says what it got, and is killed at any point: all arrive, none twice. */
static void recv_forever(const char *path, int out)
{
    podipc_receiver *rx = open_rx(options(path));
    int64_t last = -1;
    for (;;) {
        int64_t v = recv_one(rx);
        if (v == PODIPC_ECLOSED)
            break;
        if (v == PODIPC_EPEERDIED)
            continue;
        MUST(v > last || v < 0);
        last = v;
        say(out, v);
    }
    podipc_receiver_free(rx);
}

enum { KILL_COUNT = 600 };

static void send_many(const char *path, int out)
{
    podipc_options o = options(path);
    o.max_bytes = 1 << 20;
    podipc_sender *tx = open_tx(o);
    for (uint64_t i = 0; i < KILL_COUNT;) {
        int rc = send_one(tx, i, i % 3 ? 100 : 20000);
        MUST(rc == 0 || rc == PODIPC_EPEERDIED);
        i += rc == 0;
    }
    say(out, 1);
    podipc_stats stats;
    do {
        podipc_sender_stats(tx, &stats);
        usleep(1000);
    } while (stats.queued > 0);
    say(out, (int64_t)podipc_sender_close(tx));
    podipc_sender_free(tx);
}

static void test_receivers_killed_anywhere(void)
{
    char *path = fresh_path("rxanywhere");
    struct child tx = spawn(send_many, path);
    unsigned char seen[KILL_COUNT] = {0};
    int missing = 0, kills = 0, total = 0;
    struct child rx = spawn(recv_forever, path);
    for (bool more = true; more;) {
        int64_t v = 0;
        for (int i = 0; i < 40 && (v = hear(&rx)) != INT64_MIN; i++) {
            CHECK(v >= 0 && v < KILL_COUNT && seen[v] == 0);
            seen[v] = 1;
            total++;
        }
        more = v != INT64_MIN;
        /* Not at the end: who joins after the sender has closed finds nobody. */
        if (more && total < KILL_COUNT * 3 / 4) {
            usleep((useconds_t)(kills * 53 % 700));
            kill(rx.pid, SIGKILL);
            kills++;
            while ((v = hear(&rx)) != INT64_MIN) {
                CHECK(v >= 0 && seen[v] == 0);
                seen[v] = 1;
            }
            end(&rx, 0);
            rx = spawn(recv_forever, path);
        } else if (!more) {
            CHECK(end(&rx, 0) == 0);
        }
    }
    CHECK(hear(&tx) == 1 && hear(&tx) == 0);
    CHECK(end(&tx, 0) == 0);
    for (int i = 0; i < KILL_COUNT; i++)
        missing += !seen[i];
    /* Taken, and killed before it could say so: at most one a kill. */
    CHECK(missing <= kills && kills >= 3);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

static uint64_t many_to_many_first;

static void send_hundred(const char *path, int out)
{
    podipc_sender *tx = open_tx(options(path));
    say(out, 0);
    for (uint64_t i = 0; i < 100; i++)
        MUST(send_one(tx, many_to_many_first + i, 10 + i) == 0);
    podipc_sender_free(tx);
}

static void recv_counted(const char *path, int out)
{
    podipc_receiver *rx = open_rx(options(path));
    int64_t last[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
    for (int64_t v; (v = recv_one(rx)) != PODIPC_ECLOSED;) {
        MUST(v >= 0);
        MUST(v > last[v / 1000]); /* in order for each sender */
        last[v / 1000] = v;
        say(out, v);
        usleep(200);
    }
    say(out, -7);
    podipc_receiver_free(rx);
}

static void test_many_to_many(void)
{
    char *path = fresh_path("nxm");
    struct child tx[3], rx[3];
    for (int i = 0; i < 3; i++) {
        many_to_many_first = (uint64_t)i * 1000;
        tx[i] = spawn(send_hundred, path);
        CHECK(hear(&tx[i]) == 0);
    }
    for (int i = 0; i < 3; i++)
        rx[i] = spawn(recv_counted, path);
    static unsigned char seen[3000];
    memset(seen, 0, sizeof seen);
    int total = 0;
    for (int i = 0; i < 3; i++) {
        int64_t v;
        while ((v = hear(&rx[i])) >= 0) {
            CHECK(seen[v] == 0);
            seen[v] = 1;
            total++;
        }
        CHECK(v == -7);
    }
    CHECK(total == 300);
    for (int i = 0; i < 3; i++)
        CHECK(end(&tx[i], 0) == 0 && end(&rx[i], 0) == 0);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* A damaged file is an error, once, that names it; then things go on. */
static void test_damaged(void)
{
    char *path = fresh_path("damaged");
    podipc_sender *tx = open_tx(options(path));
    podipc_receiver *rx = open_rx(options(path));
    for (uint64_t i = 0; i < 4; i++)
        CHECK(send_one(tx, i, 100) == 0);
    char found[PDI_FILE_NAME], file[512];
    CHECK(with_prefix(path, "m.00000000000000000001.", found) == 1);
    snprintf(file, sizeof file, "%s/%s", path, found);
    CHECK(truncate(file, 500) == 0);
    CHECK(with_prefix(path, "m.00000000000000000002.", found) == 1);
    snprintf(file, sizeof file, "%s/%s", path, found);
    int fd = open(file, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "garbage!", 8, 0) == 8);
    close(fd);
    podipc_error err;
    CHECK(recv_for(rx, PATIENCE, NULL, &err) == 0);
    CHECK(recv_for(rx, PATIENCE, NULL, &err) == PODIPC_ECORRUPT);
    CHECK(strstr(err.text, "m.00000000000000000001.") && strstr(err.text, "its size is 500"));
    CHECK(recv_for(rx, PATIENCE, NULL, &err) == PODIPC_ECORRUPT);
    CHECK(strstr(err.text, "m.00000000000000000002.") && strstr(err.text, "magic"));
    CHECK(recv_for(rx, PATIENCE, NULL, &err) == 3);
    podipc_sender_free(tx);
    CHECK(recv_one(rx) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* What is not ours is left alone, and nothing is followed. */
static void test_foreign_entries(void)
{
    char *path = fresh_path("foreign"), *target = fresh_path("target"), name[512];
    podipc_receiver *rx = open_rx(options(path));
    int fd = open(target, O_WRONLY | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && write(fd, "precious", 8) == 8);
    close(fd);
    snprintf(name, sizeof name, "%s/m.00000000000000000000.00000000000000aa", path);
    CHECK(symlink(target, name) == 0);
    snprintf(name, sizeof name, "%s/m.00000000000000000001.00000000000000aa", path);
    CHECK(mkfifo(name, 0600) == 0);
    snprintf(name, sizeof name, "%s/m.00000000000000000002.00000000000000aa", path);
    CHECK(mkdir(name, 0700) == 0);
    snprintf(name, sizeof name, "%s/tx.00000000000000aa", path);
    CHECK(symlink(target, name) == 0);
    snprintf(name, sizeof name, "%s/m.00000000000000000003.00000000000000bb", path);
    CHECK(link(target, name) == 0);
    snprintf(name, sizeof name, "%s/readme.txt", path);
    CHECK(link(target, name) == 0);
    podipc_error err;
    CHECK(recv_for(rx, PATIENCE, NULL, &err) == PODIPC_ECORRUPT);
    CHECK(strstr(err.text, "hard link"));
    CHECK(recv_for(rx, SOON, NULL, &err) == -EAGAIN);
    podipc_sender *tx = open_tx(options(path));
    CHECK(send_one(tx, 5, 3) == 0);
    CHECK(recv_one(rx) == 5);
    podipc_sender_free(tx);
    CHECK(recv_one(rx) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    struct stat st;
    CHECK(stat(target, &st) == 0 && st.st_size == 8);
    char command[600];
    snprintf(command, sizeof command, "rm -r '%s' '%s'", path, target);
    CHECK(system(command) == 0);
    passed++;
    free(path);
    free(target);
}

static void test_bad_paths(void)
{
    podipc_sender *tx;
    podipc_error err;
    char *file = fresh_path("plain"), *missing = fresh_path("missing"), *link = fresh_path("link");
    close(open(file, O_WRONLY | O_CREAT, 0600));
    podipc_options o = options(file);
    CHECK(podipc_sender_open(&o, &tx, &err) == PODIPC_EADDRESS);
    CHECK(strstr(err.text, "is a file"));
    char below[512];
    snprintf(below, sizeof below, "%s/deep/er", missing);
    o = options(below);
    CHECK(podipc_sender_open(&o, &tx, &err) == -ENOENT);
    CHECK(strstr(err.text, "mount the volume"));
    CHECK(symlink(base, link) == 0);
    o = options(link);
    CHECK(podipc_sender_open(&o, &tx, &err) == PODIPC_EADDRESS);
    CHECK(strstr(err.text, "symbolic link"));
    unlink(file);
    unlink(link);
    passed++;
    free(file);
    free(missing);
    free(link);
}

static void test_umask_and_existing_directory(void)
{
    char *path = fresh_path("umask");
    podipc_options o = options(path);
    o.mode = 0666;
    mode_t old = umask(077);
    podipc_sender *tx = open_tx(o);
    umask(old);
    struct stat st;
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0777);
    podipc_sender_free(tx);
    CHECK(entries(path) == -1);
    /* A directory that was there stays, empty. */
    CHECK(mkdir(path, 0700) == 0);
    tx = open_tx(options(path));
    podipc_sender_free(tx);
    CHECK(entries(path) == 0);
    CHECK(rmdir(path) == 0);
    passed++;
    free(path);
}

static uint32_t owner_mode;

static void as_other_user(const char *path, int out)
{
    MUST(setgid(1002) == 0 && setuid(1002) == 0);
    podipc_options o = options(path);
    o.mode = owner_mode;
    podipc_receiver *rx;
    podipc_error err = {0};
    int rc = podipc_receiver_open(&o, &rx, &err);
    say(out, rc);
    if (rc == -EACCES)
        say(out, strstr(err.text, "UID 1001") && strstr(err.text, "UID 1002") &&
                     strstr(err.text, "mode=0o666"));
    if (rc == 0) {
        say(out, recv_one(rx));
        podipc_receiver_free(rx);
    }
}

static void as_owner(const char *path, int out)
{
    MUST(setgid(1001) == 0 && setuid(1001) == 0);
    podipc_options o = options(path);
    o.mode = owner_mode;
    podipc_sender *tx = open_tx(o);
    say(out, 0);
    if (owner_mode == 0666)
        say(out, send_one(tx, 9, 200000));
    else
        pause();
    podipc_sender_free(tx);
}

static void test_other_uid(void)
{
    if (geteuid() != 0) {
        printf("other_uid: not possible here: needs root\n");
        return;
    }
    for (int i = 0; i < 3; i++) {
        char *path = fresh_path("uid");
        owner_mode = i < 2 ? 0600 : 0666;
        if (i == 1)
            CHECK(mkdir(path, 0777) == 0 && chmod(path, 0777) == 0);
        struct child tx = spawn(as_owner, path);
        CHECK(hear(&tx) == 0);
        struct child rx = spawn(as_other_user, path);
        int64_t rc = hear(&rx);
        if (i < 2) {
            CHECK(rc == -EACCES);
            CHECK(hear(&rx) == 1);
            end(&tx, SIGKILL);
        } else {
            CHECK(rc == 0 && hear(&rx) == 9);
            CHECK(hear(&tx) == 0);
            CHECK(end(&tx, 0) == 0);
        }
        CHECK(end(&rx, 0) == 0);
        /* Whoever comes next clears up after the one that was killed. */
        podipc_receiver_free(open_rx(options(path)));
        CHECK(entries(path) == (i == 1 ? 0 : -1));
        if (i == 1)
            CHECK(rmdir(path) == 0);
        free(path);
    }
    passed++;
}

static void test_full_volume(void)
{
    char *mount_point = fresh_path("tmpfs"), path[512];
    CHECK(mkdir(mount_point, 0700) == 0);
    if (geteuid() != 0 || mount("podipc", mount_point, "tmpfs", 0, "size=1m") != 0) {
        printf("full_volume: not possible here: needs to mount\n");
        rmdir(mount_point);
        return;
    }
    snprintf(path, sizeof path, "%s/d", mount_point);
    podipc_sender *tx = open_tx(options(path));
    podipc_receiver *rx = open_rx(options(path));
    podipc_error err;
    CHECK(send_for(tx, 1, 300000, SOON, &err) == -ENOSPC);
    CHECK(err.need >= 2400000 && err.have > 0 && err.have <= 1 << 20);
    CHECK(with_prefix(path, ".t.", NULL) == 0 && with_prefix(path, "m.", NULL) == 0);
    /* Larger than the default share, but it fits. */
    CHECK(send_for(tx, 2, 80000, PATIENCE, &err) == 0);
    /* Full of our own: wait for the receiver. */
    CHECK(send_for(tx, 3, 80000, SOON, &err) == -EAGAIN);
    CHECK(recv_one(rx) == 2);
    CHECK(send_for(tx, 3, 80000, PATIENCE, &err) == 0);
    CHECK(recv_one(rx) == 3);
    /* Full of what others put there. */
    snprintf(path, sizeof path, "%s/ballast", mount_point);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    static char block[65536];
    ssize_t n;
    while ((n = write(fd, block, sizeof block)) > 0)
        ;
    close(fd);
    CHECK(send_for(tx, 4, 1000, SOON, &err) == -ENOSPC);
    CHECK(err.need > 8000);
    CHECK(unlink(path) == 0);
    CHECK(send_for(tx, 4, 1000, PATIENCE, &err) == 0);
    CHECK(recv_one(rx) == 4);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    CHECK(entries(mount_point) == 0);
    CHECK(umount(mount_point) == 0 && rmdir(mount_point) == 0);
    passed++;
    free(mount_point);
}

static void *close_later(void *rx)
{
    usleep(100000);
    podipc_receiver_close(rx);
    return NULL;
}

static void *close_tx_later(void *tx)
{
    usleep(100000);
    podipc_sender_close(tx);
    return NULL;
}

static void test_close_from_another_thread(void)
{
    char *path = fresh_path("thread");
    podipc_receiver *rx = open_rx(options(path));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, close_later, rx) == 0);
    podipc_error err;
    CHECK(recv_for(rx, PATIENCE, NULL, &err) == PODIPC_ECLOSED);
    pthread_join(thread, NULL);
    podipc_receiver_free(rx);
    podipc_sender *tx = open_tx(options(path));
    CHECK(pthread_create(&thread, NULL, close_tx_later, tx) == 0);
    CHECK(send_for(tx, 1, 10, PATIENCE, &err) == PODIPC_ECLOSED);
    pthread_join(thread, NULL);
    podipc_sender_free(tx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* A forked child neither keeps its parent alive nor may use the handle. */
static void fork_and_wait(const char *path, int out)
{
    podipc_sender *tx = open_tx(options(path));
    MUST(send_one(tx, 1, 10) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        podipc_error err;
        say(out, send_for(tx, 2, 10, SOON, &err));
        say(out, getpid());
        podipc_sender_free(tx);
        pause();
    }
    pause();
}

static void test_fork(void)
{
    char *path = fresh_path("fork");
    podipc_receiver *rx = open_rx(options(path));
    struct child c = spawn(fork_and_wait, path);
    CHECK(hear(&c) == PODIPC_EFORKED);
    pid_t grandchild = (pid_t)hear(&c);
    CHECK(recv_one(rx) == 1);
    CHECK(end(&c, SIGKILL) == -SIGKILL);
    CHECK(recv_one(rx) == PODIPC_EPEERDIED);
    CHECK(kill(grandchild, SIGKILL) == 0);
    podipc_receiver_free(rx);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* Three die in a row while a fourth looks on; nothing is left of any. */
static void test_many_deaths(void)
{
    char *path = fresh_path("deaths");
    podipc_receiver *a = open_rx(options(path)), *b = open_rx(options(path));
    for (int i = 0; i < 3; i++) {
        struct child c = spawn(send_ten, path);
        CHECK(hear(&c) == 10);
        CHECK(end(&c, SIGKILL) == -SIGKILL);
    }
    int got = 0, died_a = 0, died_b = 0;
    podipc_error err;
    int64_t rc;
    while (got + died_a < 33 && (rc = recv_for(a, PATIENCE, NULL, &err)) != -EAGAIN) {
        CHECK(rc >= 0 || rc == PODIPC_EPEERDIED);
        got += rc >= 0;
        died_a += rc < 0;
    }
    while (died_b < 3 && (rc = recv_for(b, PATIENCE, NULL, &err)) != -EAGAIN) {
        CHECK(rc == PODIPC_EPEERDIED);
        died_b++;
    }
    CHECK(got == 30 && died_a == 3);
    CHECK(died_b == 3); /* though it never looked while they lived */
    CHECK(recv_for(a, SOON, NULL, &err) == -EAGAIN);
    CHECK(recv_for(b, SOON, NULL, &err) == -EAGAIN);
    CHECK(entries(path) == 3);
    podipc_receiver_free(a);
    podipc_receiver_free(b);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

/* Where all are dead, what they left is of another time. */
static void test_nothing_old_comes_as_new(void)
{
    char *path = fresh_path("old");
    struct child rx = spawn(recv_three_and_hold, path), tx = spawn(send_ten, path);
    CHECK(hear(&tx) == 10);
    CHECK(end(&tx, SIGKILL) == -SIGKILL && end(&rx, SIGKILL) == -SIGKILL);
    CHECK(with_prefix(path, "m.", NULL) >= 7);
    podipc_receiver *again = open_rx(options(path));
    podipc_error err;
    CHECK(recv_for(again, SOON, NULL, &err) == -EAGAIN);
    podipc_sender *fresh = open_tx(options(path));
    CHECK(send_one(fresh, 42, 10) == 0);
    CHECK(recv_one(again) == 42);
    CHECK(entries(path) == 3);
    podipc_sender_free(fresh);
    podipc_receiver_free(again);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

static void *send_twenty(void *tx)
{
    for (uint64_t i = 0; i < 20; i++) {
        usleep(1000);
        MUST(send_one(tx, i, 20) == 0);
    }
    return NULL;
}

static void send_and_receive_here(const char *path, int out)
{
    podipc_sender *tx = open_tx(options(path));
    podipc_receiver *rx = open_rx(options(path));
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, send_twenty, tx) == 0);
    for (int i = 0; i < 20; i++)
        MUST(recv_one(rx) == i);
    pthread_join(thread, NULL);
    podipc_sender_free(tx);
    MUST(recv_one(rx) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    say(out, 20);
}

/* Without inotify (here: its instances are used up) all works, in slices. */
static void use_up_inotify(const char *path, int out)
{
    if (geteuid() == 0)
        MUST(setgid(1003) == 0 && setuid(1003) == 0);
    while (inotify_init1(IN_CLOEXEC) >= 0)
        ;
    MUST(errno == EMFILE);
    send_and_receive_here(path, out);
}

static void test_without_inotify(void)
{
    char *path = fresh_path("noinotify");
    struct child c = spawn(use_up_inotify, path);
    CHECK(hear(&c) == 20);
    CHECK(end(&c, 0) == 0);
    CHECK(entries(path) == -1);
    passed++;
    free(path);
}

static void test_names(void)
{
    const struct pdi_file_name names[] = {
        {PDI_NAME_GATE, 0, 0, 0},
        {PDI_NAME_SENDER, .who = 1},
        {PDI_NAME_RECEIVER, .who = UINT64_MAX},
        {PDI_NAME_TENSOR, .who = 2, .number = UINT64_MAX},
        {PDI_NAME_WRITING, .who = 3, .number = 4},
        {PDI_NAME_MAKING, .who = 5},
        {PDI_NAME_BYE, .to = 6, .who = 7},
        {PDI_NAME_DIED, .to = 8, .who = 9, .number = 10},
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char text[PDI_FILE_NAME + 1];
        pdi_file_name_write(text, &names[i]);
        struct pdi_file_name n = pdi_file_name_read(text);
        CHECK(n.kind == names[i].kind && n.who == names[i].who && n.to == names[i].to &&
              n.number == names[i].number);
        strcat(text, "x");
        CHECK(pdi_file_name_read(text).kind == PDI_NAME_OTHER);
    }
    CHECK(pdi_file_name_read("m.99999999999999999999.0000000000000001").kind == PDI_NAME_OTHER);
    CHECK(pdi_file_name_read("m.0").kind == PDI_NAME_OTHER);
    CHECK(pdi_file_name_read("").kind == PDI_NAME_OTHER);
    passed++;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"names", test_names},
        {"round_trip", test_round_trip},
        {"message_after_close", test_message_after_close},
        {"waits_end", test_waits_end},
        {"budget", test_budget},
        {"sender_dies", test_sender_dies},
        {"sender_killed_anywhere", test_sender_killed_anywhere},
        {"receiver_dies", test_receiver_dies},
        {"receivers_killed_anywhere", test_receivers_killed_anywhere},
        {"many_to_many", test_many_to_many},
        {"damaged", test_damaged},
        {"foreign_entries", test_foreign_entries},
        {"bad_paths", test_bad_paths},
        {"umask_and_existing_directory", test_umask_and_existing_directory},
        {"other_uid", test_other_uid},
        {"full_volume", test_full_volume},
        {"close_from_another_thread", test_close_from_another_thread},
        {"fork", test_fork},
        {"many_deaths", test_many_deaths},
        {"nothing_old_comes_as_new", test_nothing_old_comes_as_new},
        {"without_inotify", test_without_inotify},
    };
    char template[] = "/tmp/podipc-test-volume-XXXXXX";
    base = mkdtemp(template);
    MUST(base && chmod(base, 0777) == 0);
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        int before = failed;
        tests[i].run();
        if (failed != before)
            fprintf(stderr, "FAILED %s\n", tests[i].name);
    }
    if (entries(base) != 0 || rmdir(base) != 0) {
        fprintf(stderr, "left behind: %s\n", base);
        failed++;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
