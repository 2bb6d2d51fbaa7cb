#include "tensor_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

static uint32_t payload_at(uint32_t ndim, uint32_t type_len)
{
    uint32_t used = (uint32_t)sizeof(struct pdi_file_header) + ndim * 8 + type_len;
    return (used + PODIPC_TENSOR_ALIGN - 1) & ~(uint32_t)(PODIPC_TENSOR_ALIGN - 1);
}

uint32_t pdi_file_payload(const podipc_tensor *t)
{
    return payload_at(t->ndim, t->type_len);
}

void pdi_file_head_write(void *to, const podipc_tensor *t, uint64_t sequence, uint64_t sender)
{
    struct pdi_file_header h = {
        .magic = PDI_FILE_MAGIC,
        .version = PDI_FILE_VERSION,
        .byte_order = PDI_FILE_ORDER,
        .flags = t->flags,
        .ndim = t->ndim,
        .type_len = t->type_len,
        .payload = pdi_file_payload(t),
        .nbytes = t->nbytes,
        .sequence = sequence,
        .sender = sender,
    };
    char *p = to;
    memcpy(p, &h, sizeof h);
    memcpy(p + sizeof h, t->shape, t->ndim * 8);
    uint32_t used = (uint32_t)sizeof h + t->ndim * 8;
    if (t->type_len > 0)
        memcpy(p + used, t->type, t->type_len);
    used += t->type_len;
    memset(p + used, 0, h.payload - used);
}

/* The name of the machine's order as the writer's number looks from here. */
static const char *order_name(uint32_t order)
{
    bool little = *(const uint8_t *)&(const uint32_t){1} == 1;
    if (order == PDI_FILE_ORDER)
        return little ? "little-endian" : "big-endian";
    if (order == __builtin_bswap32(PDI_FILE_ORDER))
        return little ? "big-endian" : "little-endian";
    return "unknown";
}

static int check_version(const struct pdi_file_header *h, const char *name, podipc_error *err)
{
    bool swapped = h->byte_order == __builtin_bswap32(PDI_FILE_ORDER);
    uint64_t magic = swapped ? __builtin_bswap64(h->magic) : h->magic;
    uint32_t version = swapped ? __builtin_bswap32(h->version) : h->version;
    if (magic != PDI_FILE_MAGIC)
        return pdi_fail(err, PODIPC_ECORRUPT, "",
                        "%s is not a tensor of podipc (its magic number is %016" PRIx64
                        "); it was removed",
                        name, h->magic);
    if (version != PDI_FILE_VERSION || h->byte_order != PDI_FILE_ORDER)
        return pdi_fail(err, PODIPC_EVERSION, "",
                        "%s was written in version %" PRIu32 ", %s, and this side reads version "
                        "%u, %s: install the same podipc in both containers",
                        name, version, order_name(h->byte_order), PDI_FILE_VERSION,
                        order_name(PDI_FILE_ORDER));
    return 0;
}

static int corrupt(podipc_error *err, const char *name, const char *what, uint64_t is, uint64_t max)
{
    return pdi_fail(err, PODIPC_ECORRUPT, "",
                    "%s is damaged: %s is %" PRIu64 " where %" PRIu64
                    " was expected; it was removed",
                    name, what, is, max);
}

int pdi_file_check(const struct pdi_file_header *h, uint64_t size, const struct pdi_file_name *name,
                   const char *path, podipc_error *err)
{
    if (!h || size < sizeof *h)
        return corrupt(err, path, "its size", size, sizeof *h);
    int rc = check_version(h, path, err);
    if (rc < 0)
        return rc;
    if (h->ndim > PODIPC_MAX_DIMS)
        return corrupt(err, path, "the number of dimensions", h->ndim, PODIPC_MAX_DIMS);
    if (h->type_len > PODIPC_MAX_TYPE)
        return corrupt(err, path, "the length of the type", h->type_len, PODIPC_MAX_TYPE);
    if (h->flags & ~(uint32_t)PODIPC_FORTRAN)
        return corrupt(err, path, "the flag word", h->flags, PODIPC_FORTRAN);
    uint32_t payload = payload_at(h->ndim, h->type_len);
    if (h->payload != payload)
        return corrupt(err, path, "the payload's offset", h->payload, payload);
    if (payload > size || h->nbytes != size - payload)
        return corrupt(err, path, "its size", size, payload + h->nbytes);
    if (h->sequence != name->number)
        return corrupt(err, path, "its number", h->sequence, name->number);
    if (h->sender != name->who)
        return corrupt(err, path, "its sender", h->sender, name->who);
    return 0;
}

int pdi_file_read(const void *image, uint64_t size, const struct pdi_file_name *name,
                  const char *path, podipc_tensor *t, uint32_t *payload, podipc_error *err)
{
    struct pdi_file_header h;
    if (size >= sizeof h)
        memcpy(&h, image, sizeof h);
    int rc = pdi_file_check(size >= sizeof h ? &h : NULL, size, name, path, err);
    if (rc < 0)
        return rc;
    *t = (podipc_tensor){
        .nbytes = h.nbytes, .flags = h.flags, .ndim = h.ndim, .type_len = h.type_len};
    const char *p = (const char *)image + sizeof h;
    memcpy(t->shape, p, h.ndim * sizeof(int64_t));
    for (uint32_t i = 0; i < h.ndim; i++)
        if (t->shape[i] < 0)
            return corrupt(err, path, "a dimension", (uint64_t)t->shape[i], INT64_MAX);
    t->type = p + h.ndim * sizeof(int64_t);
    *payload = h.payload;
    return 0;
}

void pdi_file_name_write(char out[PDI_FILE_NAME], const struct pdi_file_name *n)
{
    switch (n->kind) {
    case PDI_NAME_GATE:
        (void)snprintf(out, PDI_FILE_NAME, "%s", PDI_FILE_GATE);
        break;
    case PDI_NAME_SENDER:
        (void)snprintf(out, PDI_FILE_NAME, "tx.%016" PRIx64, n->who);
        break;
    case PDI_NAME_RECEIVER:
        (void)snprintf(out, PDI_FILE_NAME, "rx.%016" PRIx64, n->who);
        break;
    case PDI_NAME_TENSOR:
        (void)snprintf(out, PDI_FILE_NAME, "m.%020" PRIu64 ".%016" PRIx64, n->number, n->who);
        break;
    case PDI_NAME_WRITING:
        (void)snprintf(out, PDI_FILE_NAME, ".t.%016" PRIx64 ".%016" PRIx64, n->who, n->number);
        break;
    case PDI_NAME_MAKING:
        (void)snprintf(out, PDI_FILE_NAME, ".new.%016" PRIx64, n->who);
        break;
    case PDI_NAME_BYE:
        (void)snprintf(out, PDI_FILE_NAME, "bye.%016" PRIx64 ".%016" PRIx64, n->to, n->who);
        break;
    case PDI_NAME_DIED:
        (void)snprintf(out, PDI_FILE_NAME, "died.%016" PRIx64 ".%016" PRIx64 ".%016" PRIx64, n->to,
                       n->who, n->number);
        break;
    case PDI_NAME_OTHER:
    default:
        out[0] = '\0';
        break;
    }
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return 16;
}

/* `width` digits of base `base`, then the character `end`; advances *p past both. */
static bool number(const char **p, int width, int base, char end, uint64_t *out)
{
    uint64_t value = 0;
    for (int i = 0; i < width; i++, (*p)++) {
        int d = digit(**p);
        if (d >= base)
            return false;
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)d, &value))
            return false;
    }
    *out = value;
    return *(*p)++ == end;
}

static bool starts(const char **p, const char *with)
{
    size_t n = strlen(with);
    if (strncmp(*p, with, n) != 0)
        return false;
    *p += n;
    return true;
}

struct pdi_file_name pdi_file_name_read(const char *p)
{
    struct pdi_file_name n = {.kind = PDI_NAME_OTHER};
    bool ok = false;
    enum pdi_file_kind kind = PDI_NAME_OTHER;
    if (strcmp(p, PDI_FILE_GATE) == 0) {
        kind = PDI_NAME_GATE;
        ok = true;
    } else if (starts(&p, "tx.")) {
        kind = PDI_NAME_SENDER;
        ok = number(&p, 16, 16, '\0', &n.who);
    } else if (starts(&p, "rx.")) {
        kind = PDI_NAME_RECEIVER;
        ok = number(&p, 16, 16, '\0', &n.who);
    } else if (starts(&p, "m.")) {
        kind = PDI_NAME_TENSOR;
        ok = number(&p, 20, 10, '.', &n.number) && number(&p, 16, 16, '\0', &n.who);
    } else if (starts(&p, ".t.")) {
        kind = PDI_NAME_WRITING;
        ok = number(&p, 16, 16, '.', &n.who) && number(&p, 16, 16, '\0', &n.number);
    } else if (starts(&p, ".new.")) {
        kind = PDI_NAME_MAKING;
        ok = number(&p, 16, 16, '\0', &n.who);
    } else if (starts(&p, "bye.")) {
        kind = PDI_NAME_BYE;
        ok = number(&p, 16, 16, '.', &n.to) && number(&p, 16, 16, '\0', &n.who);
    } else if (starts(&p, "died.")) {
        kind = PDI_NAME_DIED;
        ok = number(&p, 16, 16, '.', &n.to) && number(&p, 16, 16, '.', &n.who) &&
             number(&p, 16, 16, '\0', &n.number);
    }
    if (ok)
        n.kind = kind;
    return n;
}
