/* fifo.h - a named pipe that is one sender's and one receiver's.
 *
 * A pipe keeps what a dead writer left for the next reader, and the other way
 * round. So that no byte of an earlier life is ever taken for one of a later, a
 * FIFO here has one receiver and one sender in its life; whoever comes next gets
 * a new one under the same name:
 *
 *   the receiver makes it and opens it to read; when its sender is gone, it puts
 *   a new one in its place. A FIFO without a reader was left by a dead receiver;
 *   the next one replaces it.
 *   the sender waits for one that somebody reads, claims it with a write lock
 *   (F_OFD_SETLK; it ends with the process, whatever PID that has here or there),
 *   and uses it only if it is empty and not marked as used. The receiver marks it
 *   (sticky bit, which means nothing to the kernel on a FIFO) before it reads the
 *   first byte, so whatever an earlier sender wrote is seen as one or the other.
 *
 * A receiver that closes in order takes all permissions away; a sender whose pipe
 * broke sees that, or does not: then the receiver died.
 */
#ifndef PDI_FIFO_H
#define PDI_FIFO_H

#include <stdbool.h>
#include <stdint.h>

#include "podipc.h"
#include "special.h"

/* Receiver: puts a FIFO at `path` and opens it to read; *fd is the caller's. With
 * `ours`, the one with this id is replaced. -EADDRINUSE: another receiver reads. */
int pdi_fifo_make(const char *path, uint32_t mode, const struct pdi_special_id *ours, int *fd,
                  struct pdi_special_id *id, podipc_error *err);
/* Receiver: before the first byte is read. */
int pdi_fifo_mark_used(int fd, podipc_error *err);
/* Receiver: closed in order, nothing complete was left unread. */
void pdi_fifo_mark_closed(int fd);

/* Sender: opens the FIFO to write and claims it; *fd is the caller's. -ENOENT,
 * -ENXIO: not there, or nobody reads; -EAGAIN: the receiver has not yet done with
 * an earlier sender; -EBUSY: another sender has it. An error that will not
 * pass by waiting is in *err. */
int pdi_fifo_claim(const char *path, int *fd, podipc_error *err);
/* Sender, after -EPIPE: whether the receiver closed in order. */
bool pdi_fifo_was_closed(int fd);
/* Makes the pipe at least this large, if the system allows. */
void pdi_fifo_make_room(int fd, int bytes);

#endif
