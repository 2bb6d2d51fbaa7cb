#include "floor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../core/atomics.h"
#include "../core/error.h"
#include "clock.h"
#include "retry.h"

enum { LINE = 128, ANSWER = 8, PIPE_SIZE = 1 << 20, LOOKS = 1 << 20 };

/* Each word is written by one side; a line of its own, and its neighbour, which
 * some processors fetch along with it. */
struct words {
    _Alignas(LINE) pdi_word32 there;
    _Alignas(LINE) pdi_word32 back;
};

/* One side. Both have the same until the fork. */
struct side {
    struct pdi_floor_plan plan;
    struct words *words;
    uint8_t *area; /* of plan.size bytes, or twice that for memcpy; private */
    size_t area_size;
    int fds[2][2]; /* [0]: read and write ends of the asking side, [1]: of the other */
    int in, out;
    bool asking;
    uint32_t put, taken; /* messages so far */
    pid_t other;
};

/* Whether the other side is still there; looked at only where waiting would not tell. */
static int alive(const struct side *s)
{
    if (!s->asking)
        return 0; /* dies with its parent */
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)s->other, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
        return -errno;
    return info.si_pid == 0 ? 0 : -ECHILD;
}

static long futex(pdi_word32 *word, int operation, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

static void word_put(struct side *s)
{
    pdi_word32 *word = s->asking ? &s->words->there : &s->words->back;
    pdi_publish32(word, ++s->put);
    if (s->plan.kind == PDI_FLOOR_FUTEX)
        (void)futex(word, FUTEX_WAKE, 1, NULL);
}

static int word_take(struct side *s)
{
    pdi_word32 *word = s->asking ? &s->words->back : &s->words->there;
    uint32_t before = s->taken++;
    for (unsigned looks = 1; pdi_observe32(word) == before; looks++) {
        bool slept = false;
        if (s->plan.kind == PDI_FLOOR_FUTEX) {
            const struct timespec second = {.tv_sec = 1};
            slept = futex(word, FUTEX_WAIT, before, &second) < 0 && errno == ETIMEDOUT;
        }
        if ((slept || looks % LOOKS == 0) && alive(s) < 0)
            return -ECHILD;
    }
    return 0;
}

static int put(struct side *s, size_t n)
{
    if (s->out < 0) {
        word_put(s);
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t rc = write(s->out, s->area + done, n - done);
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc > 0)
            done += (size_t)rc;
    }
    return 0;
}

static int take(struct side *s, size_t n)
{
    if (s->in < 0)
        return word_take(s);
    for (size_t done = 0; done < n;) {
        ssize_t rc = read(s->in, s->area + done, n - done);
        if (rc == 0)
            return -ECHILD;
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc > 0)
            done += (size_t)rc;
    }
    return 0;
}

static uint32_t warm_up(const struct pdi_floor_plan *plan)
{
    return plan->rounds / 10 + 1;
}

static int ask(struct side *s, int64_t *ns)
{
    const struct pdi_floor_plan *plan = &s->plan;
    uint32_t extra = warm_up(plan);
    int rc = 0;
    int64_t start = pdi_now();
    for (uint32_t i = 0; i < extra + plan->rounds; i++) {
        if (!plan->stream || i == extra)
            start = pdi_now();
        if ((rc = put(s, plan->size)) < 0)
            return rc;
        if (!plan->stream || i == extra - 1 || i == extra + plan->rounds - 1)
            rc = take(s, ANSWER);
        if (rc < 0)
            return rc;
        if (plan->stream)
            ns[0] = pdi_now() - start;
        else if (i >= extra)
            ns[i - extra] = pdi_now() - start;
    }
    return 0;
}

static int answer(struct side *s)
{
    const struct pdi_floor_plan *plan = &s->plan;
    uint32_t extra = warm_up(plan);
    int rc = 0;
    for (uint32_t i = 0; i < extra + plan->rounds && rc == 0; i++) {
        rc = take(s, plan->size);
        if (rc == 0 && (!plan->stream || i == extra - 1 || i == extra + plan->rounds - 1))
            rc = put(s, ANSWER);
    }
    return rc;
}

static int copy(struct side *s, int64_t *ns)
{
    const struct pdi_floor_plan *plan = &s->plan;
    uint32_t extra = warm_up(plan);
    int64_t all = pdi_now();
    for (uint32_t i = 0; i < extra + plan->rounds; i++) {
        int64_t start = pdi_now();
        if (i == extra)
            all = start;
        memcpy(s->area + plan->size, s->area, plan->size);
        /* The copy may not be left out because nobody looks at it. */
        __asm__ __volatile__("" : : "r"(s->area) : "memory");
        if (!plan->stream && i >= extra)
            ns[i - extra] = pdi_now() - start;
    }
    if (plan->stream)
        ns[0] = pdi_now() - all;
    return 0;
}

static int pin(int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return 0;
    if (cpu >= CPU_SETSIZE)
        return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0;
}

static int open_pipes(struct side *s)
{
    int there[2], back[2];
    if (pipe2(there, O_CLOEXEC) < 0)
        return -errno;
    s->fds[1][0] = there[0];
    s->fds[0][1] = there[1];
    if (pipe2(back, O_CLOEXEC) < 0)
        return -errno;
    s->fds[0][0] = back[0];
    s->fds[1][1] = back[1];
    (void)fcntl(there[1], F_SETPIPE_SZ, PIPE_SIZE); /* as big as it gets without privileges */
    return 0;
}

static int open_tcp(int pair[2])
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    struct sockaddr *any = (struct sockaddr *)(void *)&name;
    const int one = 1;
    int rc = 0;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return -errno;
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pair[0] < 0 || bind(listener, any, length) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, any, &length) < 0 || connect(pair[0], any, length) < 0 ||
        (pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
        rc = -errno;
    for (int i = 0; i < 2 && rc == 0; i++)
        if (setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
            rc = -errno;
    close(listener);
    return rc;
}

/* Opens what the mechanism needs. On failure what is open is closed by tear_down(). */
static int set_up(struct side *s)
{
    int pair[2] = {-1, -1}, rc = 0;
    const struct pdi_floor_plan *plan = &s->plan;
    s->area_size = (plan->size < ANSWER ? ANSWER : plan->size) * 2;
    s->area = mmap(NULL, s->area_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->area == MAP_FAILED)
        return -errno;
    s->words =
        mmap(NULL, sizeof *s->words, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s->words == MAP_FAILED)
        return -errno;
    switch (plan->kind) {
    case PDI_FLOOR_PIPE:
        return open_pipes(s);
    case PDI_FLOOR_UNIX:
        rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ? -errno : 0;
        break;
    case PDI_FLOOR_TCP:
        rc = open_tcp(pair);
        break;
    default:
        return 0;
    }
    for (int i = 0; i < 2; i++)
        s->fds[i][0] = s->fds[i][1] = pair[i];
    return rc;
}

static void close_ends(struct side *s, int which)
{
    int *ends = s->fds[which];
    if (ends[0] >= 0)
        close(ends[0]);
    if (ends[1] >= 0 && ends[1] != ends[0])
        close(ends[1]);
    ends[0] = ends[1] = -1;
}

static void tear_down(struct side *s)
{
    close_ends(s, 0);
    close_ends(s, 1);
    if (s->area != MAP_FAILED)
        munmap(s->area, s->area_size);
    if (s->words != MAP_FAILED)
        munmap(s->words, sizeof *s->words);
}

/* Takes one of the two sides; its memory is touched before anything is timed. */
static void take_side(struct side *s, bool asking)
{
    close_ends(s, asking ? 1 : 0);
    s->asking = asking;
    s->in = s->fds[!asking][0];
    s->out = s->fds[!asking][1];
    memset(s->area, 1, s->area_size);
}

/* The child. Only what is async-signal-safe: other threads of the parent may
 * have held any lock. Every signal is blocked, SIGPIPE with them. */
static _Noreturn void child(struct side *s, pid_t parent)
{
    int rc = prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : 0;
    if (getppid() != parent)
        _exit(1);
    if (rc == 0)
        rc = pin(s->plan.cpus[1]);
    take_side(s, false);
    if (rc == 0)
        rc = answer(s);
    _exit(rc == 0 ? 0 : 1);
}

static int both(struct side *s, int64_t *ns)
{
    pid_t parent = getpid();
    s->other = fork();
    if (s->other < 0)
        return -errno;
    if (s->other == 0)
        child(s, parent);
    take_side(s, true);
    int rc = ask(s, ns), status = 0;
    if (rc < 0)
        kill(s->other, SIGKILL);
    (void)PDI_RETRY(waitpid(s->other, &status, 0));
    if (rc == -EPIPE) {
        /* Every signal is blocked, so the SIGPIPE that came with it is pending. */
        sigset_t sigpipe;
        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        (void)sigtimedwait(&sigpipe, NULL, &(struct timespec){0});
    }
    return rc == -EPIPE || rc == -ECONNRESET ? -ECHILD : rc;
}

int pdi_floor(const struct pdi_floor_plan *plan, int64_t *ns, podipc_error *err)
{
    struct side s = {.plan = *plan,
                     .words = MAP_FAILED,
                     .area = MAP_FAILED,
                     .fds = {{-1, -1}, {-1, -1}},
                     .in = -1,
                     .out = -1};
    bool words = plan->kind == PDI_FLOOR_CACHE_LINE || plan->kind == PDI_FLOOR_FUTEX;
    if (plan->size == 0 || plan->rounds == 0 || (words && plan->stream))
        return pdi_fail(err, -EINVAL, "", "nothing to measure");
    cpu_set_t affinity;
    sigset_t all, mask;
    if (sched_getaffinity(0, sizeof affinity, &affinity) < 0)
        return pdi_fail(err, -errno, "sched_getaffinity", "the floor cannot be measured");
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    int rc = set_up(&s);
    if (rc == 0)
        rc = pin(plan->cpus[0]);
    if (rc == 0) {
        if (plan->kind == PDI_FLOOR_MEMCPY) {
            memset(s.area, 1, s.area_size);
            rc = copy(&s, ns);
        } else {
            rc = both(&s, ns);
        }
    }
    tear_down(&s);
    (void)sched_setaffinity(0, sizeof affinity, &affinity);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return rc == 0 ? 0 : pdi_fail(err, rc, "", "the floor cannot be measured");
}
