/* For LD_PRELOAD: a call of podipc's C core fails as the machine might have let it fail.
 *
 * failing_arm(k, e) lets the k-th of the calls that may fail with the error e do so,
 * without being made. Which call may fail how is in the table below, after the man pages.
 * Calls of others, such as the interpreter, are left alone: what counts is from where a
 * function was called. failing_clock(s) sets the wall clock of the whole process s seconds
 * forward.
 *
 * The functions are declared here and not by the system's headers, because those with
 * `...` are given a fixed argument list: integers and pointers are passed in the same way
 * in both in the ABIs of x86-64 and aarch64. A result of int is in the lower half of the
 * register of a long.
 */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

enum { UNLOCK = 8 /* LOCK_UN */, DUPLICATE = 1030 /* F_DUPFD_CLOEXEC */ };

char *strstr(const char *text, const char *part);

static uintptr_t core_begin, core_end;
static atomic_int wanted;
static atomic_long chosen, count;
static _Atomic(const char *) failed;
static atomic_long clock_offset;

static int look_for_core(struct dl_phdr_info *info, size_t size, void *nothing)
{
    (void)size;
    (void)nothing;
    if (strstr(info->dlpi_name, "/podipc/_core.") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            core_begin = info->dlpi_addr + part->p_vaddr;
            core_end = core_begin + part->p_memsz;
        }
    }
    return 1;
}

/* Lets the k-th call fail, counted from 1, and counts from 0 again; error 0: none. Returns
 * -1 if podipc is not loaded. */
int failing_arm(long k, int error);
int failing_arm(long k, int error)
{
    if (core_end == 0)
        dl_iterate_phdr(look_for_core, NULL);
    atomic_store(&wanted, 0);
    atomic_store(&count, 0);
    atomic_store(&failed, NULL);
    atomic_store(&chosen, k);
    atomic_store(&wanted, error);
    return core_end == 0 ? -1 : 0;
}

/* The function that has failed, or NULL. */
const char *failing_name(void);
const char *failing_name(void)
{
    return atomic_load(&failed);
}

void failing_clock(long seconds);
void failing_clock(long seconds)
{
    atomic_store(&clock_offset, seconds);
}

static int fails(const void *caller, const char *name, const int *may, size_t n)
{
    int error = atomic_load(&wanted);
    uintptr_t from = (uintptr_t)caller;
    if (error == 0 || from < core_begin || from >= core_end)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (may[i] == error && atomic_fetch_add(&count, 1) + 1 == atomic_load(&chosen)) {
            atomic_store(&failed, name);
            errno = error;
            return 1;
        }
    return 0;
}

static void *find(void *_Atomic *place, const char *name)
{
    void *real = atomic_load(place);
    if (real == NULL) {
        real = dlsym(RTLD_NEXT, name);
        atomic_store(place, real);
    }
    return real;
}

#define LENGTH(a) (sizeof(a) / sizeof *(a))
/* Whether this call of `name` is to fail, with one of the errors. */
#define FAILS(name, ...)                                                                           \
    fails(__builtin_return_address(0), name, (const int[]){__VA_ARGS__},                           \
          LENGTH(((const int[]){__VA_ARGS__})))
/* The function behind this one, of the same type. */
#define REAL(name, result, parameters)                                                             \
    static void *_Atomic place;                                                                    \
    result(*real) parameters = (result(*) parameters)find(&place, #name)

#define MAY_FAIL(result, failure, name, parameters, arguments, ...)                                \
    result name parameters;                                                                        \
    result name parameters                                                                         \
    {                                                                                              \
        REAL(name, result, parameters);                                                            \
        return FAILS(#name, __VA_ARGS__) ? failure : real arguments;                               \
    }
#define EXPAND(macro, ...)       macro(__VA_ARGS__)
#define CALL(name, shape, ...)   EXPAND(MAY_FAIL, long, -1L, name, shape, __VA_ARGS__)
#define MEMORY(name, shape, ...) EXPAND(MAY_FAIL, void *, NULL, name, shape, ENOMEM)
#define ONE                      (const void *a), (a)
#define TWO                      (const void *a, const void *b), (a, b)
#define THREE                    (const void *a, const void *b, const void *c), (a, b, c)
#define FOUR                     (const void *a, const void *b, const void *c, const void *d), (a, b, c, d)
#define FIVE                                                                                       \
    (const void *a, const void *b, const void *c, const void *d, const void *e), (a, b, c, d, e)
#define SIX                                                                                        \
    (const void *a, const void *b, const void *c, const void *d, const void *e, const void *f),    \
        (a, b, c, d, e, f)

CALL(accept4, FOUR, EMFILE, ENOMEM, EINTR, EAGAIN)
CALL(bind, THREE, ENOMEM, ENOSPC)
CALL(connect, THREE, EAGAIN)
CALL(epoll_create1, ONE, EMFILE, ENOMEM)
CALL(epoll_ctl, FOUR, ENOMEM, ENOSPC)
CALL(epoll_wait, FOUR, EINTR)
CALL(eventfd, TWO, EMFILE, ENOMEM)
CALL(fallocate, FOUR, ENOSPC, ENOMEM, EINTR)
CALL(ftruncate, TWO, ENOSPC, ENOMEM, EINTR)
CALL(inotify_add_watch, THREE, ENOMEM, ENOSPC)
CALL(inotify_init1, ONE, EMFILE, ENOMEM)
CALL(link, TWO, ENOSPC, ENOMEM)
CALL(linkat, FIVE, ENOSPC, ENOMEM)
CALL(memfd_create, TWO, EMFILE, ENOMEM)
CALL(mkdir, TWO, ENOSPC, ENOMEM)
CALL(mkfifo, TWO, ENOSPC, ENOMEM)
CALL(mmap, SIX, ENOMEM)
CALL(open, THREE, EMFILE, ENOMEM, ENOSPC, EINTR)
CALL(openat, FOUR, EMFILE, ENOMEM, ENOSPC, EINTR)
CALL(pipe2, TWO, EMFILE)
CALL(poll, THREE, EINTR, ENOMEM)
CALL(pread, FOUR, EINTR)
CALL(pwrite, FOUR, EINTR, ENOSPC)
CALL(pwritev, FOUR, EINTR, ENOSPC)
CALL(read, THREE, EINTR, EAGAIN)
CALL(readv, THREE, EINTR, EAGAIN)
CALL(recv, FOUR, EINTR, EAGAIN, ENOMEM)
CALL(recvmsg, THREE, EINTR, EAGAIN, ENOMEM)
CALL(rename, TWO, ENOSPC, ENOMEM)
CALL(renameat, FOUR, ENOSPC, ENOMEM)
CALL(send, FOUR, EINTR, EAGAIN, ENOMEM)
CALL(sendmsg, THREE, EINTR, EAGAIN, ENOMEM)
CALL(socket, THREE, EMFILE, ENOMEM)
CALL(socketpair, FOUR, EMFILE, ENOMEM)
CALL(symlink, TWO, ENOSPC, ENOMEM)
CALL(writev, THREE, EINTR, EAGAIN)
MEMORY(aligned_alloc, TWO)
MEMORY(calloc, TWO)
MEMORY(malloc, ONE)
MEMORY(realloc, TWO)
MEMORY(strdup, ONE)
MEMORY(strndup, TWO)
/* It returns its error. */
EXPAND(MAY_FAIL, int, EAGAIN, pthread_create, FOUR, EAGAIN)

/* An eventfd, which is given eight bytes, always has room. */
long write(int fd, const void *bytes, size_t n);
long write(int fd, const void *bytes, size_t n)
{
    REAL(write, long, (int, const void *, size_t));
    if (n == sizeof(uint64_t) ? FAILS("write", EINTR) : FAILS("write", EINTR, EAGAIN))
        return -1;
    return real(fd, bytes, n);
}

/* Of its commands, the one that makes a descriptor. */
long fcntl(int fd, int command, const void *argument);
long fcntl(int fd, int command, const void *argument)
{
    REAL(fcntl, long, (int, int, const void *));
    return command == DUPLICATE && FAILS("fcntl", EMFILE) ? -1 : real(fd, command, argument);
}

/* To unlock cannot fail. */
int flock(int fd, int operation);
int flock(int fd, int operation)
{
    REAL(flock, int, (int, int));
    return (operation & UNLOCK) == 0 && FAILS("flock", EINTR, ENOMEM) ? -1 : real(fd, operation);
}

/* Of the calls without a function of their own, the wait. */
long syscall(long number, long a, long b, long c, long d, long e, long f);
long syscall(long number, long a, long b, long c, long d, long e, long f)
{
    REAL(syscall, long, (long, long, long, long, long, long, long));
    return number == SYS_futex && FAILS("futex", EINTR) ? -1 : real(number, a, b, c, d, e, f);
}

/* It has closed all the same. */
int close(int fd);
int close(int fd)
{
    REAL(close, int, (int));
    int rc = real(fd);
    return FAILS("close", EINTR) ? -1 : rc;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    REAL(clock_gettime, int, (clockid_t, struct timespec *));
    int rc = real(clock, at);
    if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += atomic_load(&clock_offset);
    return rc;
}
