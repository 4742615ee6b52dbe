/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * TLS contexts.  PJSIP would make one for each connection and read all files
 * again for it; here one is made when a listener is, on the thread that asks,
 * so that whatever is wrong with it is told there.  The context verifies the
 * server itself, its name included (RFC 5922), while the handshake can still
 * be refused, and notes why.
 */
#include "pjpy_build.h"
#include "internal.h"
#include "tls.h"

#include <stdio.h>

int tls_needs_bundled(pjpy_tls_error *error, const char *field)
{
    error->argument = 1;
    snprintf(error->field, sizeof error->field, "%s", field);
    snprintf(error->reason, sizeof error->reason,
             "needs the bundled pjproject, not an installed one");
    return PJPY_ETLS;
}

#if PJPY_WITH_TLS

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define PEM_LIMIT (64 * 1024 * 1024)

/* What a context carries besides OpenSSL's own. */
typedef struct settings {
    int verify, has_certificate, keylog;
    pj_time_val timeout;
    char *server_name;
} settings;

/* What a connection carries. */
typedef struct peer {
    char *name;                 /* whose certificate it must be */
    X509 *certificate;
    uint32_t why;
    int alert;                  /* the last one received, or 0 */
    unsigned verified : 1;
    unsigned met : 1;           /* a first record came */
    unsigned plain : 1;         /* … which is none of TLS */
    unsigned asked : 1;         /* for our certificate */
    unsigned heard : 1;         /* application data came */
} peer;

static int settings_index, peer_index;
static uint32_t contexts;

static void settings_free(void *parent, void *data, CRYPTO_EX_DATA *all,
                          int index, long unused, void *argument)
{
    settings *s = data;

    if (!s)
        return;
    if (s->keylog >= 0)
        close(s->keylog);
    free(s->server_name);
    free(s);
    __atomic_sub_fetch(&contexts, 1, __ATOMIC_RELAXED);
}

static void peer_free(void *parent, void *data, CRYPTO_EX_DATA *all, int index,
                      long unused, void *argument)
{
    peer *p = data;

    if (!p)
        return;
    X509_free(p->certificate);
    free(p->name);
    free(p);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_indexes(void)
{
    settings_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL,
                                              settings_free);
    peer_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, peer_free);
}

static settings *settings_of(const SSL *ssl)
{
    pthread_once(&once, make_indexes);
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), settings_index);
}

static peer *peer_of(SSL *ssl)
{
    peer *p;

    if (!settings_of(ssl))
        return NULL;
    p = SSL_get_ex_data(ssl, peer_index);
    if (!p) {
        p = calloc(1, sizeof *p);
        if (p && !SSL_set_ex_data(ssl, peer_index, p)) {
            free(p);
            p = NULL;
        }
    }
    return p;
}

/* ------------------------------------------------------------ identity */

typedef struct host {
    const char *name;
    size_t length;
    unsigned char address[16];
    size_t address_length;      /* 4, 16, or 0: it is a name */
} host;

static size_t to_address(const char *text, size_t length, unsigned char *out)
{
    char copy[INET6_ADDRSTRLEN];

    if (length > 1 && text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    }
    if (length >= sizeof copy)
        return 0;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return strlen(copy) != length                ? 0
           : inet_pton(AF_INET, copy, out) == 1  ? 4
           : inet_pton(AF_INET6, copy, out) == 1 ? 16
                                                 : 0;
}

static int is_host(const host *h, const char *text, size_t length)
{
    unsigned char address[16];

    if (h->address_length)
        return to_address(text, length, address) == h->address_length &&
               memcmp(address, h->address, h->address_length) == 0;
    return length == h->length && strncasecmp(text, h->name, length) == 0;
}

/* Whether a wildcard is all that stands between the two: RFC 5922, 7.2 allows
   none, and that is worth telling. */
static int would_be_host(const host *h, const char *text, size_t length)
{
    const char *rest = memchr(h->name, '.', h->length);
    size_t left = rest ? h->length - (size_t)(rest - h->name) : 0;

    return !h->address_length && left && length == left + 1 && *text == '*' &&
           strncasecmp(text + 1, rest, left) == 0;
}

/* The host of "sip:host:port;parameters"; a URI with a user names a person,
   and one of another scheme nothing of ours (RFC 5922, 7.1). */
static size_t host_of_uri(const char *uri, size_t length, const char **out)
{
    size_t n = 0;

    if (length < 4 || strncasecmp(uri, "sip:", 4) != 0 ||
        memchr(uri, '@', length))
        return 0;
    uri += 4;
    length -= 4;
    if (length && uri[0] == '[')
        while (n < length && uri[n] != ']')
            n++;
    while (n < length && !strchr(":;?", uri[n]))
        n++;
    *out = uri;
    return n;
}

static int check_alternative(const host *h, const GENERAL_NAME *name, peer *p,
                             int with_dns)
{
    const ASN1_STRING *value = name->d.ia5;
    const char *text = (const char *)ASN1_STRING_get0_data(value);
    size_t length = (size_t)ASN1_STRING_length(value);

    if (name->type == GEN_IPADD)
        return length == h->address_length &&
               memcmp(text, h->address, length) == 0 && length > 0;
    if (memchr(text, 0, length)) {
        p->why |= PJPY_TLS_NUL_IN_NAME;
        return 0;
    }
    if (name->type == GEN_URI)
        length = host_of_uri(text, length, &text);
    else if (!with_dns || h->address_length)
        return 0;
    if (length && would_be_host(h, text, length))
        p->why |= PJPY_TLS_WILDCARD;
    return length && is_host(h, text, length);
}

static int is_sip_domain(const GENERAL_NAME *name)
{
    const char *unused, *text;
    size_t length;

    if (name->type != GEN_URI)
        return 0;
    text = (const char *)ASN1_STRING_get0_data(name->d.ia5);
    length = (size_t)ASN1_STRING_length(name->d.ia5);
    return !memchr(text, 0, length) && host_of_uri(text, length, &unused);
}

static int check_common_name(const host *h, const X509 *certificate, peer *p)
{
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int last = -1, next, matched = 0, length;
    unsigned char *text;

    while ((next = X509_NAME_get_index_by_NID((X509_NAME *)subject,
                                              NID_commonName, last)) >= 0)
        last = next;
    if (last < 0)
        return 0;
    length = ASN1_STRING_to_UTF8(
        &text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)));
    if (length < 0)
        return 0;
    if (memchr(text, 0, (size_t)length))
        p->why |= PJPY_TLS_NUL_IN_NAME;
    else if (would_be_host(h, (char *)text, (size_t)length))
        p->why |= PJPY_TLS_WILDCARD;
    else
        matched = length > 0 && is_host(h, (char *)text, (size_t)length);
    OPENSSL_free(text);
    return matched;
}

/* RFC 5922, 7.1: a "sip" URI; a DNS name if there is no such URI; the common
   name if there are no alternative names at all.  An IP address is of its own
   kind, which that RFC leaves open. */
static int has_name(const X509 *certificate, const char *name, peer *p)
{
    host h = { name, strlen(name), { 0 }, 0 };
    GENERAL_NAMES *all;
    int with_dns = 1, matched = 0, critical;

    h.address_length = to_address(name, h.length, h.address);
    all = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
    if (!all && critical == -1)
        return check_common_name(&h, certificate, p);
    if (!all)
        p->why |= PJ_SSL_CERT_EINVALID_FORMAT;
    for (int i = 0; i < sk_GENERAL_NAME_num(all); i++)
        if (is_sip_domain(sk_GENERAL_NAME_value(all, i)))
            with_dns = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(all) && !matched; i++) {
        const GENERAL_NAME *one = sk_GENERAL_NAME_value(all, i);
        if (one->type == GEN_URI || one->type == GEN_DNS ||
            one->type == GEN_IPADD)
            matched = check_alternative(&h, one, p, with_dns);
    }
    GENERAL_NAMES_free(all);
    return matched;
}

static int is_of(X509 *certificate, peer *p)
{
    if (p->name && has_name(certificate, p->name, p)) {
        p->why &= ~(PJPY_TLS_NUL_IN_NAME | PJPY_TLS_WILDCARD);
        return 1;
    }
    p->why |= PJ_SSL_CERT_EIDENTITY_NOT_MATCH;
    return 0;
}

/* -------------------------------------------------------- verification */

static uint32_t why_of_error(int error)
{
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED: return PJPY_TLS_EXPIRED;
    case X509_V_ERR_CERT_NOT_YET_VALID: return PJPY_TLS_NOT_YET_VALID;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT: return PJPY_TLS_SELF_SIGNED;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_UNTRUSTED: return PJPY_TLS_UNKNOWN_CA;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK: return PJPY_TLS_WEAK;
    default: return 0;
    }
}

/* OpenSSL goes on after an error, so that all of them are known; verify()
   refuses in the end.  PJSIP's callback keeps its own bits. */
static int on_error(int good, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store,
                                          SSL_get_ex_data_X509_STORE_CTX_idx());
    peer *p = SSL_get_ex_data(ssl, peer_index);
    SSL_verify_cb next = SSL_get_verify_callback(ssl);

    if (good)
        return 1;
    p->why |= why_of_error(X509_STORE_CTX_get_error(store));
    if (next)
        next(0, store);
    p->verified = 0;
    return 1;
}

static int verify(X509_STORE_CTX *store, void *unused)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store,
                                          SSL_get_ex_data_X509_STORE_CTX_idx());
    X509 *certificate = X509_STORE_CTX_get0_cert(store);
    peer *p = peer_of(ssl);
    int error;

    if (!p || !certificate)
        return 0;
    X509_up_ref(certificate);
    X509_free(p->certificate);
    p->certificate = certificate;
    p->why = 0;
    if (SSL_is_server(ssl) || !settings_of(ssl)->verify)
        return p->verified = 1;
    p->verified = 1;
    X509_STORE_CTX_set_verify_cb(store, on_error);
    if (X509_verify_cert(store) <= 0)
        p->verified = 0;
    error = X509_STORE_CTX_get_error(store);
    if (!is_of(certificate, p)) {
        p->verified = 0;
        if (error == X509_V_OK)
            error = X509_V_ERR_HOSTNAME_MISMATCH;
    }
    if (!p->verified && error == X509_V_OK)
        error = X509_V_ERR_UNSPECIFIED;
    X509_STORE_CTX_set_error(store, error); /* which chooses the alert */
    return p->verified;
}

/* ------------------------------------------------- watching connections */

static void on_info(const SSL *ssl, int where, int value)
{
    peer *p;

    if ((where & SSL_CB_READ_ALERT) != SSL_CB_READ_ALERT ||
        (value & 0xFF) == SSL_AD_CLOSE_NOTIFY)
        return;
    p = peer_of((SSL *)ssl);
    /* In TLS 1.3 the level says nothing (RFC 8446, 6). */
    if (p && (value >> 8 == SSL3_AL_FATAL || SSL_version(ssl) > TLS1_2_VERSION))
        p->alert = value & 0xFF;
}

/* Until data of the application has come: what comes first, and whether the
   peer has said anything after the handshake. */
static void on_record(int written, int version, int type, const void *data,
                      size_t length, SSL *ssl, void *unused)
{
    const unsigned char *bytes = data;
    peer *p = written || !length ? NULL : peer_of(ssl);

    if (!p)
        return;
    if (type == SSL3_RT_HEADER) {
        if (!p->met && (bytes[0] < SSL3_RT_CHANGE_CIPHER_SPEC ||
                        bytes[0] > SSL3_RT_APPLICATION_DATA))
            p->plain = 1;
        p->met = 1;
        if (SSL_version(ssl) < TLS1_3_VERSION)
            p->heard = bytes[0] == SSL3_RT_APPLICATION_DATA;
    } else if (type == SSL3_RT_INNER_CONTENT_TYPE) {
        p->heard = bytes[0] == SSL3_RT_APPLICATION_DATA;
    }
    if (p->heard)
        SSL_set_msg_callback(ssl, NULL);
}

static int on_certificate_wanted(SSL *ssl, void *unused)
{
    peer *p = peer_of(ssl);

    if (p && !SSL_is_server(ssl))
        p->asked = 1;
    return 1;
}

static void on_key(const SSL *ssl, const char *line)
{
    const settings *s = settings_of(ssl);
    struct iovec parts[] = { { (void *)line, strlen(line) }, { "\n", 1 } };

    if (s && s->keylog >= 0 && writev(s->keylog, parts, 2) < 0)
        PJ_LOG(2,
               ("tls", "the key log cannot be written: %s", strerror(errno)));
}

static uint32_t why_of_alert(const peer *p, int has_certificate)
{
    uint32_t ours = has_certificate ? PJPY_TLS_CLIENT_CERT_REFUSED
                                    : PJPY_TLS_CLIENT_CERT_MISSING;

    switch (p->alert) {
    case SSL_AD_CERTIFICATE_REVOKED: return PJPY_TLS_CLIENT_CERT_REVOKED;
    case SSL3_AD_NO_CERTIFICATE:
#ifdef SSL_AD_CERTIFICATE_REQUIRED
    case SSL_AD_CERTIFICATE_REQUIRED:
#endif
        return PJPY_TLS_CLIENT_CERT_MISSING;
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_DECRYPT_ERROR: return p->asked ? ours : PJPY_TLS_PROTOCOL;
    case SSL_AD_HANDSHAKE_FAILURE:
    case SSL_AD_INSUFFICIENT_SECURITY:
        return p->asked ? ours : PJPY_TLS_NO_CIPHER;
    case SSL_AD_PROTOCOL_VERSION:
    case SSL_AD_INAPPROPRIATE_FALLBACK: return PJPY_TLS_NO_VERSION;
    case SSL_AD_UNRECOGNIZED_NAME: return PJPY_TLS_SERVER_NAME;
    default: return PJPY_TLS_PROTOCOL;
    }
}

static uint32_t why_of_reason(unsigned long error)
{
    if (ERR_GET_LIB(error) != ERR_LIB_SSL)
        return PJPY_TLS_PROTOCOL;
    switch (ERR_GET_REASON(error)) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED: return PJ_SSL_CERT_EUNKNOWN;
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST: return PJPY_TLS_PLAIN_TEXT;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_WRONG_SSL_VERSION:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_VERSION_TOO_LOW:
    case SSL_R_VERSION_TOO_HIGH:
    case SSL_R_BAD_PROTOCOL_VERSION_NUMBER:
    case SSL_R_NO_PROTOCOLS_AVAILABLE:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION: return PJPY_TLS_NO_VERSION;
    case SSL_R_NO_CIPHERS_AVAILABLE:
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_UNKNOWN_CIPHER_RETURNED:
    case SSL_R_WRONG_CIPHER_RETURNED:
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE: return PJPY_TLS_NO_CIPHER;
    case SSL_R_DH_KEY_TOO_SMALL:
    case SSL_R_EE_KEY_TOO_SMALL:
    case SSL_R_CA_KEY_TOO_SMALL:
    case SSL_R_CA_MD_TOO_WEAK: return PJPY_TLS_WEAK;
#ifdef SSL_R_UNEXPECTED_EOF_WHILE_READING
    case SSL_R_UNEXPECTED_EOF_WHILE_READING: return PJPY_TLS_CLOSED;
#endif
    default: return PJPY_TLS_PROTOCOL;
    }
}

uint32_t tls_why(SSL *ssl, uint32_t verify_status, unsigned long error,
                 int established, int gone)
{
    const settings *s = settings_of(ssl);
    const peer *p = s ? SSL_get_ex_data(ssl, peer_index) : NULL;
    int certificate = s && s->has_certificate;
    uint32_t why = verify_status | (p ? p->why : 0);

    if (why & ~PJ_SSL_CERT_EUNKNOWN)
        return why & ~PJ_SSL_CERT_EUNKNOWN;
    if (why)
        return why;
    if (p && p->plain)
        return PJPY_TLS_PLAIN_TEXT;
    if (p && p->alert)
        return why_of_alert(p, certificate);
    if (error)
        return why_of_reason(error);
    /* With TLS 1.3 the server looks at our certificate when we believe that
       the handshake is over, and not every one says what it dislikes. */
    if (gone && p && p->asked && !p->heard)
        return certificate ? PJPY_TLS_CLIENT_CERT_REFUSED
                           : PJPY_TLS_CLIENT_CERT_MISSING;
    return gone && !established ? PJPY_TLS_CLOSED : 0;
}

/* ------------------------------------------------------- what is known */

/* "name=", and the value without line breaks and NULs, however it was made. */
static void put(BIO *out, const char *name, const void *value, size_t length)
{
    const unsigned char *p = value;

    BIO_printf(out, "%s=", name);
    for (size_t i = 0; i < length; i++) {
        if (p[i] < 0x20 || p[i] == 0x7F)
            BIO_printf(out, "\\x%02x", p[i]);
        else
            BIO_write(out, p + i, 1);
    }
    BIO_write(out, "\n", 1);
}

static void put_name(BIO *out, const char *field, const X509_NAME *name)
{
    BIO_printf(out, "%s=", field);
    X509_NAME_print_ex(out, (X509_NAME *)name, 0,
                       XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
    BIO_write(out, "\n", 1);
}

static void put_time(BIO *out, const char *field, const ASN1_TIME *when)
{
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int days, seconds;

    if (epoch && ASN1_TIME_diff(&days, &seconds, epoch, when))
        BIO_printf(out, "%s=%lld\n", field, (long long)days * 86400 + seconds);
    ASN1_TIME_free(epoch);
}

static void put_alternatives(BIO *out, const X509 *certificate)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(certificate, NID_subject_alt_name,
                                          NULL, NULL);

    for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
        const ASN1_STRING *value = name->d.ia5;
        const void *data;
        size_t length;
        char address[INET6_ADDRSTRLEN];

        if (name->type != GEN_DNS && name->type != GEN_URI &&
            name->type != GEN_EMAIL && name->type != GEN_IPADD)
            continue;
        data = ASN1_STRING_get0_data(value);
        length = (size_t)ASN1_STRING_length(value);
        if (name->type == GEN_IPADD) {
            if (length != 4 && length != 16)
                continue;
            inet_ntop(length == 4 ? AF_INET : AF_INET6, data, address,
                      sizeof address);
            data = address;
            length = strlen(address);
        }
        put(out, "san", data, length);
    }
    GENERAL_NAMES_free(all);
}

static void put_certificate(BIO *out, X509 *certificate)
{
    put_name(out, "subject", X509_get_subject_name(certificate));
    put_name(out, "issuer", X509_get_issuer_name(certificate));
    put_time(out, "not_before", X509_get0_notBefore(certificate));
    put_time(out, "not_after", X509_get0_notAfter(certificate));
    put_alternatives(out, certificate);
    BIO_write(out, "", 1);
    i2d_X509_bio(out, certificate);
}

static X509 *peer_certificate(SSL *ssl)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
    return SSL_get1_peer_certificate(ssl);
#else
    return SSL_get_peer_certificate(ssl);
#endif
}

char *tls_describe(SSL *ssl, size_t *length)
{
    const settings *s = settings_of(ssl);
    const peer *p = s ? SSL_get_ex_data(ssl, peer_index) : NULL;
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    X509 *certificate = p ? p->certificate : NULL;
    BIO *out = BIO_new(BIO_s_mem());
    char *text = NULL, *copy = NULL;

    *length = 0;
    if (!out)
        return NULL;
    if (!cipher)
        cipher = SSL_get_pending_cipher(ssl);
    if (certificate)
        X509_up_ref(certificate);
    else
        certificate = peer_certificate(ssl);
    if (cipher) {
        BIO_printf(out, "protocol=%s\n", SSL_get_version(ssl));
        BIO_printf(out, "cipher=%s\n", SSL_CIPHER_get_name(cipher));
    }
    if (certificate)
        put_certificate(out, certificate);
    X509_free(certificate);
    *length = (size_t)BIO_get_mem_data(out, &text);
    if (*length)
        copy = malloc(*length);
    if (copy)
        memcpy(copy, text, *length);
    else
        *length = 0;
    BIO_free(out);
    ERR_clear_error(); /* a strange certificate leaves some */
    return copy;
}

/* ------------------------------------------------- making of a context */

typedef struct making {
    SSL_CTX *context;
    const pjpy_tls *tls;
    pjpy_tls_error *error;
    settings *settings;
    int asked_password;
} making;

static int fail(making *m, int argument, const char *field, const char *format,
                ...)
{
    va_list arguments;

    m->error->argument = argument;
    snprintf(m->error->field, sizeof m->error->field, "%s", field);
    va_start(arguments, format);
    vsnprintf(m->error->reason, sizeof m->error->reason, format, arguments);
    va_end(arguments);
    return PJPY_ETLS;
}

/* The first error is the cause; later ones say what it spoiled. */
static const char *openssl_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());

    return reason ? reason : "OpenSSL does not say why";
}

/* PEM, from a file or from memory; wiped, since it may be a key. */
typedef struct pem {
    const char *field;
    char *data;
    size_t length;
    BIO *bio;
} pem;

static void pem_close(pem *p)
{
    BIO_free(p->bio);
    if (p->data)
        OPENSSL_cleanse(p->data, p->length);
    free(p->data);
}

static int read_file(making *m, pem *p, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t n = 0;
    char *more;

    if (fd < 0)
        return fail(m, 1, p->field, "%s", strerror(errno));
    do {
        if (p->length == size) {
            size = size ? size * 2 : 65536;
            more = size > PEM_LIMIT ? NULL : malloc(size);
            if (!more) {
                close(fd);
                return fail(m, 1, p->field, "is too large");
            }
            if (p->length)
                memcpy(more, p->data, p->length);
            if (p->data)
                OPENSSL_cleanse(p->data, p->length);
            free(p->data);
            p->data = more;
        }
        n = read(fd, p->data + p->length, size - p->length);
        if (n > 0)
            p->length += (size_t)n;
    } while (n > 0 || (n < 0 && errno == EINTR));
    if (n < 0)
        fail(m, 1, p->field, "%s", strerror(errno));
    close(fd);
    return n < 0 ? PJPY_ETLS : 0;
}

/* 0 with p->bio, or without one when there is no such source. */
static int pem_open(making *m, pem *p, const char *field, const char *path,
                    const char *data)
{
    int status = 0;
    size_t length = 0;

    *p = (pem){ .field = field };
    ERR_clear_error(); /* what went well may leave some */
    if (!path && !data)
        return 0;
    if (path)
        status = read_file(m, p, path);
    length = path ? p->length : strlen(data);
    if (status)
        return status;
    if (length == 0)
        return fail(m, 0, field, "is empty");
    p->bio = BIO_new_mem_buf(path ? p->data : data, (int)length);
    return p->bio ? 0 : PJPY_ENOMEM;
}

/* Never the terminal, which OpenSSL would ask. */
static int on_password(char *out, int size, int unused, void *data)
{
    making *m = data;
    const char *password = m->tls->key_password;
    size_t length = password ? strlen(password) : 0;

    m->asked_password = 1;
    if (!password || length > (size_t)size)
        return -1;
    memcpy(out, password, length);
    return (int)length;
}

/* Whether reading stopped because nothing was left to read. */
static int at_end(void)
{
    unsigned long error = ERR_peek_last_error();
    int end = ERR_GET_LIB(error) == ERR_LIB_PEM &&
              ERR_GET_REASON(error) == PEM_R_NO_START_LINE;

    if (end)
        ERR_clear_error();
    return end;
}

static int add_authorities(making *m, const char *field, const char *path,
                           const char *data)
{
    X509_STORE *store = SSL_CTX_get_cert_store(m->context);
    X509 *certificate;
    int count = 0, status;
    pem p;

    status = pem_open(m, &p, field, path, data);
    while (!status && p.bio) {
        certificate = PEM_read_bio_X509_AUX(p.bio, NULL, on_password, m);
        if (!certificate)
            break;
        if (!X509_STORE_add_cert(store, certificate))
            status = fail(m, 0, field, "%s", openssl_reason());
        X509_free(certificate);
        count++;
    }
    if (!status && p.bio && !at_end())
        status = fail(m, 0, field, "cannot be read: %s", openssl_reason());
    else if (!status && p.bio && !count)
        status = fail(m, 0, field, "holds no certificate in PEM form");
    pem_close(&p);
    return status;
}

static int add_revocations(making *m)
{
    X509_STORE *store = SSL_CTX_get_cert_store(m->context);
    X509_CRL *list;
    int count = 0, status;
    pem p;

    status = pem_open(m, &p, "crl_file", m->tls->crl_file, NULL);
    while (!status && p.bio) {
        list = PEM_read_bio_X509_CRL(p.bio, NULL, on_password, m);
        if (!list)
            break;
        if (!X509_STORE_add_crl(store, list))
            status = fail(m, 0, "crl_file", "%s", openssl_reason());
        X509_CRL_free(list);
        count++;
    }
    if (!status && p.bio && !at_end())
        status = fail(m, 0, "crl_file", "cannot be read: %s", openssl_reason());
    else if (!status && p.bio && !count)
        status = fail(m, 0, "crl_file", "holds no revocation list in PEM form");
    if (!status && p.bio)
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    pem_close(&p);
    return status;
}

/* Ours, and the chain that stands behind it. */
static int use_certificates(making *m, X509 **leaf)
{
    const pjpy_tls *tls = m->tls;
    const char *field = tls->cert_file ? "cert_file" : "cert_data";
    X509 *next;
    int status;
    pem p;

    *leaf = NULL;
    status = pem_open(m, &p, field, tls->cert_file, tls->cert_data);
    if (status || !p.bio)
        goto done;
    *leaf = PEM_read_bio_X509_AUX(p.bio, NULL, on_password, m);
    if (!*leaf) {
        status = at_end()
                     ? fail(m, 0, field, "holds no certificate in PEM form")
                     : fail(m, 0, field, "cannot be read: %s",
                            openssl_reason());
        goto done;
    }
    if (!SSL_CTX_use_certificate(m->context, *leaf)) {
        status = fail(m, 0, field, "cannot be used: %s", openssl_reason());
        goto done;
    }
    while (!status && (next = PEM_read_bio_X509(p.bio, NULL, on_password, m))) {
        if (!SSL_CTX_add0_chain_cert(m->context, next)) {
            X509_free(next);
            status = fail(m, 0, field, "%s", openssl_reason());
        }
    }
    if (!status && !at_end())
        status = fail(m, 0, field, "cannot be read: %s", openssl_reason());
done:
    pem_close(&p);
    return status;
}

static int use_key(making *m, X509 *certificate)
{
    const pjpy_tls *tls = m->tls;
    const char *field = tls->key_file ? "key_file" : "key_data";
    EVP_PKEY *key = NULL;
    char both[32];
    int status;
    pem p;

    status = pem_open(m, &p, field, tls->key_file, tls->key_data);
    if (status || !p.bio)
        goto done;
    m->asked_password = 0;
    key = PEM_read_bio_PrivateKey(p.bio, NULL, on_password, m);
    snprintf(both, sizeof both, "%s,%s", field,
             tls->cert_file ? "cert_file" : "cert_data");
    if (!key && m->asked_password && !tls->key_password)
        status = fail(m, 0, field, "is encrypted: give its key_password");
    else if (!key && m->asked_password)
        status = fail(m, 0, field, "does not open with this key_password (%s)",
                      openssl_reason());
    else if (!key)
        status = fail(m, 0, field, "holds no private key in PEM form (%s)",
                      openssl_reason());
    else if (certificate && !X509_check_private_key(certificate, key))
        status = fail(m, 0, both, "do not belong together: %s",
                      openssl_reason());
    else if (!SSL_CTX_use_PrivateKey(m->context, key))
        status = fail(m, 0, field, "cannot be used: %s", openssl_reason());
    EVP_PKEY_free(key);
    if (!status)
        m->settings->has_certificate = 1;
done:
    pem_close(&p);
    return status;
}

/* ------------------------------------------------------------- ciphers */

/* What may be excluded although this OpenSSL has none of it. */
static int is_of_old(const char *name)
{
    static const char *const old[] = {
        "3DES",  "ADH",   "AECDH",  "DES",   "DSS",  "EXP",   "EXPORT",
        "IDEA",  "LOW",   "MEDIUM", "MD5",   "PSK",  "RC2",   "RC4",
        "SEED",  "SRP",   "SSLv2",  "SSLv3", "aDSS", "aECDH", "aDH",
        "aNULL", "eNULL", "kDH",    "kECDH", "NULL",
    };

    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcmp(name, old[i]) == 0)
            return 1;
    return 0;
}

/* OpenSSL passes over names that it does not know. */
static int is_cipher(SSL_CTX *probe, const char *name)
{
    int excluded = *name == '!' || *name == '-';
    STACK_OF(SSL_CIPHER) * all;

    if (*name == '@') /* it knows these, or refuses the whole list */
        return 1;
    if (excluded || *name == '+')
        name++;
    if (SSL_CTX_set_cipher_list(probe, name) || (excluded && is_of_old(name)))
        return 1;
    if (!SSL_CTX_set_ciphersuites(probe, name))
        return 0;
    all = SSL_CTX_get_ciphers(probe);
    for (int i = 0; i < sk_SSL_CIPHER_num(all); i++)
        if (strcmp(SSL_CIPHER_get_name(sk_SSL_CIPHER_value(all, i)), name) == 0)
            return 1;
    return 0;
}

static void append(char *list, const char *name)
{
    size_t length = strlen(list);

    if (length)
        list[length++] = ':';
    memcpy(list + length, name, strlen(name) + 1);
}

static int use_ciphers(making *m, char *names, char *old, char *new)
{
    SSL_CTX *probe = SSL_CTX_new(TLS_method());
    char *rest = names, *name;
    int status = 0;

    if (!probe)
        return PJPY_ENOMEM;
    SSL_CTX_set_security_level(probe, 0);
    while (!status && (name = strtok_r(NULL, " ", &rest))) {
        if (!is_cipher(probe, name))
            status = fail(m, 1, "ciphers", "OpenSSL knows no cipher %.100s",
                          name);
        /* RFC 8446 names: a suite of TLS 1.3 names no key exchange. */
        append(strncmp(name, "TLS_", 4) == 0 && !strstr(name, "_WITH_") ? new
                                                                        : old,
               name);
    }
    SSL_CTX_free(probe);
    ERR_clear_error();
    if (!status && *old) {
        /* The server says who it is, and nobody else can read: always. */
        append(old, "!aNULL:!eNULL");
        if (!SSL_CTX_set_cipher_list(m->context, old))
            status = fail(m, 1, "ciphers",
                          "none is left that authenticates and encrypts (%s)",
                          openssl_reason());
    }
    if (!status && *new && !SSL_CTX_set_ciphersuites(m->context, new))
        status = fail(m, 1, "ciphers", "%s", openssl_reason());
    return status;
}

static int set_ciphers(making *m)
{
    const char *names = m->tls->ciphers;
    size_t size = names ? strlen(names) + sizeof ":!aNULL:!eNULL" : 0;
    char *copies = size ? calloc(3, size) : NULL;
    int status;

    if (!names)
        return SSL_CTX_set_cipher_list(m->context, PJ_SSL_SOCK_OSSL_CIPHERS)
                   ? 0
                   : fail(m, 0, "ciphers", "%s", openssl_reason());
    if (!copies)
        return PJPY_ENOMEM;
    strcpy(copies, names);
    status = use_ciphers(m, copies, copies + size, copies + 2 * size);
    free(copies);
    return status;
}

/* ------------------------------------------------------------ versions */

static int set_versions(making *m)
{
    static const struct {
        uint32_t bit;
        int version;
        unsigned long off;
    } all[] = {
        { PJ_SSL_SOCK_PROTO_TLS1, TLS1_VERSION, SSL_OP_NO_TLSv1 },
        { PJ_SSL_SOCK_PROTO_TLS1_1, TLS1_1_VERSION, SSL_OP_NO_TLSv1_1 },
        { PJ_SSL_SOCK_PROTO_TLS1_2, TLS1_2_VERSION, SSL_OP_NO_TLSv1_2 },
        { PJ_SSL_SOCK_PROTO_TLS1_3, TLS1_3_VERSION, SSL_OP_NO_TLSv1_3 },
    };
    int least = 0, most = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (m->tls->protocols & all[i].bit) {
            least = least ? least : all[i].version;
            most = all[i].version;
        } else {
            SSL_CTX_set_options(m->context, all[i].off);
        }
    }
    /* Also against what openssl.cnf says: they were asked for by name. */
    if (!SSL_CTX_set_min_proto_version(m->context, least) ||
        !SSL_CTX_set_max_proto_version(m->context, most))
        return fail(m, 1, "versions", "this OpenSSL does not have them: %s",
                    openssl_reason());
    if (least < TLS1_2_VERSION) /* they sign with SHA-1 */
        SSL_CTX_set_security_level(m->context, 0);
    return 0;
}

static int open_keylog(making *m)
{
    const char *path = m->tls->keylog_file;
    struct stat it;
    int fd;

    if (!path)
        return 0;
    fd = open(path,
              O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW |
                  O_NONBLOCK,
              0600);
    if (fd < 0)
        return fail(m, 1, "keylog_file", "%s", strerror(errno));
    m->settings->keylog = fd;
    if (fstat(fd, &it) || !S_ISREG(it.st_mode))
        return fail(m, 1, "keylog_file", "is no regular file");
    if (fchmod(fd, 0600)) /* of one that was there already */
        return fail(m, 1, "keylog_file", "others may read it: %s",
                    strerror(errno));
    SSL_CTX_set_keylog_callback(m->context, on_key);
    return 0;
}

static int make(making *m)
{
    static const unsigned char session_context[] = "pjsip_py";
    const pjpy_tls *tls = m->tls;
    X509 *certificate = NULL;
    int status;

    if (!PJPY_BUNDLED && (tls->ciphers || tls->crl_file || tls->keylog_file))
        return tls_needs_bundled(m->error, tls->ciphers    ? "ciphers"
                                           : tls->crl_file ? "crl_file"
                                                           : "keylog_file");
    m->settings->verify = (int)tls->verify;
    m->settings->timeout.sec = tls->timeout_ms / 1000;
    m->settings->timeout.msec = tls->timeout_ms % 1000;
    if (tls->server_name &&
        !(m->settings->server_name = strdup(tls->server_name)))
        return PJPY_ENOMEM;

    /* No session is resumed: each handshake shows the certificate. */
    SSL_CTX_set_session_cache_mode(m->context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(m->context, session_context,
                                   sizeof session_context - 1);
    SSL_CTX_set_num_tickets(m->context, 0);
    SSL_CTX_set_options(m->context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                        SSL_OP_NO_COMPRESSION);
    /* An idle connection needs no buffers, of 34 kB. */
    SSL_CTX_set_mode(m->context, SSL_MODE_RELEASE_BUFFERS);
    /* As PJSIP does: what is trusted need not be a root. */
    X509_STORE_set_flags(SSL_CTX_get_cert_store(m->context),
                         X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_PARTIAL_CHAIN);
    SSL_CTX_set_cert_verify_callback(m->context, verify, NULL);
    SSL_CTX_set_info_callback(m->context, on_info);
    SSL_CTX_set_msg_callback(m->context, on_record);
    SSL_CTX_set_cert_cb(m->context, on_certificate_wanted, NULL);

    status = set_versions(m);
    if (!status)
        status = set_ciphers(m);
    if (!status)
        status = add_authorities(m, "ca_file", tls->ca_file, NULL);
    if (!status)
        status = add_authorities(m, "ca_data", NULL, tls->ca_data);
    if (!status && tls->ca_path &&
        !SSL_CTX_load_verify_locations(m->context, NULL, tls->ca_path))
        status = fail(m, 0, "ca_path", "%s", openssl_reason());
    if (!status)
        status = add_revocations(m);
    if (!status)
        status = use_certificates(m, &certificate);
    if (!status)
        status = use_key(m, certificate);
    if (!status)
        status = open_keylog(m);
    X509_free(certificate);
    return status;
}

int tls_context_new(const pjpy_tls *tls, pjpy_tls_error *error,
                    SSL_CTX **context)
{
    making m = { .tls = tls, .error = error };
    int status = PJPY_ENOMEM;

    pthread_once(&once, make_indexes);
    ERR_clear_error();
    *context = NULL;
    m.context = SSL_CTX_new(TLS_method());
    m.settings = m.context ? calloc(1, sizeof *m.settings) : NULL;
    if (m.settings) {
        m.settings->keylog = -1;
        __atomic_add_fetch(&contexts, 1, __ATOMIC_RELAXED);
        if (SSL_CTX_set_ex_data(m.context, settings_index, m.settings))
            status = make(&m);
        else
            settings_free(NULL, m.settings, NULL, 0, 0, NULL);
    }
    if (status)
        SSL_CTX_free(m.context);
    else
        *context = m.context;
    /* This thread's errors are Python's ssl module's, too. */
    ERR_clear_error();
    return status;
}

void tls_context_free(SSL_CTX *context)
{
    SSL_CTX_free(context);
}

uint32_t tls_context_count(void)
{
    return __atomic_load_n(&contexts, __ATOMIC_RELAXED);
}

/* ----------------------------------------------------- accepted sockets */

static unsigned accepted;

int pjpy_tls_enter(void)
{
    if (accepted >= PJPY_MAX_INCOMING)
        return 0;
    accepted++;
    return 1;
}

void pjpy_tls_leave(void)
{
    accepted--;
}

/* --------------------------------------------------------------- boxes */

struct tls_box {
    tls_box *next, **previous;
    unsigned references;
    SSL_CTX *context;
};

static tls_box *boxes;

tls_box *tls_box_new(SSL_CTX *context)
{
    tls_box *box = calloc(1, sizeof *box);

    if (!box)
        return NULL;
    box->references = 1;
    box->context = context;
    box->next = boxes;
    box->previous = &boxes;
    if (boxes)
        boxes->previous = &box->next;
    boxes = box;
    return box;
}

void tls_box_set(tls_box *box, SSL_CTX *context)
{
    SSL_CTX_free(box->context);
    box->context = context;
}

static settings *settings_in(const tls_box *box)
{
    return SSL_CTX_get_ex_data(box->context, settings_index);
}

const char *tls_box_server_name(const tls_box *box)
{
    const settings *s = settings_in(box);

    return s->server_name ? s->server_name : "";
}

static void box_free(tls_box *box)
{
    *box->previous = box->next;
    if (box->next)
        box->next->previous = box->previous;
    SSL_CTX_free(box->context);
    free(box);
}

void tls_free_all(void)
{
    accepted = 0; /* PJSIP forgets those whose handshake its end cuts short */
    while (boxes)
        box_free(boxes);
}

void pjpy_tls_hold(void *box, pj_time_val *timeout)
{
    ((tls_box *)box)->references++;
    *timeout = settings_in(box)->timeout;
}

void pjpy_tls_release(void *box)
{
    if (--((tls_box *)box)->references == 0)
        box_free(box);
}

SSL_CTX *pjpy_tls_context(void *box)
{
    SSL_CTX *context = box ? ((tls_box *)box)->context : NULL;

    if (context) /* else the socket is closed already */
        SSL_CTX_up_ref(context);
    return context;
}

void pjpy_tls_expect(SSL *ssl, const char *name, size_t length)
{
    peer *p = peer_of(ssl);

    if (!p || !length)
        return;
    free(p->name);
    p->name = malloc(length + 1);
    if (p->name) {
        memcpy(p->name, name, length);
        p->name[length] = '\0';
    }
}

/* verify() has refused what is wrong, unless no certificate came at all. */
uint32_t pjpy_tls_verdict(SSL *ssl)
{
    const settings *s = settings_of(ssl);
    const peer *p = SSL_get_ex_data(ssl, peer_index);

    if (s && (SSL_is_server(ssl) || !s->verify))
        return 0;
    return s && p && p->verified ? 0 : PJ_SSL_CERT_EUNKNOWN;
}

#else /* no OpenSSL: PJSIP says that it has no such transport */

int tls_context_new(const pjpy_tls *tls, pjpy_tls_error *error,
                    struct ssl_ctx_st **context)
{
    PJ_UNUSED_ARG(tls);
    PJ_UNUSED_ARG(error);
    *context = NULL;
    return 0;
}

void tls_context_free(struct ssl_ctx_st *context)
{
    PJ_UNUSED_ARG(context);
}

uint32_t tls_context_count(void)
{
    return 0;
}

tls_box *tls_box_new(struct ssl_ctx_st *context)
{
    PJ_UNUSED_ARG(context);
    return NULL;
}

void tls_box_set(tls_box *box, struct ssl_ctx_st *context)
{
    PJ_UNUSED_ARG(box);
    PJ_UNUSED_ARG(context);
}

const char *tls_box_server_name(const tls_box *box)
{
    PJ_UNUSED_ARG(box);
    return "";
}

void tls_free_all(void)
{
}

void pjpy_tls_release(void *box)
{
    PJ_UNUSED_ARG(box);
}

#endif
