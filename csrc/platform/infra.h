/* infra.h - the process that holds a Pod together.
 *
 * One process per Pod, a copy of the parent made with clone() that never
 * executes anything: as PID 1 of the Pod's PID namespace it starts the
 * containers, reaps them, and takes all of them down by exiting. It exits when
 * the parent closes the control socket or dies, however that happens. Where a
 * PID namespace is not to be had it is the containers' subreaper instead and
 * kills what descends from it.
 *
 * It runs in a copy of a process that had threads, so that everything here is
 * async-signal-safe and allocates nothing.
 */
#ifndef PDI_INFRA_H
#define PDI_INFRA_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "launch.h"
#include "namespace.h"

/* What the infra process says once, when its namespaces are made. If step is
 * not PDI_STEP_NONE it could not use them and has exited. */
struct pdi_infra_report {
    struct pdi_parts parts;
    int32_t step;
    int32_t error;
};

enum pdi_request {
    PDI_REQUEST_START, /* a container */
    PDI_REQUEST_ENTER, /* a program in the container whose pidfd goes with it */
    PDI_REQUEST_SETUP, /* no program: the setup list, for the infra process itself */
};

/* A request; the descriptors go with it in this order, then those for the
 * program, then the pidfd of PDI_REQUEST_ENTER. */
struct pdi_infra_request {
    size_t size; /* of the launch memfd */
    enum pdi_request kind;
};
enum {
    PDI_REQUEST_REPORT, /* socket for pdi_report messages, closed when the program runs */
    PDI_REQUEST_STATUS, /* pipe for the int32 wait status when it has ended */
    PDI_REQUEST_LAUNCH, /* memfd */
    PDI_REQUEST_FDS
};

struct pdi_infra {
    struct pdi_namespace_plan plan;
    int control; /* SOCK_SEQPACKET, the parent at the other end */
    int parent;  /* pidfd of the parent */
    int null;    /* /dev/null */
};

/* clone(2) by itself, without the handlers of the C library. clone3() has
 * nothing more that is needed here, and Docker's default seccomp profile answers
 * it with ENOSYS. As clone(2). */
pid_t pdi_clone(uint64_t flags, int *pidfd);

/* Runs in the new process, all signals blocked; `infra` lies on its stack. */
_Noreturn void pdi_infra_main(struct pdi_infra *infra);

#endif
