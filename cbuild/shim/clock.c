/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What time it is, for PJSIP and for the shim: pjlib's own two functions are
 * left out of the build, and these take their place.
 *
 * An engine that was started on a virtual clock reads a time that moves only
 * when the clock says so (pjpy_clock_turn()).  What waits for a thread or a
 * signal (deadline_in()) keeps real time.
 */
#include <pj/errno.h>
#include <pj/os.h>
#include <time.h>

#include "clock.h"

/* Written where no engine runs, or by the worker; read by all. */
static struct {
    int on;
    int64_t now, wall; /* wall: the wall clock is so much ahead of now */
} virtual_time;

static int64_t clock_ns(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int clock_is_virtual(void)
{
    return __atomic_load_n(&virtual_time.on, __ATOMIC_RELAXED);
}

void clock_open(int is_virtual, int64_t monotonic_ns, int64_t wall_ns)
{
    clock_set(monotonic_ns);
    __atomic_store_n(&virtual_time.wall, wall_ns - monotonic_ns,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&virtual_time.on, is_virtual, __ATOMIC_RELEASE);
}

void clock_set(int64_t monotonic_ns)
{
    __atomic_store_n(&virtual_time.now, monotonic_ns, __ATOMIC_RELAXED);
}

int64_t clock_monotonic_ns(void)
{
    if (clock_is_virtual())
        return __atomic_load_n(&virtual_time.now, __ATOMIC_RELAXED);
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t clock_wall_ns(void)
{
    if (clock_is_virtual())
        return __atomic_load_n(&virtual_time.now, __ATOMIC_RELAXED) +
               __atomic_load_n(&virtual_time.wall, __ATOMIC_RELAXED);
    return clock_ns(CLOCK_REALTIME);
}

/* ------------------------------------------------- pjlib's: timers, dates */

PJ_DEF(pj_status_t) pj_get_timestamp(pj_timestamp *now)
{
    now->u64 = (pj_uint64_t)clock_monotonic_ns();
    return PJ_SUCCESS;
}

PJ_DEF(pj_status_t) pj_get_timestamp_freq(pj_timestamp *per_second)
{
    per_second->u64 = 1000000000;
    return PJ_SUCCESS;
}

PJ_DEF(pj_status_t) pj_gettimeofday(pj_time_val *now)
{
    int64_t ms = clock_wall_ns() / 1000000;

    now->sec = (long)(ms / 1000);
    now->msec = (long)(ms % 1000);
    return PJ_SUCCESS;
}
