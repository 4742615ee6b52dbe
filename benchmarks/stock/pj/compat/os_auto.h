/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What upstream's configure finds out about the operating system.  The facts
 * are the same as those of our build; its choices are its own: select, and
 * OpenSSL where the machine has it. */
#include "../../../../cbuild/include/pj/compat/os_auto.h"

#undef PJ_IOQUEUE_IMP
#define PJ_IOQUEUE_IMP PJ_IOQUEUE_IMP_SELECT

#define PJ_HAS_SSL_SOCK STOCK_WITH_OPENSSL
#define PJ_SSL_SOCK_IMP \
    (STOCK_WITH_OPENSSL ? PJ_SSL_SOCK_IMP_OPENSSL : PJ_SSL_SOCK_IMP_NONE)
