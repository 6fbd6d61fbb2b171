#include "staleness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FOREVER     UINT64_MAX
#define ROOT_WORDS  ((uint64_t)1 << 60) /* where values of root registers are logged */
#define FLAG_A      ((uint64_t)1 << 5)
#define FLAG_D      ((uint64_t)1 << 6)
#define FRAME       0x3ffffffff000u
#define LEVELS_MOST 4u

struct stale_value {
    uint64_t word, value; /* a guest-physical address that 8 divides, and what was there ... */
    uint64_t end;         /* ... up to then */
};

/* When a word had a value: from the begin on, and before the end. */
struct span {
    uint64_t begin, end;
};

/* ------------------------------------------------------------------------- addresses */

unsigned stale_linears(enum oracle_mode mode)
{
    return mode == ORACLE_LONG ? LINEARS : LINEARS / 2;
}

uint64_t stale_linear(unsigned n, enum oracle_mode mode)
{
    static const uint64_t directories[] = {0, 1, 3};
    uint64_t linear = (uint64_t)(n & 1 ? 22 : 18) << 12 | directories[n / 2 % 3] << 21 |
                      (uint64_t)(n / 6 % 2) << 30;
    if (mode == ORACLE_LONG && n >= LINEARS / 2)
        linear |= ~(uint64_t)0 << 39;
    return linear;
}

unsigned stale_offset(uint64_t linear, enum oracle_mode mode, unsigned level)
{
    if (mode == ORACLE_32)
        return (unsigned)(linear >> (12 + 10 * level) & 1023) * 4;
    return (unsigned)(linear >> (12 + 9 * level) & 511) * 8;
}

/* ------------------------------------------------------------------------- memory */

void stale_create(struct staleness *stale)
{
    *stale = (struct staleness){.now = 1, .ram = calloc(1, RAM_LOW_END)};
    assert_non_null(stale->ram);
}

void stale_destroy(struct staleness *stale)
{
    free(stale->ram);
    free(stale->values);
}

uint64_t stale_read(const struct staleness *stale, uint64_t gpa)
{
    uint64_t value = ~(uint64_t)0; /* nobody answers */
    if (gpa <= RAM_LOW_END - sizeof(value))
        memcpy(&value, stale->ram + gpa, sizeof(value));
    return value;
}

static void log_value(struct staleness *stale, uint64_t word, uint64_t value)
{
    if (stale->count == stale->room) {
        stale->room = stale->room == 0 ? 1024 : stale->room * 2;
        stale->values = realloc(stale->values, stale->room * sizeof(*stale->values));
        assert_non_null(stale->values);
    }
    stale->values[stale->count++] =
        (struct stale_value){.word = word, .value = value, .end = stale->now};
}

void stale_write(struct staleness *stale, uint64_t gpa, const void *bytes, unsigned size)
{
    stale->now++;
    for (unsigned i = 0; i < size; i += 8) {
        if (memcmp(stale->ram + gpa + i, (const uint8_t *)bytes + i, 8) != 0)
            log_value(stale, gpa + i, stale_read(stale, gpa + i));
    }
    memcpy(stale->ram + gpa, bytes, size);
}

void stale_set_flags(struct staleness *stale, uint64_t gpa, uint64_t value)
{
    memcpy(stale->ram + gpa, &value, sizeof(value));
}

/* ------------------------------------------------------------------------- flushes */

static uint64_t root_word(unsigned number, unsigned n)
{
    return ROOT_WORDS + (number * 4 + n) * 8;
}

static unsigned pcid_of(uint64_t root)
{
    return (unsigned)(root >> STALE_PCID_SHIFT);
}

void stale_load_root(struct staleness *stale, struct stale_cpu *cpu, unsigned number,
                     const uint64_t root[4], unsigned pcid, bool keep)
{
    stale->now++;
    for (unsigned i = 0; i < ARRAY_LENGTH(cpu->root); i++) {
        log_value(stale, root_word(number, i), cpu->root[i]);
        cpu->root[i] = (uint64_t)pcid << STALE_PCID_SHIFT | root[i];
    }
    cpu->pcid = pcid;
    if (!keep)
        stale_flush_space(stale, cpu, pcid);
}

void stale_flush_all(struct staleness *stale, struct stale_cpu *cpu)
{
    cpu->flushed_all = stale->now++;
}

void stale_flush_local(struct staleness *stale, struct stale_cpu *cpu)
{
    for (unsigned pcid = 0; pcid < STALE_PCIDS; pcid++)
        cpu->flushed_local[pcid] = stale->now;
    stale->now++;
}

void stale_flush_space(struct staleness *stale, struct stale_cpu *cpu, unsigned pcid)
{
    cpu->flushed_local[pcid] = stale->now++;
}

void stale_flush_page(struct staleness *stale, struct stale_cpu *cpu, unsigned n)
{
    cpu->flushed_page[cpu->pcid][n] = stale->now++;
}

void stale_fault(struct staleness *stale, struct stale_cpu *cpu, unsigned n)
{
    cpu->faulted[cpu->pcid][n] = stale->now++;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ------------------------------------------------------------------------- walks */

struct search {
    const struct staleness *stale;
    const struct stale_cpu *cpu;
    struct oracle_case walk;
    uint64_t gpa[LEVELS_MOST];            /* of the entries */
    struct span root, spans[LEVELS_MOST]; /* of the root register and the entries */
    unsigned pcid;                        /* that the root is of */
    bool is_foreign;                      /* it is another one than the current */
    struct stale_result *results;
    unsigned count;
};

/* When translations of this linear address were flushed last, with those by way of other pieces of
 * a page of `size`. `tables`: and what was read of the tables on the way. */
static uint64_t flushed(const struct search *search, uint64_t size, bool global, bool tables)
{
    const struct stale_cpu *cpu = search->cpu;
    uint64_t time = cpu->flushed_all;
    if (!global)
        time = later(time, cpu->flushed_local[cpu->pcid]);
    for (unsigned pcid = 0; pcid < STALE_PCIDS; pcid++) {
        for (unsigned n = 0; n < stale_linears(cpu->mode) && (global || pcid == cpu->pcid); n++) {
            uint64_t other = stale_linear(n, cpu->mode);
            if ((other ^ search->walk.linear) / size == 0)
                time = later(time, cpu->flushed_page[pcid][n]);
            if (other >> PAGE_SHIFT == search->walk.linear >> PAGE_SHIFT &&
                (!tables || pcid == search->pcid))
                time = later(time, cpu->faulted[pcid][n]);
        }
    }
    return time;
}

static void add_flags(const struct search *search, struct stale_result *result, unsigned level,
                      uint64_t flags)
{
    uint64_t word = search->gpa[level] & ~(uint64_t)7;
    unsigned i = 0;
    while (i < result->count && result->word[i] != word)
        i++;
    if (i == result->count) {
        result->count++;
        result->word[i] = word;
        result->after[i] = stale_read(search->stale, word);
    }
    result->after[i] |= flags << 8 * (search->gpa[level] & 7);
}

static bool is_current(const struct search *search, unsigned level)
{
    return search->spans[level].end == FOREVER;
}

/* Whether a CPU that has flushed the page, and the tables on the way, at those times may have read
 * this since: one after the other, from the root to the last. */
static bool may_be_read(const struct search *search, unsigned last, uint64_t size, bool global)
{
    uint64_t time = later(flushed(search, size, global, true), search->root.begin);
    if (time >= search->root.end)
        return false;
    for (unsigned i = 0; i <= last; i++) {
        if (i == last)
            time = later(time, flushed(search, size, global, false));
        time = later(time, search->spans[i].begin);
        if (time >= search->spans[i].end)
            return false;
    }
    return true;
}

/* The walk in search->walk ends here; it is a result, if it is legal. */
static void judge(struct search *search, unsigned last)
{
    const struct oracle_case *c = &search->walk;
    struct oracle_result walk = oracle_walk(c);
    uint64_t leaf = c->entries[last];
    if (walk.fault) {
        if (search->is_foreign || !is_current(search, last) ||
            !may_be_read(search, last, PAGE_SIZE, false))
            return;
    } else {
        unsigned above = (c->mode == ORACLE_LONG ? 3 : 1) - last;
        uint64_t size = (uint64_t)PAGE_SIZE << above * (c->mode == ORACLE_32 ? 10 : 9);
        bool global = leaf & PTE_G && search->cpu->pge;
        if ((search->is_foreign && !global) || !may_be_read(search, last, size, global))
            return;
        if (!is_current(search, last) && c->access == ORACLE_WRITE && !(leaf & FLAG_D))
            return;
    }
    assert_true(search->count < STALE_RESULTS_MAX);
    struct stale_result *result = &search->results[search->count++];
    *result = (struct stale_result){
        .fault = walk.fault, .error_code = walk.error_code, .address = walk.address};
    for (unsigned i = 0; i <= last && !walk.fault; i++) {
        if (is_current(search, i))
            add_flags(search, result, i,
                      FLAG_A | (i == last && c->access == ORACLE_WRITE ? FLAG_D : 0));
    }
}

static void descend(struct search *search, unsigned depth, uint64_t table);

static void try_value(struct search *search, unsigned depth, uint64_t word_value, struct span span)
{
    bool current = span.end == FOREVER;
    uint64_t value = word_value;
    if (search->walk.mode == ORACLE_32)
        value = (uint32_t)(word_value >> 8 * (search->gpa[depth] & 7));
    if (!current && (value & (PTE_P | FLAG_A)) != (PTE_P | FLAG_A))
        return;
    for (unsigned i = depth; i < LEVELS_MOST; i++)
        search->walk.entries[i] = 0;
    search->walk.entries[depth] = value;
    search->spans[depth] = span;
    struct oracle_result walk = oracle_walk(&search->walk);
    unsigned last = (search->walk.mode == ORACLE_LONG ? LEVELS_MOST : 2) - 1;
    bool reserved = walk.fault && walk.error_code & 8;
    if (walk.used > depth + 1 && depth < last)
        descend(search, depth + 1, value & FRAME);
    else if (current || !reserved)
        judge(search, depth);
}

/* Tries all values that the word has had since anything of it was flushed, newest first. */
static void try_values(struct search *search, unsigned depth, uint64_t word, uint64_t current,
                       void (*each)(struct search *, unsigned, uint64_t, struct span))
{
    const struct staleness *stale = search->stale;
    uint64_t value = current, end = FOREVER;
    for (unsigned i = stale->count; i-- > 0 && stale->values[i].end > search->cpu->flushed_all;) {
        if (stale->values[i].word != word)
            continue;
        each(search, depth, value, (struct span){stale->values[i].end, end});
        value = stale->values[i].value;
        end = stale->values[i].end;
    }
    each(search, depth, value, (struct span){0, end});
}

static void descend(struct search *search, unsigned depth, uint64_t table)
{
    enum oracle_mode mode = search->walk.mode;
    unsigned level = (mode == ORACLE_LONG ? 3 : 1) - depth;
    search->gpa[depth] = table + stale_offset(search->walk.linear, mode, level);
    uint64_t word = search->gpa[depth] & ~(uint64_t)7;
    try_values(search, depth, word, stale_read(search->stale, word), try_value);
}

static void try_root(struct search *search, unsigned depth, uint64_t root, struct span span)
{
    search->root = span;
    search->pcid = pcid_of(root);
    search->is_foreign = search->pcid != search->cpu->pcid;
    if (root & PTE_P) {
        descend(search, depth, root & FRAME);
    } else if (span.end == FOREVER) { /* PAE's page-directory pointer */
        search->spans[0] = span;
        search->walk.entries[0] = 0;
        judge(search, 0);
    }
}

unsigned stale_results(const struct staleness *stale, const struct stale_cpu *cpu, unsigned number,
                       uint64_t linear, enum oracle_access access, enum oracle_who who,
                       struct stale_result *results)
{
    struct search search = {.stale = stale, .cpu = cpu, .results = results};
    search.walk = (struct oracle_case){.mode = cpu->mode,
                                       .wp = cpu->wp,
                                       .smep = cpu->smep,
                                       .smap = cpu->smap,
                                       .nxe = cpu->nxe,
                                       .pse = cpu->pse,
                                       .access = access,
                                       .who = who,
                                       .linear = linear};
    unsigned root = cpu->mode == ORACLE_PAE ? (unsigned)(linear >> 30) & 3 : 0;
    try_values(&search, 0, root_word(number, root), cpu->root[root], try_root);
    return search.count;
}
