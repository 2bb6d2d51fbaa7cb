#include "infra.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "forget.h"
#include "pidfd.h"
#include "setup.h"

#ifndef SYS_close_range
#define SYS_close_range 436 /* the same on every architecture */
#endif

enum { MAX_CONTAINERS = 256 };

struct container {
    pid_t pid; /* 0: a free slot */
    int status;
};

struct supervisor {
    struct pdi_infra *infra;
    struct pdi_parts parts;
    int children; /* signalfd for SIGCHLD */
    struct container containers[MAX_CONTAINERS];
    struct pdi_at_end at_end;
};

pid_t pdi_clone(uint64_t flags, int *pidfd)
{
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0, pidfd, 0, 0);
}

static void close_range_of(unsigned first, unsigned last)
{
    if (first > last)
        return;
    if (syscall(SYS_close_range, first, last, 0) == 0)
        return;
    /* Before Linux 5.9. Nobody has descriptors much above this. */
    for (unsigned fd = first; fd <= last && fd < 65536; fd++)
        close((int)fd);
}

/* Everything of the parent's but the descriptors needed here: an inherited end
 * of somebody's pipe would keep that pipe open. */
static void keep_descriptors(struct pdi_infra *infra)
{
    int *kept[] = {&infra->control, &infra->parent, &infra->null};
    enum { KEPT = sizeof kept / sizeof *kept };
    for (int i = 0; i < KEPT; i++) {
        *kept[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, 3 + KEPT);
        if (*kept[i] < 0)
            _exit(1);
    }
    /* Then down again to known numbers, now that nothing is in the way. */
    for (int i = 0; i < KEPT; i++) {
        dup3(*kept[i], 3 + i, O_CLOEXEC);
        *kept[i] = 3 + i;
    }
    close_range_of(3 + KEPT, ~0U);
    for (int fd = 0; fd < 3; fd++)
        dup2(infra->null, fd);
}

static void default_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int i = 1; i <= 64; i++)
        (void)sigaction(i, &action, NULL);
}

/* The descriptors of a message, at most `max`; -errno, 0 at the end of the
 * socket, or the number of bytes. */
static ssize_t receive(int socket, struct pdi_infra_request *request, int *fds, size_t max,
                       size_t *count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * (PDI_REQUEST_FDS + PDI_LAUNCH_MAX_FDS + 1))];
    } control;
    struct iovec part = {.iov_base = request, .iov_len = sizeof *request};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    *count = 0;
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        *count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (*count > max)
            *count = max;
        memcpy(fds, CMSG_DATA(head), *count * sizeof(int));
    }
    return n;
}

static void report(int socket, const struct pdi_report *text, int pidfd)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = sizeof *text};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (pidfd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &pidfd, sizeof pidfd);
    }
    (void)!sendmsg(socket, &message, MSG_NOSIGNAL);
}

static struct container *free_slot(struct supervisor *s)
{
    for (int i = 0; i < MAX_CONTAINERS; i++)
        if (s->containers[i].pid == 0)
            return &s->containers[i];
    return NULL;
}

static void report_cloned(int socket, int pidfd)
{
    const struct pdi_report text = {.step = PDI_STEP_CLONED};
    report(socket, &text, pidfd);
}

/* A request as it came, and what is said if it fails. */
struct request {
    struct pdi_infra_request head;
    int fds[PDI_REQUEST_FDS + PDI_LAUNCH_MAX_FDS + 1];
    size_t count;
    struct pdi_launch *launch;
    struct pdi_report failed;
};

/* The process of a new container, or -errno. */
static pid_t clone_container(struct supervisor *s, struct request *r)
{
    int pidfd = -1, self = (int)getpid();
    r->failed.step = PDI_STEP_CLONE;
    pid_t pid = pdi_clone(CLONE_PIDFD | pdi_namespace_container_flags(&s->parts), &pidfd);
    if (pid == 0)
        pdi_launch_exec(r->launch, &s->parts, r->fds + PDI_REQUEST_FDS, r->fds[PDI_REQUEST_REPORT],
                        self, false);
    if (pid < 0)
        return -errno;
    report_cloned(r->fds[PDI_REQUEST_REPORT], pidfd);
    close(pidfd);
    return pid;
}

/* In a child of the infra process, for only children come into the PID namespace
 * that was joined: makes the program's process, a child of the infra process as
 * well, and ends. */
_Noreturn static void enter(struct supervisor *s, struct request *r, int answer, int infra)
{
    int container = r->fds[r->count - 1], pidfd = -1;
    size_t operation = 0;
    pid_t pid = 0;
    int rc = pdi_setup_run((char *const *)r->launch->setup, NULL, &operation);
    if (rc < 0) {
        r->failed.step = PDI_STEP_SETUP;
        r->failed.detail = (int32_t)operation;
    } else {
        r->failed.step = PDI_STEP_ENTER;
        rc = pdi_namespace_join(&s->parts, container);
    }
    if (rc == 0) {
        pid = pdi_clone(CLONE_PIDFD | CLONE_PARENT, &pidfd);
        if (pid == 0)
            pdi_launch_exec(r->launch, &s->parts, r->fds + PDI_REQUEST_FDS,
                            r->fds[PDI_REQUEST_REPORT], infra, true);
        rc = pid < 0 ? -errno : 0;
    }
    if (rc == 0) {
        report_cloned(r->fds[PDI_REQUEST_REPORT], pidfd);
    } else {
        r->failed.error = -rc;
        report(r->fds[PDI_REQUEST_REPORT], &r->failed, -1);
    }
    (void)!write(answer, &pid, sizeof pid);
    _exit(0);
}

/* The process of a program in a running container; 0 if it failed and has been
 * reported, or -errno. */
static pid_t clone_entering(struct supervisor *s, struct request *r)
{
    int answer[2];
    r->failed.step = PDI_STEP_CLONE;
    if (pipe2(answer, O_CLOEXEC) < 0)
        return -errno;
    int infra = (int)getpid();
    pid_t pid = 0, helper = pdi_clone(0, NULL);
    if (helper == 0)
        enter(s, r, answer[1], infra);
    int rc = helper < 0 ? -errno : 0;
    close(answer[1]);
    if (rc == 0) {
        if (read(answer[0], &pid, sizeof pid) != sizeof pid || pid < 0)
            pid = 0;
        (void)waitpid(helper, NULL, 0);
    }
    close(answer[0]);
    return rc < 0 ? rc : pid;
}

/* 0 or -errno. The list stays mapped if it may be needed at the end. */
static int set_up(struct supervisor *s, struct request *r)
{
    size_t operation = 0;
    int rc = pdi_setup_run((char *const *)r->launch->setup, &s->at_end, &operation);
    r->failed.step = PDI_STEP_SETUP;
    r->failed.detail = (int32_t)operation;
    const struct pdi_report done = {.step = PDI_STEP_DONE};
    if (rc == 0)
        report(r->fds[PDI_REQUEST_REPORT], &done, -1);
    return rc;
}

/* Does what was asked for, and takes over the status pipe if there is a process;
 * -errno with r->failed otherwise. *kept if the launch has to stay mapped. */
static int fulfil(struct supervisor *s, struct request *r, bool *kept)
{
    size_t extra = r->head.kind == PDI_REQUEST_ENTER;
    r->failed.step = PDI_STEP_REQUEST;
    if (r->launch->fd_count + PDI_REQUEST_FDS + extra != r->count)
        return -EMFILE;
    if (r->head.kind == PDI_REQUEST_SETUP) {
        *kept = true;
        return set_up(s, r);
    }
    struct container *slot = free_slot(s);
    if (!slot)
        return -EUSERS;
    pid_t pid = extra ? clone_entering(s, r) : clone_container(s, r);
    if (pid <= 0)
        return (int)pid;
    *slot = (struct container){.pid = pid, .status = r->fds[PDI_REQUEST_STATUS]};
    r->fds[PDI_REQUEST_STATUS] = -1;
    return 0;
}

/* false when the parent has closed the socket. */
static bool serve(struct supervisor *s)
{
    struct request r = {0};
    ssize_t n = receive(s->infra->control, &r.head, r.fds, sizeof r.fds / sizeof *r.fds, &r.count);
    if (n <= 0)
        return n == -EINTR || n == -EAGAIN;
    bool kept = false;
    int rc = -EMFILE;
    r.failed.step = PDI_STEP_REQUEST;
    if (r.count >= PDI_REQUEST_FDS) {
        void *base = mmap(NULL, r.head.size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                          r.fds[PDI_REQUEST_LAUNCH], 0);
        rc = base == MAP_FAILED ? -errno : 0;
        if (rc == 0) {
            r.launch = pdi_launch_relocate(base);
            rc = fulfil(s, &r, &kept);
            if (!kept)
                munmap(base, r.head.size);
        }
    }
    if (rc < 0 && r.count > PDI_REQUEST_REPORT) {
        r.failed.error = -rc;
        report(r.fds[PDI_REQUEST_REPORT], &r.failed, -1);
    }
    for (size_t i = 0; i < r.count; i++)
        if (r.fds[i] >= 0)
            close(r.fds[i]);
    return true;
}

static void ended(struct supervisor *s, pid_t pid, int32_t status)
{
    for (int i = 0; i < MAX_CONTAINERS; i++) {
        struct container *c = &s->containers[i];
        if (c->pid != pid)
            continue;
        (void)!write(c->status, &status, sizeof status);
        close(c->status);
        c->pid = 0;
    }
}

static void reap(struct supervisor *s)
{
    struct signalfd_siginfo ignored;
    (void)!read(s->children, &ignored, sizeof ignored);
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
            return;
        /* Its PID is still taken, so that this can only mean its own group. In a
         * PID namespace of its own the kernel has killed the rest already. */
        if (s->parts.error[PDI_PART_PID] != 0)
            (void)kill(-info.si_pid, SIGKILL);
        int status = 0;
        if (waitpid(info.si_pid, &status, 0) == info.si_pid)
            ended(s, info.si_pid, status);
    }
}

/* Kills the children of this process; how many. What they leave behind becomes
 * children of this process in turn. */
static int kill_children(const struct supervisor *s)
{
    int killed = 0;
    int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        for (int i = 0; i < MAX_CONTAINERS; i++)
            if (s->containers[i].pid && kill(-s->containers[i].pid, SIGKILL) == 0)
                killed++;
        return killed;
    }
    char text[4096];
    pid_t pid = 0;
    ssize_t n;
    while ((n = read(fd, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < n; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                pid = pid * 10 + (text[i] - '0');
                continue;
            }
            if (pid > 0 && kill(pid, SIGKILL) == 0)
                killed++;
            pid = 0;
        }
    close(fd);
    return killed;
}

_Noreturn static void take_down(const struct supervisor *s)
{
    /* PID 1 of a PID namespace takes everything in it along, and may wait for it.
     * Otherwise one generation after the other comes to this process, its subreaper. */
    if (s->parts.error[PDI_PART_PID] == 0) {
        if (s->at_end.count) {
            (void)kill(-1, SIGKILL);
            while (waitpid(-1, NULL, 0) > 0)
                ;
        }
    } else {
        while (kill_children(s) > 0 && waitpid(-1, NULL, 0) > 0)
            ;
    }
    pdi_setup_end(&s->at_end);
    _exit(0);
}

_Noreturn static void supervise(struct supervisor *s)
{
    struct pollfd fds[] = {
        {.fd = s->children, .events = POLLIN},
        {.fd = s->infra->control, .events = POLLIN},
        {.fd = s->infra->parent, .events = POLLIN},
    };
    for (;;) {
        if (poll(fds, 3, -1) < 0)
            continue;
        if (fds[2].revents)
            take_down(s);
        if (fds[0].revents)
            reap(s);
        if (fds[1].revents && !serve(s))
            take_down(s);
    }
}

_Noreturn void pdi_infra_main(struct pdi_infra *infra)
{
    struct supervisor s = {.infra = infra};
    /* No signal of the terminal's is meant for it. */
    setsid();
    keep_descriptors(infra);
    default_signals();
    (void)prctl(PR_SET_NAME, "podipc-pod", 0, 0, 0);
    if (!infra->plan.pid)
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    pdi_forget_memory();

    struct pdi_infra_report text = {0};
    enum pdi_step step;
    int rc = pdi_namespace_enter_pod(&infra->plan, &s.parts, &step);
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    s.children = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
    if (rc == 0 && s.children < 0) {
        step = PDI_STEP_REQUEST;
        rc = -errno;
    }
    text.parts = s.parts;
    text.step = (int32_t)step;
    text.error = -rc;
    (void)!send(infra->control, &text, sizeof text, MSG_NOSIGNAL);
    if (rc < 0)
        _exit(1);
    supervise(&s);
}
