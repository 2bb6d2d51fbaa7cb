#include "forget.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sanitizers keep what they know in mappings of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PDI_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define PDI_SANITIZED 1
#endif
#endif

#ifdef PDI_SANITIZED

void pdi_forget_memory(void)
{
}

#else

/* Below this live the writable data of the C library and the like. */
enum { SMALL = 256 * 1024 };

/* One line of /proc/self/maps, "start-end perms ...", read character by character. */
struct line {
    uintptr_t start, end;
    int field;     /* 0: start, 1: end, 2: permissions, 3: the rest */
    int at;        /* position in the permissions */
    bool writable; /* "rw-p": at 1 */
    bool shared;   /* "rw-s": at 3 */
};

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* true at the end of the line. */
static bool feed(struct line *line, char c)
{
    if (c == '\n')
        return true;
    switch (line->field) {
    case 0:
    case 1: {
        int digit = hex(c);
        uintptr_t *number = line->field == 0 ? &line->start : &line->end;
        if (digit >= 0)
            *number = *number << 4 | (uintptr_t)digit;
        else
            line->field++;
        return false;
    }
    case 2:
        if (c == ' ')
            line->field++;
        else if (line->at == 1)
            line->writable = c == 'w';
        else if (line->at == 3)
            line->shared = c == 's';
        line->at++;
        return false;
    default:
        return false;
    }
}

static bool holds(const struct line *line, const void *address)
{
    return (uintptr_t)address >= line->start && (uintptr_t)address < line->end;
}

void pdi_forget_memory(void)
{
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    char text[4096];
    struct line line = {0};
    const void *local = &errno; /* thread-local, and so next to all that is */
    ssize_t n;
    while ((n = read(fd, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < n; i++) {
            if (!feed(&line, text[i]))
                continue;
            bool large = line.writable && line.end - line.start >= SMALL;
            if ((line.shared || large) && !holds(&line, text) && !holds(&line, local))
                (void)munmap((void *)line.start, line.end - line.start);
            line = (struct line){0};
        }
    close(fd);
}

#endif
