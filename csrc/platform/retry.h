/* retry.h - calls that a signal interrupts before they have done anything. */
#ifndef PDI_RETRY_H
#define PDI_RETRY_H

#include <errno.h>

/* What the call returns, made again for as long as a signal interrupts it. Not for
 * close(), which has closed, and not for waits, whose caller looks at the time. */
#define PDI_RETRY(call)                                                                            \
    (__extension__({                                                                               \
        __typeof__(call) pdi_result_;                                                              \
        do                                                                                         \
            pdi_result_ = (call);                                                                  \
        while (pdi_result_ < 0 && errno == EINTR);                                                 \
        pdi_result_;                                                                               \
    }))

#endif
