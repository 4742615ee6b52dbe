/* SPDX-License-Identifier: GPL-3.0-or-later */
/* pjsip_auth_create_digest2() on what stands on standard input, ten strings
   that end in NUL for each: algorithm, "password" or "ha1", the secret,
   username, realm, method, uri, nonce, nc, cnonce.  Without nc there is no
   qop, else it is "auth".  Prints one response a line, or PJSIP's status.
   Run by tests/test_digest_vectors.py. */
#include "support.h"

#include <pjsip.h>

enum { ALGORITHM, KIND, SECRET, USER, REALM, METHOD, URI, NONCE, NC, CNONCE };
#define FIELDS 10

/* The next string of standard input in memory of its own; its end is its
   last byte, so that a sanitizer sees who reads on. */
static int next(pj_str_t *field)
{
    static char text[1 << 16];
    size_t length = 0;
    int c;

    while ((c = getchar()) > 0) {
        CHECK(length < sizeof text);
        text[length++] = (char)c;
    }
    if (c == EOF)
        return 0;
    field->ptr = malloc(length ? length : 1);
    CHECK(field->ptr);
    memcpy(field->ptr, text, length);
    field->slen = (pj_ssize_t)length;
    return 1;
}

static void answer(const pj_str_t f[FIELDS])
{
    const pj_str_t qop = { "auth", 4 };
    const pjsip_auth_algorithm *algorithm =
        pjsip_auth_get_algorithm_by_iana_name(&f[ALGORITHM]);
    int with_qop = f[NC].slen > 0;
    pjsip_cred_info credential = { .realm = f[REALM],
                                   .username = f[USER],
                                   .data = f[SECRET] };
    char buffer[PJSIP_AUTH_MAX_DIGEST_BUFFER_LENGTH * 2];
    pj_str_t response = { buffer, sizeof buffer };
    pj_status_t status;

    CHECK(algorithm);
    if (pj_strcmp2(&f[KIND], "ha1") == 0) {
        credential.data_type = PJSIP_CRED_DATA_DIGEST;
        credential.algorithm_type = algorithm->algorithm_type;
    }
    status = pjsip_auth_create_digest2(
        &response, &f[NONCE], with_qop ? &f[NC] : NULL,
        with_qop ? &f[CNONCE] : NULL, with_qop ? &qop : NULL, &f[URI],
        &f[REALM], &credential, &f[METHOD], algorithm->algorithm_type);
    if (status == PJ_SUCCESS)
        printf("%.*s\n", (int)response.slen, response.ptr);
    else
        printf("status %d\n", status);
}

int main(void)
{
    pj_str_t f[FIELDS];

    pj_log_set_level(0);
    CHECK(pj_init() == PJ_SUCCESS);
    while (next(&f[0])) {
        for (int i = 1; i < FIELDS; i++)
            CHECK(next(&f[i]));
        answer(f);
        for (int i = 0; i < FIELDS; i++)
            free(f[i].ptr);
    }
    CHECK(violated == 0);
    pj_shutdown();
    return 0;
}
