/* copy.h - tensor bytes into shared memory, the faster of two ways.
 *
 * memcpy() writes through the caches, which is best while the destination fits
 * there. Non-temporal stores write past them: a large destination is not read
 * before it is overwritten, which saves a third of the memory traffic. Where one
 * overtakes the other differs between machines by a factor of eight, so nothing
 * is hard-coded: real copies are timed. Each power of two from 1 MiB up tries
 * both ways a few times, then goes on with memcpy unless the other's best time was
 * clearly better, and looks again now and then.
 *
 * A plan is private memory of its endpoint; one thread at a time may use
 * pdi_copy_choose() and pdi_copy_note() (the endpoint's lock). Where there is no
 * non-temporal store (not x86-64), every choice is memcpy.
 */
#ifndef PDI_COPY_H
#define PDI_COPY_H

#include <stddef.h>
#include <stdint.h>

enum pdi_copy_way { PDI_COPY_CACHED, PDI_COPY_STREAMED, PDI_COPY_WAYS };

enum {
    PDI_COPY_FROM = 20,   /* sizes are watched from 2^20 bytes, */
    PDI_COPY_SIZES = 16,  /* in this many powers of two */
    PDI_COPY_TRIES = 4,   /* of each way before choosing */
    PDI_COPY_AGAIN = 256, /* copies until both are tried again */
};

struct pdi_copy_plan {
    struct {
        uint32_t copies;
        float best[PDI_COPY_WAYS]; /* ns a byte; 0: not tried */
    } size[PDI_COPY_SIZES];
};

/* How to copy n bytes. */
enum pdi_copy_way pdi_copy_choose(struct pdi_copy_plan *plan, size_t n);
/* What it took. */
void pdi_copy_note(struct pdi_copy_plan *plan, size_t n, enum pdi_copy_way way, int64_t ns);
/* Copies; the areas do not overlap. When it returns the bytes are visible to
 * whoever sees a later release store. Any thread. */
void pdi_copy(void *to, const void *from, size_t n, enum pdi_copy_way way);

#endif
