/* floor.h - what this machine can do at best, with nothing of podipc in between.
 *
 * A child process is forked, each side is pinned to a CPU of its own, and bytes
 * go there and back in the plainest C that there is for a mechanism. The figures
 * are what those of any method are to be held against.
 */
#ifndef PDI_FLOOR_H
#define PDI_FLOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "podipc.h"

enum pdi_floor_kind {
    PDI_FLOOR_CACHE_LINE, /* a word each way, both sides spin; the size does not matter */
    PDI_FLOOR_FUTEX,      /* the same, both sides sleep */
    PDI_FLOOR_PIPE,       /* a FIFO is the same in the kernel */
    PDI_FLOOR_UNIX,       /* a stream socket */
    PDI_FLOOR_TCP,        /* loopback */
    PDI_FLOOR_MEMCPY,     /* in one process, between two areas that are warm */
    PDI_FLOOR_KINDS
};

struct pdi_floor_plan {
    enum pdi_floor_kind kind;
    size_t size;     /* bytes of a message, at least 1 */
    uint32_t rounds; /* at least 1; some more are made before, to warm up */
    int cpus[2];     /* of the calling thread and of the child; -1: do not pin */
    bool stream;     /* all messages one way and one answer, instead of an answer each */
};

/* Measures. A round is `size` bytes there and 8 bytes back; ns[i] is what round
 * i took, or, with `stream`, ns[0] what all of them took together. Blocks until
 * done, which nothing but the end of the child can cut short; the child cannot
 * outlive the calling thread. Any thread; its affinity is put back. 0, or -errno:
 * -ECHILD if the child died, -EINVAL for a stream of what has none. */
int pdi_floor(const struct pdi_floor_plan *plan, int64_t *ns, podipc_error *err);

#endif
