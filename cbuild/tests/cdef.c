/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What cffi is told, beside the real headers: a number that differs from
   PJSIP's, or a prototype that differs from the shim's, does not compile.
   Built by tests/test_cdef.py, never linked. */
#include <pjlib.h>
#include <pjlib-util.h>
#include <pjsip.h>
#include <pjsip-ua/sip_regc.h>

#include "internal.h"

#define SAME(ours, theirs) \
    _Static_assert((int)(ours) == (int)(theirs), #ours " is not " #theirs)

SAME(PJPY_PROTOCOL_UDP, PJSIP_TRANSPORT_UDP);
SAME(PJPY_PROTOCOL_TCP, PJSIP_TRANSPORT_TCP);
SAME(PJPY_PROTOCOL_TLS, PJSIP_TRANSPORT_TLS);
SAME(PJPY_PROTOCOL_IPV6, PJSIP_TRANSPORT_IPV6);

_Static_assert(sizeof(pjpy_event) % 8 == 0, "records stay aligned");
