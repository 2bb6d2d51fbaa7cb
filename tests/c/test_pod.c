/* test_pod.c - the local runtime under the sanitizers: what is carried to the
 * infra process arrives as it was, real programs start and end, nothing leaks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "platform/clock.h"
#include "platform/launch.h"
#include "platform/pod.h"

#define PATIENCE INT64_C(30000000000)

static char *const no_strings[] = {NULL};

static int open_descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count;
}

static struct pdi_launch_spec shell(char *const *argv)
{
    static char *const paths[] = {"/nowhere/sh", "/bin/sh", NULL};
    return (struct pdi_launch_spec){.hostname = "name",
                                    .cwd = "/",
                                    .paths = paths,
                                    .argv = argv,
                                    .env = no_strings,
                                    .setup = no_strings,
                                    .container = -1,
                                    .uid = PDI_LAUNCH_KEEP,
                                    .gid = PDI_LAUNCH_KEEP,
                                    .umask = PDI_LAUNCH_KEEP};
}

static void test_launch_arrives_as_it_was(void)
{
    char *const argv[] = {"program", "", "two words", NULL};
    char *const env[] = {"A=1", NULL};
    char *const paths[] = {"/bin/program", NULL};
    char *const setup[] = {"mkdir", "/x", "0755", "", NULL};
    int targets[] = {0, 7};
    uint32_t groups[] = {1, 4294967294U};
    uint8_t cpus[8] = {5};
    struct pdi_launch_spec spec = {.hostname = "name",
                                   .cwd = "/tmp",
                                   .paths = paths,
                                   .argv = argv,
                                   .env = env,
                                   .fds = targets,
                                   .targets = targets,
                                   .fd_count = 2,
                                   .groups = groups,
                                   .group_count = 2,
                                   .uid = 1,
                                   .gid = 2,
                                   .umask = 077,
                                   .cpus = cpus,
                                   .cpus_len = sizeof cpus,
                                   .setup = setup,
                                   .container = -1};
    size_t size = 0;
    int fd = pdi_launch_encode(&spec, &size);
    CHECK(fd >= 0);
    CHECK(lseek(fd, 0, SEEK_END) == (off_t)size);
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    close(fd);
    if (base == MAP_FAILED) {
        CHECK(false);
        return;
    }
    struct pdi_launch *launch = pdi_launch_relocate(base);
    char **there = (char **)launch->argv;
    CHECK(!strcmp((char *)launch->hostname, "name") && !strcmp((char *)launch->cwd, "/tmp"));
    CHECK(!strcmp(there[0], "program") && !*there[1] && !strcmp(there[2], "two words"));
    CHECK(there[3] == NULL);
    CHECK(!strcmp(((char **)launch->env)[0], "A=1") && !((char **)launch->env)[1]);
    CHECK(!strcmp(((char **)launch->paths)[0], "/bin/program"));
    CHECK(!strcmp(((char **)launch->setup)[1], "/x") && !((char **)launch->setup)[4]);
    CHECK(launch->fd_count == 2 && !memcmp((void *)launch->targets, targets, sizeof targets));
    CHECK(launch->group_count == 2 && !memcmp((void *)launch->groups, groups, sizeof groups));
    CHECK(launch->cpus_len == 8 && !memcmp((void *)launch->cpus, cpus, sizeof cpus));
    CHECK(launch->uid == 1 && launch->gid == 2 && launch->umask == 077);
    munmap(base, size);
}

static int ready(struct pdi_pod *pod, podipc_error *err)
{
    int64_t until = pdi_now() + PATIENCE;
    int rc;
    do
        rc = pdi_pod_ready(pod, until, err);
    while (rc == -EAGAIN && pdi_now() < until);
    return rc;
}

static int start(const struct pdi_pod *pod, const struct pdi_launch_spec *spec,
                 struct pdi_start *started, podipc_error *err)
{
    int64_t until = pdi_now() + PATIENCE;
    int rc = pdi_start_begin(pod->control, spec, started, err);
    if (rc < 0)
        return rc;
    do
        rc = pdi_start_ready(started, spec, until, err);
    while (rc == -EAGAIN && pdi_now() < until);
    return rc;
}

/* The wait status of a container, -1 if the Pod went first; lets go of it. */
static int ended(struct pdi_start *started)
{
    int32_t status = -1;
    ssize_t n = read(started->status, &status, sizeof status);
    close(started->status);
    started->status = -1;
    pdi_start_drop(started);
    return n == sizeof status ? status : -1;
}

static void *start_ten(void *arg)
{
    char *const argv[] = {"sh", "-c", "exit 5", NULL};
    struct pdi_launch_spec spec = shell(argv);
    for (int i = 0; i < 10; i++) {
        struct pdi_start started;
        podipc_error err;
        if (start(arg, &spec, &started, &err) != 0)
            return arg;
        int status = ended(&started);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 5)
            return arg;
    }
    return NULL;
}

static void test_containers_start_and_end(bool isolate)
{
    int before = open_descriptors();
    struct pdi_pod pod;
    podipc_error err = {0};
    CHECK(pdi_pod_open(&pod, 1 << 20, isolate, &err) == 0);
    CHECK(ready(&pod, &err) == 0);

    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    char *const argv[] = {"sh", "-c", "echo $$ >&7", NULL};
    int targets[] = {7};
    struct pdi_launch_spec spec = shell(argv);
    spec.fds = &ends[1];
    spec.targets = targets;
    spec.fd_count = 1;
    struct pdi_start started;
    CHECK(start(&pod, &spec, &started, &err) == 0);
    close(ends[1]);
    CHECK(started.pid > 1);
    char text[32] = {0};
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    CHECK((atoi(text) == 1) == (pod.parts.error[PDI_PART_PID] == 0));
    close(ends[0]);
    CHECK(ended(&started) == 0);

    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, start_ten, &pod) == 0);
    for (int i = 0; i < 4; i++) {
        void *failed = &pod;
        CHECK(pthread_join(threads[i], &failed) == 0 && !failed);
    }

    char *const sleeping[] = {"sh", "-c", "exec sleep 1000", NULL};
    spec = shell(sleeping);
    CHECK(start(&pod, &spec, &started, &err) == 0);
    pdi_pod_close(&pod);
    pdi_pod_close(&pod);
    int status = ended(&started);
    CHECK(status == -1 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    CHECK(open_descriptors() == before);
}

static void test_what_fails_is_named(void)
{
    int before = open_descriptors();
    struct pdi_pod pod;
    podipc_error err = {0};
    CHECK(pdi_pod_open(&pod, 1 << 20, false, &err) == 0);
    CHECK(ready(&pod, &err) == 0);
    char *const argv[] = {"sh", NULL};
    struct pdi_start started;

    struct pdi_launch_spec spec = shell(argv);
    spec.paths = no_strings;
    CHECK(start(&pod, &spec, &started, &err) == -ENOENT && !strcmp(err.call, "execve"));

    spec = shell(argv);
    spec.cwd = "/nowhere";
    CHECK(start(&pod, &spec, &started, &err) == -ENOENT && !strcmp(err.call, "chdir"));
    CHECK(strstr(err.text, "'/nowhere'"));

    uint8_t cpus[PDI_LAUNCH_MAX_CPUS / 8] = {0};
    cpus[sizeof cpus - 1] = 0x80;
    spec = shell(argv);
    spec.cpus = cpus;
    spec.cpus_len = sizeof cpus;
    CHECK(start(&pod, &spec, &started, &err) == -EINVAL);
    CHECK(!strcmp(err.call, "sched_setaffinity"));

    spec = shell(argv);
    int nothing = -1, target = 0;
    spec.fds = &nothing;
    spec.targets = &target;
    spec.fd_count = 1;
    CHECK(start(&pod, &spec, &started, &err) == -EBADF && !strcmp(err.call, "sendmsg"));

    pdi_pod_close(&pod);
    CHECK(open_descriptors() == before);
}

/* However many descriptors are left: a Pod that can be heard of, or an error. */
static void test_few_descriptors(void)
{
    struct rlimit all, few;
    MUST(getrlimit(RLIMIT_NOFILE, &all) == 0);
    int before = open_descriptors(), opened = 0, refused = 0;
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    MUST(next >= 0);
    close(next);
    for (unsigned more = 0; more < 8; more++) {
        few = (struct rlimit){(rlim_t)next + more, all.rlim_max};
        MUST(setrlimit(RLIMIT_NOFILE, &few) == 0);
        struct pdi_pod pod;
        podipc_error err;
        int rc = pdi_pod_open(&pod, 1 << 20, false, &err);
        MUST(setrlimit(RLIMIT_NOFILE, &all) == 0);
        CHECK(rc == 0 || rc == -EMFILE);
        CHECK(rc < 0 || pod.pidfd >= 0);
        opened += rc == 0;
        refused += rc < 0;
        if (rc == 0)
            pdi_pod_close(&pod);
        CHECK(open_descriptors() == before);
    }
    CHECK(opened > 0 && refused > 0);
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

int main(void)
{
    test_launch_arrives_as_it_was();
    test_containers_start_and_end(true);
    test_containers_start_and_end(false);
    test_what_fails_is_named();
    test_few_descriptors();
    return checks_done();
}
