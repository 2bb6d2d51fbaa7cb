/* unix.h - Unix stream sockets at a path on a volume that both containers mount. */
#ifndef PDI_UNIX_H
#define PDI_UNIX_H

#include <stdint.h>

#include "podipc.h"
#include "special.h"

/* Listens at `path` with permissions `mode`; *fd is the caller's. What a dead
 * receiver left is replaced. -EADDRINUSE: a living one is there. */
int pdi_unix_listen(const char *path, uint32_t mode, int *fd, struct pdi_special_id *id,
                    podipc_error *err);
/* Connects; *fd is the caller's. -ENOENT: nothing there; -ECONNREFUSED: its owner
 * is dead; -EAGAIN: its queue is full; an error that will not pass by waiting is
 * in *err. */
int pdi_unix_connect(const char *path, int *fd, podipc_error *err);

#endif
