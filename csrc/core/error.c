#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int fill(podipc_error *err, int code, const char *call, uint64_t need, uint64_t have,
                const char *format, va_list ap)
{
    if (!err)
        return code;
    memset(err, 0, sizeof *err);
    err->code = code;
    err->need = need;
    err->have = have;
    (void)snprintf(err->call, sizeof err->call, "%s", call);
    int n = vsnprintf(err->text, sizeof err->text, format, ap);
    if (code < 0 && code >= -4095) {
        err->sys_errno = -code;
        if (n >= 0 && (size_t)n < sizeof err->text)
            (void)snprintf(err->text + n, sizeof err->text - (size_t)n, "%s%s%s: %s",
                           *call ? " (" : "", call, *call ? ")" : "", strerror(-code));
    }
    return code;
}

int pdi_fail(podipc_error *err, int code, const char *call, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fill(err, code, call, 0, 0, format, ap);
    va_end(ap);
    return code;
}

int pdi_fail_need(podipc_error *err, int code, const char *call, uint64_t need, uint64_t have,
                  const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fill(err, code, call, need, have, format, ap);
    va_end(ap);
    return code;
}
