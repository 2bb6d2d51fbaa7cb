/* test_floor.c - every mechanism has figures; a child that dies is noticed; nothing stays. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "platform/floor.h"

enum { ROUNDS = 20 };

static int open_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    MUST(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void figures(void)
{
    static const size_t sizes[] = {1, 8, 64, 1 << 20};
    for (int kind = 0; kind < PDI_FLOOR_KINDS; kind++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int stream = 0; stream < 2; stream++) {
                int64_t ns[ROUNDS];
                memset(ns, 0xff, sizeof ns);
                struct pdi_floor_plan plan = {.kind = (enum pdi_floor_kind)kind,
                                              .size = sizes[i],
                                              .rounds = ROUNDS,
                                              .cpus = {-1, -1},
                                              .stream = stream};
                podipc_error err;
                int rc = pdi_floor(&plan, ns, &err);
                bool word = kind == PDI_FLOOR_CACHE_LINE || kind == PDI_FLOOR_FUTEX;
                CHECK(rc == (word && stream ? -EINVAL : 0));
                for (int n = 0; rc == 0 && n < (stream ? 1 : ROUNDS); n++)
                    CHECK(ns[n] >= 0);
            }
        }
    }
}

static void *kill_children(void *arg)
{
    /* The child is one of the thread that measures; it appears at some time. */
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)*(pid_t *)arg);
    for (;;) {
        FILE *file = fopen(path, "r");
        MUST(file);
        bool any = fgets(text, sizeof text, file) != NULL;
        fclose(file);
        if (any) {
            usleep(20000);
            kill((pid_t)strtol(text, NULL, 10), SIGKILL);
            return NULL;
        }
        usleep(1000);
    }
}

static void death(enum pdi_floor_kind kind)
{
    enum { MANY = 50 * 1000 * 1000 };
    int64_t *ns = calloc(MANY, sizeof *ns);
    MUST(ns);
    pthread_t killer;
    pid_t self = gettid();
    MUST(pthread_create(&killer, NULL, kill_children, &self) == 0);
    struct pdi_floor_plan plan = {.kind = kind, .size = 64, .rounds = MANY, .cpus = {-1, -1}};
    podipc_error err;
    CHECK(pdi_floor(&plan, ns, &err) == -ECHILD);
    pthread_join(killer, NULL);
    free(ns);
}

int main(void)
{
    int before = open_descriptors();
    sigset_t mask, after;
    cpu_set_t cpus, then;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    sched_getaffinity(0, sizeof cpus, &cpus);
    figures();
    for (int kind = 0; kind < PDI_FLOOR_MEMCPY; kind++)
        death((enum pdi_floor_kind)kind);
    struct pdi_floor_plan plan = {
        .kind = PDI_FLOOR_PIPE, .size = 1, .rounds = 1, .cpus = {CPU_SETSIZE, -1}};
    CHECK(pdi_floor(&plan, &(int64_t){0}, NULL) == -EINVAL);
    plan.cpus[0] = -1;
    plan.cpus[1] = CPU_SETSIZE;
    CHECK(pdi_floor(&plan, &(int64_t){0}, NULL) == -ECHILD);
    CHECK(open_descriptors() == before);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < SIGRTMAX; number++)
        CHECK(sigismember(&mask, number) == sigismember(&after, number));
    sched_getaffinity(0, sizeof then, &then);
    CHECK(CPU_EQUAL(&cpus, &then));
    return checks_done();
}
