/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The substitutions of vendor/patches.toml that concern TLS, as patches.c does
   for the others.  They are in functions private to ssl_sock_ossl.c, which is
   therefore included. */
#include "ssl_sock_ossl.c"

#include "support.h"

#include <openssl/x509v3.h>

static void add_name(GENERAL_NAMES *names, int type, const char *text, int size)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();
    ASN1_STRING_set(value, text, size);
    GENERAL_NAME_set0_value(name, type, value);
    sk_GENERAL_NAME_push(names, name);
}

static void names(void)
{
    static const char evil[] = "sip.example.com\0.attacker.org";
    static const char evil_uri[] = "sip:example.com\0.attacker.org";
    pj_caching_pool pools;
    pj_ssl_cert_info info;
    pj_pool_t *pool;
    X509 *certificate = X509_new();
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();

    pj_caching_pool_init(&pools, NULL, 0);
    pool = pj_pool_create(&pools.factory, "test", 4000, 4000, NULL);

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    add_name(names, GEN_DNS, "first.example.com", 17);
    add_name(names, GEN_DNS, evil, sizeof evil - 1);
    add_name(names, GEN_URI, evil_uri, sizeof evil_uri - 1);
    add_name(names, GEN_DNS, "last.example.com", 16);
    CHECK(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, 0));

    pj_bzero(&info, sizeof info);
    get_cert_info(pool, &info, certificate, PJ_FALSE);
    CHECK(info.subj_alt_name.cnt == 2);
    CHECK(!pj_strcmp2(&info.subj_alt_name.entry[0].name, "first.example.com"));
    CHECK(!pj_strcmp2(&info.subj_alt_name.entry[1].name, "last.example.com"));

    GENERAL_NAMES_free(names);
    X509_free(certificate);
    pj_pool_release(pool);
    pj_caching_pool_destroy(&pools);
}

static void texts(void)
{
    char first[80], again[80];
    pj_status_t status = PJ_SSL_ERRNO_START + SSL_R_CERTIFICATE_VERIFY_FAILED;

    CHECK(init_openssl() == PJ_SUCCESS);
    pj_strerror(status, first, sizeof first);
    pj_shutdown();

    CHECK(pj_init() == PJ_SUCCESS);
    CHECK(init_openssl() == PJ_SUCCESS);
    pj_strerror(status, again, sizeof again);
    CHECK(!strstr(first, "Unknown pjlib error"));
    CHECK(strcmp(first, again) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    CHECK(pj_init() == PJ_SUCCESS);
    pj_log_set_level(0);
    if (strcmp(argv[1], "tls-san-nul") == 0)
        names();
    else if (strcmp(argv[1], "tls-texts-after-reopen") == 0)
        texts();
    else
        CHECK(!"no such case");
    pj_shutdown();
    return 0;
}
