/* test_stream.c - tcp, unix and fifo between real processes, killed for real. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/atomics.h"
#include "core/frame.h"
#include "platform/clock.h"
#include "podipc.h"

#define PATIENCE INT64_C(30000000000)
#define SOON     INT64_C(300000000)

static int passed, failed;
static char base[64]; /* directory of all sockets and FIFOs */
static podipc_method method;
static podipc_error err;

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: %s (method %d; last error: %s)\n", __FILE__, __LINE__,     \
                    __func__, #cond, (int)method, err.text);                                       \
            failed++;                                                                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)
/* In helpers and children, where going on makes no sense. */
#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: %s (method %d, errno %d; last error: %s)\n", __FILE__,     \
                    __LINE__, __func__, #cond, (int)method, errno, err.text);                      \
            _exit(99);                                                                             \
        }                                                                                          \
    } while (0)

/* ---- addresses, endpoints, tensors ---- */

/* One that nobody has now, and that no connection gets by chance: below those. */
static uint16_t free_port(int i)
{
    const int on = 1;
    for (;; i += 997) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        uint16_t port = (uint16_t)(20000 + (getpid() * 61 + i) % 12000);
        a.sin_port = htons(port);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        bool free = bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 1) == 0;
        close(fd);
        if (free)
            return port;
    }
}

static podipc_options fresh(void)
{
    static int count;
    static char path[16][128];
    podipc_options o = {.method = method, .mode = 0600, .max_bytes = 256u << 20};
    int i = count++;
    if (method == PODIPC_TCP) {
        o.path = "127.0.0.1";
        o.port = free_port(i);
    } else {
        (void)snprintf(path[i % 16], sizeof path[0], "%s/%d", base, i);
        o.path = path[i % 16];
    }
    return o;
}

static podipc_sender *sender(const podipc_options *o)
{
    podipc_sender *tx;
    MUST(podipc_sender_open(o, &tx, &err) == 0);
    return tx;
}

static podipc_receiver *receiver(const podipc_options *o)
{
    podipc_receiver *rx;
    MUST(podipc_receiver_open(o, &rx, &err) == 0);
    return rx;
}

static podipc_tensor words(uint64_t n)
{
    podipc_tensor t = {.nbytes = n * 8, .ndim = 1, .type_len = 3, .type = "<u8", .shape[0] = 0};
    t.shape[0] = (int64_t)n;
    return t;
}

/* Word 0 is who, word 1 which; the others follow from these. */
static uint64_t *filled(uint64_t who, uint64_t which, uint64_t n)
{
    uint64_t *p = malloc(n * 8);
    MUST(p && n >= 2);
    p[0] = who;
    p[1] = which;
    for (uint64_t i = 2; i < n; i++)
        p[i] = (who << 40 ^ which << 20 ^ i) * UINT64_C(0x9E3779B97F4A7C15);
    return p;
}

static bool whole(const podipc_message *m, uint64_t who, uint64_t which, uint64_t n)
{
    if (m->tensor.nbytes != n * 8 || m->tensor.ndim != 1 || (uintptr_t)m->data % 64)
        return false;
    uint64_t *p = filled(who, which, n);
    bool same = memcmp(p, m->data, n * 8) == 0;
    free(p);
    return same;
}

/* Slices the wait, as the binding does. */
static int send_for(podipc_sender *tx, const podipc_tensor *t, const void *data, int64_t ns)
{
    podipc_sending s = {.tensor = t, .data = data};
    int64_t until = pdi_now() + ns;
    int rc = podipc_send(tx, &s, 0, NULL, &err);
    while (rc == -EAGAIN && pdi_now() < until) {
        int64_t slice = pdi_now() + 50000000;
        rc = podipc_send(tx, &s, slice < until ? slice : until, NULL, &err);
    }
    if (rc == -EAGAIN)
        podipc_send_cancel(tx, &s);
    return rc;
}

static int send_words(podipc_sender *tx, uint64_t who, uint64_t which, uint64_t n, int64_t ns)
{
    podipc_tensor t = words(n);
    uint64_t *p = filled(who, which, n);
    int rc = send_for(tx, &t, p, ns);
    free(p);
    return rc;
}

static int recv_for(podipc_receiver *rx, podipc_message *m, int64_t ns)
{
    int64_t until = pdi_now() + ns;
    int rc = podipc_recv(rx, 0, m, &err);
    while (rc == -EAGAIN && pdi_now() < until) {
        int64_t slice = pdi_now() + 50000000;
        rc = podipc_recv(rx, slice < until ? slice : until, m, &err);
    }
    return rc;
}

static int recv_words(podipc_receiver *rx, uint64_t who, uint64_t which, uint64_t n, int64_t ns)
{
    podipc_message m;
    int rc = recv_for(rx, &m, ns);
    if (rc < 0)
        return rc;
    rc = whole(&m, who, which, n) ? 0 : -EBADMSG;
    podipc_release(rx, &m);
    return rc;
}

/* Both sides in one thread, for a tensor that no buffer holds. */
static bool exchange(podipc_sender *tx, podipc_sending *s, podipc_receiver *rx, podipc_message *m)
{
    int64_t until = pdi_now() + PATIENCE;
    int sent = -EAGAIN, received = -EAGAIN;
    while ((sent == -EAGAIN || received == -EAGAIN) && pdi_now() < until) {
        if (sent == -EAGAIN)
            sent = podipc_send(tx, s, pdi_now() + 1000000, NULL, &err);
        if (received == -EAGAIN)
            received = podipc_recv(rx, pdi_now() + 1000000, m, &err);
    }
    return sent == 0 && received == 0;
}

/* ---- children ---- */

struct order {
    podipc_options o;
    uint64_t who, count, n;
    bool close; /* in order, instead of being killed */
    int said;   /* pipe to the parent */
};

static void say(const struct order *order)
{
    MUST(write(order->said, "x", 1) == 1);
}

static void child_sends(struct order *order)
{
    podipc_sender *tx = sender(&order->o);
    for (uint64_t i = 0; i < order->count; i++)
        MUST(send_words(tx, order->who, i, order->n, PATIENCE) == 0);
    say(order);
    if (!order->close)
        for (;;)
            (void)pause();
    MUST(podipc_sender_close(tx) == 0);
    podipc_sender_free(tx);
}

/* Begins a tensor that is far too large for the buffers, and hangs in it. */
static void child_sends_half(struct order *order)
{
    podipc_sender *tx = sender(&order->o);
    podipc_tensor t = words(8 << 20);
    void *data = calloc(8 << 20, 8);
    podipc_sending s = {.tensor = &t, .data = data};
    MUST(send_words(tx, order->who, 0, order->n, PATIENCE) == 0);
    while (s.stage == 0)
        MUST(podipc_send(tx, &s, pdi_now() + SOON, NULL, &err) == -EAGAIN);
    say(order);
    for (;;)
        (void)pause();
}

static void child_receives(struct order *order)
{
    podipc_receiver *rx = receiver(&order->o);
    for (uint64_t i = 0; i < order->count; i++)
        MUST(recv_words(rx, order->who, i, order->n, PATIENCE) == 0);
    say(order);
    if (!order->close)
        for (;;)
            (void)pause();
    podipc_receiver_free(rx);
}

/* Do all other threads sleep? */
static bool alone(void)
{
    bool so = true;
    DIR *d = opendir("/proc/self/task");
    MUST(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char where[300], text[200] = "";
        if (e->d_name[0] == '.' || atoi(e->d_name) == (int)gettid())
            continue;
        (void)snprintf(where, sizeof where, "/proc/self/task/%s/stat", e->d_name);
        FILE *f = fopen(where, "r");
        if (!f)
            continue;
        char *read = fgets(text, sizeof text, f);
        fclose(f);
        const char *name_end = read ? strrchr(text, ')') : NULL;
        so = so && (!name_end || name_end[2] == 'S');
    }
    closedir(d);
    return so;
}

/* fork(), while no other thread, a receiver's greeter, can hold a lock of the
 * sanitizer's allocator: the child would have a copy that nobody unlocks. */
static pid_t fork_alone(void)
{
    int64_t end = pdi_now() + PATIENCE;
    while (!alone()) {
        MUST(pdi_now() < end);
        (void)usleep(200);
    }
    fflush(NULL);
    pid_t pid = fork();
    MUST(pid >= 0);
    return pid;
}

static pid_t start(void (*run)(struct order *), struct order order, int *said)
{
    int ends[2];
    MUST(pipe(ends) == 0);
    pid_t pid = fork_alone();
    if (pid == 0) {
        close(ends[0]);
        order.said = ends[1];
        run(&order);
        _exit(0);
    }
    close(ends[1]);
    *said = ends[0];
    return pid;
}

static void heard(int said)
{
    char c;
    MUST(read(said, &c, 1) == 1);
    close(said);
}

static bool ended_well(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void killed(pid_t pid)
{
    MUST(kill(pid, SIGKILL) == 0);
    MUST(waitpid(pid, NULL, 0) == pid);
}

static int open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    MUST(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static bool base_is_empty(void)
{
    int n = 0;
    DIR *d = opendir(base);
    MUST(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n == 2;
}

/* ---- what arrives ---- */

static void test_kinds_of_tensors(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_sender *tx = sender(&o);
    static char long_type[PODIPC_MAX_TYPE];
    memset(long_type, 't', sizeof long_type);
    uint8_t data[512];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)i;
    podipc_tensor kinds[] = {
        {.nbytes = 8, .ndim = 0, .type = "<f8", .type_len = 3},
        {.nbytes = 0, .ndim = 2, .type = "<f8", .type_len = 3, .shape = {0, 5}},
        {.nbytes = 24,
         .ndim = 2,
         .flags = PODIPC_FORTRAN,
         .type = "<f4",
         .type_len = 3,
         .shape = {2, 3}},
        {.nbytes = 1, .ndim = PODIPC_MAX_DIMS, .type = "|u1", .type_len = 3},
        {.nbytes = 512, .ndim = 1, .type = long_type, .type_len = sizeof long_type, .shape = {64}},
        {.nbytes = 3, .ndim = 1, .type = "", .type_len = 0, .shape = {3}},
    };
    for (int i = 0; i < PODIPC_MAX_DIMS; i++)
        kinds[3].shape[i] = 1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const podipc_tensor *t = &kinds[i];
        podipc_message m;
        CHECK(send_for(tx, t, data, PATIENCE) == 0);
        CHECK(recv_for(rx, &m, PATIENCE) == 0);
        CHECK(m.tensor.nbytes == t->nbytes && m.tensor.ndim == t->ndim);
        CHECK(m.tensor.flags == t->flags && m.tensor.type_len == t->type_len);
        CHECK(memcmp(m.tensor.shape, t->shape, t->ndim * sizeof(int64_t)) == 0);
        CHECK(memcmp(m.tensor.type, t->type, t->type_len) == 0);
        CHECK(memcmp(m.data, data, t->nbytes) == 0 && (uintptr_t)m.data % 64 == 0);
        podipc_release(rx, &m);
    }
    podipc_tensor wrong = {.nbytes = 7, .ndim = 1, .type = "<f8", .type_len = 3, .shape = {2}};
    CHECK(send_for(tx, &wrong, data, PATIENCE) == PODIPC_ETENSOR);
    podipc_sender_free(tx);
    podipc_message m;
    CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    CHECK(base_is_empty());
    passed++;
}

static void test_sizes_and_order(void)
{
    static const uint64_t sizes[] = {2,    3,     500,   510,   520,     1000,    8000,
                                     8188, 10000, 16000, 20000, 1 << 17, 1 << 20, 8 << 20};
    podipc_options o = fresh();
    int said;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t count = sizes[i] > 1 << 16 ? 3 : 200;
        pid_t pid =
            start(child_sends,
                  (struct order){o, .who = i, .count = count, .n = sizes[i], .close = true}, &said);
        podipc_receiver *rx = receiver(&o);
        for (uint64_t k = 0; k < count; k++)
            CHECK(recv_words(rx, i, k, sizes[i], PATIENCE) == 0);
        podipc_message m;
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
        heard(said);
        CHECK(ended_well(pid));
        podipc_receiver_free(rx);
    }
    passed++;
}

static void test_sender_first(void)
{
    podipc_options o = fresh();
    int said;
    pid_t pid =
        start(child_sends, (struct order){o, .who = 1, .count = 3, .n = 10, .close = true}, &said);
    (void)usleep(60000);
    podipc_receiver *rx = receiver(&o);
    for (uint64_t k = 0; k < 3; k++)
        CHECK(recv_words(rx, 1, k, 10, PATIENCE) == 0);
    heard(said);
    CHECK(ended_well(pid));
    podipc_receiver_free(rx);
    passed++;
}

static void test_nobody_there(void)
{
    podipc_options o = fresh();
    podipc_sender *tx = sender(&o);
    char text[400];
    int64_t start_at = pdi_now();
    CHECK(send_words(tx, 1, 0, 10, SOON) == -EAGAIN);
    CHECK(pdi_now() - start_at < SOON + PATIENCE / 6);
    podipc_sender_explain(tx, text, sizeof text);
    CHECK(strstr(text, "No receiver listens on"));
    CHECK(podipc_sender_close(tx) == 0);
    CHECK(send_words(tx, 1, 0, 10, SOON) == PODIPC_ECLOSED);
    podipc_sender_free(tx);
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    CHECK(podipc_recv(rx, 0, &m, &err) == -EAGAIN);
    CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
    podipc_receiver_explain(rx, text, sizeof text);
    CHECK(strstr(text, "No sender is connected to"));
    podipc_receiver_close(rx);
    podipc_receiver_close(rx);
    CHECK(recv_for(rx, &m, SOON) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    CHECK(base_is_empty());
    passed++;
}

static void test_many_senders(void)
{
    enum { N = 6, COUNT = 300 };
    podipc_options o = fresh();
    if (method == PODIPC_FIFO) {
        passed++;
        return;
    }
    podipc_receiver *rx = receiver(&o);
    pid_t pids[N];
    int said[N];
    uint64_t next[N] = {0}, ids[N] = {0};
    for (uint64_t i = 0; i < N; i++)
        pids[i] = start(
            child_sends,
            (struct order){o, .who = i, .count = COUNT, .n = 100 + i * 4000, .close = i % 2 == 0},
            &said[i]);
    for (int k = 0; k < N * COUNT; k++) {
        podipc_message m;
        CHECK(recv_for(rx, &m, PATIENCE) == 0);
        uint64_t who = *(const uint64_t *)m.data;
        CHECK(who < N && whole(&m, who, next[who], 100 + who * 4000));
        CHECK(next[who] == 0 || ids[who] == m.sender);
        ids[who] = m.sender;
        next[who]++;
        podipc_release(rx, &m);
    }
    int died = 0;
    podipc_message m;
    for (int i = 0; i < N; i++) {
        heard(said[i]);
        if (i % 2 == 0) {
            CHECK(ended_well(pids[i]));
        } else {
            killed(pids[i]);
            died++;
        }
    }
    int rc;
    while (died > 0 && recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED)
        died--;
    rc = recv_for(rx, &m, SOON);
    CHECK(died == 0 && (rc == -EAGAIN || rc == PODIPC_ECLOSED));
    podipc_receiver_free(rx);
    passed++;
}

/* ---- death ---- */

static void test_dead_sender(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    podipc_stats st;
    int said;
    for (uint64_t life = 0; life < 3; life++) {
        pid_t pid = start(child_sends, (struct order){o, .who = life, .count = 5, .n = 100}, &said);
        heard(said);
        killed(pid);
        for (uint64_t k = 0; k < 5; k++)
            CHECK(recv_words(rx, life, k, 100, PATIENCE) == 0);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
        CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
    }
    for (int life = 0; life < 2; life++) {
        pid_t pid = start(child_sends_half, (struct order){o, .who = 7, .n = 100}, &said);
        CHECK(recv_words(rx, 7, 0, 100, PATIENCE) == 0);
        heard(said);
        /* Once with half a tensor read, once with it all in the kernel. */
        if (life == 0)
            CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
        killed(pid);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
        CHECK(strstr(err.text, "in the middle"));
    }
    podipc_receiver_stats(rx, &st);
    CHECK(st.peers_died == 5 && st.peers == 0 && st.held == 0 && st.messages == 17);
    /* While it waits. */
    pid_t pid = start(child_sends, (struct order){o, .who = 1, .count = 1, .n = 100}, &said);
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    heard(said);
    MUST(kill(pid, SIGKILL) == 0);
    CHECK(podipc_recv(rx, pdi_now() + PATIENCE, &m, &err) == PODIPC_EPEERDIED);
    MUST(waitpid(pid, NULL, 0) == pid);
    podipc_receiver_free(rx);
    CHECK(base_is_empty());
    passed++;
}

/* Closed comes when all have gone, some in order, whoever was last. */
static void test_closed_and_died(void)
{
    podipc_options o = fresh();
    if (method == PODIPC_FIFO) { /* one at a time: the other comes first */
        passed++;
        return;
    }
    podipc_message m;
    for (int round = 0; round < 2; round++) {
        podipc_receiver *rx = receiver(&o);
        podipc_sender *tx = sender(&o);
        int said;
        pid_t pid = start(child_sends, (struct order){o, .who = 1, .count = 1, .n = 10}, &said);
        CHECK(recv_words(rx, 1, 0, 10, PATIENCE) == 0);
        heard(said);
        CHECK(send_words(tx, 2, 0, 10, PATIENCE) == 0);
        CHECK(recv_words(rx, 2, 0, 10, PATIENCE) == 0);
        if (round == 0)
            podipc_sender_free(tx);
        killed(pid);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
        if (round == 1)
            podipc_sender_free(tx);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
        /* Said is said: the next one's death is not an end. */
        pid = start(child_sends, (struct order){o, .who = 3, .count = 1, .n = 10}, &said);
        heard(said);
        int rc;
        while ((rc = recv_words(rx, 3, 0, 10, PATIENCE)) == PODIPC_ECLOSED)
            ;
        CHECK(rc == 0);
        killed(pid);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
        CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
        podipc_receiver_free(rx);
    }
    passed++;
}

static void test_dead_receiver(void)
{
    podipc_options o = fresh();
    podipc_sender *tx = sender(&o);
    int said;
    for (uint64_t life = 0; life < 3; life++) {
        pid_t pid =
            start(child_receives, (struct order){o, .who = life, .count = 3, .n = 100}, &said);
        for (uint64_t k = 0; k < 3; k++)
            CHECK(send_words(tx, life, k, 100, PATIENCE) == 0);
        heard(said);
        if (life == 1) /* one that it never takes */
            CHECK(send_words(tx, life, 3, 100, PATIENCE) == 0);
        killed(pid);
        CHECK(send_words(tx, life, 9, 100, PATIENCE) == PODIPC_EPEERDIED);
        CHECK(strstr(err.text, "went away"));
        CHECK(send_words(tx, life, 9, 100, SOON) == -EAGAIN);
    }
    /* In mid-frame, while it waits. */
    pid_t pid = start(child_receives, (struct order){o, .who = 9, .count = 1, .n = 100}, &said);
    CHECK(send_words(tx, 9, 0, 100, PATIENCE) == 0);
    heard(said);
    podipc_tensor t = words(8 << 20);
    void *data = calloc(8 << 20, 8);
    podipc_sending s = {.tensor = &t, .data = data};
    CHECK(podipc_send(tx, &s, pdi_now() + SOON, NULL, &err) == -EAGAIN);
    MUST(kill(pid, SIGKILL) == 0);
    CHECK(podipc_send(tx, &s, pdi_now() + PATIENCE, NULL, &err) == PODIPC_EPEERDIED);
    MUST(waitpid(pid, NULL, 0) == pid);
    /* The same sending goes to the next one. */
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    CHECK(exchange(tx, &s, rx, &m) && m.tensor.nbytes == t.nbytes);
    podipc_release(rx, &m);
    free(data);
    podipc_stats st;
    podipc_sender_stats(tx, &st);
    CHECK(st.peers_died == 4 && st.messages == 12);
    podipc_receiver_free(rx);
    podipc_sender_free(tx);
    CHECK(base_is_empty());
    passed++;
}

static void test_receiver_closes(void)
{
    podipc_options o = fresh();
    podipc_sender *tx = sender(&o);
    for (uint64_t life = 0; life < 3; life++) {
        podipc_receiver *rx = receiver(&o);
        CHECK(send_words(tx, life, 0, 100, PATIENCE) == 0);
        CHECK(recv_words(rx, life, 0, 100, PATIENCE) == 0);
        podipc_receiver_free(rx);
    }
    CHECK(send_words(tx, 3, 0, 100, SOON) == -EAGAIN);
    /* One that leaves something untaken. */
    podipc_receiver *rx = receiver(&o);
    for (uint64_t k = 0; k < 3; k++)
        CHECK(send_words(tx, 4, k, 100, PATIENCE) == 0);
    CHECK(recv_words(rx, 4, 0, 100, PATIENCE) == 0);
    podipc_receiver_free(rx);
    CHECK(send_words(tx, 4, 3, 100, PATIENCE) == PODIPC_EPEERDIED);
    if (method != PODIPC_FIFO)
        CHECK(strstr(err.text, "last 2 of 3"));
    uint64_t lost = podipc_sender_close(tx);
    CHECK(lost == (method == PODIPC_FIFO ? 0 : 2));
    podipc_sender_free(tx);
    CHECK(base_is_empty());
    passed++;
}

static void test_receiver_closes_in_mid_frame(void)
{
    podipc_options o = fresh();
    podipc_sender *tx = sender(&o);
    podipc_receiver *rx = receiver(&o);
    podipc_tensor t = words(8 << 20);
    uint64_t *data = filled(5, 0, 8 << 20);
    podipc_sending s = {.tensor = &t, .data = data};
    podipc_message m;
    CHECK(podipc_send(tx, &s, pdi_now() + SOON, NULL, &err) == -EAGAIN);
    CHECK(podipc_recv(rx, pdi_now() + 10000000, &m, &err) == -EAGAIN);
    podipc_receiver_free(rx);
    rx = receiver(&o);
    CHECK(exchange(tx, &s, rx, &m) && whole(&m, 5, 0, 8 << 20));
    podipc_release(rx, &m);
    free(data);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    passed++;
}

static void test_both_restart(void)
{
    podipc_options o = fresh();
    for (uint64_t life = 0; life < 20; life++) {
        int said_r, said_s;
        struct order order = {o, .who = life, .count = 3, .n = 50 + life * 1000};
        pid_t r, s;
        if (life % 2) {
            r = start(child_receives, order, &said_r);
            s = start(child_sends, order, &said_s);
        } else {
            s = start(child_sends, order, &said_s);
            r = start(child_receives, order, &said_r);
        }
        heard(said_s);
        heard(said_r);
        killed(life % 3 ? r : s);
        killed(life % 3 ? s : r);
    }
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
    podipc_receiver_free(rx);
    CHECK(base_is_empty());
    passed++;
}

/* ---- giving up, budget, threads ---- */

static void test_timeout_in_mid_frame(void)
{
    podipc_options o = fresh();
    podipc_sender *tx = sender(&o);
    podipc_receiver *rx = receiver(&o);
    CHECK(send_words(tx, 1, 0, 100, PATIENCE) == 0);
    /* Too large for the buffers: it stops somewhere, and is given up. */
    CHECK(send_words(tx, 1, 1, 8 << 20, SOON / 3) == -EAGAIN);
    CHECK(send_words(tx, 1, 2, 100, SOON / 3) == -EAGAIN);
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    uint64_t *data = filled(1, 3, 100);
    podipc_tensor t = words(100);
    podipc_sending s = {.tensor = &t, .data = data};
    podipc_message m;
    CHECK(exchange(tx, &s, rx, &m) && whole(&m, 1, 3, 100));
    podipc_release(rx, &m);
    free(data);
    podipc_stats st;
    podipc_receiver_stats(rx, &st);
    CHECK(st.messages == 2);
    /* Given up for ever: the goodbye waits for what can be waited for. */
    CHECK(send_words(tx, 1, 4, 8 << 20, SOON / 3) == -EAGAIN);
    int64_t start_at = pdi_now();
    (void)podipc_sender_close(tx);
    CHECK(pdi_now() - start_at < PATIENCE / 2);
    podipc_sender_free(tx);
    CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
    podipc_receiver_free(rx);
    passed++;
}

static void test_goodbye_to_a_slow_receiver(void)
{
    podipc_options o = fresh();
    podipc_sender *tx = sender(&o);
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    uint64_t sent = 0;
    /* Fill the buffers to the brim. */
    while (send_words(tx, 2, sent, 500, SOON / 10) == 0)
        sent++;
    podipc_sender_free(tx);
    for (uint64_t k = 0; k < sent; k++)
        CHECK(recv_words(rx, 2, k, 500, PATIENCE) == 0);
    int rc = recv_for(rx, &m, PATIENCE);
    /* TCP cannot always make room for a last word. */
    CHECK(rc == PODIPC_ECLOSED || (method == PODIPC_TCP && rc == PODIPC_EPEERDIED));
    podipc_receiver_free(rx);
    passed++;
}

static void test_budget(void)
{
    podipc_options o = fresh();
    o.max_bytes = 4 << 20;
    podipc_receiver *rx = receiver(&o);
    podipc_message held[3], m;
    int said;
    pid_t pid = start(child_sends,
                      (struct order){o, .who = 1, .count = 20, .n = 1 << 17, .close = true}, &said);
    for (uint64_t k = 0; k < 3; k++)
        CHECK(recv_for(rx, &held[k], PATIENCE) == 0 && whole(&held[k], 1, k, 1 << 17));
    CHECK(recv_for(rx, &m, PATIENCE) == 0);
    CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
    char text[400];
    podipc_receiver_explain(rx, text, sizeof text);
    CHECK(strstr(text, "budget"));
    CHECK(whole(&held[0], 1, 0, 1 << 17));
    podipc_release(rx, &held[0]);
    for (uint64_t k = 4; k < 20; k++)
        CHECK(recv_words(rx, 1, k, 1 << 17, PATIENCE) == 0);
    CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
    heard(said);
    CHECK(ended_well(pid));
    /* What can never fit. */
    podipc_sender *tx = sender(&o);
    int rc = send_words(tx, 2, 0, 1 << 20, method == PODIPC_FIFO ? SOON : PATIENCE);
    if (method == PODIPC_FIFO) {
        CHECK(rc == -EAGAIN);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EMEMLIMIT);
    } else {
        CHECK(rc == PODIPC_EMEMLIMIT);
    }
    CHECK(err.need == 8 << 20 && err.have == 4 << 20);
    podipc_loan loan;
    podipc_tensor t = words(1 << 20);
    CHECK(podipc_loan_get(tx, &t, 0, &loan, &err) == PODIPC_EMEMLIMIT);
    podipc_receiver_close(rx);
    CHECK(whole(&held[1], 1, 1, 1 << 17)); /* also after close */
    podipc_release(rx, &held[1]);
    podipc_release(rx, &held[2]);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    passed++;
}

static void test_loans(void)
{
    podipc_options o = fresh();
    o.max_bytes = 4 << 20;
    podipc_receiver *rx = receiver(&o);
    podipc_sender *tx = sender(&o);
    podipc_tensor t = words(1 << 15);
    uint64_t *want = filled(6, 0, 1 << 15);
    podipc_loan loan, other;
    CHECK(podipc_loan_get(tx, &t, 0, &loan, &err) == 0);
    CHECK(loan.size == t.nbytes && (uintptr_t)loan.data % 64 == 0);
    memcpy(loan.data, want, t.nbytes);
    podipc_sending s = {.tensor = &t, .loan = &loan};
    podipc_message m;
    CHECK(exchange(tx, &s, rx, &m) && whole(&m, 6, 0, 1 << 15));
    podipc_release(rx, &m);
    CHECK(memcmp(loan.data, want, t.nbytes) == 0);
    void *first = loan.data;
    podipc_loan_let_go(tx, &loan);
    CHECK(podipc_loan_get(tx, &t, 0, &loan, &err) == 0 && loan.data == first); /* warm */
    t = words(1 << 18);
    CHECK(podipc_loan_get(tx, &t, 0, &other, &err) == 0);
    podipc_loan third;
    CHECK(podipc_loan_get(tx, &t, pdi_now() + SOON, &third, &err) == -EAGAIN);
    podipc_loan_discard(tx, &other);
    CHECK(podipc_loan_get(tx, &t, 0, &third, &err) == 0);
    podipc_loan_discard(tx, &third);
    podipc_loan_discard(tx, &loan);
    free(want);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    passed++;
}

struct waiter {
    podipc_receiver *rx;
    podipc_sender *tx;
    int rc;
};

static void *wait_in_recv(void *arg)
{
    struct waiter *w = arg;
    podipc_message m;
    w->rc = podipc_recv(w->rx, pdi_now() + PATIENCE, &m, NULL);
    return NULL;
}

static void *wait_in_send(void *arg)
{
    struct waiter *w = arg;
    podipc_tensor t = words(8 << 20);
    void *data = calloc(8 << 20, 8);
    podipc_sending s = {.tensor = &t, .data = data};
    do
        w->rc = podipc_send(w->tx, &s, pdi_now() + PATIENCE, NULL, NULL);
    while (w->rc == -EAGAIN);
    free(data);
    return NULL;
}

static void test_close_ends_waits(void)
{
    podipc_options o = fresh();
    struct waiter w[4] = {{0}};
    pthread_t threads[4];
    podipc_receiver *rx = receiver(&o);
    for (int i = 0; i < 2; i++) {
        w[i].rx = rx;
        MUST(pthread_create(&threads[i], NULL, wait_in_recv, &w[i]) == 0);
    }
    (void)usleep(50000);
    int64_t start_at = pdi_now();
    podipc_receiver_close(rx);
    for (int i = 0; i < 2; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    CHECK(pdi_now() - start_at < PATIENCE / 2);
    CHECK(w[0].rc == PODIPC_ECLOSED && w[1].rc == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    /* One that looks for a receiver; then two in and before a frame. */
    for (int round = 0; round < 2; round++) {
        podipc_sender *tx = sender(&o);
        rx = round ? receiver(&o) : NULL;
        for (int i = 0; i < 2; i++) {
            w[i].tx = tx;
            MUST(pthread_create(&threads[i], NULL, wait_in_send, &w[i]) == 0);
        }
        (void)usleep(100000);
        start_at = pdi_now();
        (void)podipc_sender_close(tx);
        for (int i = 0; i < 2; i++)
            MUST(pthread_join(threads[i], NULL) == 0);
        CHECK(pdi_now() - start_at < PATIENCE / 2);
        CHECK(w[0].rc == PODIPC_ECLOSED && w[1].rc == PODIPC_ECLOSED);
        podipc_sender_free(tx);
        if (rx)
            podipc_receiver_free(rx);
    }
    passed++;
}

enum { THREADS = 4, EACH = 500 };

static void *many_sends(void *arg)
{
    struct waiter *w = arg;
    static pdi_word32 who;
    uint64_t me = atomic_fetch_add(&who, 1);
    for (uint64_t k = 0; k < EACH; k++)
        MUST(send_words(w->tx, me % THREADS, k, 100 + me % THREADS * 5000, PATIENCE) == 0);
    return NULL;
}

static pdi_word32 got_by_threads;

static void *many_recvs(void *arg)
{
    struct waiter *w = arg;
    podipc_message m;
    int rc;
    for (;;) {
        int64_t until = pdi_now() + PATIENCE;
        while ((rc = podipc_recv(w->rx, until, &m, NULL)) == -EAGAIN && pdi_now() < until)
            ;
        if (rc < 0)
            break;
        const uint64_t *p = m.data;
        MUST(whole(&m, p[0], p[1], 100 + p[0] * 5000));
        atomic_fetch_add(&got_by_threads, 1);
        podipc_release(w->rx, &m);
    }
    MUST(rc == PODIPC_ECLOSED);
    return NULL;
}

static void test_threads(void)
{
    podipc_options o = fresh();
    struct waiter w = {.rx = receiver(&o), .tx = sender(&o)};
    pthread_t threads[2 * THREADS];
    atomic_store(&got_by_threads, 0);
    for (int i = 0; i < THREADS; i++) {
        MUST(pthread_create(&threads[i], NULL, many_sends, &w) == 0);
        MUST(pthread_create(&threads[THREADS + i], NULL, many_recvs, &w) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    podipc_sender_free(w.tx);
    for (int i = THREADS; i < 2 * THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    CHECK(atomic_load(&got_by_threads) == THREADS * EACH);
    podipc_receiver_free(w.rx);
    passed++;
}

/* ---- strangers and wrong addresses ---- */

static int raw_connect(const podipc_options *o)
{
    int fd;
    if (method == PODIPC_FIFO) {
        fd = open(o->path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    } else if (method == PODIPC_UNIX) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", o->path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    } else {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(o->port)};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    }
    MUST(fd >= 0);
    return fd;
}

static void put(int fd, const void *data, size_t n)
{
    MUST(write(fd, data, n) == (ssize_t)n);
}

/* A peer that greets and then may lie. */
static int raw_join(const podipc_options *o, uint16_t version)
{
    struct pdi_greeting g;
    int fd = raw_connect(o);
    pdi_greeting_make(&g, PDI_STREAM_SENDER, 77, 0);
    g.version = version;
    put(fd, &g, sizeof g);
    if (method != PODIPC_FIFO) {
        MUST(read(fd, &g, sizeof g) == sizeof g);
        MUST(g.version == PDI_STREAM_VERSION);
    }
    return fd;
}

static void test_strangers(void)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    char text[500];
    int fd = raw_connect(&o);
    put(fd, http, sizeof http - 1);
    CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
    char c;
    CHECK(method == PODIPC_FIFO || read(fd, &c, 1) <= 0); /* hung up on */
    close(fd);
    podipc_receiver_explain(rx, text, sizeof text);
    CHECK(strstr(text, "turned away"));
    /* One that says nothing keeps nobody out. */
    int silent[40];
    if (method != PODIPC_FIFO)
        for (int i = 0; i < 40; i++) {
            silent[i] = raw_connect(&o);
            put(silent[i], "p", 1);
        }
    podipc_sender *tx = sender(&o);
    CHECK(send_words(tx, 1, 0, 100, PATIENCE) == 0);
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    if (method != PODIPC_FIFO)
        for (int i = 0; i < 40; i++)
            close(silent[i]);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    passed++;
}

static void test_other_version(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    int fd = raw_join(&o, 9);
    CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EVERSION);
    CHECK(strstr(err.text, "version 9") && strstr(err.text, "version 1"));
    CHECK(recv_for(rx, &m, SOON) == -EAGAIN);
    close(fd);
    podipc_receiver_free(rx);
    passed++;
}

/* A name of any length that a file may have, which no address of a socket has room for. */
static void test_long_paths(void)
{
    podipc_options o = fresh();
    char directory[150], path[420];
    podipc_receiver *rx;
    podipc_sender *tx;
    if (method == PODIPC_TCP) {
        passed++;
        return;
    }
    (void)snprintf(directory, sizeof directory, "%s/%080d", base, 0);
    MUST(mkdir(directory, 0700) == 0);
    o.path = path;
    for (int n = 10; n < 256; n += 49) { /* up to 255 */
        (void)snprintf(path, sizeof path, "%s/%0*d", n < 50 ? base : directory, n, n);
        rx = receiver(&o);
        CHECK(podipc_receiver_open(&o, &(podipc_receiver *){0}, &err) == -EADDRINUSE);
        tx = sender(&o);
        CHECK(send_words(tx, 1, 0, 10, PATIENCE) == 0);
        CHECK(recv_words(rx, 1, 0, 10, PATIENCE) == 0);
        podipc_sender_free(tx);
        podipc_receiver_free(rx);
        CHECK(access(path, F_OK) < 0);
    }
    (void)snprintf(path, sizeof path, "%s/%0*d", base, 256, 0);
    CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
    CHECK(strstr(err.text, "its last part 256; there is room for 4095 and 255"));
    CHECK(podipc_sender_open(&o, &tx, &err) == PODIPC_EADDRESS);
    char *deep = malloc(5000);
    MUST(deep);
    for (int i = 0; i < 5000; i++)
        deep[i] = i % 100 ? 'a' : '/';
    deep[4096] = '\0';
    o.path = deep;
    CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
    CHECK(podipc_sender_open(&o, &tx, &err) == PODIPC_EADDRESS);
    free(deep);
    MUST(rmdir(directory) == 0);
    CHECK(base_is_empty());
    passed++;
}

/* What a sender meets that connects to a `said` of something else. */
static void test_other_receiver(void)
{
    if (method != PODIPC_TCP) {
        passed++;
        return;
    }
    podipc_options o = fresh();
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(o.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct pdi_greeting g;
    pdi_greeting_make(&g, PDI_STREAM_RECEIVER, 1, 1 << 20);
    g.version = 9;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    MUST(bind(listener, (struct sockaddr *)&a, sizeof a) == 0 && listen(listener, 5) == 0);
    podipc_sender *tx = sender(&o);
    CHECK(send_words(tx, 1, 0, 10, SOON) == -EAGAIN);
    char text[400];
    podipc_sender_explain(tx, text, sizeof text);
    CHECK(strstr(text, "has not answered"));
    int fd = accept(listener, NULL, NULL);
    put(fd, "HTTP/1.1 400 Bad Request\r\n", 26);
    CHECK(send_words(tx, 1, 0, 10, PATIENCE) == PODIPC_EADDRESS);
    CHECK(strstr(err.text, "HTTP/1.1 400"));
    close(fd);
    CHECK(send_words(tx, 1, 0, 10, SOON) == -EAGAIN);
    fd = accept(listener, NULL, NULL);
    put(fd, &g, sizeof g);
    CHECK(send_words(tx, 1, 0, 10, PATIENCE) == PODIPC_EVERSION);
    close(fd);
    close(listener);
    podipc_sender_free(tx);
    passed++;
}

static void test_lies(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    podipc_stats st;
    podipc_tensor t = words(100);
    uint8_t bytes[1024];
    struct pdi_frame_head *head = (void *)bytes;
    for (int lie = 0; lie < 6; lie++) {
        pdi_frame_encode(&t, 0, bytes);
        int64_t shape = 100;
        int want = PODIPC_ECORRUPT;
        size_t size = pdi_frame_head_size(&t);
        switch (lie) {
        case 0:
            head->nbytes = UINT64_C(1) << 63;
            break;
        case 1:
            head->sequence = 5;
            break;
        case 2:
            shape = INT64_MAX;
            break;
        case 3:
            memset(bytes, 0xff, sizeof bytes);
            break;
        case 4: /* no trailer where one should be */
            memset(bytes + size, 1, 808);
            size += 808;
            break;
        default: /* more than the budget: told, and skipped */
            head->nbytes = UINT64_C(1) << 40;
            shape = (int64_t)1 << 40;
            want = PODIPC_EMEMLIMIT;
        }
        if (lie != 3)
            memcpy(bytes + sizeof *head, &shape, sizeof shape);
        int fd = raw_join(&o, PDI_STREAM_VERSION);
        put(fd, bytes, size);
        CHECK(recv_for(rx, &m, PATIENCE) == want);
        CHECK(recv_for(rx, &m, SOON / 6) == -EAGAIN);
        close(fd);
        if (want == PODIPC_EMEMLIMIT)
            CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
    }
    podipc_receiver_stats(rx, &st);
    CHECK(st.reserved < 1 << 20 && st.held == 0 && st.peers == 0);
    podipc_sender *tx = sender(&o);
    CHECK(send_words(tx, 1, 0, 100, PATIENCE) == 0);
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    passed++;
}

static void test_taken(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o), *other;
    CHECK(podipc_receiver_open(&o, &other, &err) == -EADDRINUSE);
    CHECK(err.text[0] && err.sys_errno == EADDRINUSE);
    podipc_sender *tx = sender(&o), *second = sender(&o);
    CHECK(send_words(tx, 1, 0, 100, PATIENCE) == 0);
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    int rc = send_words(second, 2, 0, 100, method == PODIPC_FIFO ? SOON : PATIENCE);
    if (method == PODIPC_FIFO) {
        char why[400];
        podipc_sender_explain(second, why, sizeof why);
        CHECK(rc == -EAGAIN && strstr(why, "one at a time"));
    } else {
        CHECK(rc == 0 && recv_words(rx, 2, 0, 100, PATIENCE) == 0);
    }
    podipc_sender_free(tx);
    if (method == PODIPC_FIFO) {
        podipc_message m;
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
        CHECK(send_words(second, 2, 0, 100, PATIENCE) == 0);
        CHECK(recv_words(rx, 2, 0, 100, PATIENCE) == 0);
    }
    podipc_sender_free(second);
    podipc_receiver_free(rx);
    passed++;
}

static void test_wrong_paths(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx;
    if (method == PODIPC_TCP) {
        o.path = "10.0.0.1";
        CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
        CHECK(strstr(err.text, "loopback"));
        o.path = "127.0.0.1";
        o.port = 0;
        CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
        passed++;
        return;
    }
    char target[200];
    (void)snprintf(target, sizeof target, "%s/target", base);
    for (int what = 0; what < 3; what++) {
        static const char *const names[] = {"a regular file", "a directory", "a symbolic link"};
        if (what == 0)
            close(open(o.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        else
            MUST((what == 1 ? mkdir(o.path, 0700) : symlink(target, o.path)) == 0);
        CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
        CHECK(strstr(err.text, names[what]));
        podipc_sender *tx = sender(&o);
        CHECK(send_words(tx, 1, 0, 100, PATIENCE) == PODIPC_EADDRESS);
        CHECK(strstr(err.text, names[what]));
        podipc_sender_free(tx);
        MUST((what == 1 ? rmdir(o.path) : unlink(o.path)) == 0);
        CHECK(access(target, F_OK) < 0);
    }
    o.path = "/nonexistent/dir/x";
    CHECK(podipc_receiver_open(&o, &rx, &err) == -ENOENT);
    o.path = "";
    CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
    o = fresh();
    o.broadcast = true;
    CHECK(podipc_receiver_open(&o, &rx, &err) == PODIPC_EADDRESS);
    CHECK(strstr(err.text, "shm://"));
    CHECK(base_is_empty());
    passed++;
}

static void test_mode(void)
{
    if (method == PODIPC_TCP) {
        passed++;
        return;
    }
    static const uint32_t modes[] = {0600, 0660, 0666};
    mode_t before = umask(077);
    for (int i = 0; i < 3; i++) {
        podipc_options o = fresh();
        struct stat st;
        o.mode = modes[i];
        podipc_receiver *rx = receiver(&o);
        CHECK(lstat(o.path, &st) == 0 && (st.st_mode & 07777) == modes[i]);
        /* Also the FIFO of the next sender. */
        podipc_sender *tx = sender(&o);
        podipc_message m;
        CHECK(send_words(tx, 1, 0, 10, PATIENCE) == 0);
        CHECK(recv_words(rx, 1, 0, 10, PATIENCE) == 0);
        podipc_sender_free(tx);
        CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
        CHECK(lstat(o.path, &st) == 0 && (st.st_mode & 07777) == modes[i]);
        podipc_receiver_free(rx);
    }
    if (geteuid() == 0) {
        podipc_options o = fresh();
        podipc_receiver *rx = receiver(&o);
        pid_t pid = fork_alone();
        if (pid == 0) {
            MUST(setresgid(1001, 1001, 1001) == 0 && setresuid(1001, 1001, 1001) == 0);
            podipc_sender *tx = sender(&o);
            MUST(send_words(tx, 1, 0, 10, PATIENCE) == -EACCES);
            MUST(strstr(err.text, "UID 0") && strstr(err.text, "UID 1001"));
            MUST(strstr(err.text, "mode=0o666"));
            _exit(0);
        }
        CHECK(ended_well(pid));
        podipc_receiver_free(rx);
    }
    umask(before);
    passed++;
}

/* ---- fork, descriptors ---- */

static void test_fork(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_sender *tx = sender(&o);
    CHECK(send_words(tx, 1, 0, 100, PATIENCE) == 0);
    int go[2];
    MUST(pipe(go) == 0);
    pid_t pid = fork_alone();
    if (pid == 0) {
        podipc_message m;
        char c;
        MUST(send_words(tx, 1, 9, 100, SOON) == PODIPC_EFORKED);
        MUST(recv_for(rx, &m, SOON) == PODIPC_EFORKED);
        (void)podipc_sender_close(tx);
        podipc_receiver_close(rx);
        MUST(read(go[0], &c, 1) == 1);
        podipc_sender_free(tx);
        podipc_receiver_free(rx);
        _exit(0);
    }
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    CHECK(send_words(tx, 1, 1, 100, PATIENCE) == 0);
    CHECK(recv_words(rx, 1, 1, 100, PATIENCE) == 0);
    podipc_sender_free(tx);
    podipc_message m;
    CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
    podipc_receiver_free(rx);
    rx = receiver(&o); /* nothing is kept by the child */
    podipc_receiver_free(rx);
    MUST(write(go[1], "x", 1) == 1);
    CHECK(ended_well(pid));
    close(go[0]);
    close(go[1]);
    passed++;
}

/* A sender that forks and is killed: its child must not keep it alive. */
static void child_forks(struct order *order)
{
    podipc_sender *tx = sender(&order->o);
    MUST(send_words(tx, 1, 0, 100, PATIENCE) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)sleep(5); /* it is nobody's to kill */
        _exit(0);
    }
    say(order);
    (void)pause();
}

static void test_child_outlives(void)
{
    podipc_options o = fresh();
    podipc_receiver *rx = receiver(&o);
    podipc_message m;
    int said;
    pid_t pid = start(child_forks, (struct order){o, .who = 1}, &said);
    CHECK(recv_words(rx, 1, 0, 100, PATIENCE) == 0);
    heard(said);
    killed(pid);
    int64_t start_at = pdi_now();
    CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_EPEERDIED);
    CHECK(pdi_now() - start_at < 4 * INT64_C(1000000000)); /* that child lives for 5 s */
    podipc_receiver_free(rx);
    passed++;
}

static void test_descriptors(void)
{
    podipc_options o = fresh();
    int before = open_files();
    for (uint64_t i = 0; i < 100; i++) {
        podipc_receiver *rx = receiver(&o);
        for (uint64_t k = 0; k < 3; k++) {
            podipc_sender *tx = sender(&o);
            podipc_message m;
            CHECK(send_words(tx, i, k, 10, PATIENCE) == 0);
            CHECK(recv_words(rx, i, k, 10, PATIENCE) == 0);
            podipc_sender_free(tx);
            CHECK(recv_for(rx, &m, PATIENCE) == PODIPC_ECLOSED);
        }
        podipc_receiver_free(rx);
    }
    CHECK(open_files() == before);
    CHECK(base_is_empty());
    passed++;
}

/* Arguments: method and index of the one test to run, to look into a failure. */
int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_DFL);
    (void)snprintf(base, sizeof base, "/tmp/podipc-c-%d", (int)getpid());
    MUST(mkdir(base, 0755) == 0);
    static const podipc_method methods[] = {PODIPC_TCP, PODIPC_UNIX, PODIPC_FIFO};
    static void (*const tests[])(void) = {
        test_kinds_of_tensors,
        test_sizes_and_order,
        test_sender_first,
        test_nobody_there,
        test_many_senders,
        test_dead_sender,
        test_closed_and_died,
        test_dead_receiver,
        test_receiver_closes,
        test_receiver_closes_in_mid_frame,
        test_both_restart,
        test_timeout_in_mid_frame,
        test_goodbye_to_a_slow_receiver,
        test_budget,
        test_loans,
        test_close_ends_waits,
        test_threads,
        test_strangers,
        test_other_version,
        test_long_paths,
        test_other_receiver,
        test_lies,
        test_taken,
        test_wrong_paths,
        test_mode,
        test_fork,
        test_child_outlives,
        test_descriptors,
    };
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        for (size_t k = 0; k < sizeof tests / sizeof *tests; k++) {
            method = methods[i];
            if (argc > 2 && (atoi(argv[1]) != (int)method || atoi(argv[2]) != (int)k))
                continue;
            err.text[0] = '\0';
            if (getenv("VERBOSE"))
                fprintf(stderr, "method %d, test %zu\n", (int)method, k);
            tests[k]();
        }
    (void)rmdir(base);
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
