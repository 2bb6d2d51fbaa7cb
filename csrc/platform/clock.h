/* clock.h - monotonic time. Wall-clock time is used nowhere in podipc. */
#ifndef PDI_CLOCK_H
#define PDI_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Now, CLOCK_MONOTONIC, in nanoseconds. */
static inline int64_t pdi_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline struct timespec pdi_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
}

/* What poll(2) takes for waiting until `until`: milliseconds, rounded up, 0 if past. */
static inline int pdi_poll_ms(int64_t until)
{
    int64_t left = until == 0 ? 0 : until - pdi_now();
    if (left <= 0)
        return 0;
    int64_t ms = (left + 999999) / 1000000;
    return ms > 1000000 ? 1000000 : (int)ms;
}

#endif
