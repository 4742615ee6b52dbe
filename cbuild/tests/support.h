/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What pjlib needs of its host, for tests that link it without the shim. */
#ifndef PJPY_TEST_SUPPORT_H
#define PJPY_TEST_SUPPORT_H

#include <pjlib-util.h>
#include <pjlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

static unsigned violated;

void pjpy_assert_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "assertion: %s (%s:%d)\n", expression, file, line);
    violated++;
}

const unsigned PJ_GUID_STRING_LENGTH = 32;

unsigned pj_GUID_STRING_LENGTH(void)
{
    return 32;
}

pj_str_t *pj_generate_unique_string(pj_str_t *text)
{
    static unsigned count;
    char number[33];
    sprintf(number, "%032x", ++count);
    memcpy(text->ptr, number, 32);
    text->slen = 32;
    return text;
}

void pj_srand(unsigned seed)
{
    srand(seed);
}

int pj_rand(void)
{
    return rand();
}

#endif
