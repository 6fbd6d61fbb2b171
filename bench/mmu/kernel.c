/*
 * A kernel that measures what no program in a guest can: single operations of the MMU and of the
 * processor, in cycles of the guest's clock, and walks, which the VMM counts. On the framework of
 * tests/guest. The command line says what:
 *
 *     nano                   the operations of Adams and Agesen (2006), and some more:
 *                            "nano: NAME CYCLES", the median of many
 *     walk=small, =large     touches 8192 pages, or pages of 2 MiB, of which no translation is
 *                            cached, after all tables were used. Says "walks: ready" before and
 *                            "walks: done" after, and waits for a line each time: what the VMM's
 *                            counters say then differs by these walks and no others
 */

#include "guest.h"

enum { P = 1, W = 2, U = 4, PS = 0x80, PAGE = 4096, LARGE = 2 << 20 };
enum { ROUNDS = 101, BATCH = 512, QUIET = 400, MEMORY_END = 48 << 20, WALKS = 8192 };

void bench_syscalls(void), bench_syscall_entry(void), bench_fault_entry(void);
void bench_divide_entry(void);
uint64_t bench_page_fault(word address), bench_divide(void);
extern volatile uint64_t start_tables[];

/* The addresses under test: the second entry of the top table. */
#define BASE  ((word)1 << 39)
#define ALIAS ((word)2 << 39)

/* Tables and pages, at 4 MiB: memory that is all RAM, so that a VMM may have it in one piece. */
struct tables {
    volatile uint64_t root[512], pdpt[512], pds[16][512], pts[16][512];
    volatile uint8_t pages[16][PAGE];
};
static struct tables *const tables = (struct tables *)(4 << 20);
static const uint64_t rights = P | W | U;

static void flush(void)
{
    write_cr3(read_cr3());
}

/* BASE on is `pages`, over and over: 16 tables of small pages. */
static void map_small(void)
{
    for (unsigned i = 0; i < 16; i++) {
        tables->pds[0][i] = (word)tables->pts[i] | rights;
        for (unsigned j = 0; j < 512; j++)
            tables->pts[i][j] = (word)tables->pages[j % 16] | rights;
    }
}

/* Sixteen GiB of large pages, all of them the same one. */
static void map_large(void)
{
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned j = 0; j < 512; j++)
            tables->pds[i][j] = 16 << 20 | rights | PS;
    }
}

static void map(void)
{
    tables->root[0] = start_tables[0] & ~(uint64_t)U;
    tables->root[1] = (word)tables->pdpt | rights;
    tables->root[2] = start_tables[0];
    for (unsigned i = 0; i < 16; i++)
        tables->pdpt[i] = (word)tables->pds[i] | rights;
    user_alias = ALIAS;
    map_small();
    write_cr3((word)tables->root);
}

/* ------------------------------------------------------------------------- nano-benchmarks */

static uint64_t values[ROUNDS];

static void report(const char *name, uint64_t operations)
{
    for (unsigned i = 1; i < ROUNDS; i++) {
        for (unsigned j = i; j > 0 && values[j - 1] > values[j]; j--) {
            uint64_t value = values[j];
            values[j] = values[j - 1];
            values[j - 1] = value;
        }
    }
    print("nano: %s %u\n", name, (unsigned)((values[ROUNDS / 2] + operations / 2) / operations));
}

static void touch(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        (void)*(volatile uint8_t *)(BASE + (word)i * PAGE);
}

static void time_syscalls(void)
{
    enum { CALLS = 256 }; /* in bench_syscalls */
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)SEL_UCODE32 << 48 | (uint64_t)SEL_KCODE << 32);
    wrmsr(MSR_LSTAR, (word)bench_syscall_entry);
    wrmsr(MSR_SFMASK, 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t before = rdtsc();
        user_try(bench_syscalls, CALLS);
        values[i] = rdtsc() - before;
    }
    report("syscall", CALLS);
}

static void time_exceptions(void)
{
    struct gate usual = idt[14];
    gate_set(14, (word)bench_fault_entry, SEL_KCODE, GATE_INTERRUPT, 0);
    tables->pts[0][1] = 0;
    invlpg(BASE + PAGE);
    for (unsigned i = 0; i < ROUNDS; i++)
        values[i] = bench_page_fault(BASE + PAGE);
    report("page-fault", 64);
    idt[14] = usual;
    usual = idt[0];
    gate_set(0, (word)bench_divide_entry, SEL_KCODE, GATE_INTERRUPT, 0);
    for (unsigned i = 0; i < ROUNDS; i++)
        values[i] = bench_divide();
    report("divide-by-zero", 64);
    idt[0] = usual;
    map_small();
    flush();
}

static void time_ports_and_cr3(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t before = rdtsc();
        for (unsigned j = 0; j < 64; j++)
            inb(0x80);
        values[i] = rdtsc() - before;
    }
    report("port-in", 64);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t before = rdtsc();
        for (unsigned j = 0; j < 64; j++)
            flush();
        values[i] = rdtsc() - before;
    }
    report("cr3-load", 64);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t before = rdtsc();
        flush();
        touch(64);
        values[i] = rdtsc() - before;
    }
    report("cr3-load-and-64-pages", 1);
}

enum form { UNCHANGED, MAPS, UNMAPS };

/*
 * `count` writes to a page table that is in use, after it has been left alone for some flushes: a
 * VMM that traces such tables begins to, and what it does at a write is in the first.
 */
static void time_writes(const char *name, enum form form, unsigned count, unsigned quiet)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        map_small();
        for (unsigned j = 1; form == MAPS && j <= count; j++)
            tables->pts[0][j] = 0;
        flush();
        touch(form == MAPS ? 1 : BATCH);
        for (unsigned j = 0; j < quiet; j++) {
            flush();
            touch(1);
        }
        uint64_t value = form == UNMAPS ? 0 : (word)tables->pages[0] | rights;
        uint64_t used = tables->pts[0][0];
        uint64_t before = rdtsc();
        for (unsigned j = 1; j <= count; j++)
            tables->pts[0][j] = form == UNCHANGED ? used : value;
        values[i] = rdtsc() - before;
    }
    report(name, count);
    map_small();
    flush();
}

/* What a kernel does for each page of a process that comes and goes. */
static void time_page_life(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (unsigned j = 1; j < 64; j++)
            tables->pts[1][j] = 0;
        flush();
        uint64_t before = rdtsc();
        for (unsigned j = 1; j < 64; j++) {
            word address = BASE + LARGE + (word)j * PAGE;
            tables->pts[1][j] = (word)tables->pages[j % 16] | rights;
            *(volatile uint8_t *)address = (uint8_t)j;
            tables->pts[1][j] = 0;
            invlpg(address);
        }
        values[i] = rdtsc() - before;
    }
    report("map-store-unmap-invlpg", 63);
}

static void nano(void)
{
    time_syscalls();
    time_exceptions();
    time_ports_and_cr3();
    time_writes("pte-unchanged-first", UNCHANGED, 1, QUIET);
    time_writes("pte-map-first", MAPS, 1, QUIET);
    time_writes("pte-unmap-first", UNMAPS, 1, QUIET);
    time_writes("pte-unchanged", UNCHANGED, BATCH - 1, 2);
    time_writes("pte-map", MAPS, BATCH - 1, 2);
    time_writes("pte-unmap", UNMAPS, BATCH - 1, 2);
    time_page_life();
    pass("nano");
}

/* ------------------------------------------------------------------------- walks */

/* All that the walks lead through: then a VMM can have it in pieces of 2 MiB, where it wants. */
static void write_memory(void)
{
    for (word at = (word)tables; at < MEMORY_END; at += PAGE)
        *(volatile uint8_t *)at = *(volatile uint8_t *)at;
}

static void touch_all(unsigned walks, word step)
{
    for (unsigned i = 0; i < walks; i++)
        (void)*(volatile uint8_t *)(BASE + i * step);
}

/* Until the host has read the counters and sends a line. */
static void wait_for_host(const char *what)
{
    enum { COM1 = 0x3f8 };
    outb(COM1 + 4, 3); /* DTR, RTS: the other side may send */
    print("walks: %s\n", what);
    do {
        while (!(inb(COM1 + 5) & 1))
            ;
    } while (inb(COM1) != '\n');
}

static void walk(bool large)
{
    word step = large ? LARGE : PAGE;
    if (large)
        map_large();
    write_memory();
    /* The VMM takes a sample of memory as it starts, whose pages are in pieces until written. */
    for (uint64_t begin = rdtsc(); rdtsc() - begin < 1000000000;)
        ;
    write_memory();
    for (unsigned i = 0; i < 8; i++) {
        flush();
        touch_all(WALKS, step);
    }
    flush();
    wait_for_host("ready");
    touch_all(WALKS, step);
    wait_for_host("done");
    pass("walks");
}

/* ------------------------------------------------------------------------- */

static const char *argument(const char *name)
{
    const uint32_t *info = (const uint32_t *)(word)multiboot_info;
    const char *line = info[0] & 4 ? (const char *)(word)info[4] : "";
    for (; *line != 0; line++) {
        const char *at = line, *word_at = name;
        while (*word_at != 0 && *at == *word_at)
            at++, word_at++;
        if (*word_at == 0)
            return at;
    }
    return 0;
}

void guest_main(void)
{
    map();
    const char *kind = argument("walk=");
    if (kind == 0)
        nano();
    else
        walk(*kind == 'l');
}
