#include "random.h"

#include <errno.h>
#include <sys/random.h>

#include "clock.h"
#include "retry.h"

uint64_t pdi_random64(void)
{
    uint64_t value = 0;
    ssize_t n = PDI_RETRY(getrandom(&value, sizeof value, GRND_NONBLOCK));
    /* Only an unseeded kernel gets here; an address and a time are unlike enough. */
    if (n != sizeof value)
        value = (uint64_t)pdi_now() ^ (uint64_t)(uintptr_t)&value;
    return value ? value : 1;
}
