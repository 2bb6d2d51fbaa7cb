/* error.h - the one place that fills in a podipc_error. */
#ifndef PDI_ERROR_H
#define PDI_ERROR_H

#include "podipc.h"

/* Fills *err (if not NULL) and returns `code`, so that it can be written
 * `return pdi_fail(err, PODIPC_ECORRUPT, "", "...", ...)`. `code` is -errno or
 * PODIPC_E*; `call` names the failing system call or is "". For a -errno the
 * text of the errno is appended to the message. */
int pdi_fail(podipc_error *err, int code, const char *call, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same with amounts: bytes needed, bytes there were. */
int pdi_fail_need(podipc_error *err, int code, const char *call, uint64_t need, uint64_t have,
                  const char *format, ...) __attribute__((format(printf, 6, 7)));

#endif
