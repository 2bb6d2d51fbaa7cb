#include "namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

const char *pdi_part_name(enum pdi_part part)
{
    static const char *const names[PDI_PART_COUNT] = {
        [PDI_PART_USER] = "user", [PDI_PART_PID] = "pid", [PDI_PART_MOUNT] = "mount",
        [PDI_PART_NET] = "net",   [PDI_PART_IPC] = "ipc", [PDI_PART_UTS] = "uts",
        [PDI_PART_PROC] = "proc", [PDI_PART_SHM] = "shm",
    };
    return names[part];
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t len = strlen(text);
    ssize_t n = write(fd, text, len);
    int rc = n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
    close(fd);
    return rc;
}

/* Without a privilege outside, one line with one's own ID is all the kernel
 * accepts, and only once setgroups() is given up. The ID is mapped to itself, so
 * that files and programs see the user they know; to get the capabilities for
 * what follows it need not be 0. */
static int map_ids(const struct pdi_namespace_plan *plan, enum pdi_step *step)
{
    *step = PDI_STEP_MAP_GROUPS;
    int rc = write_file("/proc/self/setgroups", "deny");
    if (rc == 0) {
        *step = PDI_STEP_MAP_UID;
        rc = write_file("/proc/self/uid_map", plan->uid_map);
    }
    if (rc == 0) {
        *step = PDI_STEP_MAP_GID;
        rc = write_file("/proc/self/gid_map", plan->gid_map);
    }
    return rc;
}

static bool make(int flag, int32_t *error)
{
    *error = unshare(flag) == 0 ? 0 : errno;
    return *error == 0;
}

static int loopback_up(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct ifreq request = {.ifr_name = "lo"};
    int rc = ioctl(fd, SIOCGIFFLAGS, &request);
    if (rc == 0) {
        request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
        rc = ioctl(fd, SIOCSIFFLAGS, &request);
    }
    rc = rc == 0 ? 0 : -errno;
    close(fd);
    return rc;
}

static int mount_proc(void)
{
    return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0 ? 0 : -errno;
}

static void mount_shm(const struct pdi_namespace_plan *plan, struct pdi_parts *parts)
{
    int rc = mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, plan->shm_options);
    parts->error[PDI_PART_SHM] = rc == 0 ? 0 : errno;
}

/* Inside a container that masks parts of its /proc the kernel refuses a fresh
 * one. Found out here, once, so that all containers of a Pod are alike. */
static void try_proc(struct pdi_parts *parts)
{
    int rc = mount_proc();
    if (rc == 0)
        (void)umount2("/proc", MNT_DETACH);
    parts->error[PDI_PART_PROC] = -rc;
}

int pdi_namespace_enter_pod(const struct pdi_namespace_plan *plan, struct pdi_parts *parts,
                            enum pdi_step *step)
{
    *step = PDI_STEP_NONE;
    for (int i = 0; i < PDI_PART_COUNT; i++)
        parts->error[i] = PDI_NOT_TRIED;
    if (!plan->isolate)
        return 0;

    int rc;
    if (plan->user) {
        rc = map_ids(plan, step);
        if (rc < 0)
            return rc;
        parts->error[PDI_PART_USER] = 0;
    }
    if (plan->pid)
        parts->error[PDI_PART_PID] = 0;
    if (make(CLONE_NEWNS, &parts->error[PDI_PART_MOUNT])) {
        /* Nothing mounted from here on may show on the host. */
        *step = PDI_STEP_PRIVATE;
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
            return -errno;
        mount_shm(plan, parts);
        if (plan->pid)
            try_proc(parts);
    }
    if (make(CLONE_NEWNET, &parts->error[PDI_PART_NET])) {
        *step = PDI_STEP_LOOPBACK;
        rc = loopback_up();
        if (rc < 0)
            return rc;
    }
    (void)make(CLONE_NEWIPC, &parts->error[PDI_PART_IPC]);
    (void)make(CLONE_NEWUTS, &parts->error[PDI_PART_UTS]);
    *step = PDI_STEP_NONE;
    return 0;
}

uint64_t pdi_namespace_container_flags(const struct pdi_parts *parts)
{
    uint64_t flags = 0;
    if (parts->error[PDI_PART_PID] == 0)
        flags |= CLONE_NEWPID;
    if (parts->error[PDI_PART_MOUNT] == 0)
        flags |= CLONE_NEWNS;
    if (parts->error[PDI_PART_UTS] == 0)
        flags |= CLONE_NEWUTS;
    return flags;
}

int pdi_namespace_join(const struct pdi_parts *parts, int pidfd)
{
    int flags = (int)pdi_namespace_container_flags(parts);
    return !flags || setns(pidfd, flags) == 0 ? 0 : -errno;
}

int pdi_namespace_enter_container(const struct pdi_parts *parts, const char *hostname,
                                  enum pdi_step *step)
{
    if (parts->error[PDI_PART_PROC] == 0) {
        *step = PDI_STEP_PROC;
        int rc = mount_proc();
        if (rc < 0)
            return rc;
    }
    if (parts->error[PDI_PART_UTS] == 0) {
        *step = PDI_STEP_HOSTNAME;
        if (sethostname(hostname, strlen(hostname)) < 0)
            return -errno;
    }
    return 0;
}
