/*
 * mmu64 and mmu32: see mmu.h. On the command line, `thin=N` tries one in N combinations of entry
 * bits, for slow processors, a different one in each mode.
 *
 * In the end it prints `# digest`, that stands for the outcome of all accesses: where it is not the
 * same under two MMUs, a guest can tell them apart.
 */

#include "mmu.h"

#define TABLES __attribute__((aligned(4096)))

/* Of the widest format: 512 entries of 8 bytes, or 1024 of 4. */
static uint8_t root[4096] TABLES, identity[6][4096] TABLES, tested[3][4096] TABLES;
static uint8_t alternates[3][4096] TABLES;
static volatile uint8_t page_bytes[4096] TABLES;

volatile uint8_t *page = page_bytes, *other = page_bytes + 0x400000;
bool has_nx, has_smep, has_smap, has_1g, has_pge, has_pcid, has_invpcid;
unsigned physical_width, thin = 1;
word linear;

#if IS_64
extern volatile uint64_t start_tables[];

static void enter_format(void)
{
    format = (struct format){
        .name = "4-level", .top = 3, .index_bits = 9, .wide = true, .large = {[1] = true}};
    format.large[2] = has_1g;
    format.ps_reserved[2] = !has_1g;
    format.ps_reserved[3] = true;
    space.root = space.cr3 = space.table[3] = (word)start_tables;
    start_tables[2] = start_tables[0];
    start_tables[0] &= ~(uint64_t)U;
    linear = ((word)1 << 39) + (word)page;
    user_alias = (word)2 << 39;
}

static void for_each_format(void (*check)(void))
{
    (void)root;
    (void)identity;
    enter_format();
    check();
}
#else
/* The identity, 16 MiB, for the supervisor; and the same at user_alias for CPL 3. */
static void map_kernel(void)
{
    enum { MAPPED = 16 << 20 };
    word top = format.wide ? (word)identity[4] : (word)root;
    for (word at = 0; at < MAPPED; at += 4096) {
        word table = (word)identity[at >> 22];
        unsigned level_size = format.wide ? 21 : 22;
        if (format.wide) { /* by 2 MiB pages */
            entry_write(top + (at >> level_size) * 8, (at & ~(word)0x1fffff) | P | W | PS);
            entry_write((word)identity[5] + (at >> level_size) * 8,
                        (at & ~(word)0x1fffff) | P | W | U | PS);
            continue;
        }
        entry_write(table + (at >> 12 & 1023) * 4, at | P | W | U);
        entry_write(top + (at >> level_size) * 4, table | P | W);
        entry_write(top + ((user_alias + at) >> level_size) * 4, table | P | W | U);
    }
}

static void enter_format(bool pae, bool pse)
{
    memory_set(root, 0, sizeof(root));
    memory_set(identity, 0, sizeof(identity));
    memory_set(tested, 0, sizeof(tested));
    memory_set(alternates, 0, sizeof(alternates));
    format = (struct format){.name = pae   ? "PAE"
                                     : pse ? "32-bit, PSE"
                                           : "32-bit",
                             .top = 1,
                             .index_bits = pae ? 9 : 10,
                             .wide = pae,
                             .large = {[1] = pae || pse}};
    linear = 0x40000000 + (word)page;
    user_alias = 0x80000000;
    space.cr3 = (word)root;
    space.table[1] = space.root = pae ? (word)tested[1] : (word)root;
    if (pae) {
        volatile uint64_t *pdpt = (volatile uint64_t *)root;
        pdpt[0] = (word)identity[4] | P;
        pdpt[1] = (word)tested[1] | P;
        pdpt[2] = (word)identity[5] | P;
    }
    map_kernel();
    write_cr4((read_cr4() & ~(word)(CR4_PAE | CR4_PSE)) | (pae ? CR4_PAE : 0) |
              (pse ? CR4_PSE : 0));
    write_cr3(space.cr3);
    write_cr0(read_cr0() | CR0_PG);
}

static void for_each_format(void (*check)(void))
{
    for (unsigned i = 0; i < 3; i++) {
        enter_format(i == 2, i >= 1);
        check();
        write_cr0(read_cr0() & ~CR0_PG);
    }
}
#endif

/* Tables for the address under test, to `page`; and others of all levels but the first, to `other`.
 */
static void make_space(void)
{
    for (unsigned level = 0; level < format.top; level++) {
        space.table[level] = (word)tested[level];
        space.alternate[level] = (word)alternates[level];
    }
    open_all(0);
    flush_all();
}

static void check_format(void)
{
    make_space();
    check_bits();
    check_stale();
    check_implicit();
}

/* "thin=8" on the command line of multiboot. */
static void read_arguments(void)
{
    const uint32_t *info = (const uint32_t *)(word)multiboot_info;
    if (!(info[0] & 4))
        return;
    for (const char *at = (const char *)(word)info[4]; *at != 0; at++) {
        if (at[0] != 't' || at[1] != 'h' || at[2] != 'i' || at[3] != 'n' || at[4] != '=')
            continue;
        thin = 0;
        for (at += 5; *at >= '0' && *at <= '9'; at++)
            thin = thin * 10 + (unsigned)(*at - '0');
        if (thin == 0)
            thin = 1;
        return;
    }
}

void guest_main(void)
{
    has_smep = cpuid(7, 0).b >> 7 & 1;
    has_smap = cpuid(7, 0).b >> 20 & 1;
    has_invpcid = cpuid(7, 0).b >> 10 & 1;
    has_nx = cpuid(0x80000001, 0).d >> 20 & 1;
    has_1g = cpuid(0x80000001, 0).d >> 26 & 1;
    has_pge = cpuid(1, 0).d >> 13 & 1;
    has_pcid = IS_64 && cpuid(1, 0).c >> 17 & 1;
    physical_width = cpuid(0x80000008, 0).a & 0xff;
    read_arguments();

    volatile uint8_t *const pages[] = {page, other};
    for (unsigned i = 0; i < 2; i++) {
        memory_set((void *)pages[i], 0x90, 4096);
        pages[i][0] = 0xc3;  /* ret */
        pages[i][16] = 0xcd; /* int 0x80 */
        pages[i][17] = 0x80;
    }
    for_each_format(check_format);
    print("# digest %x%x\n", (word)(digest >> 32), (word)(uint32_t)digest);
}
