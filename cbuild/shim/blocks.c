/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The memory of PJSIP's pools.  They ask for blocks of a few sizes, thousands
 * of each; here a block is a cell, cut with others of its size from a chunk.
 * A cell has no header of its own, and a chunk comes from the kernel at once:
 * malloc() would extend the heap of a thread that is not the first page by
 * page, with a system call for each.
 *
 * A chunk without cells in use goes back to the kernel, save for one of each
 * size.  worker: no locks.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include <pj/except.h>

#include "internal.h"

#define CHUNK_SIZE   (256u * 1024)
#define GRAIN        64u
#define LARGEST_CELL 8192u
#define SIZES        (LARGEST_CELL / GRAIN)

typedef struct chunk {
    struct chunk *next, **previous; /* of this size with cells to spare */
    struct cell *free;
    unsigned used, cut, cells, size;
} chunk;

struct cell {
    struct cell *next;
};

static chunk *spare[SIZES];

static void *cell_at(chunk *k, unsigned i)
{
    return (char *)k + GRAIN + (size_t)i * k->size;
}

static void link_chunk(chunk *k)
{
    chunk **head = &spare[k->size / GRAIN - 1];

    k->next = *head;
    k->previous = head;
    if (k->next)
        k->next->previous = &k->next;
    *head = k;
}

static void unlink_chunk(chunk *k)
{
    *k->previous = k->next;
    if (k->next)
        k->next->previous = k->previous;
}

/* Aligned to its size, so that a cell tells its chunk. */
static chunk *new_chunk(unsigned size)
{
    size_t twice = 2 * (size_t)CHUNK_SIZE, before;
    char *p = mmap(NULL, twice, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    chunk *k;

    if (p == MAP_FAILED)
        return NULL;
    before = -(uintptr_t)p & (CHUNK_SIZE - 1);
    if (before)
        munmap(p, before);
    munmap(p + before + CHUNK_SIZE, CHUNK_SIZE - before);
    k = (chunk *)(p + before);
    k->size = size;
    k->cells = (CHUNK_SIZE - GRAIN) / size;
    link_chunk(k);
    return k;
}

static void *block_alloc(pj_pool_factory *factory, pj_size_t size)
{
    unsigned rounded = (unsigned)((size + GRAIN - 1) & ~(pj_size_t)(GRAIN - 1));
    struct cell *found;
    chunk *k;

    PJ_UNUSED_ARG(factory);
    if (size == 0 || size > LARGEST_CELL)
        return malloc(size);
    k = spare[rounded / GRAIN - 1];
    if (!k && !(k = new_chunk(rounded)))
        return NULL;
    found = k->free;
    if (found)
        k->free = found->next;
    else
        found = cell_at(k, k->cut++);
    if (++k->used == k->cells)
        unlink_chunk(k);
    return found;
}

static void block_free(pj_pool_factory *factory, void *memory, pj_size_t size)
{
    struct cell *c = memory;
    chunk *k;

    PJ_UNUSED_ARG(factory);
    if (size == 0 || size > LARGEST_CELL) {
        free(memory);
        return;
    }
    k = (chunk *)((uintptr_t)memory & ~(uintptr_t)(CHUNK_SIZE - 1));
    if (k->used == k->cells)
        link_chunk(k);
    c->next = k->free;
    k->free = c;
    if (--k->used == 0 && (k->next || spare[k->size / GRAIN - 1] != k)) {
        unlink_chunk(k);
        munmap(k, CHUNK_SIZE);
    }
}

static void out_of_memory(pj_pool_t *pool, pj_size_t size)
{
    PJ_UNUSED_ARG(pool);
    PJ_UNUSED_ARG(size);
    PJ_THROW(PJ_NO_MEMORY_EXCEPTION);
}

const pj_pool_factory_policy block_policy = { block_alloc, block_free,
                                              out_of_memory, 0 };

/* All pools are gone; what is left are the chunks kept in reserve. */
void blocks_close(void)
{
    for (unsigned i = 0; i < SIZES; i++) {
        while (spare[i]) {
            chunk *k = spare[i];
            unlink_chunk(k);
            munmap(k, CHUNK_SIZE);
        }
    }
}
