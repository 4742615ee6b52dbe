/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef PJSIP_PY_CLOCK_H
#define PJSIP_PY_CLOCK_H

#include <stdint.h>

/* Real time, or the time of a test's virtual clock; in nanoseconds. */
int64_t clock_monotonic_ns(void);
int64_t clock_wall_ns(void);

int clock_is_virtual(void);
void clock_open(int is_virtual, int64_t monotonic_ns, int64_t wall_ns);
void clock_set(int64_t monotonic_ns); /* worker */

#endif
