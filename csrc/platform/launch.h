/* launch.h - how the program of a container is started: described by the parent,
 * carried to the infra process in a memfd, executed in the new process.
 *
 * The description is position-independent (offsets instead of pointers) until
 * pdi_launch_relocate() turns it into pointers, once, where it is used. Both
 * ends are the same program image, and the socket between them is private, so
 * its content is not input to be checked.
 */
#ifndef PDI_LAUNCH_H
#define PDI_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "namespace.h"

enum {
    PDI_LAUNCH_KEEP = -1,     /* uid, gid, umask: leave as it is */
    PDI_LAUNCH_MAX_FDS = 240, /* SCM_RIGHTS carries 253 */
    PDI_LAUNCH_MAX_CPUS = 8192,
};

/* Which program, and how. All pointers are the caller's. */
struct pdi_launch_spec {
    const char *hostname;
    const char *cwd;
    char *const *paths; /* tried in order until one can be executed */
    char *const *argv;
    char *const *env;
    const int *fds; /* descriptors of the caller ... */
    const int
        *targets; /* ... and the numbers they get in the program; nothing else is open there */
    size_t fd_count;
    const uint32_t *groups; /* supplementary groups, set if uid or gid is */
    size_t group_count;
    int64_t uid, gid, umask; /* or PDI_LAUNCH_KEEP */
    char *const *setup;      /* operations of setup.h, before all else */
    const uint8_t *cpus;     /* a mask for sched_setaffinity(); empty: all the parent has */
    size_t cpus_len;
    int container; /* pidfd of the container to enter, or negative: a new one */
};

/* The same in one piece; every field that names a place is an offset from the
 * start at first, a pointer after pdi_launch_relocate(). */
struct pdi_launch {
    uintptr_t hostname, cwd, paths, argv, env, targets, groups, cpus, setup;
    size_t fd_count, group_count, cpus_len;
    int64_t uid, gid, umask;
};

/* What the infra process and the new process say to whoever asked for it. */
struct pdi_report {
    int32_t step;   /* enum pdi_step */
    int32_t error;  /* errno, or 0 */
    int32_t detail; /* which operation of PDI_STEP_SETUP */
};

/* Writes `spec` into a new memfd; its size goes to *size. The descriptor, which
 * the caller owns, or -errno. Any thread. */
int pdi_launch_encode(const struct pdi_launch_spec *spec, size_t *size);

/* `base` is a writable private mapping of what pdi_launch_encode() wrote.
 * Async-signal-safe. */
struct pdi_launch *pdi_launch_relocate(void *base);

/* Becomes the program. Runs in the new process, inside its namespaces (which are
 * those of a running container, and nothing has to be made, if `entered`), with one
 * thread and all signals blocked and at their default; `fds` (fd_count of them)
 * and `report` are overwritten. Says what failed on `report` and exits with 127.
 * Async-signal-safe. */
_Noreturn void pdi_launch_exec(const struct pdi_launch *launch, const struct pdi_parts *parts,
                               int *fds, int report, int parent_pid, bool entered);

#endif
