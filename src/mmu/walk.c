/*
 * The walk has three phases: collect the entries from the root to the page, decide whether the
 * access is allowed, then set accessed and dirty bits. Nothing is written before the decision, so a
 * walk that faults leaves the tables alone (the SDM allows, and does not ask for, accessed bits in
 * the upper levels then; 4.8).
 *
 * The bits are set by compare-and-swap against the value that the walk has used. If the entry has
 * changed meanwhile the walk starts again: so bits are only ever set in an entry that did
 * translate. A table that maps itself has one entry at two levels; setting A for the first makes
 * the swap for the second fail once, and the second walk finds it set.
 *
 * A page table outside of RAM reads as all ones, like any address that nobody answers. Such an
 * entry is present and has reserved bits set in PAE and 4-level paging, and with PSE: a page fault
 * with RSVD. In 32-bit paging without PSE it maps the last page below 4 GiB.
 */

#include "mmu/walk.h"

#define ERROR_P    (1u << 0)
#define ERROR_W    (1u << 1)
#define ERROR_U    (1u << 2)
#define ERROR_RSVD (1u << 3)
#define ERROR_I    (1u << 4)

/* Bits high..low set. */
#define MASK(high, low) ((~(uint64_t)0 >> (63 - (high))) & (~(uint64_t)0 << (low)))

struct step {
    uint64_t value;
    uint64_t table_ppn;
    unsigned offset; /* of the entry in the table, in bytes */
    uint64_t nested; /* the table's nested entry */
    uint64_t rights; /* of the entries above */
};

/* What the modes differ in. Level 0 is the page table, whose entries map 4 KiB. */
struct format {
    unsigned top;          /* level that the walk begins with */
    unsigned index_bits;   /* of linear address a level */
    bool wide;             /* entries of 8 bytes; else of 4 */
    unsigned large_levels; /* bit n: PS at level n maps a large page; else it is ignored... */
    unsigned small_levels; /* ... or reserved, where bit n is set here */
    uint64_t reserved;     /* bits, at all levels; with EFER.NXE off, NX comes to it */
    uint64_t reserved_large[WALK_LEVELS_MAX]; /* more of them in an entry that maps a large page */
};

static const struct format format_long = {
    .top = 3,
    .index_bits = 9,
    .wide = true,
    .large_levels = 1 << 1 | 1 << 2,
    .small_levels = 1 << 3,
    .reserved = MASK(51, MMU_PHYSICAL_BITS),
    .reserved_large = {0, MASK(20, 13), MASK(29, 13)},
};

/* Below the four PDPTEs, which are registers. */
static const struct format format_pae = {
    .top = 1,
    .index_bits = 9,
    .wide = true,
    .large_levels = 1 << 1,
    .reserved = MASK(62, MMU_PHYSICAL_BITS),
    .reserved_large = {0, MASK(20, 13)},
};

/* PSE-36 with a physical width of 40 bits or more: bits 20-13 are address bits 39-32. */
static const struct format format_pse = {
    .top = 1,
    .index_bits = 10,
    .large_levels = 1 << 1,
    .reserved_large = {0, (uint64_t)1 << 21},
};

static const struct format format_32 = {.top = 1, .index_bits = 10};

/* Outside of long mode. */
static const struct format *format_of(const struct mmu *mmu)
{
    if (mmu->cr4 & PAGING_CR4_PAE)
        return &format_pae;
    return mmu->cr4 & PAGING_CR4_PSE ? &format_pse : &format_32;
}

uint64_t walk_nested(struct mmu *mmu, uint64_t ppn, bool write)
{
    uint64_t wanted = write ? NESTED_WRITE : NESTED_PRESENT;
    struct walk_cache_page *cached = walk_cache_page(&mmu->walk_cache, ppn);
    if (likely(cached->ppn == ppn + 1 && cached->entry & wanted))
        return cached->entry;
    uint64_t entry = nested_walk(mmu->nested, ppn, &mmu->stats.walk_references);
    if (unlikely(!(entry & wanted))) {
        mmu->stats.nested_violations++;
        entry = nested_fill(mmu->nested, ppn, write);
    }
    entry &= ~(uint64_t)NESTED_LARGE; /* that is of the neighbours as well */
    if (mmu->walk_cache.on && entry != 0)
        *cached = (struct walk_cache_page){.ppn = ppn + 1, .entry = entry};
    return entry;
}

static inline void *entry_address(const struct step *step)
{
    return (uint8_t *)(uintptr_t)(step->nested & ~PAGE_MASK) + step->offset;
}

/* False: the table is away. */
static inline bool step_read(struct mmu *mmu, const struct format *format, uint64_t table,
                             unsigned index, struct step *step)
{
    step->table_ppn = table >> PAGE_SHIFT;
    step->offset = index * (format->wide ? 8 : 4);
    step->nested = walk_nested(mmu, step->table_ppn, false);
    if (unlikely(step->nested == 0)) {
        step->value = format->wide ? UINT64_MAX : UINT32_MAX;
        return pmap_state(mmu->map, step->table_ppn) == PAGE_NONE;
    }
    mmu->stats.walk_references++;
    step->value = format->wide ? __atomic_load_n((uint64_t *)entry_address(step), __ATOMIC_ACQUIRE)
                               : __atomic_load_n((uint32_t *)entry_address(step), __ATOMIC_ACQUIRE);
    return true;
}

static inline bool step_swap(const struct format *format, const struct step *step, uint64_t wanted)
{
    if (format->wide) {
        uint64_t expected = step->value;
        return __atomic_compare_exchange_n((uint64_t *)entry_address(step), &expected, wanted,
                                           false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    uint32_t expected = (uint32_t)step->value;
    return __atomic_compare_exchange_n((uint32_t *)entry_address(step), &expected, (uint32_t)wanted,
                                       false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* Sets A in every step and, for a write, D in the last. */
static inline enum walk_outcome set_flags(struct mmu *mmu, const struct format *format,
                                          struct step *steps, unsigned count, bool write,
                                          struct walk *walk)
{
    for (unsigned i = 0; i < count; i++) {
        struct step *step = &steps[i];
        uint64_t wanted = step->value | ENTRY_A;
        if (write && i == count - 1)
            wanted |= ENTRY_D;
        if (likely(wanted == step->value))
            continue;
        if (!(step->nested & NESTED_WRITE))
            step->nested = walk_nested(mmu, step->table_ppn, true);
        if (!(step->nested & NESTED_WRITE)) {
            walk->blocked_ppn = step->table_ppn;
            return WALK_BLOCKED;
        }
        if (!step_swap(format, step, wanted))
            return WALK_RACE;
        step->value = wanted;
    }
    return WALK_OK;
}

/* The error code of a fault, without P and RSVD. */
static uint32_t access_error(const struct mmu *mmu, enum mmu_access access,
                             enum mmu_privilege privilege)
{
    uint32_t code = privilege == MMU_USER ? ERROR_U : 0;
    if (access == MMU_WRITE)
        code |= ERROR_W;
    /* I is reported only where something can forbid fetches (SDM vol. 3 4.7). */
    if (access == MMU_EXECUTE &&
        (mmu->cr4 & PAGING_CR4_SMEP || (mmu->cr4 & PAGING_CR4_PAE && mmu->efer & PAGING_EFER_NXE)))
        code |= ERROR_I;
    return code;
}

/* Physical address of the 4 KiB page of linear, in the page that a leaf entry at `level` maps. */
static inline uint64_t leaf_address(const struct format *format, unsigned level, uint64_t value,
                                    uint64_t linear)
{
    uint64_t offset_mask = bit(PAGE_SHIFT + level * format->index_bits) - 1;
    uint64_t base = value & WALK_ADDRESS_MASK & ~offset_mask;
    if (!format->wide && level > 0)
        base |= bits_extract(value, 20, 13) << 32;
    return base | (linear & offset_mask & ~PAGE_MASK);
}

/* ------------------------------------------------------------------------- remembered tables */

static inline unsigned remembered_levels(const struct format *format)
{
    return format->top < WALK_CACHE_LEVELS ? format->top : WALK_CACHE_LEVELS;
}

/* The number of linear's region that a table of that level maps. */
static inline uint64_t region_of(const struct format *format, uint64_t linear, unsigned level)
{
    return linear >> (PAGE_SHIFT + (level + 1) * format->index_bits);
}

/* Sets level, table and rights to what is remembered nearest to the page; false: nothing is. */
static inline bool recall_table(struct mmu *mmu, const struct format *format, uint64_t linear,
                                unsigned *level, uint64_t *table, uint64_t *rights)
{
    for (unsigned i = 0; i < remembered_levels(format); i++) {
        uint64_t region = region_of(format, linear, i);
        const struct walk_cache_table *known = walk_cache_table(&mmu->walk_cache, i, region);
        if (!walk_cache_has(&mmu->walk_cache, known, region))
            continue;
        *level = i;
        *table = known->table;
        *rights = known->rights;
        return true;
    }
    return false;
}

/* The tables that a walk from level `first` to `last` came through. */
static inline void remember_tables(struct mmu *mmu, const struct format *format, uint64_t linear,
                                   const struct step *steps, unsigned first, unsigned last)
{
    struct walk_cache *cache = &mmu->walk_cache;
    for (unsigned i = last; i < first && i < remembered_levels(format); i++) {
        uint64_t region = region_of(format, linear, i);
        *walk_cache_table(cache, i, region) = (struct walk_cache_table){
            .generation = cache->generation,
            .region = region,
            .table = steps[first - i].table_ppn << PAGE_SHIFT,
            .rights = steps[first - i].rights,
        };
    }
}

static inline void forget_tables(struct mmu *mmu, const struct format *format, uint64_t linear)
{
    for (unsigned i = 0; i < remembered_levels(format); i++) {
        uint64_t region = region_of(format, linear, i);
        struct walk_cache_table *known = walk_cache_table(&mmu->walk_cache, i, region);
        if (known->region == region)
            known->generation = 0;
    }
}

/* ------------------------------------------------------------------------- walks */

static inline __attribute__((always_inline)) enum walk_outcome
walk_by(struct mmu *mmu, const struct format *format, uint64_t linear, enum mmu_access access,
        enum mmu_privilege privilege, struct walk *walk, struct walk_way *way)
{
    mmu->stats.walks++;
    *walk = (struct walk){.error_code = access_error(mmu, access, privilege)};

    uint64_t reserved_always = format->reserved;
    if (format->wide && !(mmu->efer & PAGING_EFER_NXE))
        reserved_always |= ENTRY_NX;
    uint64_t table = mmu->cr3 & (format->wide ? WALK_ADDRESS_MASK : MASK(31, 12));
    if (format->wide && format->top == 1) {
        uint64_t pdpte = mmu->pdpte[bits_extract(linear, 31, 30)];
        if (!(pdpte & ENTRY_P))
            return WALK_FAULT;
        table = pdpte & WALK_ADDRESS_MASK;
    }

    struct step steps[WALK_LEVELS_MAX];
    unsigned count = 0, first = format->top;
    uint64_t above = UINT64_MAX; /* rights of the entries that are not read */
    uint64_t rights = UINT64_MAX, value;
    bool is_recalled =
        !mmu->is_shadowed && recall_table(mmu, format, linear, &first, &table, &above);
    unsigned level = first;
    for (;; level--) {
        unsigned shift = PAGE_SHIFT + level * format->index_bits;
        unsigned index = (unsigned)(linear >> shift) & ((1u << format->index_bits) - 1);
        struct step *step = &steps[count++];
        step->rights = above & rights;
        if (unlikely(!step_read(mmu, format, table, index, step))) {
            walk->blocked_ppn = step->table_ppn;
            return WALK_AWAY;
        }
        value = step->value;
        if (!(value & ENTRY_P))
            goto fault;

        bool large = value & ENTRY_PS && format->large_levels >> level & 1;
        uint64_t reserved = reserved_always;
        if (large)
            reserved |= format->reserved_large[level];
        else if (format->small_levels >> level & 1)
            reserved |= ENTRY_PS;
        if (value & reserved) {
            walk->error_code |= ERROR_P | ERROR_RSVD;
            goto fault;
        }
        if (large || level == 0)
            break;
        rights &= walk_entry_rights(value);
        table = value & WALK_ADDRESS_MASK;
    }

    rights &= walk_entry_rights(value);
    if (!walk_allows(mmu, rights & above, access, privilege)) {
        if (is_recalled && walk_allows(mmu, rights, access, privilege)) {
            /* What was remembered of the entries above may be behind. */
            forget_tables(mmu, format, linear);
            return walk_guest(mmu, linear, access, privilege, walk, way);
        }
        walk->error_code |= ERROR_P;
        goto fault;
    }
    rights &= above;
    enum walk_outcome outcome = set_flags(mmu, format, steps, count, access == MMU_WRITE, walk);
    if (outcome != WALK_OK)
        return outcome;
    if (mmu->walk_cache.on)
        remember_tables(mmu, format, linear, steps, first, level);

    for (unsigned i = 0; way != NULL && i < count; i++) {
        way->tables[i] = steps[i].table_ppn;
        way->entries[i] = steps[i].value;
        way->count = count;
    }
    walk->gpa = leaf_address(format, level, value, linear);
    walk->may_write = walk_allows(mmu, rights, MMU_WRITE, privilege);
    walk->dirty = (steps[count - 1].value & ENTRY_D) != 0;
    walk->global = value & ENTRY_G && mmu->cr4 & PAGING_CR4_PGE;
    if (level > 0)
        walk->large = level == 1 ? TLB_LARGE : TLB_HUGE;
    return WALK_OK;

fault:
    /* What led there is forgotten, so that the access finds the tables as they are when it is made
     * again (SDM vol. 3 4.10.4.1). */
    forget_tables(mmu, format, linear);
    return WALK_FAULT;
}

enum walk_outcome walk_guest(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                             enum mmu_privilege privilege, struct walk *walk, struct walk_way *way)
{
    if (!(mmu->cr0 & PAGING_CR0_PG)) {
        *walk = (struct walk){.gpa = linear & ~PAGE_MASK, .may_write = true, .dirty = true};
        return WALK_OK;
    }
    /* One copy of the code with the shifts and masks of the mode that guests are in all the time,
     * and one for the others. */
    if (likely(mmu->efer & PAGING_EFER_LMA))
        return walk_by(mmu, &format_long, linear, access, privilege, walk, way);
    return walk_by(mmu, format_of(mmu), linear, access, privilege, walk, way);
}

enum mmu_outcome mmu_load_pdptes(struct mmu *mmu, uint64_t cr3)
{
    const uint64_t reserved = MASK(63, MMU_PHYSICAL_BITS) | MASK(8, 5) | MASK(2, 1);
    uint64_t loaded[ARRAY_LENGTH(mmu->pdpte)];
    unsigned first = (unsigned)bits_extract(cr3, 11, 5) * ARRAY_LENGTH(mmu->pdpte);
    for (unsigned i = 0; i < ARRAY_LENGTH(mmu->pdpte); i++) {
        struct step step;
        while (!step_read(mmu, &format_pae, cr3 & MASK(31, 12), first + i, &step)) {
            if (!mmu_bring(mmu, step.table_ppn))
                return MMU_LOST;
        }
        if (step.value & ENTRY_P && step.value & reserved)
            return MMU_FAULT;
        loaded[i] = step.value;
    }
    for (unsigned i = 0; i < ARRAY_LENGTH(mmu->pdpte); i++)
        mmu->pdpte[i] = loaded[i];
    return MMU_OK;
}
