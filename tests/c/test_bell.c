/* test_bell.c - no wake-up is lost between two processes that sleep in turn; a
 * signal and a deadline end a sleep. */
#include "platform/bell.h"

#include <pthread.h>

#include "check.h"
#include "place.h"

enum { ROUNDS = 100000 };

struct end {
    struct pdi_door door;
    struct pdi_bell bell;
    _Alignas(64) pdi_word64 said; /* by the owner of this end */
};

struct table {
    struct end end[2];
    _Atomic uint64_t slept;
};

/* Waits until the other has said `n`: the sleeper's side as bell.h tells it. False if
 * it did not come within PATIENCE. */
static bool hear(struct table *t, int me, uint64_t n, bool semaphore)
{
    struct end *mine = &t->end[me];
    const struct end *other = &t->end[!me];
    int64_t until = pdi_now() + PATIENCE;
    bool heard = pdi_observe64(&other->said) >= n;
    if (heard)
        return true;
    pdi_poke32(&mine->door.asleep, 1);
    while (!heard) {
        uint32_t seen = pdi_observe32(&mine->bell.rings);
        pdi_store_load_fence();
        heard = pdi_observe64(&other->said) >= n;
        if (heard || pdi_now() >= until)
            break;
        (void)pdi_bell_sleep(&mine->bell, semaphore, seen, until);
        t->slept++;
    }
    pdi_poke32(&mine->door.asleep, 0);
    return heard;
}

static void say(struct table *t, int me, uint64_t n, bool semaphore)
{
    pdi_publish64(&t->end[me].said, n);
    pdi_bell_call(&t->end[!me].door, &t->end[!me].bell, semaphore);
}

static bool play(struct table *t, int me, bool semaphore)
{
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        if (me == 0)
            say(t, me, n, semaphore);
        if (!hear(t, me, n, semaphore))
            return false;
        if (me == 1)
            say(t, me, n, semaphore);
    }
    return true;
}

static void test_ping_pong(bool semaphore)
{
    struct table *t = common(sizeof *t);
    CHECK(pdi_bell_init(&t->end[0].bell, semaphore) == 0);
    CHECK(pdi_bell_init(&t->end[1].bell, semaphore) == 0);
    pid_t child = fork_child();
    if (child == 0)
        _exit(play(t, 1, semaphore) ? 0 : 1);
    CHECK(play(t, 0, semaphore));
    CHECK(end_of(child) == 0);
    CHECK(t->slept > 0);
    munmap(t, sizeof *t);
}

static void test_deadline(bool semaphore)
{
    struct end *e = common(sizeof *e);
    CHECK(pdi_bell_init(&e->bell, semaphore) == 0);
    int64_t start = pdi_now();
    CHECK(pdi_bell_sleep(&e->bell, semaphore, 0, start + 30000000) == 0);
    CHECK(pdi_now() - start >= 30000000);
    CHECK(pdi_bell_sleep(&e->bell, semaphore, 0, start) == 0); /* long past */
    CHECK(pdi_bell_sleep(&e->bell, semaphore, 0, 1) == 0);
    /* A ring before the sleep ends it at once. */
    pdi_bell_ring(&e->bell, semaphore, 1);
    start = pdi_now();
    CHECK(pdi_bell_sleep(&e->bell, semaphore, 0, start + PATIENCE) == 0);
    CHECK(pdi_now() - start < PATIENCE);
    if (!semaphore) /* the count has moved on: no sleep at all */
        CHECK(pdi_bell_sleep(&e->bell, false, 0, INT64_MAX) == 0);
    munmap(e, sizeof *e);
}

static void on_signal(int number)
{
    (void)number;
}

struct sleeper {
    struct end *e;
    bool semaphore;
    _Atomic int asleep, result;
};

static void *sleep_long(void *arg)
{
    struct sleeper *s = arg;
    s->asleep = 1;
    s->result = pdi_bell_sleep(&s->e->bell, s->semaphore, 0, pdi_now() + PATIENCE);
    s->asleep = 2;
    return NULL;
}

static void test_a_signal_ends_a_sleep(bool semaphore)
{
    struct sleeper s = {.e = common(sizeof *s.e), .semaphore = semaphore};
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pdi_bell_init(&s.e->bell, semaphore) == 0);
    pthread_t thread;
    int64_t start = pdi_now();
    MUST(pthread_create(&thread, NULL, sleep_long, &s) == 0);
    MUST(EVENTUALLY(s.asleep));
    while (s.asleep < 2 && pdi_now() - start < PATIENCE) { /* the first may come too early */
        nap(5000000);
        pthread_kill(thread, SIGUSR1);
    }
    MUST(pthread_join(thread, NULL) == 0);
    CHECK(s.result == -EINTR);
    CHECK(pdi_now() - start < PATIENCE);
    munmap(s.e, sizeof *s.e);
}

/* As many sleepers as there are must wake, not one of them. */
static void test_all_wake(bool semaphore)
{
    enum { N = 6 };
    struct end *e = common(sizeof *e);
    struct sleeper s[N];
    pthread_t threads[N];
    CHECK(pdi_bell_init(&e->bell, semaphore) == 0);
    int64_t start = pdi_now();
    for (int i = 0; i < N; i++) {
        s[i] = (struct sleeper){.e = e, .semaphore = semaphore};
        MUST(pthread_create(&threads[i], NULL, sleep_long, &s[i]) == 0);
    }
    pdi_poke32(&e->door.asleep, N);
    nap(20000000);
    pdi_bell_call(&e->door, &e->bell, semaphore);
    for (int i = 0; i < N; i++) {
        MUST(pthread_join(threads[i], NULL) == 0);
        CHECK(s[i].result == 0);
    }
    CHECK(pdi_now() - start < PATIENCE);
    /* Nobody asleep: nothing is rung. */
    uint32_t rings = pdi_observe32(&e->bell.rings);
    pdi_poke32(&e->door.asleep, 0);
    pdi_bell_call(&e->door, &e->bell, semaphore);
    CHECK(pdi_observe32(&e->bell.rings) == rings);
    /* A peer's word for how many sleep is no reason to ring for ever. */
    pdi_bell_ring(&e->bell, semaphore, UINT32_MAX);
    pdi_bell_ring(&e->bell, semaphore, UINT32_MAX);
    munmap(e, sizeof *e);
}

int main(void)
{
    for (int semaphore = 0; semaphore < 2; semaphore++) {
        test_ping_pong(semaphore);
        test_deadline(semaphore);
        test_a_signal_ends_a_sleep(semaphore);
        test_all_wake(semaphore);
    }
    return checks_done();
}
