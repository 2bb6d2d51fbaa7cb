#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "retry.h"
#include "setup.h"

/* Encoding runs twice over the same calls: without memory, to learn the size,
 * and with it. */
struct blob {
    char *base; /* NULL: only count */
    size_t len;
};

static size_t put(struct blob *blob, const void *data, size_t size)
{
    size_t at = (blob->len + 15) & ~(size_t)15;
    if (blob->base && size)
        memcpy(blob->base + at, data, size);
    blob->len = at + size;
    return at;
}

static size_t put_string(struct blob *blob, const char *string)
{
    return put(blob, string, strlen(string) + 1);
}

static size_t put_strings(struct blob *blob, char *const *strings)
{
    size_t count = 0;
    while (strings[count])
        count++;
    uintptr_t zero = 0;
    size_t at = put(blob, &zero, 0);
    blob->len += (count + 1) * sizeof zero;
    for (size_t i = 0; i < count; i++) {
        uintptr_t offset = put_string(blob, strings[i]);
        if (blob->base)
            memcpy(blob->base + at + i * sizeof offset, &offset, sizeof offset);
    }
    return at;
}

static void encode(struct blob *blob, const struct pdi_launch_spec *spec)
{
    struct pdi_launch head = {
        .fd_count = spec->fd_count,
        .group_count = spec->group_count,
        .cpus_len = spec->cpus_len,
        .uid = spec->uid,
        .gid = spec->gid,
        .umask = spec->umask,
    };
    size_t at = put(blob, &head, sizeof head);
    head.hostname = put_string(blob, spec->hostname);
    head.cwd = put_string(blob, spec->cwd);
    head.paths = put_strings(blob, spec->paths);
    head.argv = put_strings(blob, spec->argv);
    head.env = put_strings(blob, spec->env);
    head.setup = put_strings(blob, spec->setup);
    head.targets = put(blob, spec->targets, spec->fd_count * sizeof *spec->targets);
    head.groups = put(blob, spec->groups, spec->group_count * sizeof *spec->groups);
    head.cpus = put(blob, spec->cpus, spec->cpus_len);
    if (blob->base)
        memcpy(blob->base + at, &head, sizeof head);
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t n = PDI_RETRY(write(fd, data, size));
        if (n < 0)
            return -errno;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

int pdi_launch_encode(const struct pdi_launch_spec *spec, size_t *size)
{
    struct blob blob = {0};
    encode(&blob, spec);
    blob.base = calloc(1, blob.len);
    if (!blob.base)
        return -ENOMEM;
    size_t len = blob.len;
    blob.len = 0;
    encode(&blob, spec);
    int rc = 0;
    int fd = memfd_create("podipc-launch", MFD_CLOEXEC);
    if (fd < 0)
        rc = -errno;
    else
        rc = write_all(fd, blob.base, len);
    free(blob.base);
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *size = len;
    return fd;
}

static void relocate_strings(uintptr_t base, uintptr_t *strings)
{
    for (; *strings; strings++)
        *strings += base;
}

struct pdi_launch *pdi_launch_relocate(void *memory)
{
    struct pdi_launch *launch = memory;
    uintptr_t base = (uintptr_t)memory;
    uintptr_t *places[] = {&launch->hostname, &launch->cwd,  &launch->paths,
                           &launch->argv,     &launch->env,  &launch->targets,
                           &launch->groups,   &launch->cpus, &launch->setup};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        *places[i] += base;
    relocate_strings(base, (uintptr_t *)launch->paths);
    relocate_strings(base, (uintptr_t *)launch->argv);
    relocate_strings(base, (uintptr_t *)launch->env);
    relocate_strings(base, (uintptr_t *)launch->setup);
    return launch;
}

/* First everything out of the way of the wanted numbers, then into place; only
 * the copies made by dup2() survive execve(). *report moves as well. */
static int place_descriptors(const struct pdi_launch *launch, int *fds, int *report)
{
    const int *targets = (const int *)launch->targets;
    int free_from = 3;
    for (size_t i = 0; i < launch->fd_count; i++)
        if (targets[i] >= free_from)
            free_from = targets[i] + 1;
    int moved = fcntl(*report, F_DUPFD_CLOEXEC, free_from);
    if (moved < 0)
        return -errno;
    *report = moved;
    for (size_t i = 0; i < launch->fd_count; i++) {
        fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, free_from);
        if (fds[i] < 0)
            return -errno;
    }
    /* Standard streams that were not passed are not open, rather than the infra's. */
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    for (size_t i = 0; i < launch->fd_count; i++)
        if (dup2(fds[i], targets[i]) < 0)
            return -errno;
    return 0;
}

/* The kernel drops cpus that it may not give from the mask; a program that was
 * to have two and has one measures something else. */
static int set_affinity(const struct pdi_launch *launch)
{
    const uint8_t *wanted = (const uint8_t *)launch->cpus;
    uint8_t got[PDI_LAUNCH_MAX_CPUS / 8] = {0};
    if (launch->cpus_len == 0)
        return 0;
    if (syscall(SYS_sched_setaffinity, 0, launch->cpus_len, wanted) < 0 ||
        syscall(SYS_sched_getaffinity, 0, sizeof got, got) < 0)
        return -errno;
    for (size_t i = 0; i < launch->cpus_len; i++)
        if (i >= sizeof got || (wanted[i] & ~got[i]))
            return -EINVAL;
    return 0;
}

/* As raw system calls: those of the C library wait for threads of the parent
 * that do not exist here. */
static int change_ids(const struct pdi_launch *launch, enum pdi_step *step)
{
    if (launch->uid == PDI_LAUNCH_KEEP && launch->gid == PDI_LAUNCH_KEEP)
        return 0;
    *step = PDI_STEP_GROUPS;
    if (syscall(SYS_setgroups, launch->group_count, launch->groups) < 0)
        return -errno;
    *step = PDI_STEP_GID;
    if (launch->gid != PDI_LAUNCH_KEEP &&
        syscall(SYS_setresgid, launch->gid, launch->gid, launch->gid) < 0)
        return -errno;
    *step = PDI_STEP_UID;
    if (launch->uid != PDI_LAUNCH_KEEP &&
        syscall(SYS_setresuid, launch->uid, launch->uid, launch->uid) < 0)
        return -errno;
    return 0;
}

/* What makes a new container out of the new process. */
static int outfit(const struct pdi_launch *launch, const struct pdi_parts *parts,
                  struct pdi_report *failed)
{
    size_t operation;
    int rc = pdi_setup_run((char *const *)launch->setup, NULL, &operation);
    if (rc < 0) {
        failed->step = PDI_STEP_SETUP;
        failed->detail = (int32_t)operation;
        return rc;
    }
    enum pdi_step step = PDI_STEP_NONE;
    rc = pdi_namespace_enter_container(parts, (const char *)launch->hostname, &step);
    failed->step = (int32_t)step;
    return rc;
}

static int prepare(const struct pdi_launch *launch, int *fds, int *report, enum pdi_step *step)
{
    *step = PDI_STEP_DESCRIPTORS;
    int rc = place_descriptors(launch, fds, report);
    if (rc < 0)
        return rc;
    *step = PDI_STEP_AFFINITY;
    rc = set_affinity(launch);
    if (rc < 0)
        return rc;
    if (launch->umask != PDI_LAUNCH_KEEP)
        umask((mode_t)launch->umask);
    rc = change_ids(launch, step);
    if (rc < 0)
        return rc;
    /* After the change of user, as whom the program will run. */
    *step = PDI_STEP_CHDIR;
    return chdir((const char *)launch->cwd) == 0 ? 0 : -errno;
}

static int execute(const struct pdi_launch *launch)
{
    int rc = -ENOENT;
    for (char *const *path = (char *const *)launch->paths; *path; path++) {
        execve(*path, (char *const *)launch->argv, (char *const *)launch->env);
        if (errno == ENOENT || errno == ENOTDIR)
            continue;
        rc = -errno;
        if (errno != EACCES)
            break;
    }
    return rc;
}

_Noreturn static void fail(int report, struct pdi_report *failed, int rc)
{
    failed->error = -rc;
    (void)!send(report, failed, sizeof *failed, MSG_NOSIGNAL);
    _exit(127);
}

_Noreturn void pdi_launch_exec(const struct pdi_launch *launch, const struct pdi_parts *parts,
                               int *fds, int report, int parent_pid, bool entered)
{
    /* Its credentials tell the other end this process's ID as seen from there. */
    struct pdi_report message = {.step = PDI_STEP_HELLO};
    (void)!send(report, &message, sizeof message, MSG_NOSIGNAL);

    setsid();
    message = (struct pdi_report){0};
    int rc = entered ? 0 : outfit(launch, parts, &message);
    if (rc < 0)
        fail(report, &message, rc);
    enum pdi_step step = PDI_STEP_NONE;
    rc = prepare(launch, fds, &report, &step);
    if (rc == 0 && parts->error[PDI_PART_PID] != 0) {
        /* No PID namespace takes this process down with the infra process. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent_pid)
            _exit(127);
    }
    if (rc == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        step = PDI_STEP_EXEC;
        rc = execute(launch);
    }
    message.step = (int32_t)step;
    fail(report, &message, rc);
}
