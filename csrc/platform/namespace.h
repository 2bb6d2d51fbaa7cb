/* namespace.h - the namespaces of a Pod, and those of one container in it.
 *
 * Shared by all containers of a Pod: network, IPC, /dev/shm (and, for an
 * ordinary user, the user namespace in which all the rest is allowed). Own to
 * each container: PID, mount, UTS. Where the kernel or a security profile
 * refuses one of them, the others are still made and the refusal is recorded.
 *
 * The functions here run between clone() and execve() in a copy of a process
 * that has threads: they are async-signal-safe and allocate nothing.
 */
#ifndef PDI_NAMESPACE_H
#define PDI_NAMESPACE_H

#include <stdbool.h>
#include <stdint.h>

/* What isolates a Pod, each made or not made. The binding and podipc/pod/local/namespaces.py
 * know them by the names of pdi_part_name(). */
enum pdi_part {
    PDI_PART_USER,
    PDI_PART_PID,
    PDI_PART_MOUNT,
    PDI_PART_NET,
    PDI_PART_IPC,
    PDI_PART_UTS,
    PDI_PART_PROC, /* a fresh /proc in each container */
    PDI_PART_SHM,  /* a /dev/shm of the Pod's own */
    PDI_PART_COUNT
};

enum { PDI_NOT_TRIED = -1 };

/* One entry a part: 0 it was made, PDI_NOT_TRIED, or the errno of the refusal. */
struct pdi_parts {
    int32_t error[PDI_PART_COUNT];
};

/* Where between clone() and execve() something failed. The texts are in pod.c. */
enum pdi_step {
    PDI_STEP_NONE,
    PDI_STEP_CLONED, /* not a failure: the container's process exists, its pidfd is attached */
    PDI_STEP_HELLO,  /* not a failure: sent by the container's process itself */
    PDI_STEP_DONE,   /* not a failure: PDI_REQUEST_SETUP has been carried out */
    PDI_STEP_REQUEST,
    PDI_STEP_CLONE,
    PDI_STEP_MAP_GROUPS,
    PDI_STEP_MAP_UID,
    PDI_STEP_MAP_GID,
    PDI_STEP_PRIVATE,
    PDI_STEP_LOOPBACK,
    PDI_STEP_ENTER,
    PDI_STEP_SETUP, /* which operation is said as well */
    PDI_STEP_PROC,
    PDI_STEP_HOSTNAME,
    PDI_STEP_DESCRIPTORS,
    PDI_STEP_AFFINITY,
    PDI_STEP_CHDIR,
    PDI_STEP_GROUPS,
    PDI_STEP_GID,
    PDI_STEP_UID,
    PDI_STEP_EXEC,
    PDI_STEP_COUNT
};

/* Prepared before clone(), because formatting is not async-signal-safe. */
struct pdi_namespace_plan {
    bool isolate;         /* false: make nothing */
    bool user;            /* this process was cloned into a user namespace of its own */
    bool pid;             /* ... and is PID 1 of a PID namespace */
    char uid_map[32];     /* what goes into /proc/self/uid_map */
    char gid_map[32];     /* ... and gid_map */
    char shm_options[48]; /* mount options of /dev/shm */
};

/* "user", "pid", ...: a static string. */
const char *pdi_part_name(enum pdi_part part);

/* Moves the calling process, which must have one thread, into the namespaces
 * that the containers of a Pod share; loopback is up and /dev/shm mounted
 * afterwards. A part that cannot be made is recorded in `parts` and is no
 * failure. -errno with *step set if what was made cannot be used: the process
 * is then good for nothing but to exit. */
int pdi_namespace_enter_pod(const struct pdi_namespace_plan *plan, struct pdi_parts *parts,
                            enum pdi_step *step);

/* The CLONE_NEW* flags for a container of a Pod that has `parts`. */
uint64_t pdi_namespace_container_flags(const struct pdi_parts *parts);

/* Moves the calling process into the namespaces of a container of such a Pod, of
 * which it has the pidfd; its next child is in the PID namespace as well. Linux
 * 5.8. 0 or -errno. */
int pdi_namespace_join(const struct pdi_parts *parts, int pidfd);

/* Finishes what those flags began, in the new process: its /proc, its host
 * name. 0, or -errno with *step set. */
int pdi_namespace_enter_container(const struct pdi_parts *parts, const char *hostname,
                                  enum pdi_step *step);

#endif
