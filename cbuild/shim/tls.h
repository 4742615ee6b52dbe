/* SPDX-License-Identifier: GPL-3.0-or-later */
/* TLS contexts of the shim, and what PJSIP's TLS sockets ask of them
   (substitution "tls-context-of-the-listener" of vendor/patches.toml). */
#ifndef PJSIP_PY_TLS_H
#define PJSIP_PY_TLS_H

#include <pj/types.h>
#include <stddef.h>
#include <stdint.h>

/* In pj_ssl_cert_direct.type: "cert" is one of our boxes. */
#define PJPY_CERT_BOX 0x40000000u

struct ssl_ctx_st;
struct ssl_st;

/* Connections that others make to our TCP and TLS listeners, and those among
   them that are still shaking hands over TLS: as many of each.  One more is
   closed at once.  A registration needs none, a registrar that calls back a
   few. */
#define PJPY_MAX_INCOMING 256

/* Holds the context for connections to come.  Its users count: a listener of
   ours, PJSIP's listener, each of PJSIP's sockets.  Worker only. */
typedef struct tls_box tls_box;

/* For PJSIP.  Whether one more accepted socket may be; each that was let in
   ends once. */
int pjpy_tls_enter(void);
void pjpy_tls_leave(void);
/* timeout: set to that of the handshake. */
void pjpy_tls_hold(void *box, pj_time_val *timeout);
void pjpy_tls_release(void *box);
/* Referenced for the caller. */
struct ssl_ctx_st *pjpy_tls_context(void *box);
/* Before the handshake of a connection of ours: whose certificate it wants. */
void pjpy_tls_expect(struct ssl_st *ssl, const char *name, size_t length);
/* After the handshake: PJ_SSL_CERT_E... bits, 0 when all is well. */
uint32_t pjpy_tls_verdict(struct ssl_st *ssl);

/* For the shim. */
struct pjpy_tls;
struct pjpy_tls_error;

/* Any thread.  0, or PJPY_ETLS with the error filled in, or PJPY_ENOMEM. */
int tls_context_new(const struct pjpy_tls *tls, struct pjpy_tls_error *error,
                    struct ssl_ctx_st **context);
void tls_context_free(struct ssl_ctx_st *context);
/* For what an installed PJSIP, without our substitutions, cannot do. */
int tls_needs_bundled(struct pjpy_tls_error *error, const char *field);
uint32_t tls_context_count(void);

/* Takes the context over. */
tls_box *tls_box_new(struct ssl_ctx_st *context);
void tls_box_set(tls_box *box, struct ssl_ctx_st *context);
/* "" without one */
const char *tls_box_server_name(const tls_box *box);
/* Once PJSIP is gone, with what it never closed. */
void tls_free_all(void);

/* What is known of a connection (text 3 of a TRANSPORT event), to be freed. */
char *tls_describe(struct ssl_st *ssl, size_t *length);
/* Why it ended: pjpy_tls_why bits and PJ_SSL_CERT_E... bits, of which PJSIP
   knows verify_status.  error: OpenSSL's, where that is what ended it; gone:
   the connection is. */
uint32_t tls_why(struct ssl_st *ssl, uint32_t verify_status,
                 unsigned long error, int established, int gone);

#endif
