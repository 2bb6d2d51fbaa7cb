/* random.h - numbers that differ from those of every other process of the Pod. */
#ifndef PDI_RANDOM_H
#define PDI_RANDOM_H

#include <stdint.h>

/* 64 random bits from the kernel; never 0. Any thread. */
uint64_t pdi_random64(void);

#endif
