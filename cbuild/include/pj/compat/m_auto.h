/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What pjproject's configure script would find out about the processor: the compiler knows. */
#ifndef __PJ_COMPAT_M_AUTO_H__
#define __PJ_COMPAT_M_AUTO_H__

#if defined(__x86_64__)
#   define PJ_M_NAME "x86_64"
#elif defined(__aarch64__)
#   define PJ_M_NAME "aarch64"
#else
#   define PJ_M_NAME "generic"
#endif

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#   define PJ_IS_LITTLE_ENDIAN 0
#   define PJ_IS_BIG_ENDIAN 1
#else
#   define PJ_IS_LITTLE_ENDIAN 1
#   define PJ_IS_BIG_ENDIAN 0
#endif

#define PJ_HAS_FLOATING_POINT 1
#define PJ_HAS_PENTIUM 0

#endif /* __PJ_COMPAT_M_AUTO_H__ */
