/* skips.h - what was in vain is left out for a while: once, then three times, seven,
 * up to PDI_SKIPS_MAX; what was not is tried each time again. */
#ifndef PDI_SKIPS_H
#define PDI_SKIPS_H

#include <stdint.h>

#define PDI_SKIPS_MAX 255

/* How often to leave out next, after a vain try that came after so many. */
static inline uint32_t pdi_skips_after(uint32_t skips)
{
    return skips < PDI_SKIPS_MAX ? skips * 2 + 1 : PDI_SKIPS_MAX;
}

#endif
