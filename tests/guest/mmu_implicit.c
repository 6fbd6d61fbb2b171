/*
 * Accesses that no operand names, and what is hard to get right with anything cached:
 *
 * - tables that map themselves, at every depth, and an entry that is changed through itself;
 * - instructions that change the entry of what they go on with: REP MOVSB, and code that takes away
 *   or replaces its own page;
 * - descriptor loads from a page with any rights, from CPL 0 and 3: the supervisor's accesses, held
 * by SMAP whatever AC is (SDM vol. 3 4.6.1);
 * - frames pushed on such a page;
 * - that IDT, GDT and TSS make their pages accessed, and not dirty, and walks the tables neither.
 */

#include "mmu.h"

int mmu_call(word entry, word address, uint32_t value, word target);
extern char mmu_by_invlpg[], mmu_by_invlpg_then[], mmu_by_cr3[], mmu_by_cr3_then[];
extern char mmu_pieces_end[];
void mmu_user_load(void), mmu_user_interrupt(void);

enum { SELF_SLOT = 3, TABLE_SLOT = 9, CODE_OFFSET = 256, LDT_OFFSET = 1024 };

static word shift_of(unsigned level)
{
    return 12 + level * format.index_bits;
}

static unsigned entry_size(void)
{
    return format.wide ? 8 : 4;
}

/* A root (in PAE, the directory) with itself in a slot: after `depth` times through it, what would
 * be the page is a table. The address is of its last entry, which is unused. */
static word self_address(unsigned depth)
{
    word index_mask = ((word)1 << format.index_bits) - 1;
    word address = format.wide && !IS_64 ? linear & ~(word)0x3fffffff : 0;
    for (unsigned level = 0; level <= format.top; level++) {
        word index =
            level > format.top - depth ? SELF_SLOT : linear >> shift_of(level + depth) & index_mask;
        address |= index << shift_of(level);
    }
    return address + 4096 - entry_size();
}

static void self_maps(void)
{
    word self =
        entry_of(space.table[format.top], format.top, (word)SELF_SLOT << shift_of(format.top));
    count_start();
    for (unsigned i = 0; i < 16; i++) {
        struct rules rules = {.user = i & 1, .wp = i & 2, .smap = i & 4 && has_smap, .ac = i & 8};
        rules.nxe = has_nx && format.wide;
        rules_set(&rules);
        for (unsigned bits = 0; bits < 16; bits++) {
            for (unsigned depth = 1; depth <= format.top + 1; depth++) {
                word address = self_address(depth);
                for (enum access access = READ; access <= WRITE; access++) {
                    open_all(0);
                    entry_write(self, space.table[format.top] | (bits & 1 ? P : 0) |
                                          (bits & 2 ? W : 0) | (bits & 4 ? U : 0) |
                                          (bits & 8 && format.wide ? NX : 0));
                    invlpg(address);
                    try_access(address, access, &rules);
                    /* What was written there. */
                    entry_write(space.table[depth - 1] + 4096 - entry_size(), 0);
                }
            }
        }
    }
    count_report(in_format("tables that map themselves"));
    entry_write(self, 0);
    rules_set(&(struct rules){.wp = true, .nxe = has_nx && format.wide});
    open_all(0);
    flush_all();
}

/* Maps the page table in a slot of its own; gives where it is seen. */
static word map_table(word *entry)
{
    word seen = (linear & ~(((word)1 << shift_of(1)) - 1)) | (word)TABLE_SLOT << 12;
    *entry = entry_of(space.table[0], 0, seen);
    entry_write(*entry, space.table[0] | P | W | U);
    flush_all();
    return seen;
}

static void own_entry(void)
{
    word entry, seen = map_table(&entry);
    word at = seen + (entry & 4095);
    uint32_t value = (uint32_t)space.table[0] | P | W | U | A | D | 0x200;
    uint32_t had = value;
    __asm__ volatile("xchg %0, (%1)" : "+r"(had) : "r"(at) : "memory");
    uint32_t wanted = (uint32_t)space.table[0] | P | W | U | A;
    check_equal(in_format("an entry changed through itself: what it was"), had,
                tcg_differs(TCG_READS_FIRST) ? wanted : wanted | D);
    check_equal(in_format("an entry changed through itself: what it is"), (word)entry_read(entry),
                value);

    /* A walk reads and changes tables by their physical address. */
    entry_write(entry, space.table[0] | P | W | U);
    open_all(0);
    flush_all();
    *(volatile uint32_t *)(linear + MARK_OFFSET) = MARK;
    check(in_format("a walk sets A and D in the table it uses"),
          (entry_read(entry_of(space.table[0], 0, linear)) & (A | D)) == (A | D));
    check(in_format("and neither in what maps the table"), !(entry_read(entry) & (A | D)));

    /* Through the mapping, with no flush: an entry that was not present. */
    word next = seen + 4096, next_entry = entry_of(space.table[0], 0, next);
    bool right = true;
    for (unsigned turn = 0; turn < 64; turn++) {
        volatile uint8_t *target = turn & 1 ? other : page;
        *(volatile uint32_t *)(target + MARK_OFFSET) = turn;
        *(volatile uint32_t *)(seen + (next_entry & 4095)) = (uint32_t)(word)target | P | W | U;
        right = right && *(volatile uint32_t *)(next + MARK_OFFSET) == turn;
        *(volatile uint32_t *)(seen + (next_entry & 4095)) = 0;
        invlpg(next);
    }
    check(in_format("pages mapped and unmapped through the table's own mapping"), right);
    entry_write(entry, 0);
    flush_all();
}

/* Copies a page table over itself, and on, into the page that an entry written so maps. */
static void string_maps_next(void)
{
    static uint8_t image[4096 + 256] __attribute__((aligned(4096)));
    word entry, seen = map_table(&entry);
    bool right = true;
    for (unsigned size = 1; size <= 8; size *= 2) {
        if (size == 8 && !IS_64)
            break;
        word next_entry = entry_of(space.table[0], 0, seen + 4096);
        entry_write(next_entry, 0);
        flush_all();
        (void)*(volatile uint32_t *)seen;
        memory_copy(image, (void *)space.table[0], 4096);
        word in_image = (word)image + (next_entry & 4095);
        entry_write(in_image, (uint64_t)(word)other | P | W | U);
        for (unsigned i = 0; i < 256; i++) {
            image[4096 + i] = (uint8_t)(i * 3 + size);
            other[512 + i] = 0;
        }
        word to = seen, from = (word)image, left = (4096 + 256) / size;
        for (unsigned i = 0; i < 256; i++)
            other[i] = 0;
        if (size == 1)
            __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(left) : : "memory");
        else if (size == 2)
            __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(left) : : "memory");
        else if (size == 4)
            __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(left) : : "memory");
#if IS_64
        else
            __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(left) : : "memory");
#endif
        for (unsigned i = 0; i < 256; i++)
            right = right && other[i] == (uint8_t)(i * 3 + size);
        right = right && left == 0 && (entry_read(next_entry) & (A | D)) == (A | D);
    }
    check(in_format("REP MOVS maps the page that it goes on with"), right);
    other[0] = 0xc3;
    other[16] = 0xcd;
    other[17] = 0x80;
    entry_write(entry, 0);
    entry_write(entry_of(space.table[0], 0, seen + 4096), 0);
    flush_all();
}

struct piece {
    const char *takes_away, *replaces; /* names of checks */
    const char *begin, *then;
    word entry;
    uint32_t value;
    int result;
};

static void run_piece(void *argument)
{
    struct piece *piece = argument;
    word target = linear + CODE_OFFSET + (word)(piece->begin - mmu_by_invlpg);
    piece->result = mmu_call(piece->entry, linear, piece->value, target);
}

/* Code that takes its own page away, or changes it for another. */
static void own_code(void)
{
    struct rules rules = {.wp = true, .nxe = has_nx && format.wide};
    static const struct piece pieces[] = {
        {.takes_away = "code takes its own page away, INVLPG",
         .replaces = "code replaces its own page, INVLPG",
         .begin = mmu_by_invlpg,
         .then = mmu_by_invlpg_then},
        {.takes_away = "code takes its own page away, CR3",
         .replaces = "code replaces its own page, CR3",
         .begin = mmu_by_cr3,
         .then = mmu_by_cr3_then},
    };
    word entry = entry_of(space.table[0], 0, linear);
    size_t length = (size_t)(mmu_pieces_end - mmu_by_invlpg);
    volatile uint8_t *const copies[] = {page, other};
    rules_set(&rules);
    for (unsigned i = 0; i < 2; i++) {
        memory_copy((void *)(copies[i] + CODE_OFFSET), mmu_by_invlpg, length);
        for (unsigned j = 0; j < 2; j++) /* the number in MOV $1, %eax */
            copies[i][CODE_OFFSET + (pieces[j].then - mmu_by_invlpg) + 1] = (uint8_t)(i + 1);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct piece piece = pieces[i];
        word then = linear + CODE_OFFSET + (word)(piece.then - mmu_by_invlpg);
        piece.entry = entry;
        bool gone = true, replaced = true;
        for (unsigned turn = 0; turn < 4; turn++) {
            open_all(0);
            flush_all();
            piece.value = 0;
            int vector = trap_try(run_piece, &piece);
            gone = gone && vector == 14 && trap.cr2 == then && trap.frame.ip == then &&
                   trap.frame.error == (rules.nxe ? ERR_FETCH : 0);
            open_all(0);
            flush_all();
            piece.value = (uint32_t)(word)other | P | W | U;
            vector = trap_try(run_piece, &piece);
            replaced = replaced && vector == -1 && piece.result == 2;
        }
        check(in_format(piece.takes_away), gone);
        check(in_format(piece.replaces), replaced);
    }
    open_all(0);
    flush_all();
}

/* How a supervisor's access that is implied ended; CR2 may be anywhere in the object. */
static int ended(int vector, int good)
{
    if (vector == good)
        return NO_FAULT;
    return vector == 14 && trap.cr2 >> 12 == linear >> 12 ? (int)trap.frame.error : -2;
}

static void set_rights(unsigned bits)
{
    for (unsigned level = 0; level <= 1; level++, bits >>= 4)
        entry_write(entry_of(space.table[level], level, linear),
                    (open_entry(level, 0) & ADDRESS_ALL) | (bits & 1 ? P : 0) | (bits & 2 ? W : 0) |
                        (bits & 4 ? U : 0) | (bits & 8 && format.wide ? NX : 0));
    invlpg(linear);
}

static void load_fs(void *argument)
{
    uint16_t selector = (uint16_t)(word)argument;
    set_ac((word)argument >> 16);
    __asm__ volatile("mov %0, %%fs" : : "r"(selector));
    set_ac(false);
}

static int try_load(uint16_t selector, const struct rules *rules)
{
    if (!rules->user)
        return ended(trap_try(load_fs, (void *)(word)(selector | (rules->ac ? 1u << 16 : 0))), -1);
    return ended(user_try(mmu_user_load, selector | 3), 0x80);
}

static void make_ldt(void)
{
    uint64_t base = linear + LDT_OFFSET;
    gdt[SEL_SPARE / 8] =
        15 | (base & 0xffffff) << 16 | (uint64_t)0x82 << 40 | (base >> 24 & 0xff) << 56;
#if IS_64
    gdt[SEL_SPARE / 8 + 1] = base >> 32;
#endif
    __asm__ volatile("lldt %0" : : "r"((uint16_t)SEL_SPARE));
}

/* The second descriptor has not been accessed, so loading it writes to it. */
static void descriptors(const struct rules *rules)
{
    volatile uint64_t *ldt = (volatile uint64_t *)(page + LDT_OFFSET);
    struct rules implied = *rules;
    implied.user = implied.ac = false;
    for (unsigned bits = 0; bits < 256; bits++) {
        for (unsigned fresh = 0; fresh < 2; fresh++) {
            ldt[0] = 0x00cff3000000ffff;
            ldt[1] = 0x00cff2000000ffff;
            set_rights(bits);
            struct outcome want;
            model(&want, linear + LDT_OFFSET, READ, &implied);
            if (fresh && want.error == NO_FAULT) {
                model(&want, linear + LDT_OFFSET, WRITE, &implied);
                want.touched = want.count; /* it has been read before */
            }
            int got = try_load((uint16_t)(fresh << 3 | 4), rules);
            bool is_right = hold(&want, linear, got, fresh ? "load of a new descriptor" : "load");
            bool is_marked = (ldt[1] >> 40 & 1) != 0;
            if (is_right && is_marked != (fresh && got == NO_FAULT))
                count(false);
        }
    }
}

static void check_descriptors(void)
{
    make_ldt();
    count_start();
    for (unsigned i = 0; i < 16; i++) {
        struct rules rules = {
            .user = i & 1, .wp = i & 2, .smap = i & 4, .ac = i & 8, .nxe = has_nx && format.wide};
        if (rules.smap && !has_smap)
            continue;
        if (rules.smap && rules.ac && tcg_differs(TCG_AC_WHEN_IMPLIED))
            continue;
        rules_set(&rules);
        descriptors(&rules);
    }
    count_report(in_format("descriptors, loaded by CPL 0 and 3"));
    __asm__ volatile("mov %0, %%fs" : : "r"(0));
    __asm__ volatile("lldt %0" : : "r"((uint16_t)0));
    rules_set(&(struct rules){.wp = true});
}

#if IS_64
static void interrupt_with_ac(void *ac)
{
    set_ac(ac != 0);
    __asm__ volatile("int $0x81");
}

/* Frames on the page: RSP0 from CPL 3, a stack of the IST from CPL 0. Page faults have another
 * stack. Whether AC counts for these the manual does not say: they are not among its examples of
 * implicit accesses. */
static void check_frames(void)
{
    word rsp0 = tss.rsp[0], top = linear + 4096 - 16;
    idt[14].ist = 1;
    idt[0x81].ist = 2;
    count_start();
    for (unsigned i = 0; i < 16; i++) {
        struct rules rules = {
            .user = i & 1, .wp = i & 2, .smap = i & 4, .ac = i & 8, .nxe = has_nx};
        struct rules implied = rules;
        implied.user = implied.ac = false;
        if (rules.smap && (!has_smap || rules.ac))
            continue;
        rules_set(&rules);
        for (unsigned bits = 0; bits < 256; bits++) {
            set_rights(bits);
            struct outcome want;
            model(&want, top, WRITE, &implied);
            tss.rsp[0] = tss.ist[1] = top;
            int got = rules.user ? ended(user_try(mmu_user_interrupt, 0), 0x80)
                                 : ended(trap_try(interrupt_with_ac, (void *)(word)rules.ac), 0x81);
            tss.rsp[0] = rsp0;
            hold(&want, linear, got, rules.user ? "frame of CPL 3" : "frame of CPL 0");
        }
    }
    count_report(in_format("frames, from CPL 0 and 3"));
    idt[14].ist = idt[0x81].ist = 0;
    rules_set(&(struct rules){.wp = true});
}
#endif

static bool is_clean_and_accessed(void)
{
    return (entry_read(entry_of(space.table[0], 0, linear)) & (A | D)) == A;
}

static void check_tables_of_system(void)
{
    static uint8_t saved[4096];
    memory_copy(saved, (void *)page, 4096);

    memory_copy((void *)page, idt, sizeof(idt));
    struct table_pointer usual = {sizeof(idt) - 1, (word)idt};
    struct table_pointer moved = {sizeof(idt) - 1, linear};
    open_all(0);
    flush_all();
    __asm__ volatile("lidt %0" : : "m"(moved));
    int vector = user_try(mmu_user_interrupt, 0);
    __asm__ volatile("lidt %0" : : "m"(usual));
    check(in_format("the IDT's page is accessed and clean"),
          vector == 0x80 && is_clean_and_accessed());

    memory_copy((void *)page, gdt, sizeof(gdt));
    usual = (struct table_pointer){sizeof(gdt) - 1, (word)gdt};
    moved = (struct table_pointer){sizeof(gdt) - 1, linear};
    open_all(0);
    flush_all();
    __asm__ volatile("lgdt %0" : : "m"(moved));
    __asm__ volatile("mov %0, %%ds" : : "r"(SEL_KDATA));
    __asm__ volatile("lgdt %0" : : "m"(usual));
    check(in_format("the GDT's page is accessed and clean"), is_clean_and_accessed());

    memory_copy((void *)page, &tss, sizeof(tss));
    word base = linear;
    uint64_t descriptor[2] = {gdt[SEL_TSS / 8], gdt[SEL_TSS / 8 + 1]};
    gdt[SEL_TSS / 8] = (sizeof(tss) - 1) | (uint64_t)(base & 0xffffff) << 16 |
                       (uint64_t)0x89 << 40 | (uint64_t)(base >> 24 & 0xff) << 56;
#if IS_64
    gdt[SEL_TSS / 8 + 1] = base >> 32;
#endif
    open_all(0);
    flush_all();
    __asm__ volatile("ltr %0" : : "r"((uint16_t)SEL_TSS));
    vector = user_try(mmu_user_interrupt, 0);
    check(in_format("the TSS's page is accessed and clean"),
          vector == 0x80 && is_clean_and_accessed());
    gdt[SEL_TSS / 8 + 1] = descriptor[1];
    tss_load(sizeof(tss) - 1);
    memory_copy((void *)page, saved, 4096);
}

void check_implicit(void)
{
    self_maps();
    own_entry();
    string_maps_next();
    own_code();
    check_descriptors();
#if IS_64
    check_frames();
#endif
    check_tables_of_system();
    open_all(0);
    flush_all();
}
