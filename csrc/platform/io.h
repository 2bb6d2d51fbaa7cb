/* io.h - reading and writing descriptors, and waiting for them.
 *
 * Every descriptor here is non-blocking. EINTR is dealt with inside, except that
 * a wait may end early; nothing raises SIGPIPE. Results are counts or -errno.
 */
#ifndef PDI_IO_H
#define PDI_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Bytes read; 0 at the end of the stream; -EAGAIN: none there. */
ssize_t pdi_read(int fd, const struct iovec *iov, int n);
/* Bytes written, possibly fewer than given; -EAGAIN: no room; -EPIPE: nobody will
 * read them. The second is for pipes, which have no MSG_NOSIGNAL. */
ssize_t pdi_write_socket(int fd, const struct iovec *iov, int n);
ssize_t pdi_write_pipe(int fd, const struct iovec *iov, int n);
/* Bytes that can be read, also asked of the writing end of a pipe. */
uint64_t pdi_unread(int fd);

/* Makes an eventfd counter zero again (see pdi_alarm_open()). */
void pdi_alarm_clear(int alarm);
/* Waits until `alarm` is raised or fd (if >= 0) can be written (`writable`), can
 * be read, or has hung up; at most until `until`. Returns early after a signal. */
void pdi_wait_io(int fd, bool writable, int alarm, int64_t until);

/* Waits until fd can be written (`writable`) or else read, or has hung up, at most until
 * `until`. With fd -1 it only waits. Returns early after a signal. */
void pdi_wait_one(int fd, bool writable, int64_t until);
/* Edge-triggered epoll: reports a descriptor once for each time something new is
 * to be read or it hangs up. The alarm, added with `edge` false, is reported as
 * long as it is raised. */
struct pdi_event {
    uint64_t tag;
    bool hung_up; /* what is left can be read, and then the end */
};
int pdi_epoll_open(int *fd);
int pdi_epoll_add(int epoll, int fd, uint64_t tag, bool edge);
/* Fills in what happened; how many, 0 at the timeout or after a signal. */
int pdi_epoll_wait(int epoll, struct pdi_event *events, int cap, int64_t until);

#endif
