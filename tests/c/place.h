/* place.h - for the C tests: directories of their own, waits that end, children. */
#ifndef PLACE_H
#define PLACE_H

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "platform/clock.h"

/* Ends a test that hangs; generous, for a busy machine under a sanitizer. */
#define PATIENCE INT64_C(30000000000)

static char place_base[64];

/* Where all directories of this run are; removed by place_end(). */
static inline void place_begin(const char *name)
{
    (void)snprintf(place_base, sizeof place_base, "/dev/shm/podipc-c-%s-%d", name, (int)getpid());
    MUST(mkdir(place_base, 0777) == 0);
    MUST(chmod(place_base, 0777) == 0);
    char keep[80]; /* whoever leaves a channel removes the directory above it if it is empty */
    (void)snprintf(keep, sizeof keep, "%s/keep", place_base);
    MUST(mkdir(keep, 0700) == 0);
}

/* A path in it that nobody has used; owned by the caller. */
static inline char *place_path(const char *name)
{
    static int counter;
    char *path;
    MUST(asprintf(&path, "%s/%s%d", place_base, name, counter++) > 0);
    return path;
}

/* Names in a directory; with `hidden`, those that begin with a dot as well. */
static inline int names_in(const char *path, bool hidden)
{
    DIR *d = opendir(path);
    int count = 0;
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
                 (hidden || e->d_name[0] != '.');
    closedir(d);
    return count;
}

/* Removes a directory with what is in it, two levels deep; how much that was. */
static inline int place_clear(const char *path)
{
    int count = 0;
    DIR *d = opendir(path);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char below[512];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (snprintf(below, sizeof below, "%s/%s", path, e->d_name) >= (int)sizeof below)
            continue;
        count++;
        if (unlink(below) < 0) {
            count += place_clear(below);
        }
    }
    closedir(d);
    (void)rmdir(path);
    return count;
}

static inline void place_end(void)
{
    (void)place_clear(place_base);
}

static inline void nap(int64_t ns)
{
    struct timespec t = pdi_timespec(ns);
    (void)nanosleep(&t, NULL);
}

/* Waits until the condition holds; false if it never does. */
#define EVENTUALLY(condition)                                                                      \
    __extension__({                                                                                \
        int64_t eventually_end = pdi_now() + PATIENCE;                                             \
        bool eventually_so;                                                                        \
        while (!(eventually_so = (condition)) && pdi_now() < eventually_end)                       \
            nap(500000);                                                                           \
        eventually_so;                                                                             \
    })

/* Open descriptors of this process. */
static inline int descriptors(void)
{
    return names_in("/proc/self/fd", true) - 1;
}

/* The end of a child within PATIENCE: its wait status; -1 if it had to be killed. */
static inline int end_of(pid_t child)
{
    int status;
    int64_t end = pdi_now() + 2 * PATIENCE;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (pdi_now() > end) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            return -1;
        }
        nap(500000);
    }
    return status;
}

/* fork(), where the child does not outlive a test that fails. */
static inline pid_t fork_child(void)
{
    fflush(NULL);
    pid_t parent = getpid(), child = fork();
    MUST(child >= 0);
    if (child == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
        _exit(97);
    return child;
}

static inline void kill_child(pid_t child)
{
    int status;
    kill(child, SIGKILL);
    MUST(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Memory that this process and its children share. */
static inline void *common(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(p != MAP_FAILED);
    return p;
}

#endif
