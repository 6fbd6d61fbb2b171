/*
 * What a changed entry means. The processor may use what it had cached of an entry until it
 * flushes, and only what the manual promises is asserted (SDM vol. 3 4.10.4):
 *
 * - after a flush that covers the translation, the new entry alone counts;
 * - after one that does not, or none, either the old outcome or the new;
 * - an entry that becomes present needs no flush, nor does one that was reserved (4.10.2.3: such
 *   entries are not cached);
 * - one that gains rights, or leads to another table, may cost one fault more, which flushes what
 * is cached for the address (4.10.4.1);
 * - D is set by the first write, however much was read before.
 */

#include "mmu.h"

static unsigned leaf; /* of the size of page under test */

/* Ways to flush. */
static void by_nothing(void)
{
}

static void by_invlpg(void)
{
    invlpg(linear);
}

static void by_invlpg_elsewhere(void)
{
    /* Another byte of the page, and for large pages another 4 KiB of it. */
    bool far = leaf > 0 && !tcg_differs(TCG_INVLPG_SMALL);
    invlpg(far ? linear ^ 0x3000 : linear + 4095);
}

static void by_cr3(void)
{
    write_cr3(read_cr3());
}

static void by_pge(void)
{
    word cr4 = read_cr4();
    write_cr4(cr4 ^ CR4_PGE);
    write_cr4(cr4);
}

static void by_smep(void)
{
    word cr4 = read_cr4();
    write_cr4(cr4 | CR4_SMEP);
    write_cr4(cr4);
}

static void invpcid(word type, uint64_t pcid, uint64_t address)
{
    struct {
        uint64_t pcid, address;
    } descriptor = {pcid, address};
    __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"(type) : "memory");
}

static void by_invpcid_address(void)
{
    invpcid(0, 0, linear);
}

static void by_invpcid_context(void)
{
    invpcid(1, 0, 0);
}

static void by_invpcid_all(void)
{
    invpcid(2, 0, 0);
}

static void by_invpcid_but_global(void)
{
    invpcid(3, 0, 0);
}

static const struct way {
    const char *name;
    void (*flush)(void);
    bool *needs; /* what the processor must offer */
    bool covers, covers_global;
} ways[] = {
    {"no flush", by_nothing, 0, false, false},
    {"INVLPG", by_invlpg, 0, true, true},
    {"INVLPG of another byte", by_invlpg_elsewhere, 0, true, true},
    {"a CR3 write", by_cr3, 0, true, false},
    {"CR4.PGE", by_pge, &has_pge, true, true},
    {"CR4.SMEP", by_smep, &has_smep, true, false},
    {"INVPCID of an address", by_invpcid_address, &has_invpcid, true, false},
    {"INVPCID of a context", by_invpcid_context, &has_invpcid, true, false},
    {"INVPCID of everything", by_invpcid_all, &has_invpcid, true, true},
    {"INVPCID of all but global pages", by_invpcid_but_global, &has_invpcid, true, false},
};

enum change {
    GONE,
    READ_ONLY,
    NOT_USER,
    NOT_CODE,
    RESERVED,
    ELSEWHERE,
    NOT_ACCESSED,
    CLEAN,
    CHANGES
};

/* The entry after a change; the same as before where the change means nothing there. */
static uint64_t changed(uint64_t entry, enum change change, unsigned level)
{
    switch (change) {
    case GONE:
        return entry & ~(uint64_t)P;
    case READ_ONLY:
        return entry & ~(uint64_t)W;
    case NOT_USER:
        return entry & ~(uint64_t)U;
    case NOT_CODE:
        return has_nx && format.wide ? entry | NX : entry;
    case RESERVED:
        return format.wide && physical_width < 52 ? entry | (uint64_t)1 << physical_width : entry;
    case ELSEWHERE:
        if (level == leaf) /* a large page of 1 GiB has no other to go to */
            return level < 2 ? entry + 0x400000 : entry;
        /* The alternates are for small pages. */
        return leaf == 0 ? (entry & ~ADDRESS_ALL) | space.alternate[level - 1] : entry;
    case NOT_ACCESSED:
        return entry & ~(uint64_t)A;
    default:
        return entry & ~(uint64_t)D;
    }
}

static word address_for(enum access access)
{
    return linear + (access == FETCH ? 0 : MARK_OFFSET);
}

/* Entries that allow everything, and translations of all kinds cached. */
static void prime(const struct rules *rules, uint64_t global)
{
    uint32_t value;
    open_all(leaf);
    word at = entry_of(space.table[leaf], leaf, linear);
    entry_write(at, entry_read(at) | global);
    flush_all();
    for (enum access access = READ; access <= FETCH; access++)
        attempt(address_for(access), access, rules, &value);
}

/* The outcome may be the old one, which is no fault, or the new. */
static bool try_either(enum access access, const struct rules *rules)
{
    struct outcome want;
    uint32_t value;
    model(&want, address_for(access), access, rules);
    int got = attempt(address_for(access), access, rules, &value);
    if (!count(got == NO_FAULT || got == want.error)) {
        print("# stale access %u: %d, neither none nor %d\n", (unsigned)access, got, want.error);
        return false;
    }
    return true;
}

static void one_way(const struct way *way, const struct rules *rules, uint64_t global)
{
    bool promised = global ? way->covers_global : way->covers;
    for (unsigned level = leaf; level <= format.top; level++) {
        for (enum change change = GONE; change < CHANGES; change++) {
            word at = entry_of(space.table[level], level, linear);
            for (enum access access = READ; access <= FETCH; access++) {
                prime(rules, global);
                entry_write(at, changed(entry_read(at), change, level));
                way->flush();
                if (promised)
                    try_access(address_for(access), access, rules);
                else
                    try_either(access, rules);
            }
        }
    }
}

static void all_ways(void)
{
    for (unsigned i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        const struct way *way = &ways[i];
        if (way->needs != 0 && !*way->needs) {
            skip(in_format(way->name), "not offered");
            continue;
        }
        count_start();
        for (leaf = 0; leaf <= format.top; leaf++) {
            if (leaf > 0 && !format.large[leaf])
                continue;
            for (unsigned user = 0; user < 2; user++) {
                struct rules rules = {.user = user, .wp = true, .nxe = has_nx && format.wide};
                rules_set(&rules);
                one_way(way, &rules, 0);
                if (has_pge) {
                    write_cr4(read_cr4() | CR4_PGE);
                    one_way(way, &rules, G);
                    write_cr4(read_cr4() & ~(word)CR4_PGE);
                }
            }
        }
        count_report(in_format(way->name));
    }
    leaf = 0;
}

/* What needs no flush, though the processor has tried the entry before. */
static void no_flush_needed(void)
{
    uint32_t value;
    struct rules rules = {.wp = true, .nxe = has_nx && format.wide};
    for (unsigned user = 0; user < 2; user++) {
        rules.user = user;
        rules_set(&rules);
        for (unsigned level = 0; level <= format.top; level++) {
            word at = entry_of(space.table[level], level, linear);
            for (enum access access = READ; access <= FETCH; access++) {
                open_all(0);
                uint64_t open = entry_read(at);
                for (enum change change = GONE; change <= RESERVED; change++) {
                    open_all(0);
                    entry_write(at, changed(open, change, level));
                    flush_all();
                    for (enum access other_access = READ; other_access <= FETCH; other_access++)
                        attempt(address_for(other_access), other_access, &rules, &value);
                    struct outcome before;
                    model(&before, address_for(access), access, &rules);
                    entry_write(at, open | (entry_read(at) & (A | D)));
                    if (change != GONE && change != RESERVED) {
                        int got = attempt(address_for(access), access, &rules, &value);
                        count(got == NO_FAULT || got == before.error);
                    }
                    try_access(address_for(access), access, &rules);
                }
            }
        }
    }
}

/* Upper entries are cached by the page beside, and then lead to tables that have more in them. */
static void fault_flushes(void)
{
    uint32_t value;
    struct rules rules = {.wp = true};
    rules_set(&rules);
    word beside = linear ^ 0x1000;
    uint64_t page_beside = open_entry(0, 0) ^ 0x1000;
    for (unsigned level = 1; level <= format.top; level++) {
        for (enum access access = READ; access <= FETCH; access++) {
            open_all(0);
            entry_write(entry_of(space.table[0], 0, linear), 0);
            entry_write(entry_of(space.table[0], 0, beside), page_beside);
            flush_all();
            count(attempt(beside + MARK_OFFSET, READ, &rules, &value) == NO_FAULT);
            word at = entry_of(space.table[level], level, linear);
            entry_write(at, changed(entry_read(at), ELSEWHERE, level));
            int got = attempt(address_for(access), access, &rules, &value);
            count(got == NO_FAULT || !(got & ERR_P));
            try_access(address_for(access), access, &rules);
        }
    }
    entry_write(entry_of(space.table[0], 0, beside), 0);
    open_all(0);
    flush_all();
}

static void dirty_without_flush(void)
{
    uint32_t value;
    struct rules rules = {.wp = true};
    rules_set(&rules);
    for (leaf = 0; leaf <= format.top; leaf++) {
        if (leaf > 0 && !format.large[leaf])
            continue;
        open_all(leaf);
        flush_all();
        attempt(address_for(READ), READ, &rules, &value);
        attempt(address_for(FETCH), FETCH, &rules, &value);
        try_access(address_for(WRITE), WRITE, &rules);
    }
    leaf = 0;
}

#if IS_64
/* A second address space with the same kernel and an own path to the page `other`. */
static volatile uint64_t second_root[512] __attribute__((aligned(4096)));
static volatile uint64_t second_top[512] __attribute__((aligned(4096)));

static void make_second(void)
{
    for (unsigned i = 0; i < 512; i++)
        second_root[i] = ((volatile uint64_t *)space.root)[i];
    word at = entry_of((word)second_root, 3, linear);
    entry_write(at, (word)second_top | P | W | U);
    entry_write(entry_of((word)second_top, 2, linear), space.alternate[1] | P | W | U);
}

static uint32_t look(void)
{
    return *(volatile uint32_t *)(linear + MARK_OFFSET);
}

/* The other address space is left with a stale translation behind, changed from here, and flushed
 * from here or on the way back. */
static void over_pcids(void)
{
    const word keep = (word)1 << 63, first = space.cr3 | 1, second = (word)second_root | 2;
    word at = entry_of(space.table[0], 0, linear);
    uint64_t here = open_entry(0, 0), there = here + 0x400000;
    *(volatile uint32_t *)(page + MARK_OFFSET) = MARK;
    *(volatile uint32_t *)(other + MARK_OFFSET) = OTHER_MARK;
    static const char *const names[] = {
        "INVPCID of an address elsewhere", "INVPCID of another context",
        "INVPCID of everything, from elsewhere", "INVPCID of all but global pages, from elsewhere",
        "a CR3 write that comes back"};
    flush_all();
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned i = 0; i < 5; i++) {
        bool right = true;
        for (unsigned turn = 0; turn < 8; turn++) {
            write_cr3(first | keep);
            entry_write(at, here);
            invlpg(linear);
            right = right && look() == MARK;
            write_cr3(second | keep);
            right = right && look() == OTHER_MARK;
            entry_write(at, there);
            if (i == 4) {
                write_cr3(first);
            } else if (!has_invpcid) {
                continue;
            } else {
                invpcid(i, i < 2 ? 1 : 0, i == 0 ? linear : 0);
                write_cr3(first | keep);
            }
            right = right && look() == OTHER_MARK;
        }
        check(in_format(names[i]), right);
    }
    /* One set of tables under two tags: each has its own translations. */
    bool right = true;
    for (unsigned turn = 0; turn < 8; turn++) {
        entry_write(at, here);
        write_cr3(space.cr3 | 3);
        right = right && look() == MARK;
        write_cr3(space.cr3 | 4);
        right = right && look() == MARK;
        entry_write(at, there);
        write_cr3(space.cr3 | 3);
        right = right && look() == OTHER_MARK;
        write_cr3(space.cr3 | 4);
        right = right && look() == OTHER_MARK;
    }
    check(in_format("one root under two PCIDs"), right);
    /* PCIDE from 1 to 0 flushes everything; CR3 must have PCID 0. */
    write_cr3(space.cr3);
    entry_write(at, here);
    invlpg(linear);
    right = look() == MARK;
    entry_write(at, there);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
    check(in_format("CR4.PCIDE is cleared"), right && look() == OTHER_MARK);
}

static void over_roots(void)
{
    word at = entry_of(space.table[0], 0, linear);
    uint64_t here = open_entry(0, 0), there = here + 0x400000;
    *(volatile uint32_t *)(page + MARK_OFFSET) = MARK;
    *(volatile uint32_t *)(other + MARK_OFFSET) = OTHER_MARK;
    bool right = true;
    for (unsigned turn = 0; turn < 32; turn++) {
        entry_write(at, turn & 1 ? there : here);
        write_cr3(space.cr3);
        right = right && look() == (turn & 1 ? OTHER_MARK : MARK);
        entry_write(at, turn & 1 ? here : there);
        write_cr3((word)second_root);
        right = right && look() == OTHER_MARK;
    }
    write_cr3(space.cr3);
    check(in_format("tables change while another address space runs"), right);

    /* A root that is another one the next time: all of its tables are used anew for the other. */
    right = true;
    word top = entry_of((word)second_root, 3, linear);
    for (unsigned turn = 0; turn < 32; turn++) {
        entry_write(top, (turn & 1 ? space.table[2] : (word)second_top) | P | W | U);
        entry_write(at, here);
        write_cr3((word)second_root);
        right = right && look() == (turn & 1 ? MARK : OTHER_MARK);
        write_cr3(space.cr3);
        right = right && look() == MARK;
    }
    check(in_format("a root of other tables"), right);
}
#endif

void check_stale(void)
{
    all_ways();
    count_start();
    no_flush_needed();
    count_report(in_format("what needs no flush"));
    count_start();
    fault_flushes();
    count_report(in_format("a fault flushes its address"));
    count_start();
    dirty_without_flush();
    count_report(in_format("the first write sets D"));
    rules_set(&(struct rules){0});
    open_all(0);
#if IS_64
    make_second();
    over_roots();
    make_second();
    if (has_pcid)
        over_pcids();
    else
        skip(in_format("PCID"), "not offered");
#endif
    open_all(0);
    flush_all();
}
