#include "mmu/shadow.h"

#include <stdlib.h>
#include <string.h>

#include "mmu/walk.h"
#include "util/sparse.h"

#define FANOUT         512u
#define ROOT_LEVEL     3u
#define NODES_LEAST    32u /* more than any walk takes */
#define PATIENCE_LEAST 4u  /* quiet flushes before a table is traced */
#define PATIENCE_MOST  256u
#define NEIGHBOURS     8u /* a cache line of a table: entries that are built together */

/* Where an entry leads: 0 nowhere; a leaf is a nested entry, which is odd; else a node and the
 * generation that it must have. */
#define CHILD_INDEX_SHIFT 1
#define CHILD_GEN_SHIFT   32

struct node {
    uint64_t table;    /* PPN of the guest's table; direct: of the first page that it maps */
    uint64_t compared; /* when it last was, by the shadow's clock; 0: has to be */
    uint32_t generation;
    uint32_t same_hash; /* next node of the hash */
    uint16_t quiet, patience;
    uint8_t level; /* 0: a page table */
    bool direct, in_use, traced;
    bool seen;      /* by a walk, since the clock's hand was here */
    uint64_t build; /* the last that it was part of */
    uint64_t guest[FANOUT];
    uint64_t target[FANOUT];
    uint32_t next[FANOUT], prev[FANOUT]; /* leaves of one hash of the reverse map; 0: none */
};

struct shadow {
    struct node *nodes;
    uint32_t node_count, used, hand; /* used: those below have been used once */
    uint32_t *table_heads;           /* of nodes, by table */
    uint32_t *leaf_heads;            /* of leaves, by page */
    unsigned table_bits, leaf_bits;
    uint64_t clock, flushed, build; /* `flushed`: when */
    uint64_t cr3;                   /* that `root` is of */
    uint64_t root;                  /* as an entry leads there */
    uint64_t no_execute;            /* EFER.NXE that entries were checked with */
    struct shadow_stats stats;
};

/* ------------------------------------------------------------------------- life */

static void forget_all(struct shadow *shadow)
{
    for (uint32_t i = 0; i < shadow->used; i++) {
        shadow->nodes[i].in_use = false;
        shadow->nodes[i].generation++;
    }
    sparse_clear(shadow->table_heads, bit(shadow->table_bits) * sizeof *shadow->table_heads);
    sparse_clear(shadow->leaf_heads, bit(shadow->leaf_bits) * sizeof *shadow->leaf_heads);
    shadow->stats.nodes = 0;
    shadow->root = 0;
}

enum status shadow_create(struct shadow **out, uint64_t bytes, struct error *err)
{
    struct shadow *shadow = calloc(1, sizeof(*shadow));
    if (shadow == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for shadow page tables");
    uint64_t count = bytes / (sizeof(struct node) + FANOUT);
    count = count < NODES_LEAST               ? NODES_LEAST
            : count > UINT32_MAX / FANOUT / 2 ? UINT32_MAX / FANOUT / 2
                                              : count;
    shadow->node_count = (uint32_t)count;
    while (bit(shadow->table_bits) < count)
        shadow->table_bits++;
    shadow->leaf_bits = shadow->table_bits + 6;
    shadow->nodes = sparse_map(count * sizeof *shadow->nodes);
    shadow->table_heads = sparse_map(bit(shadow->table_bits) * sizeof *shadow->table_heads);
    shadow->leaf_heads = sparse_map(bit(shadow->leaf_bits) * sizeof *shadow->leaf_heads);
    if (shadow->nodes == NULL || shadow->table_heads == NULL || shadow->leaf_heads == NULL) {
        shadow_destroy(shadow);
        return error_set(err, STATUS_NO_MEMORY, "no memory for shadow page tables");
    }
    *out = shadow;
    return STATUS_OK;
}

void shadow_destroy(struct shadow *shadow)
{
    if (shadow == NULL)
        return;
    sparse_unmap(shadow->nodes, shadow->node_count * sizeof *shadow->nodes);
    sparse_unmap(shadow->table_heads, bit(shadow->table_bits) * sizeof *shadow->table_heads);
    sparse_unmap(shadow->leaf_heads, bit(shadow->leaf_bits) * sizeof *shadow->leaf_heads);
    free(shadow);
}

void shadow_clear(struct shadow *shadow)
{
    forget_all(shadow);
    sparse_clear(shadow->nodes, shadow->node_count * sizeof *shadow->nodes);
    shadow->used = 0;
    shadow->hand = 0;
}

const struct shadow_stats *shadow_get_stats(const struct shadow *shadow)
{
    static const struct shadow_stats none;
    return shadow == NULL ? &none : &shadow->stats;
}

uint64_t shadow_bytes(const struct shadow *shadow)
{
    return shadow == NULL ? 0 : shadow->used * (sizeof(struct node) + FANOUT);
}

/* ------------------------------------------------------------------------- leaves, by page */

static bool is_leaf(uint64_t target)
{
    return target & NESTED_PRESENT;
}

/* A page, or 512 of them. */
static uint64_t key_of_page(uint64_t ppn, bool large)
{
    return large ? ppn >> NESTED_INDEX_BITS << 1 | 1 : ppn << 1;
}

static uint64_t key_of_leaf(const struct node *node, unsigned index)
{
    return key_of_page((node->guest[index] & WALK_ADDRESS_MASK) >> PAGE_SHIFT, node->level != 0);
}

static uint32_t slot_of(const struct shadow *shadow, const struct node *node, unsigned index)
{
    return (uint32_t)(node - shadow->nodes) * FANOUT + index + 1;
}

static struct node *node_of_slot(struct shadow *shadow, uint32_t slot, unsigned *index)
{
    *index = (slot - 1) % FANOUT;
    return &shadow->nodes[(slot - 1) / FANOUT];
}

static void leaf_link(struct shadow *shadow, struct node *node, unsigned index)
{
    uint32_t *head = &shadow->leaf_heads[hash_to_bits(key_of_leaf(node, index), shadow->leaf_bits)];
    uint32_t slot = slot_of(shadow, node, index);
    unsigned other;
    node->prev[index] = 0;
    node->next[index] = *head;
    if (*head != 0)
        node_of_slot(shadow, *head, &other)->prev[other] = slot;
    *head = slot;
}

static void leaf_unlink(struct shadow *shadow, struct node *node, unsigned index)
{
    uint32_t next = node->next[index], prev = node->prev[index];
    unsigned other;
    if (next != 0)
        node_of_slot(shadow, next, &other)->prev[other] = prev;
    if (prev != 0)
        node_of_slot(shadow, prev, &other)->next[other] = next;
    else
        shadow->leaf_heads[hash_to_bits(key_of_leaf(node, index), shadow->leaf_bits)] = next;
}

static void entry_clear(struct shadow *shadow, struct node *node, unsigned index)
{
    if (is_leaf(node->target[index])) {
        leaf_unlink(shadow, node, index);
        shadow->stats.cleared++;
    }
    node->target[index] = 0;
}

/* All leaves to that page, or to the 512 that it is one of. `keep`: flags that they keep; 0: they
 * lead nowhere. */
static void leaves_limit(struct shadow *shadow, uint64_t key, uint64_t keep)
{
    uint32_t slot = shadow->leaf_heads[hash_to_bits(key, shadow->leaf_bits)];
    while (slot != 0) {
        unsigned index;
        struct node *node = node_of_slot(shadow, slot, &index);
        slot = node->next[index];
        if (key_of_leaf(node, index) != key)
            continue;
        if (keep == 0)
            entry_clear(shadow, node, index);
        else
            node->target[index] &= keep;
    }
}

void shadow_revoke(struct shadow *shadow, uint64_t ppn)
{
    leaves_limit(shadow, key_of_page(ppn, false), 0);
    leaves_limit(shadow, key_of_page(ppn, true), 0);
}

void shadow_protect(struct shadow *shadow, uint64_t ppn)
{
    leaves_limit(shadow, key_of_page(ppn, false), ~(uint64_t)NESTED_WRITE);
    leaves_limit(shadow, key_of_page(ppn, true), 0);
}

/* ------------------------------------------------------------------------- nodes, by table */

static uint32_t *head_of(struct shadow *shadow, uint64_t table)
{
    return &shadow->table_heads[hash_to_bits(table, shadow->table_bits)];
}

/* Heads and same_hash hold the index plus 1. */
static struct node *node_find(struct shadow *shadow, uint64_t table, unsigned level, bool direct)
{
    for (uint32_t i = *head_of(shadow, table); i != 0; i = shadow->nodes[i - 1].same_hash) {
        struct node *node = &shadow->nodes[i - 1];
        if (node->table == table && node->level == level && node->direct == direct)
            return node;
    }
    return NULL;
}

void shadow_untrace(struct shadow *shadow, uint64_t ppn)
{
    for (uint32_t i = *head_of(shadow, ppn); i != 0; i = shadow->nodes[i - 1].same_hash) {
        struct node *node = &shadow->nodes[i - 1];
        if (node->table != ppn || !node->traced)
            continue;
        node->traced = false;
        node->quiet = 0;
        if (node->patience < PATIENCE_MOST)
            node->patience *= 2;
        shadow->stats.traced_writes++;
    }
}

static void node_free(struct shadow *shadow, struct node *node)
{
    for (unsigned i = 0; i < FANOUT; i++)
        entry_clear(shadow, node, i);
    uint32_t *at = head_of(shadow, node->table);
    while (&shadow->nodes[*at - 1] != node)
        at = &shadow->nodes[*at - 1].same_hash;
    *at = node->same_hash;
    node->in_use = false;
    node->generation++; /* who leads here leads nowhere now */
    shadow->stats.nodes--;
}

/* A node that is free, or is made so: one that no walk came through lately. */
static struct node *node_take(struct shadow *shadow)
{
    if (shadow->used < shadow->node_count)
        return &shadow->nodes[shadow->used++];
    for (;;) {
        struct node *node = &shadow->nodes[shadow->hand];
        shadow->hand = (shadow->hand + 1) % shadow->node_count;
        if (!node->in_use)
            return node;
        if (!node->seen && node->build != shadow->build) {
            node_free(shadow, node);
            shadow->stats.evictions++;
            return node;
        }
        node->seen = false;
    }
}

static struct node *node_get(struct shadow *shadow, uint64_t table, unsigned level, bool direct)
{
    struct node *node = node_find(shadow, table, level, direct);
    if (node == NULL) {
        node = node_take(shadow);
        uint32_t *head = head_of(shadow, table);
        node->table = table;
        node->level = (uint8_t)level;
        node->direct = direct;
        node->traced = false;
        node->compared = ++shadow->clock;
        node->quiet = 0;
        node->patience = PATIENCE_LEAST;
        node->in_use = true;
        memset(node->target, 0, sizeof node->target);
        node->same_hash = *head;
        *head = (uint32_t)(node - shadow->nodes) + 1;
        shadow->stats.nodes++;
    }
    node->seen = true;
    node->build = shadow->build;
    return node;
}

static uint64_t child_target(const struct shadow *shadow, const struct node *node)
{
    return (uint64_t)node->generation << CHILD_GEN_SHIFT | (uint64_t)(node - shadow->nodes + 1)
                                                               << CHILD_INDEX_SHIFT;
}

/* NULL: it has given way. */
static struct node *child_of(struct shadow *shadow, uint64_t target)
{
    struct node *node = &shadow->nodes[((uint32_t)target >> CHILD_INDEX_SHIFT) - 1];
    return node->generation == target >> CHILD_GEN_SHIFT ? node : NULL;
}

/* ------------------------------------------------------------------------- coherency */

void shadow_flush(struct shadow *shadow)
{
    shadow->flushed = ++shadow->clock;
}

/* The guest's entry is `now`. True: it had been used, and is another than before. */
static bool entry_update(struct shadow *shadow, struct node *node, unsigned index, uint64_t now)
{
    const uint64_t leads = WALK_ADDRESS_MASK | WALK_RESERVED | ENTRY_P | ENTRY_PS |
                           (shadow->no_execute ? 0 : ENTRY_NX);
    uint64_t change = (node->guest[index] ^ now) & ~(uint64_t)(ENTRY_A | ENTRY_D);
    uint64_t target = node->target[index];
    bool matters = target != 0 && change != 0;
    /* New rights are not to be had with what was known of the tables below before. */
    if (change & leads || !(now & ENTRY_A) || (matters && !is_leaf(target)))
        entry_clear(shadow, node, index);
    node->guest[index] = now;
    return matters;
}

/* The guest's table; NULL: it cannot be looked at now. */
static const uint64_t *table_of(struct mmu *mmu, const struct node *node)
{
    return (const uint64_t *)(uintptr_t)(walk_nested(mmu, node->table, false) & ~PAGE_MASK);
}

/* Compares an entry with the guest's. True: it is another than before, or cannot be known. */
static inline bool entry_compare(struct shadow *shadow, struct node *node, unsigned index,
                                 const uint64_t *table)
{
    if (unlikely(table == NULL)) {
        entry_clear(shadow, node, index);
        return true;
    }
    uint64_t now = __atomic_load_n(&table[index], __ATOMIC_RELAXED);
    return unlikely(now != node->guest[index]) && entry_update(shadow, node, index, now);
}

/* Compares the node with its table. True: nothing that matters has changed. */
static bool node_compare(struct mmu *mmu, struct node *node)
{
    struct shadow *shadow = mmu->shadow;
    const uint64_t *table = table_of(mmu, node);
    bool changed = false;
    shadow->stats.resyncs++;
    for (unsigned i = 0; i < FANOUT; i++)
        changed |= entry_compare(shadow, node, i, table);
    node->compared = ++shadow->clock;
    return !changed;
}

/* Has the table guarded, so that a write to it is heard of. Parks. */
static void node_trace(struct mmu *mmu, struct node *node)
{
    mmu_mark_code(mmu, node->table);
    /* From here to the next safepoint nobody takes the guard away without our hearing of it. */
    node->traced = node_compare(mmu, node) && pmap_code_is_guarded(mmu->map, node->table);
    node->quiet = 0;
    mmu->shadow->stats.traces += node->traced;
}

/* Has the node be as the table was at that time, or later. False: it might have to park for that.
 */
static inline bool node_freshen(struct mmu *mmu, struct node *node, uint64_t time, bool may_park)
{
    if (likely(node->traced || node->direct || node->compared >= time))
        return true;
    if (!may_park && node->quiet + 1 >= node->patience)
        return false;
    if (!node_compare(mmu, node))
        node->quiet = 0;
    else if (++node->quiet >= node->patience)
        node_trace(mmu, node);
    return true;
}

/* ------------------------------------------------------------------------- walks */

/* Shadows are of 4-level paging. */
static bool is_served(const struct mmu *mmu)
{
    return mmu->efer & PAGING_EFER_LMA && mmu->cr0 & PAGING_CR0_PG;
}

/* NULL: nothing is known of this address space, or it is none that shadows are of. */
static struct node *root_of(struct mmu *mmu)
{
    struct shadow *shadow = mmu->shadow;
    if (!is_served(mmu))
        return NULL;
    uint64_t no_execute = mmu->efer & PAGING_EFER_NXE;
    if (unlikely(no_execute != shadow->no_execute)) {
        forget_all(shadow); /* what was valid may be reserved now */
        shadow->no_execute = no_execute;
    }
    uint64_t cr3 = mmu->cr3 & WALK_ADDRESS_MASK;
    if (unlikely(cr3 != shadow->cr3)) {
        shadow->stats.switches++;
        shadow->cr3 = cr3;
        shadow->root = 0;
    }
    struct node *root = shadow->root != 0 ? child_of(shadow, shadow->root) : NULL;
    if (root == NULL) {
        root = node_find(shadow, cr3 >> PAGE_SHIFT, ROOT_LEVEL, false);
        shadow->root = root == NULL ? 0 : child_target(shadow, root);
    }
    return root;
}

static unsigned index_of(uint64_t address, unsigned level)
{
    return (unsigned)(address >> (PAGE_SHIFT + level * NESTED_INDEX_BITS)) & (FANOUT - 1);
}

enum shadow_answer shadow_look_up(struct mmu *mmu, uint64_t linear, unsigned access,
                                  unsigned privilege, bool may_park, struct walk *walk,
                                  uint64_t *nested)
{
    struct shadow *shadow = mmu->shadow;
    uint64_t rights = UINT64_MAX, leaf = 0, target, time = shadow->flushed;
    unsigned leaf_level = 0, level = ROOT_LEVEL;
    struct node *node = root_of(mmu);
    for (;; level--) {
        if (node == NULL)
            return SHADOW_UNKNOWN;
        if (!node_freshen(mmu, node, time, may_park))
            return SHADOW_PARKS;
        time = node->compared > time ? node->compared : time;
        node->seen = true;
        unsigned index = index_of(linear, level);
        target = node->target[index];
        mmu->stats.walk_references++;
        if (target == 0)
            return SHADOW_UNKNOWN;
        if (!node->direct) {
            leaf = node->guest[index];
            leaf_level = level;
            rights &= walk_entry_rights(leaf);
        }
        if (is_leaf(target))
            break;
        node = child_of(shadow, target);
    }
    bool write = access == MMU_WRITE;
    if (!walk_allows(mmu, rights, access, privilege) ||
        (write && (!(leaf & ENTRY_D) || !(target & NESTED_WRITE))))
        return SHADOW_UNKNOWN;
    uint64_t pieces = (bit(PAGE_SHIFT + leaf_level * NESTED_INDEX_BITS) - 1) & ~PAGE_MASK;
    *walk = (struct walk){
        .gpa = (leaf & WALK_ADDRESS_MASK & ~pieces) | (linear & pieces),
        .may_write = walk_allows(mmu, rights, MMU_WRITE, privilege),
        .dirty = (leaf & ENTRY_D) != 0,
        .global = leaf & ENTRY_G && mmu->cr4 & PAGING_CR4_PGE,
        .large = leaf_level == 0   ? 0
                 : leaf_level == 1 ? TLB_LARGE
                                   : TLB_HUGE,
    };
    *nested = level == 0 ? target : target + ((uint64_t)index_of(linear, 0) << PAGE_SHIFT);
    return SHADOW_KNOWN;
}

void shadow_refresh(struct mmu *mmu, uint64_t linear)
{
    struct shadow *shadow = mmu->shadow;
    struct node *node = root_of(mmu);
    for (unsigned level = ROOT_LEVEL; node != NULL; level--) {
        unsigned index = index_of(linear, level);
        if (!node->traced && !node->direct)
            entry_compare(shadow, node, index, table_of(mmu, node));
        uint64_t target = node->target[index];
        if (target == 0 || is_leaf(target))
            return;
        node = child_of(shadow, target);
    }
}

/* ------------------------------------------------------------------------- building */

static void lead_to(struct shadow *shadow, struct node *node, unsigned index, uint64_t guest,
                    uint64_t target)
{
    if (is_leaf(node->target[index]))
        leaf_unlink(shadow, node, index);
    node->guest[index] = guest;
    node->target[index] = target;
    if (is_leaf(target))
        leaf_link(shadow, node, index);
}

/* What stands for the guest's entry in a direct node. */
static uint64_t piece_of(const struct node *node, unsigned index)
{
    uint64_t size = bit(PAGE_SHIFT + node->level * NESTED_INDEX_BITS);
    return ((node->table << PAGE_SHIFT) + index * size) | ENTRY_P | ENTRY_A | ENTRY_D;
}

/*
 * Has those entries of a page table that are in one cache line with `index` lead to their pages as
 * well, where a walk would find all it needs: the guest's entry accessed, the page at hand. CPUs,
 * too, may cache what nobody has asked for (SDM vol. 3 4.10.2.3). A page whose translation was
 * revoked, to see whether it is in use, stays so.
 */
static void lead_neighbours(struct mmu *mmu, struct node *node, unsigned index)
{
    struct shadow *shadow = mmu->shadow;
    const uint64_t wanted = ENTRY_P | ENTRY_A;
    const uint64_t minded = wanted | WALK_RESERVED | (shadow->no_execute ? 0 : ENTRY_NX);
    const uint64_t *table = node->direct ? NULL : table_of(mmu, node);
    if (!node->direct && table == NULL)
        return;
    unsigned first = index & ~(NEIGHBOURS - 1);
    for (unsigned i = first; i < first + NEIGHBOURS; i++) {
        uint64_t guest =
            table == NULL ? piece_of(node, i) : __atomic_load_n(&table[i], __ATOMIC_ACQUIRE);
        if (node->target[i] != 0 || (guest & minded) != wanted)
            continue;
        uint64_t nested = nested_walk(mmu->nested, (guest & WALK_ADDRESS_MASK) >> PAGE_SHIFT,
                                      &mmu->stats.walk_references);
        if (nested != 0)
            lead_to(shadow, node, i, guest, nested & ~(uint64_t)NESTED_LARGE);
    }
}

/* The entry of a page of that level leads to `nested`, which is of its piece at gpa: at once where
 * a large leaf of the nested table has the whole of it, else through direct nodes. */
static void lead_to_page(struct mmu *mmu, struct node *node, unsigned index, uint64_t guest,
                         uint64_t gpa, uint64_t nested)
{
    struct shadow *shadow = mmu->shadow;
    for (;;) {
        if (node->level == 0) {
            lead_to(shadow, node, index, guest, nested);
            lead_neighbours(mmu, node, index);
            return;
        }
        /* Not from a cache: the other pages may have been revoked since that was filled. Whoever
         * revokes one from now on asks us to forget it, after this. */
        uint64_t whole = node->level != 1 ? 0
                                          : nested_walk(mmu->nested, gpa >> PAGE_SHIFT,
                                                        &mmu->stats.walk_references);
        if (whole & NESTED_LARGE) {
            uint64_t first = whole - ((uint64_t)index_of(gpa, 0) << PAGE_SHIFT);
            lead_to(shadow, node, index, guest, first & ~(uint64_t)NESTED_LARGE);
            return;
        }
        uint64_t size = bit(PAGE_SHIFT + node->level * NESTED_INDEX_BITS);
        struct node *pieces =
            node_get(shadow, align_down(gpa, size) >> PAGE_SHIFT, node->level - 1u, true);
        lead_to(shadow, node, index, guest, child_target(shadow, pieces));
        index = index_of(gpa, pieces->level);
        guest = piece_of(pieces, index);
        node = pieces;
    }
}

void shadow_build(struct mmu *mmu, uint64_t linear, const struct walk_way *way, uint64_t gpa,
                  uint64_t nested)
{
    struct shadow *shadow = mmu->shadow;
    if (!is_served(mmu))
        return;
    shadow->build++;
    const uint64_t begin = ++shadow->clock;
    shadow->stats.hidden_faults++;
    struct node *node = node_get(shadow, way->tables[0], ROOT_LEVEL, false);
    for (unsigned i = 0;; i++) {
        unsigned index = index_of(linear, node->level);
        uint64_t value = way->entries[i];
        if (i + 1 == way->count) {
            lead_to_page(mmu, node, index, value, gpa, nested);
            return;
        }
        struct node *child = node_get(shadow, way->tables[i + 1], node->level - 1u, false);
        if (node->guest[index] != value || node->target[index] != child_target(shadow, child)) {
            lead_to(shadow, node, index, value, child_target(shadow, child));
            if (child->compared < begin)
                child->compared = 0;
        }
        node = child;
    }
}
