/* test_error.c - what an error says, also where there is no room to say it. */
#include "core/error.h"

#include <errno.h>
#include <string.h>

#include "check.h"

int main(void)
{
    podipc_error err;
    memset(&err, 0xa5, sizeof err);
    CHECK(pdi_fail(&err, -ENOSPC, "fallocate", "no room for %d tensors", 3) == -ENOSPC);
    CHECK(err.code == -ENOSPC && err.sys_errno == ENOSPC && err.need == 0 && err.have == 0);
    CHECK(strcmp(err.call, "fallocate") == 0);
    CHECK(strncmp(err.text, "no room for 3 tensors (fallocate): ", 35) == 0);
    CHECK(strlen(err.text) > 35);

    CHECK(pdi_fail(&err, -EMFILE, "", "nothing") == -EMFILE);
    CHECK(err.call[0] == '\0' && !strchr(err.text, '(') && strncmp(err.text, "nothing: ", 9) == 0);

    CHECK(pdi_fail_need(&err, PODIPC_EMEMLIMIT, "", 7, 5, "needs %d", 7) == PODIPC_EMEMLIMIT);
    CHECK(err.code == PODIPC_EMEMLIMIT && err.sys_errno == 0 && err.need == 7 && err.have == 5);
    CHECK(strcmp(err.text, "needs 7") == 0);

    CHECK(pdi_fail(NULL, PODIPC_ECORRUPT, "x", "%s", "y") == PODIPC_ECORRUPT);
    CHECK(pdi_fail(&err, -4095, "x", "y") == -4095 && err.sys_errno == 4095);
    CHECK(pdi_fail(&err, -4096, "x", "y") == -4096 && err.sys_errno == 0);

    char longer[2000];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    CHECK(pdi_fail(&err, -EIO, longer, "%s", longer) == -EIO);
    CHECK(strlen(err.text) == sizeof err.text - 1 && strlen(err.call) == sizeof err.call - 1);
    for (size_t n = sizeof err.text - 70; n < sizeof err.text + 3; n++) {
        CHECK(pdi_fail(&err, -EIO, "call", "%.*s", (int)n, longer) == -EIO);
        CHECK(memchr(err.text, '\0', sizeof err.text) && strlen(err.text) >= sizeof err.text - 70);
    }
    return checks_done();
}
