/* pod.h - a Pod without a container engine, as its parent sees it.
 *
 *     parent --control socket--> infra process (PID 1 of the Pod's PID namespace)
 *                                   |-- container (PID 1 of its own PID namespace)
 *                                   '-- container ...
 *
 * The parent holds one descriptor, `control`. When its last copy is closed, or
 * the parent dies, the infra process ends and the kernel kills all that is in
 * its PID namespace; mounts and namespaces go with their last process. Nothing
 * is made in any file system of the host.
 *
 * Needs Linux 5.3 (pidfd_open). It is a runtime for programs of one's own, not a
 * wall around those of others: the file system of the host stays visible, and
 * root stays root.
 */
#ifndef PDI_POD_H
#define PDI_POD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "launch.h"
#include "namespace.h"
#include "podipc.h"

/* A Pod. Its owner calls pdi_pod_close(). One thread at a time; but containers
 * may be started in a Pod that is ready from several threads at once. */
struct pdi_pod {
    int control;
    int pidfd; /* of the infra process, readable when all of the Pod is gone */
    pid_t pid;
    struct pdi_parts parts; /* what was made; valid when ready */
    enum pdi_step refused;  /* why it was tried again with less, or PDI_STEP_NONE */
    int refused_errno;
    struct pdi_namespace_plan plan;
    int attempt;
};

/* Begins a Pod whose /dev/shm holds `shm_bytes`. With isolate=false it consists
 * of plain processes. 0, or -errno and nothing to close. */
int pdi_pod_open(struct pdi_pod *pod, uint64_t shm_bytes, bool isolate, podipc_error *err);

/* Waits until it is ready; tries with less where the host refuses. -EAGAIN when
 * `until` has passed. After any other error the Pod is to be closed. */
int pdi_pod_ready(struct pdi_pod *pod, int64_t until, podipc_error *err);

/* Takes all of the Pod down, waits until it is gone. Idempotent. */
void pdi_pod_close(struct pdi_pod *pod);

/* In a forked child of the parent: closes its copies of the descriptors, and
 * nothing else. Async-signal-safe. */
void pdi_pod_forget(struct pdi_pod *pod);

/* A container that is being started. */
struct pdi_start {
    int report;         /* closed by pdi_start_ready() */
    int status;         /* then the owner's: an int32 wait status can be read when the container
                         * has ended; end of file without one means the whole Pod has */
    int pidfd;          /* then the owner's */
    pid_t pid;          /* as seen from here */
    enum pdi_step step; /* what failed, or PDI_STEP_NONE */
    int error;
    int detail; /* which operation of PDI_STEP_SETUP */
    bool done;  /* the list of a start without a program has been carried out */
};

/* Asks the infra process behind `control` for a container; or, if
 * spec->container is not negative, for one more program in that container; or, if
 * argv is empty, to carry out spec->setup itself. 0; or -errno, and nothing to
 * drop. */
int pdi_start_begin(int control, const struct pdi_launch_spec *spec, struct pdi_start *start,
                    podipc_error *err);

/* 0 when its program runs, or the list has been carried out; -EAGAIN when `until` has passed; else
 * an error, and nothing is left of it. `spec` is only for the text. */
int pdi_start_ready(struct pdi_start *start, const struct pdi_launch_spec *spec, int64_t until,
                    podipc_error *err);

/* Closes what `start` holds; the container, if there is one, is killed. */
void pdi_start_drop(struct pdi_start *start);

/* What failed at `step`, for a sentence: "the loopback interface could not be brought up". */
const char *pdi_step_text(enum pdi_step step);

#endif
