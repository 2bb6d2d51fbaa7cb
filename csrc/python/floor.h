/* floor.h - what the machine can do at best, for `podipc compare --floor`. */
#ifndef PD_FLOOR_H
#define PD_FLOOR_H

#include "state.h"

/* Adds the function `floor` to the module. 0, or -1 with an exception set. */
int pd_floor_init(PyObject *module);

#endif
