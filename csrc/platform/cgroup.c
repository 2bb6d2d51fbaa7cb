#include "cgroup.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "retry.h"

#define PATH      512
#define NO_LIMIT  UINT64_MAX
#define LOOK_EACH (UINT64_C(1) << 20) /* bytes of small things */

static bool read_text(const char *path, char *text, size_t cap)
{
    int fd = PDI_RETRY(open(path, O_RDONLY | O_CLOEXEC));
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, cap - 1);
    (void)close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    return true;
}

/* NO_LIMIT for "max", for v1's huge number and for a file that is not there. */
static uint64_t read_bytes(const char *dir, const char *name)
{
    char path[PATH + 64], text[64];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!read_text(path, text, sizeof text) || text[0] == 'm')
        return NO_LIMIT;
    uint64_t value = strtoull(text, NULL, 10);
    return value >= UINT64_C(1) << 60 ? NO_LIMIT : value;
}

/* A row of memory.stat. 0 if it is not there. */
static uint64_t read_stat(const char *dir, const char *key)
{
    char path[PATH + 64], text[8192];
    (void)snprintf(path, sizeof path, "%s/memory.stat", dir);
    if (!read_text(path, text, sizeof text))
        return 0;
    size_t len = strlen(key);
    for (char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, len) == 0 && line[len] == ' ')
            return strtoull(line + len + 1, NULL, 10);
    }
    return 0;
}

struct walk {
    bool v2;
    const char *controller; /* v1: "memory" or "cpu" */
    void (*visit)(const char *dir, bool v2, void *arg);
    void *arg;
};

/* Visits the group's directory and all above it, up to the mount point. Inside a
 * container the path in /proc/self/cgroup may lie outside of what is mounted:
 * then the mount point itself is the container's group. */
static void walk_up(const char *mount, const char *group, const struct walk *w)
{
    char dir[PATH];
    int n = snprintf(dir, sizeof dir, "%s%s", mount, strcmp(group, "/") == 0 ? "" : group);
    if (n < 0 || (size_t)n >= sizeof dir || access(dir, F_OK) != 0)
        (void)snprintf(dir, sizeof dir, "%s", mount);
    size_t stop = strlen(mount);
    for (;;) {
        w->visit(dir, w->v2, w->arg);
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= stop || !slash)
            return;
        *slash = '\0';
    }
}

static bool has_controller(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, name, len) == 0 && (p[len] == ',' || p[len] == '\0'))
            return true;
    }
    return false;
}

/* Calls visit for every directory that can limit this process. */
static void for_each_group(const char *controller,
                           void (*visit)(const char *dir, bool v2, void *arg), void *arg)
{
    char text[4096];
    if (!read_text("/proc/self/cgroup", text, sizeof text))
        return;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        controllers++;
        if (*controllers == '\0') {
            struct walk w = {.v2 = true, .visit = visit, .arg = arg};
            walk_up(access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0
                        ? "/sys/fs/cgroup"
                        : "/sys/fs/cgroup/unified",
                    group, &w);
        } else if (has_controller(controllers, controller)) {
            struct walk w = {.controller = controller, .visit = visit, .arg = arg};
            char mount[64];
            (void)snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controller);
            walk_up(mount, group, &w);
        }
    }
}

struct memory {
    uint64_t limit, left;
};

static void visit_memory(const char *dir, bool v2, void *arg)
{
    struct memory *m = arg;
    uint64_t limit = read_bytes(dir, v2 ? "memory.max" : "memory.limit_in_bytes");
    if (limit == NO_LIMIT)
        return;
    if (limit < m->limit)
        m->limit = limit;
    uint64_t used = read_bytes(dir, v2 ? "memory.current" : "memory.usage_in_bytes");
    if (used == NO_LIMIT)
        return;
    uint64_t cache = read_stat(dir, v2 ? "inactive_file" : "total_inactive_file");
    used = cache < used ? used - cache : 0;
    uint64_t left = used < limit ? limit - used : 0;
    if (left < m->left)
        m->left = left;
}

static uint64_t meminfo(const char *key)
{
    char text[4096];
    if (!read_text("/proc/meminfo", text, sizeof text))
        return NO_LIMIT;
    const char *row = strstr(text, key);
    return row ? strtoull(row + strlen(key), NULL, 10) * 1024 : NO_LIMIT;
}

uint64_t pdi_memory_limit(void)
{
    struct memory m = {.limit = meminfo("MemTotal:"), .left = NO_LIMIT};
    for_each_group("memory", visit_memory, &m);
    return m.limit;
}

uint64_t pdi_memory_available(void)
{
    struct memory m = {.limit = NO_LIMIT, .left = meminfo("MemAvailable:")};
    for_each_group("memory", visit_memory, &m);
    return m.left;
}

uint64_t pdi_memory_available_each(uint64_t *unseen, uint64_t n)
{
    *unseen = n < LOOK_EACH ? *unseen + n : LOOK_EACH;
    if (*unseen < LOOK_EACH)
        return UINT64_MAX;
    *unseen = 0;
    return pdi_memory_available();
}

static void visit_cpu(const char *dir, bool v2, void *arg)
{
    double *cpus = arg;
    double quota = 0, period = 0;
    char path[PATH + 64], text[64];
    if (v2) {
        (void)snprintf(path, sizeof path, "%s/cpu.max", dir);
        if (!read_text(path, text, sizeof text) || sscanf(text, "%lf %lf", &quota, &period) != 2)
            return;
    } else {
        uint64_t q = read_bytes(dir, "cpu.cfs_quota_us"), p = read_bytes(dir, "cpu.cfs_period_us");
        if (q == NO_LIMIT || p == NO_LIMIT)
            return;
        quota = (double)q;
        period = (double)p;
    }
    if (period > 0 && quota / period < *cpus)
        *cpus = quota / period;
}

double pdi_cpus(void)
{
    cpu_set_t set;
    double cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    for_each_group("cpu", visit_cpu, &cpus);
    return cpus;
}
