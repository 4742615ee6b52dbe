/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef PJSIP_PY_H
#define PJSIP_PY_H

#include <stddef.h>
#include <stdint.h>

#include "shim.cdef.h"

#endif
