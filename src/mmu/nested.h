#ifndef AEROSTAT_MMU_NESTED_H
#define AEROSTAT_MMU_NESTED_H

/*
 * The nested page table of one VM: PPN to host page, as EPT's (SDM vol. 3 ch. 29.3). Four levels of
 * 512 entries, walked without a lock by every vCPU; an entry that is missing, or forbids the write,
 * is a *nested violation*, which asks the page map.
 *
 *        PPN bits 35-27      26-18            17-9              8-0
 *      root ----------> node ------> node -----------> leaf table -----> host address, flags
 *                                      \
 *                                       `--> a large leaf: 512 pages, all private, one after
 * another
 *
 * An entry says what the page map said when it was made. The page map revokes before that changes,
 * and a revocation takes entries out first and then has the vCPUs pass their safepoints (domain.c):
 * so what a running vCPU has read here is good as long as a TLB entry is. Filling and taking out
 * exclude each other by a lock, a leaf like mmu->lock, under which nobody waits for a vCPU. A fill
 * that comes after the taking-out finds the page map changed.
 *
 * Tables are made as they are needed and stay while the VM is there: whoever walks need not fear
 * for them. A large leaf stands in place of a leaf table in which every page may be written; the
 * table is kept, and takes its place again when one of its pages is revoked.
 *
 * An example. A guest that has written all of a 2 MiB region: its 512 entries are writable, and the
 * last fill puts a large leaf above them; walks take three references. The sample revokes one page:
 * the leaf table is back, with 511 entries. The guest reads that page: violation, 512 entries,
 * large.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "mem/pmap.h"
#include "util/bits.h"
#include "util/status.h"

#define NESTED_LEVELS     4u
#define NESTED_INDEX_BITS 9u
#define NESTED_FANOUT     (1u << NESTED_INDEX_BITS)

/* An entry: a host address, of a page or of a table, and flags in the low bits. 0: missing. */
enum nested_flag {
    NESTED_PRESENT = 1 << 0,
    NESTED_WRITE = 1 << 1, /* may be written in place */
    NESTED_LARGE = 1 << 2, /* in a node: 2 MiB; in an answer: part of such */
};

struct nested_node {
    _Atomic uint64_t entry[NESTED_FANOUT];
};

/* A node above leaf tables; walks see the first member. */
struct nested_middle {
    struct nested_node node;
    struct nested_node *table[NESTED_FANOUT]; /* also where a large leaf stands; NULL: none yet */
    uint16_t writable[NESTED_FANOUT];         /* entries of it that may be written */
};

struct nested {
    struct pmap *map;
    bool large;           /* large leaves are made */
    pthread_mutex_t lock; /* for changes; a leaf */
    struct nested_node *root;
    _Atomic uint64_t table_bytes, large_leaves; /* now */
};

/* `large`: 2 MiB leaves where they can be. The map is the caller's. */
enum status nested_create(struct nested **nested, struct pmap *map, bool large, struct error *err);
void nested_destroy(struct nested *nested); /* NULL is fine */

/*
 * A violation: asks the page map, for a write to have the page private if that can be had at once
 * (pmap_page_claim), and keeps the answer. 0: the PPN is not RAM, or its bytes are away. Never
 * blocks.
 */
uint64_t nested_fill(struct nested *nested, uint64_t ppn, bool write);

/* Takes out what is known of these pages. The caller then sees to the vCPUs. */
void nested_revoke(struct nested *nested, const uint64_t *ppns, unsigned count);

/* Takes the permission to write this one. */
void nested_protect(struct nested *nested, uint64_t ppn);

static inline unsigned nested_index(uint64_t ppn, unsigned level)
{
    return (unsigned)(ppn >> level * NESTED_INDEX_BITS) & (NESTED_FANOUT - 1);
}

static inline struct nested_node *nested_child(uint64_t entry)
{
    return (struct nested_node *)(uintptr_t)(entry & ~PAGE_MASK);
}

/* The entry of ppn, which is below 2^36: host page and flags, or 0. *references grows by the
 * entries that were read. */
static inline uint64_t nested_walk(const struct nested *nested, uint64_t ppn, uint64_t *references)
{
    const struct nested_node *node = nested->root;
    for (unsigned level = NESTED_LEVELS - 1;; level--) {
        uint64_t entry =
            atomic_load_explicit(&node->entry[nested_index(ppn, level)], memory_order_acquire);
        ++*references;
        if (entry == 0 || level == 0)
            return entry;
        if (entry & NESTED_LARGE)
            return entry + ((ppn & (NESTED_FANOUT - 1)) << PAGE_SHIFT);
        node = nested_child(entry);
    }
}

#endif
