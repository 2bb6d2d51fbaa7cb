#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "clock.h"

int pdi_watch_open(struct pdi_watch *w)
{
    w->mark = -1;
    w->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    w->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->event >= 0)
        return 0;
    int rc = -errno;
    pdi_watch_close(w);
    return rc;
}

void pdi_watch_close(struct pdi_watch *w)
{
    if (w->inotify >= 0)
        close(w->inotify);
    if (w->event >= 0)
        close(w->event);
    w->inotify = w->event = w->mark = -1;
}

void pdi_watch_arm(struct pdi_watch *w, const char *path, int what)
{
    if (w->mark >= 0 || w->inotify < 0)
        return;
    uint32_t mask = IN_ONLYDIR | IN_DONT_FOLLOW;
    if (what & PDI_WATCH_ARRIVALS)
        mask |= IN_MOVED_TO | IN_CLOSE_WRITE; /* a dying process closes its lock file */
    if (what & PDI_WATCH_DEPARTURES)
        mask |= IN_DELETE;
    w->mark = inotify_add_watch(w->inotify, path, mask);
}

void pdi_watch_disarm(struct pdi_watch *w)
{
    if (w->mark >= 0)
        (void)inotify_rm_watch(w->inotify, w->mark);
    w->mark = -1;
}

/* Whether anything but the closing of half-written files (hidden names) happened. */
static bool drain(int inotify)
{
    _Alignas(struct inotify_event) char buffer[4096];
    bool told = false;
    ssize_t n;
    while ((n = read(inotify, buffer, sizeof buffer)) > 0)
        for (char *p = buffer; p < buffer + n;) {
            const struct inotify_event *e = (const struct inotify_event *)(const void *)p;
            if (e->len == 0 || e->name[0] != '.')
                told = true;
            p += sizeof *e + e->len;
        }
    return told;
}

bool pdi_watch_wait(const struct pdi_watch *w, int64_t until)
{
    struct pollfd fds[2] = {{.fd = w->event, .events = POLLIN},
                            {.fd = w->inotify, .events = POLLIN}};
    for (;;) {
        int n = poll(fds, 2, pdi_poll_ms(until));
        if (n <= 0 || fds[0].revents)
            return false;
        if (drain(w->inotify))
            return true;
        if (pdi_now() >= until)
            return false;
    }
}

void pdi_watch_wake(const struct pdi_watch *w)
{
    uint64_t one = 1;
    ssize_t n = write(w->event, &one, sizeof one);
    (void)n; /* it is full only if it has been woken already */
}
