/* test_shm.c - the whole shm method through podipc.h: real processes, killed for
 * real. What a peer that lies can do is in test_shm_hostile.c, threads in
 * test_shm_threads.c. */
#include <fcntl.h>
#include <pthread.h>

#include "check.h"
#include "core/atomics.h"
#include "core/layout.h"
#include "place.h"
#include "podipc.h"

static podipc_options options(const char *path)
{
    return (podipc_options){
        .method = PODIPC_SHM, .path = path, .mode = 0600, .max_bytes = UINT64_C(256) << 20};
}

static podipc_sender *open_tx(podipc_options o)
{
    podipc_sender *tx;
    podipc_error err;
    if (podipc_sender_open(&o, &tx, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return tx;
}

static podipc_receiver *open_rx(podipc_options o)
{
    podipc_receiver *rx;
    podipc_error err;
    if (podipc_receiver_open(&o, &rx, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return rx;
}

static podipc_tensor vector(uint64_t n)
{
    return (podipc_tensor){
        .nbytes = n, .ndim = 1, .type = "|u1", .type_len = 3, .shape = {(int64_t)n}};
}

/* Sends n bytes until `until`; the code. */
static int send_until(podipc_sender *tx, const void *data, uint64_t n, int64_t until)
{
    podipc_tensor t = vector(n);
    podipc_sending s = {.tensor = &t, .data = data};
    int rc;
    do
        rc = podipc_send(tx, &s, until, NULL, NULL);
    while (rc == -EAGAIN && pdi_now() < until);
    if (rc == -EAGAIN)
        podipc_send_cancel(tx, &s);
    return rc;
}

static int send_soon(podipc_sender *tx, const void *data, uint64_t n)
{
    return send_until(tx, data, n, pdi_now() + PATIENCE);
}

static int recv_until(podipc_receiver *rx, podipc_message *m, int64_t until)
{
    int rc;
    do
        rc = podipc_recv(rx, until, m, NULL);
    while (rc == -EAGAIN && pdi_now() < until);
    return rc;
}

static int recv_soon(podipc_receiver *rx, podipc_message *m)
{
    return recv_until(rx, m, pdi_now() + PATIENCE);
}

static podipc_stats tx_stats(podipc_sender *tx)
{
    podipc_stats st;
    podipc_sender_stats(tx, &st);
    return st;
}

static podipc_stats rx_stats(podipc_receiver *rx)
{
    podipc_stats st;
    podipc_receiver_stats(rx, &st);
    return st;
}

static char bytes[64 << 20];

/* ---- one tensor ---- */

static void test_one_tensor(void)
{
    char *path = place_path("one");
    pid_t child = fork_child();
    if (child == 0) {
        podipc_sender *tx = open_tx(options(path));
        podipc_tensor t = vector(5);
        podipc_loan loan;
        podipc_sending s = {.tensor = &t, .loan = &loan};
        bool good = send_soon(tx, "hello", 6) == 0;
        int rc;
        while ((rc = podipc_loan_get(tx, &t, pdi_now() + PATIENCE, &loan, NULL)) == -EAGAIN)
            ;
        good &= rc == 0 && (uintptr_t)loan.data % PODIPC_TENSOR_ALIGN == 0;
        memcpy(loan.data, "there", 5);
        good &= podipc_send(tx, &s, pdi_now() + PATIENCE, NULL, NULL) == 0;
        podipc_loan_let_go(tx, &loan);
        good &= send_soon(tx, "", 0) == 0;
        podipc_sender_close(tx);
        podipc_sender_free(tx);
        _exit(good ? 0 : 1);
    }
    podipc_receiver *rx = open_rx(options(path));
    podipc_message m[3];
    for (int i = 0; i < 3; i++)
        CHECK(recv_soon(rx, &m[i]) == 0);
    CHECK(m[0].tensor.nbytes == 6 && memcmp(m[0].data, "hello", 6) == 0);
    CHECK(m[1].tensor.nbytes == 5 && memcmp(m[1].data, "there", 5) == 0);
    CHECK(m[2].tensor.nbytes == 0 && m[2].tensor.ndim == 1 && m[2].tensor.shape[0] == 0);
    CHECK(m[0].tensor.type_len == 3 && memcmp(m[0].tensor.type, "|u1", 3) == 0);
    CHECK((uintptr_t)m[0].data % PODIPC_TENSOR_ALIGN == 0);
    CHECK(rx_stats(rx).held == 3);
    podipc_message none;
    CHECK(recv_soon(rx, &none) == PODIPC_ECLOSED);
    CHECK(end_of(child) == 0);
    /* The sender is gone; what it gave stays until it is let go. */
    CHECK(memcmp(m[0].data, "hello", 6) == 0 && memcmp(m[1].data, "there", 5) == 0);
    void *copy;
    CHECK(podipc_map_private(rx, &m[1], &copy, NULL) == 0);
    memcpy(copy, "mine!", 5);
    CHECK(memcmp(m[1].data, "there", 5) == 0);
    podipc_unmap_private(rx, &m[1], copy);
    podipc_receiver_close(rx);
    CHECK(memcmp(m[0].data, "hello", 6) == 0);
    for (int i = 0; i < 3; i++)
        podipc_release(rx, &m[i]);
    podipc_receiver_free(rx);
    CHECK(access(path, F_OK) < 0 && errno == ENOENT);
    free(path);
}

/* ---- waits that must end ---- */

static void test_what_fits_the_budget_is_sent(void)
{
    /* Budgets that are no multiple of a page or of a size class. */
    static const struct {
        uint64_t budget, n;
    } cases[] = {{65536, 50000}, {70000, 69999}, {6000, 4000},    {100, 64},
                 {4096, 4096},   {4097, 4097},   {131072, 65537}, {1 << 20, 1 << 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = place_path("budget");
        podipc_options o = options(path);
        podipc_receiver *rx = open_rx(o);
        o.max_bytes = cases[i].budget;
        podipc_sender *tx = open_tx(o);
        MUST(EVENTUALLY(tx_stats(tx).peers == 1));
        /* Sent, or refused for good: what must not be is a wait without an end. */
        int rc = send_until(tx, bytes, cases[i].n, pdi_now() + INT64_C(3000000000));
        CHECK(rc == 0 || rc == PODIPC_EMEMLIMIT);
        if (rc == -EAGAIN)
            fprintf(stderr, "max_bytes=%d, tensor of %d: waits for ever\n", (int)cases[i].budget,
                    (int)cases[i].n);
        podipc_sender_free(tx);
        podipc_receiver_free(rx);
        free(path);
    }
}

/* A consumer that keeps the last tensor while it waits for the next one (as `x =
 * rx.recv()` in a loop does) must not keep more than that from the budget. */
static void test_a_held_tensor_keeps_its_own_memory_only(void)
{
    static const struct {
        uint64_t budget, first, then;
    } cases[] = {
        {64 << 20, 8 << 20, 16 << 20}, {64 << 10, 64, 40 << 10}, {4 << 20, 100000, 3 << 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = place_path("held");
        podipc_options o = options(path);
        podipc_receiver *rx = open_rx(o);
        o.max_bytes = cases[i].budget;
        podipc_sender *tx = open_tx(o);
        podipc_message last, m;
        MUST(EVENTUALLY(tx_stats(tx).peers == 1));
        for (int j = 0; j < 8; j++)
            CHECK(send_soon(tx, bytes, cases[i].first) == 0);
        for (int j = 0; j < 8; j++) {
            CHECK(recv_soon(rx, &m) == 0);
            if (j > 0)
                podipc_release(rx, &last);
            last = m;
        }
        int rc = send_until(tx, bytes, cases[i].then, pdi_now() + INT64_C(3000000000));
        CHECK(rc == 0);
        if (rc == -EAGAIN)
            fprintf(stderr,
                    "one tensor of %d bytes held, %d bytes of %d reserved: no room for %d\n",
                    (int)cases[i].first, (int)tx_stats(tx).reserved, (int)cases[i].budget,
                    (int)cases[i].then);
        podipc_release(rx, &last);
        podipc_sender_free(tx);
        podipc_receiver_free(rx);
        free(path);
    }
}

static void test_every_ticket_is_out(void)
{
    char *path = place_path("tickets");
    podipc_receiver *rx = open_rx(options(path));
    podipc_sender *tx = open_tx(options(path));
    podipc_message *held = calloc(PDI_RETURN_SLOTS, sizeof *held);
    MUST(held);
    bool good = true;
    for (uint32_t i = 0; i < PDI_RETURN_SLOTS; i++) {
        good &= send_soon(tx, &i, sizeof i) == 0 && recv_soon(rx, &held[i]) == 0;
        MUST(good);
    }
    uint32_t one_more = PDI_RETURN_SLOTS;
    podipc_tensor t = vector(sizeof one_more);
    podipc_sending s = {.tensor = &t, .data = &one_more};
    CHECK(podipc_send(tx, &s, 0, NULL, NULL) == -EAGAIN);
    for (uint32_t i = 0; i < PDI_RETURN_SLOTS; i++) {
        good &= *(const uint32_t *)held[i].data == i;
        podipc_release(rx, &held[i]);
    }
    CHECK(good);
    int rc;
    int64_t end = pdi_now() + INT64_C(3000000000);
    while ((rc = podipc_send(tx, &s, end, NULL, NULL)) == -EAGAIN && pdi_now() < end)
        ;
    CHECK(rc == 0);
    if (rc == -EAGAIN)
        podipc_send_cancel(tx, &s);
    free(held);
    podipc_sender_free(tx);
    podipc_receiver_free(rx);
    free(path);
}

/* Many threads wait in recv(); close() must end them all, long before `until`. */
static void *wait_in_recv(void *arg)
{
    podipc_message m;
    int rc;
    while ((rc = podipc_recv(arg, pdi_now() + PATIENCE / 3, &m, NULL)) == 0)
        podipc_release(arg, &m);
    return rc == PODIPC_ECLOSED ? arg : NULL;
}

static void test_close_ends_every_wait(void)
{
    static const podipc_wait waits[] = {PODIPC_WAIT_ADAPTIVE, PODIPC_WAIT_BLOCK,
                                        PODIPC_WAIT_SEMAPHORE};
    for (size_t i = 0; i < 3; i++) {
        char *path = place_path("close");
        podipc_options o = options(path);
        o.wait = waits[i];
        podipc_receiver *rx = open_rx(o);
        podipc_sender *tx = open_tx(o);
        pthread_t threads[8];
        for (int k = 0; k < 8; k++)
            MUST(pthread_create(&threads[k], NULL, wait_in_recv, rx) == 0);
        CHECK(send_soon(tx, bytes, 10) == 0);
        nap(100000000);
        int64_t start = pdi_now();
        podipc_receiver_close(rx);
        for (int k = 0; k < 8; k++) {
            void *result;
            MUST(pthread_join(threads[k], &result) == 0);
            CHECK(result == rx);
        }
        CHECK(pdi_now() - start < PATIENCE / 6);
        podipc_sender_free(tx);
        podipc_receiver_free(rx);
        free(path);
    }
}

/* As many messages as threads that sleep: each of them must get one. */
static void *receive_one(void *arg)
{
    podipc_message m;
    int rc = podipc_recv(arg, pdi_now() + PATIENCE / 3, &m, NULL);
    if (rc == 0)
        podipc_release(arg, &m);
    return rc == 0 ? arg : NULL;
}

static void test_no_sleeper_is_forgotten(void)
{
    static const podipc_wait waits[] = {PODIPC_WAIT_BLOCK, PODIPC_WAIT_SEMAPHORE};
    for (size_t i = 0; i < 2; i++)
        for (int round = 0; round < 10; round++) {
            char *path = place_path("sleepers");
            podipc_options o = options(path);
            o.wait = waits[i];
            podipc_receiver *rx = open_rx(o);
            podipc_sender *tx = open_tx(o);
            MUST(EVENTUALLY(tx_stats(tx).peers == 1));
            pthread_t threads[4];
            for (int k = 0; k < 4; k++)
                MUST(pthread_create(&threads[k], NULL, receive_one, rx) == 0);
            nap(20000000);
            int64_t start = pdi_now();
            for (int k = 0; k < 4; k++)
                CHECK(send_soon(tx, bytes, 10) == 0);
            for (int k = 0; k < 4; k++) {
                void *result;
                MUST(pthread_join(threads[k], &result) == 0);
                CHECK(result == rx);
            }
            bool soon = pdi_now() - start < PATIENCE / 6;
            CHECK(soon);
            podipc_sender_free(tx);
            podipc_receiver_free(rx);
            free(path);
            if (!soon)
                break;
        }
}

/* ---- the directory ---- */

static void test_what_the_user_made_stays(void)
{
    char *above = place_path("own"), *path, *file;
    MUST(asprintf(&path, "%s/frames", above) > 0 && asprintf(&file, "%s/rx.csv", path) > 0);
    MUST(mkdir(above, 0750) == 0 && mkdir(path, 0700) == 0);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);
    MUST(fd >= 0 && write(fd, "1,2,3\n", 6) == 6);
    close(fd);
    for (int round = 0; round < 2; round++) {
        podipc_sender *tx = open_tx(options(path));
        podipc_receiver *rx = open_rx(options(path));
        CHECK(send_soon(tx, bytes, 10) == 0);
        podipc_sender_free(tx);
        podipc_receiver_free(rx);
        CHECK(round > 0 || access(file, F_OK) == 0);
        /* Now with nothing in the way of removing the channel's directory. */
        (void)unlink(file);
    }
    /* Neither is podipc's: owner and mode would be lost. */
    CHECK(rmdir(path) == 0);
    CHECK(access(above, F_OK) == 0);
    /* One that podipc has made goes. */
    podipc_sender_free(open_tx(options(path)));
    CHECK(access(path, F_OK) < 0);
    (void)rmdir(above);
    free(file);
    free(path);
    free(above);
}

/* Who is killed between bind() and rename() leaves a hidden socket, which nobody can
 * tell from one in the making for some seconds. */
static void nothing_left(const char *path, bool killed_while_opening)
{
    int left = names_in(path, !killed_while_opening);
    CHECK(left == 0);
    CHECK(killed_while_opening || access(path, F_OK) < 0);
    if (left > 0)
        fprintf(stderr, "%d names left in %s\n", left, path);
    (void)place_clear(path);
}

static void test_nothing_is_left_of_the_dead(void)
{
    for (int sender_dies = 0; sender_dies < 2; sender_dies++) {
        char *path = place_path("left");
        _Atomic int *ready = common(4096);
        pid_t child = fork_child();
        if (child == 0) {
            podipc_message m;
            podipc_sender *tx = sender_dies ? open_tx(options(path)) : NULL;
            podipc_receiver *rx = sender_dies ? NULL : open_rx(options(path));
            MUST(tx ? send_soon(tx, "hello", 6) == 0 : recv_soon(rx, &m) == 0);
            *ready = 1;
            for (;;)
                pause();
        }
        podipc_message m;
        podipc_sender *tx = sender_dies ? NULL : open_tx(options(path));
        podipc_receiver *rx = sender_dies ? open_rx(options(path)) : NULL;
        MUST(tx ? send_soon(tx, "hello", 6) == 0 : recv_soon(rx, &m) == 0);
        MUST(EVENTUALLY(*ready));
        kill_child(child);
        if (tx) {
            int rc = send_until(tx, bytes, 10, pdi_now() + PATIENCE);
            CHECK(rc == PODIPC_EPEERDIED);
            CHECK(tx_stats(tx).held == 0 && tx_stats(tx).peers_died == 1);
            podipc_sender_free(tx);
        } else {
            podipc_release(rx, &m);
            CHECK(recv_soon(rx, &m) == PODIPC_EPEERDIED);
            CHECK(recv_until(rx, &m, pdi_now() + 1) == -EAGAIN);
            podipc_receiver_free(rx);
        }
        nothing_left(path, false);
        munmap((void *)(uintptr_t)ready, 4096);
        free(path);
    }
}

/* ---- fork ---- */

/* A receiver that has closed but still holds a tensor forks, and dies. What it
 * held must come back although its child lives on. */
static void test_a_child_does_not_keep_the_memory(void)
{
    char *path = place_path("child");
    _Atomic int *grandchild = common(4096);
    pid_t child = fork_child();
    if (child == 0) {
        podipc_receiver *rx = open_rx(options(path));
        podipc_message m;
        MUST(recv_soon(rx, &m) == 0);
        podipc_receiver_close(rx);
        pid_t pid = fork();
        MUST(pid >= 0);
        if (pid == 0) {
            nap(2 * PATIENCE);
            _exit(0);
        }
        *grandchild = pid;
        for (;;)
            pause();
    }
    podipc_sender *tx = open_tx(options(path));
    CHECK(send_soon(tx, "hello", 6) == 0);
    MUST(EVENTUALLY(*grandchild));
    CHECK(tx_stats(tx).held == 1);
    kill_child(child);
    int64_t end = pdi_now() + INT64_C(3000000000);
    while (tx_stats(tx).held > 0 && pdi_now() < end)
        nap(1000000);
    CHECK(tx_stats(tx).held == 0);
    kill((pid_t)*grandchild, SIGKILL);
    podipc_sender_free(tx);
    munmap((void *)(uintptr_t)grandchild, 4096);
    (void)place_clear(path);
    free(path);
}

/* ---- killed at random ---- */

struct head {
    uint64_t life, n, size, sum;
};

static uint64_t sum_of(const uint64_t *words, uint64_t count, uint64_t seed)
{
    for (uint64_t i = 0; i < count; i++)
        seed = (seed ^ words[i]) * UINT64_C(0x100000001b3);
    return seed;
}

static void make(void *at, uint64_t life, uint64_t n, uint64_t size)
{
    uint64_t *words = at, seed = life << 32 ^ n;
    struct head *head = at;
    for (uint64_t i = sizeof *head / 8; i < size / 8; i++)
        words[i] = check_random(&seed);
    *head = (struct head){.life = life, .n = n, .size = size};
    head->sum = sum_of(words + sizeof *head / 8, (size - sizeof *head) / 8, life ^ n ^ size);
}

static bool whole(const podipc_message *m)
{
    const struct head *head = m->data;
    return m->tensor.nbytes >= sizeof *head && head->size == m->tensor.nbytes &&
           head->sum == sum_of((const uint64_t *)m->data + sizeof *head / 8,
                               (head->size - sizeof *head) / 8, head->life ^ head->n ^ head->size);
}

enum { LIVES = 1 << 16 };

/* Each word is written by one process at a time. */
struct soak {
    _Atomic uint64_t committed;   /* by the sender alive: n of its last message */
    _Atomic uint64_t tx_died;     /* times send() said PeerDied */
    _Atomic uint64_t life;        /* by the receiver alive: what came last */
    _Atomic uint64_t last[LIVES]; /* and of each sender: the order holds for each by itself */
    _Atomic uint64_t rx_life;     /* which receiver wrote that */
    _Atomic uint64_t rx_died;     /* times recv() said PeerDied */
    _Atomic uint64_t received;    /* in all */
    _Atomic uint64_t gaps;        /* messages that did not come after a receiver's death */
    _Atomic int torn, disorder, unexpected, stop;
};

static _Noreturn void soak_sender(const char *path, struct soak *s, uint64_t life, uint64_t seed)
{
    static const uint64_t sizes[] = {32, 64, 256, 4000, 4104, 40000, 70000, 300000};
    podipc_sender *tx = open_tx(options(path));
    s->committed = 0;
    for (uint64_t n = 1; !s->stop; n++) {
        uint64_t r = check_random(&seed), size = sizes[r % 64 < 60 ? r % 5 : r % 8];
        make(bytes, life, n, size);
        int rc;
        do {
            rc = send_until(tx, bytes, size, pdi_now() + 50000000);
            if (rc == PODIPC_EPEERDIED)
                s->tx_died++;
        } while ((rc == -EAGAIN || rc == PODIPC_EPEERDIED) && !s->stop);
        if (rc == 0)
            s->committed = n;
        else if (!s->stop) {
            fprintf(stderr, "send: %d\n", rc);
            s->unexpected = rc;
        }
        if (r >> 40 < 2000) /* at times the receiver catches up and sleeps */
            nap(200000);
    }
    /* Whatever was held came back. */
    bool back = EVENTUALLY(tx_stats(tx).held == 0 && tx_stats(tx).queued == 0);
    podipc_sender_free(tx);
    _exit(back ? 0 : 1);
}

static _Noreturn void soak_receiver(const char *path, struct soak *s, uint64_t rx_life,
                                    uint64_t seed)
{
    enum { HELD = 8 };
    podipc_receiver *rx = open_rx(options(path));
    podipc_message held[HELD];
    uint64_t count = 0, seen = 0;
    for (;;) {
        podipc_message m;
        int rc = recv_until(rx, &m, pdi_now() + 50000000);
        if (rc == PODIPC_EPEERDIED)
            s->rx_died++;
        for (; s->stop && count > 0; podipc_release(rx, &held[count]))
            if (!whole(&held[--count]))
                s->torn++;
        if (rc == PODIPC_ECLOSED && s->stop)
            break;
        if (rc != 0) {
            if (rc != -EAGAIN && rc != PODIPC_EPEERDIED && rc != PODIPC_ECLOSED) {
                fprintf(stderr, "recv: %d\n", rc);
                s->unexpected = rc;
            }
            continue;
        }
        const struct head *head = m.data;
        if (!whole(&m)) {
            fprintf(stderr, "torn: life %d n %d\n", (int)head->life, (int)head->n);
            s->torn++;
        }
        /* In order; without a gap unless the receiver before died with it in hand. */
        uint64_t last = s->last[head->life % LIVES];
        bool mine = seen == head->life;
        if (head->n <= last || (mine && head->n != last + 1)) {
            fprintf(stderr, "receiver %d: sender %d message %d after its %d\n", (int)rx_life,
                    (int)head->life, (int)head->n, (int)last);
            s->disorder++;
        } else if (last > 0) {
            s->gaps += head->n - last - 1;
        }
        seen = head->life;
        s->rx_life = rx_life;
        s->life = head->life;
        s->last[head->life % LIVES] = head->n;
        s->received++;
        if (s->stop) {
            podipc_release(rx, &m);
            continue;
        }
        if (count < HELD) {
            held[count++] = m;
            continue;
        }
        uint64_t i = check_random(&seed) % HELD;
        if (!whole(&held[i]))
            s->torn++;
        podipc_release(rx, &held[i]);
        held[i] = m;
    }
    podipc_receiver_free(rx);
    _exit(0);
}

static pid_t start(const char *path, struct soak *s, bool sender, uint64_t life, uint64_t seed)
{
    pid_t child = fork_child();
    if (child == 0 && sender)
        soak_sender(path, s, life, seed);
    if (child == 0)
        soak_receiver(path, s, life, seed);
    return child;
}

static void test_killed_at_random(uint64_t seed)
{
    const char *given = getenv("PODIPC_SOAK_SECONDS");
    int64_t end = pdi_now() + (int64_t)((given ? strtod(given, NULL) : 3) * 1e9);
    char *path = place_path("soak");
    struct soak *s = common(sizeof *s);
    uint64_t tx_life = 1, rx_life = 1, tx_kills = 0, rx_kills = 0;
    bool exact = true;
    pid_t tx = start(path, s, true, tx_life, check_random(&seed));
    pid_t rx = start(path, s, false, rx_life, check_random(&seed));
    while (pdi_now() < end && checks_failed == 0) {
        bool kill_sender = check_random(&seed) % 2;
        bool settled = check_random(&seed) % 3 > 0; /* else even while hands are shaken */
        nap((int64_t)(check_random(&seed) % 30000000));
        if (settled) {
            MUST(EVENTUALLY(s->life == tx_life && s->rx_life == rx_life));
            nap(20000000); /* what a dead receiver left has been handed on by now */
        }
        uint64_t tx_died = s->tx_died, rx_died = s->rx_died;
        kill_child(kill_sender ? tx : rx);
        *(kill_sender ? &tx_kills : &rx_kills) += 1;
        if (kill_sender && settled) {
            /* Everything it had committed comes, then one PeerDied. */
            CHECK(EVENTUALLY(s->rx_died > rx_died));
            CHECK(!exact || s->rx_died == rx_died + 1);
            CHECK(exact || EVENTUALLY(s->last[tx_life % LIVES] >= s->committed));
            uint64_t last = s->last[tx_life % LIVES];
            CHECK(last == s->committed || last == s->committed + 1);
        } else if (settled) {
            CHECK(EVENTUALLY(s->tx_died > tx_died));
            CHECK(s->tx_died == tx_died + 1);
        }
        /* Of one that was killed while it joined nobody knows whether it had. */
        if (kill_sender)
            exact = settled;
        if (kill_sender)
            tx = start(path, s, true, ++tx_life, check_random(&seed));
        else
            rx = start(path, s, false, ++rx_life, check_random(&seed));
    }
    MUST(EVENTUALLY(s->life == tx_life && s->rx_life == rx_life));
    s->stop = 1;
    CHECK(end_of(tx) == 0);
    CHECK(end_of(rx) == 0);
    CHECK(s->torn == 0);
    CHECK(s->disorder == 0);
    CHECK(s->unexpected == 0);
    CHECK(s->rx_died <= tx_kills && s->tx_died <= rx_kills);
    CHECK(s->gaps <= rx_kills); /* at most the one that was in its hands */
    printf("%d senders and %d receivers killed, %d messages came\n", (int)tx_kills, (int)rx_kills,
           (int)s->received);
    nothing_left(path, true);
    munmap(s, sizeof *s);
    free(path);
}

int main(void)
{
    uint64_t seed = check_seed();
    place_begin("shm");
    test_one_tensor();
    test_killed_at_random(seed);
    test_nothing_is_left_of_the_dead();
    test_what_the_user_made_stays();
    test_what_fits_the_budget_is_sent();
    test_a_held_tensor_keeps_its_own_memory_only();
    test_every_ticket_is_out();
    test_a_child_does_not_keep_the_memory();
    test_close_ends_every_wait();
    test_no_sleeper_is_forgotten();
    place_end();
    return checks_done();
}
