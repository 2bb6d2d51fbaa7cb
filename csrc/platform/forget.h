/* forget.h - give back the memory that a forked process never uses. */
#ifndef PDI_FORGET_H
#define PDI_FORGET_H

/* For a copy of a process that goes on in a few functions of this library and
 * never returns to anybody else's code: unmaps shared memory (which would
 * otherwise live as long as this process) and large private memory (of which
 * the parent would pay for a second copy wherever it writes). The heap is gone
 * afterwards. Keeps code, this thread's stack and its thread-local storage.
 * Where /proc cannot be read it does nothing. Async-signal-safe. */
void pdi_forget_memory(void);

#endif
