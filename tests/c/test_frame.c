/* The stream frames: what is written is read back, what cannot be is refused. */
#include <stdlib.h>
#include <string.h>

#include "../../csrc/core/frame.h"
#include "check.h"

static podipc_tensor tensor(uint64_t nbytes, uint32_t ndim, const int64_t *shape, const char *type)
{
    podipc_tensor t = {
        .nbytes = nbytes, .ndim = ndim, .type = type, .type_len = (uint32_t)strlen(type)};
    for (uint32_t i = 0; i < ndim; i++)
        t.shape[i] = shape[i];
    return t;
}

static void round_trip(void)
{
    const int64_t shape[3] = {2, 3, 4};
    podipc_tensor in = tensor(96, 3, shape, "<f4"), out;
    uint8_t bytes[256];
    struct pdi_frame_head head;
    in.flags = PODIPC_FORTRAN;
    CHECK(pdi_frame_head_size(&in) == 32 + 24 + 3);
    pdi_frame_encode(&in, 7, bytes);
    memcpy(&head, bytes, sizeof head);
    CHECK(pdi_frame_check(&head, 7, NULL) == 0);
    CHECK(pdi_frame_rest(&head) == 27);
    CHECK(pdi_frame_decode(&head, bytes + sizeof head, &out, NULL) == 0);
    CHECK(out.nbytes == 96 && out.ndim == 3 && out.flags == PODIPC_FORTRAN);
    CHECK(memcmp(out.shape, shape, sizeof shape) == 0);
    CHECK(out.type_len == 3 && memcmp(out.type, "<f4", 3) == 0);
}

static void refused_heads(void)
{
    const int64_t shape[1] = {4};
    podipc_tensor t = tensor(16, 1, shape, "<f4");
    uint8_t bytes[64];
    struct pdi_frame_head good, bad;
    pdi_frame_encode(&t, UINT64_MAX, bytes);
    memcpy(&good, bytes, sizeof good);
    CHECK(pdi_frame_check(&good, UINT64_MAX, NULL) == 0);
    CHECK(pdi_frame_check(&good, 0, NULL) == PODIPC_ECORRUPT);
#define BAD(field, value)                                                                          \
    do {                                                                                           \
        podipc_error err = {0};                                                                    \
        bad = good;                                                                                \
        bad.field = value;                                                                         \
        CHECK(pdi_frame_check(&bad, UINT64_MAX, &err) == PODIPC_ECORRUPT && err.text[0]);          \
    } while (0)
    BAD(magic, 0x47455420);
    BAD(kind, 0);
    BAD(kind, 3);
    BAD(kind, PDI_FRAME_BYE); /* with a tensor */
    BAD(flags, 2);
    BAD(ndim, 65);
    BAD(ndim, UINT32_MAX);
    BAD(type_len, PODIPC_MAX_TYPE + 1);
    BAD(nbytes, UINT64_C(1) << 63);
    BAD(nbytes, UINT64_MAX);
    pdi_frame_bye(UINT64_MAX, &bad);
    CHECK(pdi_frame_check(&bad, UINT64_MAX, NULL) == 0);
}

static void refused_tensors(void)
{
    podipc_tensor t;
#define SHAPE(...) (const int64_t[]){__VA_ARGS__}
#define REFUSED(...)                                                                               \
    do {                                                                                           \
        t = tensor(__VA_ARGS__);                                                                   \
        CHECK(pdi_tensor_check(&t, PODIPC_ETENSOR, NULL) == PODIPC_ETENSOR);                       \
    } while (0)
#define TAKEN(...)                                                                                 \
    do {                                                                                           \
        t = tensor(__VA_ARGS__);                                                                   \
        CHECK(pdi_tensor_check(&t, PODIPC_ETENSOR, NULL) == 0);                                    \
    } while (0)
    TAKEN(8, 0, SHAPE(0), "<f8");
    TAKEN(0, 3, SHAPE(INT64_MAX, 0, INT64_MAX), "<f8");
    TAKEN(0, 1, SHAPE(5), "|V0"); /* elements of no bytes */
    REFUSED(7, 2, SHAPE(2, 2), "<f8");
    REFUSED(8, 1, SHAPE(0), "<f8");
    REFUSED(8, 2, SHAPE(-1, -8), "|u1");
    REFUSED(16, 2, SHAPE(INT64_MAX, 4), "|u1");
    REFUSED(0, 2, SHAPE(INT64_MAX, 4), "|u1");
    REFUSED(16, 3, SHAPE(INT64_C(1) << 32, INT64_C(1) << 32, 1), "|u1");
}

static void greetings(void)
{
    struct pdi_greeting good, bad;
    podipc_error err;
    pdi_greeting_make(&good, PDI_STREAM_SENDER, 5, 0);
    CHECK(pdi_greeting_check(&good, PDI_STREAM_SENDER, "x", NULL) == 0);
    CHECK(pdi_greeting_check(&good, PDI_STREAM_RECEIVER, "x", NULL) == PODIPC_ECORRUPT);
    for (size_t n = 0; n <= sizeof good; n++)
        CHECK(pdi_greeting_plausible(&good, n));
    CHECK(pdi_greeting_plausible("pod", 3));
    CHECK(!pdi_greeting_plausible("GET / HTTP/1.1\r\n", 16));
    CHECK(!pdi_greeting_plausible("G", 1));
    bad = good;
    bad.version = 9;
    CHECK(pdi_greeting_check(&bad, PDI_STREAM_SENDER, "x", &err) == PODIPC_EVERSION);
    CHECK(strstr(err.text, "version 9") && strstr(err.text, "version 1"));
    bad = good;
    bad.byte_order = __builtin_bswap32(good.byte_order);
    bad.version = __builtin_bswap16(good.version);
    CHECK(pdi_greeting_check(&bad, PDI_STREAM_SENDER, "x", &err) == PODIPC_EVERSION);
    CHECK(strstr(err.text, "byte order"));
    bad = good;
    bad.magic[0] ^= 1;
    CHECK(pdi_greeting_check(&bad, PDI_STREAM_SENDER, "x", &err) == PODIPC_ECORRUPT);
}

/* Whatever comes in, the answer is one of two, and only what holds together passes. */
static void noise(void)
{
    static uint8_t bytes[PDI_FRAME_HEAD_MAX];
    uint64_t random = check_seed();
    const int64_t shape[4] = {3, 5, 7, 2};
    podipc_tensor good = tensor(840, 4, shape, "<f4"), t;
    for (int round = 0; round < 200000; round++) {
        struct pdi_frame_head head;
        pdi_frame_encode(&good, 3, bytes);
        size_t size = pdi_frame_head_size(&good);
        for (uint64_t flips = check_random(&random) % 4; flips-- > 0;)
            bytes[check_random(&random) % size] = (uint8_t)check_random(&random);
        memcpy(&head, bytes, sizeof head);
        if (pdi_frame_check(&head, 3, NULL) < 0 || head.kind == PDI_FRAME_BYE)
            continue;
        /* Exactly as much as it says follows: ASan sees a byte too many. */
        size_t rest = pdi_frame_rest(&head);
        uint8_t *copy = malloc(rest ? rest : 1);
        if (!copy)
            return;
        memcpy(copy, bytes + sizeof head, rest);
        if (pdi_frame_decode(&head, copy, &t, NULL) == 0) {
            uint64_t elements = 1;
            for (uint32_t i = 0; i < t.ndim; i++)
                elements *= (uint64_t)t.shape[i];
            if (elements ? t.nbytes % elements : t.nbytes)
                CHECK(t.nbytes == 0 && elements == 0);
        }
        free(copy);
    }
    CHECK(random != 0);
}

int main(void)
{
    round_trip();
    refused_heads();
    refused_tensors();
    greetings();
    noise();
    return checks_done();
}
