/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Preloaded into a process, looks into each block of memory that is freed.  One
   that still holds a secret is told on standard error when PJSIP, the shim or
   OpenSSL frees it; Python, which cannot wipe, has it wiped here.
   SECRETS in the environment: hexadecimal, each byte turned over by KEY so that
   no copy of a secret is made here, with commas between.
   Run by tests/test_secret_memory.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY     0xa5
#define SECRETS 8
#define LENGTH  256

void __libc_free(void *block);
void *__libc_malloc(size_t size);

static struct {
    unsigned char text[LENGTH];
    size_t length;
} secrets[SECRETS];
static int count;

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

__attribute__((constructor)) static void read_secrets(void)
{
    const char *p = getenv("SECRETS");

    for (; p && *p && count < SECRETS; count++) {
        size_t n = 0;
        while (digit(p[0]) >= 0 && digit(p[1]) >= 0 && n < LENGTH) {
            secrets[count].text[n++] = (unsigned char)(digit(p[0]) << 4 |
                                                       digit(p[1]));
            p += 2;
        }
        secrets[count].length = n;
        if (*p == ',')
            p++;
    }
}

static unsigned char *find(unsigned char *block, size_t size, int which)
{
    const unsigned char *wanted = secrets[which].text;
    size_t length = secrets[which].length;
    unsigned char *p = block, *last;

    if (!length || size < length)
        return NULL;
    last = block + size - length;
    while (p <= last &&
           (p = memchr(p, wanted[0] ^ KEY, (size_t)(last - p) + 1))) {
        size_t i = 1;
        while (i < length && (p[i] ^ KEY) == wanted[i])
            i++;
        if (i == length)
            return p;
        p++;
    }
    return NULL;
}

/* Python, its modules and what they are linked with free what Python made. */
static int is_ours(const char *object)
{
    const char *name = strrchr(object, '/');

    name = name ? name + 1 : object;
    return strncmp(name, "_pjsip.", 7) == 0 ||
           strncmp(name, "libssl.", 7) == 0 ||
           strncmp(name, "libcrypto.", 10) == 0;
}

static void look(void *block, const void *caller)
{
    size_t size = malloc_usable_size(block);
    unsigned char *found;
    Dl_info info;
    char line[512];

    for (int i = 0; i < count; i++) {
        while ((found = find(block, size, i))) {
            if (dladdr(caller, &info) && is_ours(info.dli_fname)) {
                int n = snprintf(line, sizeof line,
                                 "freed with secret %d in it: %s+%#lx\n", i,
                                 info.dli_fname,
                                 (unsigned long)((const char *)caller -
                                                 (const char *)info.dli_fbase));
                if (write(STDERR_FILENO, line, (size_t)n) != n)
                    abort();
            }
            memset(found, 0, secrets[i].length);
        }
    }
}

void free(void *block)
{
    if (!block)
        return;
    look(block, __builtin_return_address(0));
    __libc_free(block);
}

/* Always moves, so that the old block passes by here. */
void *realloc(void *block, size_t size)
{
    void *moved = __libc_malloc(size);
    size_t old;

    if (!block || !moved)
        return moved;
    old = malloc_usable_size(block);
    memcpy(moved, block, old < size ? old : size);
    look(block, __builtin_return_address(0));
    __libc_free(block);
    return moved;
}
