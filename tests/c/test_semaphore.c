/* test_semaphore.c - named semaphores: the C library's own, waits that end in time. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "platform/clock.h"
#include "platform/semaphore.h"

#define MS INT64_C(1000000)

static char name[64], path[PDI_PATH_CAP];

static void test_create_and_open(void)
{
    struct pdi_semaphore a, b, c;
    podipc_error err;
    struct stat st;
    mode_t before = umask(0777);
    CHECK(pdi_semaphore_create(&a, path, 2, 0666, NULL) == 0);
    umask(before);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 07777) == 0666);
    CHECK(pdi_semaphore_open(&b, path, NULL) == 0);
    CHECK(pdi_semaphore_value(b.sem) == 2);
    CHECK(pdi_semaphore_create(&c, path, 1, 0600, &err) == -EEXIST);
    CHECK(pdi_semaphore_wait(a.sem, 0) == 0);
    CHECK(pdi_semaphore_wait(b.sem, 0) == 0);
    CHECK(pdi_semaphore_wait(a.sem, 0) == -EAGAIN);
    CHECK(pdi_semaphore_post(b.sem, 3) == 0);
    CHECK(pdi_semaphore_value(a.sem) == 3);
    CHECK(pdi_named_unlink(path, a.dev, a.ino, NULL) == 0);
    CHECK(pdi_semaphore_open(&c, path, &err) == -ENOENT);
    pdi_semaphore_close(&a);
    pdi_semaphore_close(&a);
    CHECK(pdi_semaphore_value(b.sem) == 3);
    pdi_semaphore_close(&b);
}

static void test_it_is_the_librarys(void)
{
    struct pdi_semaphore ours;
    char theirs_name[80];
    (void)snprintf(theirs_name, sizeof theirs_name, "/%s", name);

    CHECK(pdi_semaphore_create(&ours, path, 1, 0600, NULL) == 0);
    sem_t *theirs = sem_open(theirs_name, 0);
    CHECK(theirs != SEM_FAILED);
    CHECK(sem_trywait(theirs) == 0);
    CHECK(pdi_semaphore_wait(ours.sem, 0) == -EAGAIN);
    CHECK(sem_post(theirs) == 0);
    CHECK(pdi_semaphore_wait(ours.sem, 0) == 0);
    pdi_semaphore_close(&ours);
    sem_close(theirs);
    CHECK(sem_unlink(theirs_name) == 0);

    theirs = sem_open(theirs_name, O_CREAT | O_EXCL, 0600, 5);
    CHECK(theirs != SEM_FAILED);
    CHECK(pdi_semaphore_open(&ours, path, NULL) == 0);
    CHECK(pdi_semaphore_value(ours.sem) == 5);
    CHECK(pdi_named_unlink(path, ours.dev, ours.ino, NULL) == 0);
    pdi_semaphore_close(&ours);
    sem_close(theirs);
}

static void test_what_is_no_semaphore(void)
{
    struct pdi_semaphore s;
    podipc_error err;
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
    CHECK(pdi_semaphore_open(&s, path, &err) == PODIPC_EADDRESS);
    CHECK(write(fd, name, 1) == 1);
    CHECK(pdi_semaphore_open(&s, path, &err) == PODIPC_EADDRESS);
    CHECK(s.sem == NULL);
    close(fd);
    unlink(path);
}

static void test_values(sem_t *sem)
{
    CHECK(sem_init(sem, 1, pdi_semaphore_max() - 2) == 0);
    CHECK(pdi_semaphore_post(sem, 3) == -EOVERFLOW);
    CHECK(pdi_semaphore_post(sem, UINT_MAX) == -EOVERFLOW);
    CHECK(pdi_semaphore_value(sem) == pdi_semaphore_max() - 2);
    CHECK(pdi_semaphore_post(sem, 2) == 0);
    CHECK(pdi_semaphore_post(sem, 1) == -EOVERFLOW);
    CHECK(pdi_semaphore_value(sem) == pdi_semaphore_max());
    struct pdi_semaphore s;
    CHECK(pdi_semaphore_create(&s, path, UINT_MAX, 0600, NULL) == -EINVAL);
    CHECK(access(path, F_OK) < 0);
}

static void test_timeouts(sem_t *sem)
{
    CHECK(sem_init(sem, 1, 0) == 0);
    for (int64_t ms = 0; ms <= 200; ms += 40) {
        int64_t start = pdi_now();
        CHECK(pdi_semaphore_wait(sem, start + ms * MS) == -EAGAIN);
        int64_t took = pdi_now() - start;
        CHECK(took >= ms * MS);
        CHECK(took < 10000 * MS);
        start = pdi_now();
        CHECK(pdi_semaphore_sleep(sem, start + ms * MS) == -ETIMEDOUT);
        CHECK(pdi_now() - start >= ms * MS);
    }
    CHECK(pdi_semaphore_wait(sem, 1) == -EAGAIN); /* long past */
    CHECK(pdi_semaphore_post(sem, 1) == 0);
    CHECK(pdi_semaphore_sleep(sem, 1) == 0);
}

static void *post_later(void *sem)
{
    nanosleep(&(struct timespec){.tv_nsec = 100 * MS}, NULL);
    pdi_semaphore_post(sem, 1);
    return NULL;
}

static void test_woken(sem_t *sem)
{
    pthread_t thread;
    CHECK(sem_init(sem, 1, 0) == 0);
    CHECK(pthread_create(&thread, NULL, post_later, sem) == 0);
    int64_t start = pdi_now();
    CHECK(pdi_semaphore_wait(sem, start + 60000 * MS) == 0);
    CHECK(pdi_now() - start < 30000 * MS);
    pthread_join(thread, NULL);
}

static void nothing(int signal)
{
    (void)signal;
}

static void test_a_signal_ends_the_wait_early(sem_t *sem)
{
    CHECK(sem_init(sem, 1, 0) == 0);
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, NULL);
    ualarm(75000, 0);
    int64_t start = pdi_now();
    CHECK(pdi_semaphore_wait(sem, start + 60000 * MS) == -EAGAIN);
    CHECK(pdi_now() - start < 30000 * MS);
}

static void test_a_killed_waiter_takes_nothing(void)
{
    struct pdi_semaphore s;
    CHECK(pdi_semaphore_create(&s, path, 0, 0600, NULL) == 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(pdi_semaphore_wait(s.sem, pdi_now() + 60000 * MS) == 0);
    nanosleep(&(struct timespec){.tv_nsec = 100 * MS}, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK(pdi_semaphore_post(s.sem, 1) == 0);
    CHECK(pdi_semaphore_wait(s.sem, 0) == 0);
    CHECK(pdi_named_unlink(path, s.dev, s.ino, NULL) == 0);
    pdi_semaphore_close(&s);
}

int main(void)
{
    sem_t sem;
    (void)snprintf(name, sizeof name, "podipc-test-c-%ld", (long)getpid());
    CHECK(pdi_semaphore_path(name, path, NULL) == 0);
    test_create_and_open();
    test_it_is_the_librarys();
    test_what_is_no_semaphore();
    test_values(&sem);
    test_timeouts(&sem);
    test_woken(&sem);
    test_a_signal_ends_the_wait_early(&sem);
    test_a_killed_waiter_takes_nothing();
    return checks_done();
}
