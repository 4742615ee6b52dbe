/* SPDX-License-Identifier: GPL-3.0-or-later */
/* PJSIP_HAS_TLS_TRANSPORT follows PJ_HAS_SSL_SOCK. */
