/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Nothing is left to say here: PJSIP_HAS_TLS_TRANSPORT follows PJ_HAS_SSL_SOCK (config_site.h). */
