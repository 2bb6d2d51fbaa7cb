#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../core/error.h"
#include "clock.h"
#include "infra.h"
#include "pidfd.h"
#include "poller.h"
#include "retry.h"
#include "setup.h"

/* How a Pod is tried, best first. A privileged process needs no user namespace,
 * and would lose all users but one in it; any other can have nothing without. */
static const struct attempt {
    bool privileged, user, pid;
} attempts[] = {
    {.privileged = true, .user = false, .pid = true},
    {.privileged = true, .user = false, .pid = false},
    {.privileged = false, .user = true, .pid = true},
    {.privileged = false, .user = true, .pid = false},
};
enum { ATTEMPTS = sizeof attempts / sizeof *attempts };

static const struct {
    const char *call;
    const char *text;
} steps[PDI_STEP_COUNT] = {
    [PDI_STEP_REQUEST] = {"mmap", "the infra process could not take the request"},
    [PDI_STEP_CLONE] = {"clone", "the container's process could not be made"},
    [PDI_STEP_MAP_GROUPS] = {"write", "setgroups could not be given up in the user namespace"},
    [PDI_STEP_MAP_UID] = {"write", "the UID could not be mapped into the user namespace"},
    [PDI_STEP_MAP_GID] = {"write", "the GID could not be mapped into the user namespace"},
    [PDI_STEP_PRIVATE] = {"mount", "the mounts could not be made private"},
    [PDI_STEP_LOOPBACK] = {"ioctl", "the loopback interface could not be brought up"},
    [PDI_STEP_ENTER] = {"setns", "the namespaces of the container cannot be entered (Linux 5.8)"},
    [PDI_STEP_SETUP] = {"mount", "the file system could not be set up"},
    [PDI_STEP_PROC] = {"mount", "/proc could not be mounted"},
    [PDI_STEP_HOSTNAME] = {"sethostname", "the host name could not be set"},
    [PDI_STEP_DESCRIPTORS] = {"dup2", "the descriptors could not be put in place"},
    [PDI_STEP_AFFINITY] = {"sched_setaffinity",
                           "the cpus could not be set (are they among those allowed here?)"},
    [PDI_STEP_CHDIR] = {"chdir", "the working directory could not be entered"},
    [PDI_STEP_GROUPS] = {"setgroups", "the supplementary groups could not be set"},
    [PDI_STEP_GID] = {"setresgid", "the GID could not be set"},
    [PDI_STEP_UID] = {"setresuid", "the UID could not be set"},
    [PDI_STEP_EXEC] = {"execve", "the program could not be executed"},
};

const char *pdi_step_text(enum pdi_step step)
{
    return steps[step].text ? steps[step].text : "";
}

/* CAP_SYS_ADMIN is capability 21; version 3 of the call has two sets of 32 bits. */
static bool privileged(void)
{
    struct {
        uint32_t version;
        int pid;
    } head = {.version = 0x20080522};
    struct {
        uint32_t effective, permitted, inheritable;
    } sets[2] = {{0}};
    return syscall(SYS_capget, &head, sets) == 0 && (sets[0].effective & 1U << 21);
}

static void reset(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Clones the infra process as pod->plan says; -errno of what refused. */
static int clone_infra(struct pdi_pod *pod)
{
    const struct pdi_namespace_plan *plan = &pod->plan;
    int sockets[2] = {-1, -1};
    struct pdi_infra infra = {.plan = *plan, .null = -1};
    sigset_t all, before;
    int rc = 0;
    pid_t pid;

    infra.parent = pdi_pidfd_open(getpid());
    if (infra.parent < 0)
        return infra.parent;
    infra.null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (infra.null < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
        rc = -errno;
        goto done;
    }
    infra.control = sockets[1];
    /* No handler of the parent's may run in the copy. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = pdi_clone((plan->user ? CLONE_NEWUSER : 0) | (plan->pid ? CLONE_NEWPID : 0), NULL);
    if (pid == 0)
        pdi_infra_main(&infra);
    rc = pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        pod->pid = pid;
        pod->control = sockets[0];
        pod->pidfd = pdi_pidfd_open(pid);
        sockets[0] = -1;
        if (pod->pidfd < 0) { /* no descriptors: without it nobody hears of its end */
            rc = pod->pidfd;
            pdi_pod_close(pod);
        }
    }
done:
    reset(&infra.parent);
    reset(&infra.null);
    reset(&sockets[0]);
    reset(&sockets[1]);
    return rc;
}

/* Goes on to the next attempt that fits and that the kernel lets begin; plain
 * processes come last. */
static int next_attempt(struct pdi_pod *pod, podipc_error *err)
{
    bool is_privileged = privileged();
    while (pod->plan.isolate && ++pod->attempt < ATTEMPTS) {
        const struct attempt *attempt = &attempts[pod->attempt];
        if (attempt->privileged != is_privileged)
            continue;
        pod->plan.user = attempt->user;
        pod->plan.pid = attempt->pid;
        int rc = clone_infra(pod);
        if (rc == 0)
            return 0;
        /* The least that was refused is what is missing. */
        pod->parts.error[attempt->pid ? PDI_PART_PID : PDI_PART_USER] = -rc;
    }
    pod->plan.isolate = pod->plan.user = pod->plan.pid = false;
    int rc = clone_infra(pod);
    if (rc == -ENOSYS)
        return pdi_fail(err, rc, "pidfd_open", "the local runtime needs Linux 5.3 or newer");
    return rc == 0 ? 0 : pdi_fail(err, rc, "clone", "no process for the Pod could be made");
}

int pdi_pod_open(struct pdi_pod *pod, uint64_t shm_bytes, bool isolate, podipc_error *err)
{
    *pod = (struct pdi_pod){.control = -1, .pidfd = -1, .attempt = -1};
    for (int i = 0; i < PDI_PART_COUNT; i++)
        pod->parts.error[i] = PDI_NOT_TRIED;
    pod->plan.isolate = isolate;
    (void)snprintf(pod->plan.uid_map, sizeof pod->plan.uid_map, "%u %u 1", geteuid(), geteuid());
    (void)snprintf(pod->plan.gid_map, sizeof pod->plan.gid_map, "%u %u 1", getegid(), getegid());
    (void)snprintf(pod->plan.shm_options, sizeof pod->plan.shm_options, "mode=1777,size=%llu",
                   (unsigned long long)shm_bytes);
    return next_attempt(pod, err);
}

/* 0 when there is something to read, -EAGAIN when `until` has passed. */
static int wait_readable(int fd, int64_t until)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = pdi_poll(&p, 1, pdi_poll_ms(until));
    return n > 0 ? 0 : n == 0 ? -EAGAIN : n;
}

/* What this attempt made, over what earlier ones were refused. */
static void merge(struct pdi_pod *pod, const struct pdi_parts *made)
{
    for (int i = 0; i < PDI_PART_COUNT; i++)
        if (made->error[i] != PDI_NOT_TRIED)
            pod->parts.error[i] = made->error[i];
}

int pdi_pod_ready(struct pdi_pod *pod, int64_t until, podipc_error *err)
{
    for (;;) {
        int rc = wait_readable(pod->control, until);
        if (rc < 0)
            return rc == -EAGAIN ? rc : pdi_fail(err, rc, "poll", "the Pod cannot be waited for");
        struct pdi_infra_report report;
        ssize_t n = recv(pod->control, &report, sizeof report, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return -EAGAIN;
        if (n != sizeof report)
            return pdi_fail(err, -ECHILD, "", "the infra process of the Pod died at its start");
        if (report.step == PDI_STEP_NONE) {
            merge(pod, &report.parts);
            return 0;
        }
        pdi_pod_close(pod);
        pod->refused = (enum pdi_step)report.step;
        pod->refused_errno = report.error;
        if (!pod->plan.isolate)
            return pdi_fail(err, -report.error, steps[report.step].call, "%s",
                            steps[report.step].text);
        rc = next_attempt(pod, err);
        if (rc < 0)
            return rc;
    }
}

void pdi_pod_close(struct pdi_pod *pod)
{
    /* A forked process may hold a copy of the socket: closing alone might say nothing. */
    if (pod->control >= 0)
        (void)shutdown(pod->control, SHUT_RDWR);
    reset(&pod->control);
    reset(&pod->pidfd);
    if (pod->pid > 0)
        (void)PDI_RETRY(waitpid(pod->pid, NULL, 0));
    pod->pid = 0;
}

void pdi_pod_forget(struct pdi_pod *pod)
{
    reset(&pod->control);
    reset(&pod->pidfd);
    pod->pid = 0;
}

/* One message with the descriptors of a request. */
static int send_request(int control, const struct pdi_infra_request *request, const int *own,
                        const struct pdi_launch_spec *spec)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * (PDI_REQUEST_FDS + PDI_LAUNCH_MAX_FDS + 1))];
    } area;
    memset(&area, 0, sizeof area);
    size_t count = PDI_REQUEST_FDS + spec->fd_count + (request->kind == PDI_REQUEST_ENTER);
    struct iovec part = {.iov_base = (void *)(uintptr_t)request, .iov_len = sizeof *request};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = area.bytes,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(head), own, PDI_REQUEST_FDS * sizeof(int));
    if (spec->fd_count)
        memcpy(CMSG_DATA(head) + PDI_REQUEST_FDS * sizeof(int), spec->fds,
               spec->fd_count * sizeof(int));
    if (request->kind == PDI_REQUEST_ENTER)
        memcpy(CMSG_DATA(head) + (count - 1) * sizeof(int), &spec->container, sizeof(int));
    ssize_t n = PDI_RETRY(sendmsg(control, &message, MSG_NOSIGNAL | MSG_DONTWAIT));
    return n < 0 ? -errno : 0;
}

int pdi_start_begin(int control, const struct pdi_launch_spec *spec, struct pdi_start *start,
                    podipc_error *err)
{
    *start = (struct pdi_start){.report = -1, .status = -1, .pidfd = -1};
    if (spec->fd_count > PDI_LAUNCH_MAX_FDS)
        return pdi_fail(err, -E2BIG, "sendmsg",
                        "container '%s' gets at most %d descriptors, not %zu", spec->hostname,
                        PDI_LAUNCH_MAX_FDS, spec->fd_count);
    int sockets[2] = {-1, -1}, status[2] = {-1, -1}, launch = -1, yes = 1, rc = 0;
    struct pdi_infra_request request = {.kind = spec->container >= 0 ? PDI_REQUEST_ENTER
                                                : spec->argv[0]      ? PDI_REQUEST_START
                                                                     : PDI_REQUEST_SETUP};
    const char *call = "socketpair";
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        goto err;
    call = "setsockopt";
    if (setsockopt(sockets[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) < 0)
        goto err;
    call = "pipe2";
    if (pipe2(status, O_CLOEXEC) < 0)
        goto err;
    call = "memfd_create";
    launch = pdi_launch_encode(spec, &request.size);
    if (launch < 0) {
        rc = launch;
        goto err;
    }
    call = "sendmsg";
    int own[PDI_REQUEST_FDS] = {[PDI_REQUEST_REPORT] = sockets[1],
                                [PDI_REQUEST_STATUS] = status[1],
                                [PDI_REQUEST_LAUNCH] = launch};
    rc = send_request(control, &request, own, spec);
    if (rc < 0)
        goto err;
    reset(&launch);
    reset(&sockets[1]);
    reset(&status[1]);
    start->report = sockets[0];
    start->status = status[0];
    return 0;

err:
    rc = rc ? rc : -errno;
    reset(&launch);
    for (int i = 0; i < 2; i++) {
        reset(&sockets[i]);
        reset(&status[i]);
    }
    if (rc == -EPIPE || rc == -ECONNRESET)
        return pdi_fail(err, PODIPC_ECLOSED, call,
                        "container '%s' cannot be started: the Pod has ended", spec->hostname);
    return pdi_fail(err, rc, call, "container '%s' cannot be started", spec->hostname);
}

/* One message; its size, 0 at the end, or -errno. */
static ssize_t receive_report(struct pdi_start *start, struct pdi_report *report)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } area;
    struct iovec part = {.iov_base = report, .iov_len = sizeof *report};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = area.bytes,
                             .msg_controllen = sizeof area.bytes};
    ssize_t n = recvmsg(start->report, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET)
            continue;
        if (head->cmsg_type == SCM_RIGHTS) {
            reset(&start->pidfd);
            memcpy(&start->pidfd, CMSG_DATA(head), sizeof start->pidfd);
        } else if (head->cmsg_type == SCM_CREDENTIALS && n && report->step == PDI_STEP_HELLO) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(head), sizeof sender);
            start->pid = sender.pid;
        }
    }
    return n;
}

static int explain(const struct pdi_start *start, const struct pdi_launch_spec *spec,
                   podipc_error *err)
{
    const char *call = steps[start->step].call, *text = steps[start->step].text;
    const char *name = spec->hostname;
    if (start->step == PDI_STEP_EXEC)
        return pdi_fail(err, -start->error, call, "container '%s': cannot execute '%s'", name,
                        spec->argv[0]);
    if (start->step == PDI_STEP_SETUP && start->detail >= 0) {
        char *const *op = spec->setup + (size_t)start->detail * PDI_SETUP_WORDS;
        return pdi_fail(err, -start->error, call, "container '%s': the operation '%s %s %s' failed",
                        name, op[0], op[1], op[2]);
    }
    if (start->step == PDI_STEP_CHDIR)
        return pdi_fail(err, -start->error, call, "container '%s': cannot enter '%s'", name,
                        spec->cwd);
    if (start->step == PDI_STEP_UID || start->step == PDI_STEP_GID ||
        start->step == PDI_STEP_GROUPS)
        return pdi_fail(err, -start->error, call,
                        "container '%s': cannot become UID %lld, GID %lld; only root can "
                        "(leave runAsUser and runAsGroup out, or run as root)",
                        name, (long long)spec->uid, (long long)spec->gid);
    return pdi_fail(err, -start->error, call, "container '%s': %s", name, text);
}

int pdi_start_ready(struct pdi_start *start, const struct pdi_launch_spec *spec, int64_t until,
                    podipc_error *err)
{
    for (;;) {
        int rc = wait_readable(start->report, until);
        if (rc < 0)
            return rc == -EAGAIN ? rc
                                 : pdi_fail(err, rc, "poll", "container '%s' cannot be waited for",
                                            spec->hostname);
        struct pdi_report report = {0};
        ssize_t n = receive_report(start, &report);
        if (n == -EAGAIN || n == -EINTR)
            return -EAGAIN;
        if (n <= 0)
            break;
        start->done |= report.step == PDI_STEP_DONE;
        if (report.step > PDI_STEP_DONE && report.step < PDI_STEP_COUNT) {
            start->step = (enum pdi_step)report.step;
            start->error = report.error;
            start->detail = report.detail;
        }
    }
    reset(&start->report);
    if (start->step == PDI_STEP_NONE && start->pid > 0 && start->pidfd >= 0)
        return 0;
    pdi_start_drop(start);
    if (start->step == PDI_STEP_NONE && start->done)
        return 0;
    if (start->step == PDI_STEP_NONE && !spec->argv[0])
        return pdi_fail(err, PODIPC_ECLOSED, "", "the Pod cannot be set up: it has ended");
    if (start->step == PDI_STEP_NONE)
        return pdi_fail(err, PODIPC_ECLOSED, "", "container '%s' was killed before its program ran",
                        spec->hostname);
    return explain(start, spec, err);
}

void pdi_start_drop(struct pdi_start *start)
{
    if (start->pidfd >= 0)
        (void)pdi_pidfd_signal(start->pidfd, SIGKILL);
    reset(&start->report);
    reset(&start->status);
    reset(&start->pidfd);
}
