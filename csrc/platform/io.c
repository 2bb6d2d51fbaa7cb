#include "io.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "poller.h"
#include "retry.h"

static ssize_t result(ssize_t n)
{
    return n >= 0 ? n : errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

ssize_t pdi_read(int fd, const struct iovec *iov, int n)
{
    ssize_t got = PDI_RETRY(n == 1 ? read(fd, iov->iov_base, iov->iov_len) : readv(fd, iov, n));
    return result(got);
}

ssize_t pdi_write_socket(int fd, const struct iovec *iov, int n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    ssize_t put =
        PDI_RETRY(n == 1 ? send(fd, iov->iov_base, iov->iov_len, flags) : sendmsg(fd, &msg, flags));
    return result(put);
}

static ssize_t write_some(int fd, const struct iovec *iov, int n)
{
    ssize_t put = PDI_RETRY(n == 1 ? write(fd, iov->iov_base, iov->iov_len) : writev(fd, iov, n));
    return result(put);
}

/* SIGPIPE is kept from this thread while it writes, and one that the write caused
 * is taken back; one that was pending before is left alone. */
static ssize_t write_quietly(int fd, const struct iovec *iov, int n)
{
    sigset_t sigpipe, before, pending;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    bool blocked = sigismember(&before, SIGPIPE);
    bool was_pending = blocked && sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE);
    ssize_t put = write_some(fd, iov, n);
    if (put == -EPIPE && !was_pending) {
        const struct timespec now = {0};
        (void)PDI_RETRY(sigtimedwait(&sigpipe, NULL, &now));
    }
    if (!blocked)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    return put;
}

ssize_t pdi_write_pipe(int fd, const struct iovec *iov, int n)
{
    /* Python and most servers ignore it; to ask is cheaper than to block it. */
    struct sigaction now;
    bool ignored = sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
    return ignored ? write_some(fd, iov, n) : write_quietly(fd, iov, n);
}

uint64_t pdi_unread(int fd)
{
    int n = 0;
    return ioctl(fd, FIONREAD, &n) < 0 || n < 0 ? 0 : (uint64_t)n;
}

void pdi_alarm_clear(int alarm)
{
    uint64_t count;
    (void)PDI_RETRY(read(alarm, &count, sizeof count));
}

void pdi_wait_io(int fd, bool writable, int alarm, int64_t until)
{
    struct pollfd fds[2] = {{.fd = alarm, .events = POLLIN},
                            {.fd = fd, .events = writable ? POLLIN | POLLOUT : POLLIN}};
    (void)pdi_poll(fds, fd >= 0 ? 2 : 1, pdi_poll_ms(until));
}

void pdi_wait_one(int fd, bool writable, int64_t until)
{
    struct pollfd p = {.fd = fd, .events = writable ? POLLOUT : POLLIN};
    (void)poll(&p, 1, pdi_poll_ms(until));
}

int pdi_epoll_open(int *fd)
{
    *fd = epoll_create1(EPOLL_CLOEXEC);
    return *fd < 0 ? -errno : 0;
}

int pdi_epoll_add(int epoll, int fd, uint64_t tag, bool edge)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (edge)
        event.events |= EPOLLRDHUP | EPOLLET;
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int pdi_epoll_wait(int epoll, struct pdi_event *events, int cap, int64_t until)
{
    struct epoll_event raw[64];
    int n = epoll_wait(epoll, raw, cap < 64 ? cap : 64, pdi_poll_ms(until));
    for (int i = 0; i < n; i++)
        events[i] = (struct pdi_event){
            .tag = raw[i].data.u64,
            .hung_up = (raw[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0,
        };
    return n < 0 ? 0 : n;
}
