/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The allocator of PJSIP's pools: thousands of blocks of all sizes, taken and
   given back in disorder.  None overlaps another, and nothing is left behind
   but what blocks_close() takes.  Run by tests/test_blocks.py. */
#include "support.h"

#include <stdint.h>

#include "../shim/internal.h"

#define BLOCKS 4000
#define ROUNDS 200000

static struct block {
    unsigned char *memory;
    size_t size;
    unsigned char mark;
} blocks[BLOCKS];

static uint64_t state = 88172645463325252u;

static uint64_t random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static size_t random_size(void)
{
    static const size_t usual[] = { 128, 256, 512, 1024, 2048, 4096 };
    uint64_t n = random_number();

    return n % 4 ? usual[n / 4 % PJ_ARRAY_SIZE(usual)] : 1 + n / 4 % 20000;
}

static void take(struct block *b)
{
    b->size = random_size();
    b->mark = (unsigned char)random_number();
    b->memory = block_policy.block_alloc(NULL, b->size);
    CHECK(b->memory);
    CHECK(((uintptr_t)b->memory & 15) == 0);
    memset(b->memory, b->mark, b->size);
}

static void give_back(struct block *b)
{
    for (size_t i = 0; i < b->size; i++)
        CHECK(b->memory[i] == b->mark);
    block_policy.block_free(NULL, b->memory, b->size);
    b->memory = NULL;
}

/* Mappings without a file, in kB. */
static long anonymous(void)
{
    char line[256];
    long kb = 0;
    FILE *status = fopen("/proc/self/status", "r");

    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmData: %ld", &kb);
    if (status)
        fclose(status);
    return kb;
}

int main(void)
{
    long before = anonymous();

    for (int i = 0; i < ROUNDS; i++) {
        struct block *b = &blocks[random_number() % BLOCKS];
        if (b->memory)
            give_back(b);
        else
            take(b);
    }
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].memory)
            give_back(&blocks[i]);
    blocks_close();
    /* malloc() keeps some of what was larger than a cell. */
    CHECK(anonymous() - before < 16384);
    return 0;
}
