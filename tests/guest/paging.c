/*
 * Page tables in 64-bit mode: every combination of permission bits, at two levels, with every
 * access at both privileges under WP, SMEP, SMAP and AC, against a model of the rules (SDM vol.
 * 3 4.6); accessed and dirty bits; reserved bits; large pages; what INVLPG, CR3 and CR4 must flush.
 *
 * The kernel's own pages are for the supervisor alone; CPL 3 sees the same image through an alias.
 */

#include "guest.h"

void access_read(void *), access_write(void *), access_fetch(void *), access_cmpxchg(void *);
void access_push(void *);
void user_read(void), user_write(void), user_fetch(void);
extern volatile uint64_t start_tables[];

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
enum { ERR_P = 1, ERR_W = 2, ERR_U = 4, ERR_RSVD = 8, ERR_FETCH = 16 };
#define NX ((uint64_t)1 << 63)

/* The addresses under test: the second entry of the top table; the alias: the third. */
#define BASE  ((word)1 << 39)
#define ALIAS ((word)2 << 39)

static volatile uint64_t pdpt[512] __attribute__((aligned(4096)));
static volatile uint64_t pd[512] __attribute__((aligned(4096)));
static volatile uint64_t pt[512] __attribute__((aligned(4096)));
static volatile uint8_t page_a[4096] __attribute__((aligned(4096)));
static volatile uint8_t page_b[4096] __attribute__((aligned(4096)));
static volatile uint8_t page_c[4096] __attribute__((aligned(4096)));

static bool has_nx, has_smep, has_smap, has_1g;

static void set_flag(word flag, bool on)
{
    word cr4 = read_cr4();
    write_cr4(on ? cr4 | flag : cr4 & ~flag);
}

static void set_wp(bool on)
{
    word cr0 = read_cr0();
    write_cr0(on ? cr0 | CR0_WP : cr0 & ~(word)CR0_WP);
}

enum access { READ, WRITE, FETCH };

struct rules {
    bool user, wp, smep, smap, ac;
};

/* The error code of the fault, or -1 for none. */
static int model(uint64_t directory, uint64_t entry, enum access access, const struct rules *rules)
{
    int error = (access == WRITE ? ERR_W : 0) | (rules->user ? ERR_U : 0) |
                (access == FETCH && (has_nx || rules->smep) ? ERR_FETCH : 0);
    if (!(entry & P))
        return error;
    error |= ERR_P;
    bool writable = (directory & entry & W) != 0, user = (directory & entry & U) != 0;
    bool no_execute = ((directory | entry) & NX) != 0;
    if (access == FETCH && no_execute)
        return error;
    if (rules->user)
        return !user || (access == WRITE && !writable) ? error : -1;
    if (access == FETCH)
        return rules->smep && user ? error : -1;
    if (rules->smap && user && !rules->ac)
        return error;
    return access == WRITE && !writable && rules->wp ? error : -1;
}

struct request {
    enum access access;
    bool ac;
    word address;
};

static void supervisor_access(void *argument)
{
    const struct request *request = argument;
    static void (*const calls[])(void *) = {access_read, access_write, access_fetch};
    if (request->ac)
        __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq" : : : "memory", "cc");
    calls[request->access]((void *)request->address);
    if (request->ac)
        __asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");
}

/* The error code of the page fault that the access makes, -1 for none, -2 for something else. */
static int attempt(const struct rules *rules, enum access access, word address)
{
    static void (*const user_calls[])(void) = {user_read, user_write, user_fetch};
    int vector;
    if (rules->user) {
        vector = user_try(user_calls[access], address);
        if (vector == 0x80)
            return -1;
    } else {
        struct request request = {access, rules->ac, address};
        vector = trap_try(supervisor_access, &request);
        if (vector == -1)
            return -1;
    }
    if (vector != 14 || (trap.cr2 & ~(word)31) != address)
        return -2;
    return (int)trap.frame.error;
}

/* Sixteen leaf entries times eight directory entries, all accesses. */
static void matrix(const struct rules *rules, const char *name)
{
    unsigned wrong = 0, count = 0;
    set_wp(rules->wp);
    set_flag(CR4_SMEP, rules->smep);
    set_flag(CR4_SMAP, rules->smap);
    for (unsigned i = 0; i < (has_nx ? 128u : 64u); i++) {
        uint64_t entry = (word)page_a | (i & 7) | (i & 64 ? NX : 0);
        uint64_t directory =
            (word)pt | P | (i & 8 ? W : 0) | (i & 16 ? U : 0) | (i & 32 && has_nx ? NX : 0);
        for (enum access access = READ; access <= FETCH; access++) {
            pt[0] = entry;
            pd[0] = directory;
            invlpg(BASE);
            /* Writes spare the code at the start of the page. */
            int got = attempt(rules, access, access == WRITE ? BASE + 64 : BASE);
            int want = model(directory, entry, access, rules);
            bool dirty = (pt[0] & D) != 0, accessed = (pt[0] & A) != 0;
            bool bits = want == -1 ? accessed && (pd[0] & A) && dirty == (access == WRITE) : !dirty;
            count++;
            if ((got != want || !bits) && wrong++ < 3)
                print("# entry %x directory %x access %u: got %d, want %d, after %x\n", (word)entry,
                      (word)directory, (unsigned)access, got, want, (word)pt[0]);
        }
    }
    set_flag(CR4_SMEP, false);
    set_flag(CR4_SMAP, false);
    set_wp(false);
    if (wrong == 0)
        pass(name);
    else
        fail(name, "%u of %u wrong", wrong, count);
}

static void permissions(void)
{
    matrix(&(struct rules){.wp = false}, "supervisor");
    matrix(&(struct rules){.wp = true}, "supervisor, WP");
    matrix(&(struct rules){.user = true}, "user");
    matrix(&(struct rules){.user = true, .wp = true}, "user, WP");
    if (has_smep) {
        matrix(&(struct rules){.wp = true, .smep = true}, "supervisor, SMEP");
        matrix(&(struct rules){.user = true, .smep = true}, "user, SMEP");
    }
    if (has_smap) {
        matrix(&(struct rules){.wp = true, .smap = true}, "supervisor, SMAP");
        matrix(&(struct rules){.wp = true, .smap = true, .ac = true}, "supervisor, SMAP, AC");
        matrix(&(struct rules){.user = true, .smap = true}, "user, SMAP");
    }
    if (has_smep && has_smap)
        matrix(&(struct rules){.smep = true, .smap = true}, "supervisor, SMEP, SMAP, no WP");
}

static const struct rules supervisor = {.wp = true};

static void expect_error(const char *name, enum access access, word address, int want)
{
    int got = attempt(&supervisor, access, address);
    if (want >= 0 && (want & ERR_RSVD) && on_tcg())
        got |= ERR_P; /* QEMU leaves it out, against SDM vol. 3 4.7 */
    if (got == want)
        pass(name);
    else
        fail(name, "error %d, want %d (vector %d cr2 0x%x)", got, want, trap.vector, trap.cr2);
}

static void flush(void)
{
    write_cr3(read_cr3());
}

static void structure(void)
{
    volatile uint64_t *pml4 = start_tables;
    uint64_t top = pml4[1], second = pdpt[0];
    set_wp(true);
    pd[0] = (word)pt | P | W | U;
    pt[0] = (word)page_a | P | W | U;

    pml4[1] = 0;
    flush();
    expect_error("nothing at level 4", READ, BASE, 0);
    pml4[1] = top;
    pdpt[0] = 0;
    flush();
    expect_error("nothing at level 3", WRITE, BASE, ERR_W);
    pdpt[0] = second;
    pd[0] = 0;
    flush();
    expect_error("nothing at level 2", READ, BASE, 0);
    pd[0] = (word)pt | P | W | U;
    flush();
    expect_error("all levels present", WRITE, BASE, -1);

    pml4[1] = top | PS;
    flush();
    expect_error("PS at level 4 is reserved", READ, BASE, ERR_P | ERR_RSVD);
    pml4[1] = top;
    unsigned width = cpuid(0x80000008, 0).a & 0xff;
    if (width < 52) {
        pt[0] = (word)page_a | P | W | U | (uint64_t)1 << width;
        flush();
        expect_error("address beyond the physical width", READ, BASE, ERR_P | ERR_RSVD);
    }
    pd[0] = PS | P | W | U | (uint64_t)1 << 13;
    flush();
    expect_error("2 MiB page with low address bits", READ, BASE, ERR_P | ERR_RSVD);

    pd[0] = ((word)page_a & ~(word)0x1fffff) | PS | P | W | U;
    flush();
    page_a[100] = 0x42;
    word inside = BASE + ((word)page_a & 0x1fffff) + 100;
    expect_error("2 MiB page: read", READ, inside, -1);
    check_equal("2 MiB page: value", *(volatile uint8_t *)inside, 0x42);
    check("2 MiB page: accessed, not dirty", (pd[0] & (A | D)) == A);
    *(volatile uint8_t *)inside = 0x43;
    check("2 MiB page: dirty", page_a[100] == 0x43 && (pd[0] & D) != 0);

    if (has_1g) {
        pdpt[0] = PS | P | W | U;
        flush();
        check_equal("1 GiB page", *(volatile uint8_t *)(BASE + (word)page_a + 100), 0x43);
        check("1 GiB page: accessed", (pdpt[0] & (A | D)) == A);
        pdpt[0] = second;
    } else {
        pdpt[0] = second | PS;
        flush();
        expect_error("PS at level 3 is reserved without 1 GiB pages", READ, BASE, ERR_P | ERR_RSVD);
        pdpt[0] = second;
    }
    pd[0] = (word)pt | P | W | U;
    pt[0] = (word)page_a | P | W | U;
    if (has_nx) {
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
        pt[0] |= NX;
        flush();
        expect_error("NX is reserved without NXE", READ, BASE, ERR_P | ERR_RSVD);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
        pt[0] &= ~NX;
    }
    flush();
    set_wp(false);
}

static void staleness(void)
{
    volatile uint32_t *at = (volatile uint32_t *)BASE;
    *(volatile uint32_t *)page_a = 0xaaaa;
    *(volatile uint32_t *)page_b = 0xbbbb;

    pt[0] = (word)page_a | P | W | U;
    invlpg(BASE);
    (void)*at;
    pt[0] = (word)page_b | P | W | U;
    invlpg(BASE);
    check_equal("INVLPG: the new page is seen", *at, 0xbbbb);
    pt[0] = (word)page_a | P | W | U;
    flush();
    check_equal("CR3: the new page is seen", *at, 0xaaaa);

    /* Written through a cached translation after the page became read-only and was flushed. */
    set_wp(true);
    *at = 0xaaab;
    pt[0] = (word)page_a | P | U;
    invlpg(BASE);
    expect_error("write protection after INVLPG", WRITE, BASE, ERR_P | ERR_W);
    check_equal("the protected page is unchanged", *(volatile uint32_t *)page_a, 0xaaab);
    set_wp(false);

    /* A dirty bit that software cleared is set again by the next write after a flush. */
    pt[0] = (word)page_a | P | W | U;
    invlpg(BASE);
    *at = 1;
    check("dirty after a write", (pt[0] & D) != 0);
    pt[0] &= ~(uint64_t)(D | A);
    invlpg(BASE);
    (void)*at;
    check("a read does not make it dirty", (pt[0] & (A | D)) == A);
    *at = 2;
    check("a write after a read does", (pt[0] & D) != 0);

    /* Global pages outlive CR3, not a change of CR4.PGE. */
    set_flag(CR4_PGE, true);
    pt[0] = (word)page_a | P | W | U | G;
    invlpg(BASE);
    (void)*at;
    pt[0] = (word)page_b | P | W | U | G;
    set_flag(CR4_PGE, false);
    check_equal("CR4.PGE: the new page is seen", *at, 0xbbbb);
    set_flag(CR4_PGE, true);
    invlpg(BASE);
    pt[0] = (word)page_a | P | W | U | G;
    invlpg(BASE);
    check_equal("INVLPG takes global pages", *at, 2);
    set_flag(CR4_PGE, false);

    /* A large page split into small ones. */
    pd[0] = ((word)page_a & ~(word)0x1fffff) | PS | P | W | U;
    flush();
    word index = (word)page_a >> 12 & 511;
    volatile uint32_t *same = (volatile uint32_t *)(BASE + ((word)page_a & 0x1fffff));
    (void)*same;
    pt[index] = (word)page_b | P | W | U;
    pd[0] = (word)pt | P | W | U;
    invlpg((word)same);
    check_equal("a large page split into small ones", *same, 0xbbbb);
    pt[0] = (word)page_a | P | W | U;
    flush();
}

static unsigned faults;

static void map_on_fault(struct frame *frame)
{
    (void)frame;
    faults++;
    word address = read_cr2();
    if (address < BASE || address >= BASE + 8 * 4096 || faults > 100) {
        print("FAIL: fault at 0x%x ip 0x%x\n", address, frame->ip);
        quit(2);
    }
    static volatile uint8_t *const pages[] = {page_a, page_b, page_c};
    word index = (address - BASE) >> 12;
    pt[index] = (word)pages[index % 3] | P | W | U;
}

static void restart(void)
{
    pt[0] = pt[1] = pt[2] = 0;
    flush();
    faults = 0;
    trap_handle(14, map_on_fault);

    /* Two faults for one store, which then writes both pages. */
    *(volatile uint32_t *)(BASE + 4094) = 0x44332211;
    check("a store over two unmapped pages",
          page_a[4094] == 0x11 && page_a[4095] == 0x22 && page_b[0] == 0x33 && page_b[1] == 0x44);
    check_equal("it faulted twice", faults, 2);

    pt[1] = pt[2] = 0;
    flush();
    faults = 0;
    for (unsigned i = 0; i < 4096; i++)
        page_a[i] = (uint8_t)(i * 7 + 1);
    word to = BASE + 4096 + 2000, from = (word)page_a, count = 4000;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    bool same = true;
    for (unsigned i = 0; i < 4000; i++)
        same = same && *(volatile uint8_t *)(BASE + 4096 + 2000 + i) == (uint8_t)(i * 7 + 1);
    check("REP MOVSB over two unmapped pages", same && count == 0 && faults == 2);

    pt[1] = 0;
    flush();
    faults = 0;
    idt[14].ist = 1; /* the unmapped stack must not be used to report itself */
    access_push((void *)(BASE + 8192));
    idt[14].ist = 0;
    check("a push to an unmapped page",
          faults == 1 && *(volatile uint64_t *)(page_b + 4088) == 0x77);

    pt[1] = 0;
    flush();
    faults = 0;
    *(volatile uint32_t *)page_b = 5;
    __asm__ volatile("lock incl (%0)" : : "r"(BASE + 4096) : "memory");
    check("LOCK INC on an unmapped page", faults == 1 && *(volatile uint32_t *)page_b == 6);
    trap_handle(14, 0);

    set_wp(true);
    pt[0] = (word)page_a | P | U;
    flush();
    *(volatile uint32_t *)page_a = 0;
    int vector = trap_try(access_cmpxchg, (void *)BASE);
    check("CMPXCHG that fails is a write", vector == 14 && trap.frame.error == (ERR_P | ERR_W));
    set_wp(false);
}

static void address_spaces(void)
{
    /* Another top table, with another page at the same address. */
    static volatile uint64_t other_pml4[512] __attribute__((aligned(4096)));
    static volatile uint64_t other_pdpt[512] __attribute__((aligned(4096)));
    static volatile uint64_t other_pd[512] __attribute__((aligned(4096)));
    static volatile uint64_t other_pt[512] __attribute__((aligned(4096)));
    volatile uint32_t *at = (volatile uint32_t *)BASE;
    word first = read_cr3(), second = (word)other_pml4;
    for (unsigned i = 0; i < 3; i++)
        other_pml4[i] = start_tables[i];
    other_pml4[1] = (word)other_pdpt | P | W | U;
    other_pdpt[0] = (word)other_pd | P | W | U;
    other_pd[0] = (word)other_pt | P | W | U;
    other_pt[0] = (word)page_b | P | W | U;
    pt[0] = (word)page_a | P | W | U;
    flush();
    *(volatile uint32_t *)page_a = 0xaaaa;
    *(volatile uint32_t *)page_b = 0xbbbb;

    bool right = true;
    for (unsigned i = 0; i < 10; i++) {
        right = right && *at == 0xaaaa;
        write_cr3(second);
        right = right && *at == 0xbbbb;
        write_cr3(first);
    }
    check("two address spaces", right);

    if (!(cpuid(1, 0).c >> 17 & 1)) {
        skip("PCID", "not offered");
        return;
    }
    const word keep = (word)1 << 63;
    set_flag(CR4_PCIDE, true);
    write_cr3(first | 1);
    write_cr3(second | 2);
    right = true;
    for (unsigned i = 0; i < 10; i++) {
        write_cr3(first | 1 | keep);
        right = right && *at == 0xaaaa;
        write_cr3(second | 2 | keep);
        right = right && *at == 0xbbbb;
    }
    check("two address spaces kept by PCID", right);
    check_equal("CR3 bit 63 reads as 0", read_cr3(), second | 2);
    other_pt[0] = (word)page_c | P | W | U;
    *(volatile uint32_t *)page_c = 0xcccc;
    write_cr3(second | 2);
    check_equal("a CR3 write without bit 63 flushes its PCID", *at, 0xcccc);
    if (cpuid(7, 0).b >> 10 & 1) {
        struct {
            uint64_t pcid, address;
        } descriptor = {1, BASE};
        write_cr3(first | 1 | keep);
        (void)*at;
        pt[0] = (word)page_c | P | W | U;
        __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"((word)0) : "memory");
        check_equal("INVPCID, one address", *at, 0xcccc);
        pt[0] = (word)page_a | P | W | U;
        __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"((word)1) : "memory");
        check_equal("INVPCID, one context", *at, 0xaaaa);
        pt[0] = (word)page_b | P | W | U;
        __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"((word)2) : "memory");
        check_equal("INVPCID, everything", *at, 0xbbbb);
    }
    write_cr3(first);
    set_flag(CR4_PCIDE, false);
}

void guest_main(void)
{
    has_smep = cpuid(7, 0).b >> 7 & 1;
    has_smap = cpuid(7, 0).b >> 20 & 1;
    has_nx = cpuid(0x80000001, 0).d >> 20 & 1;
    has_1g = cpuid(0x80000001, 0).d >> 26 & 1;
    if (has_nx)
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);

    page_a[0] = 0xc3;  /* ret */
    page_a[16] = 0xcd; /* int 0x80 */
    page_a[17] = 0x80;
    volatile uint64_t *pml4 = start_tables;
    pml4[2] = pml4[0];
    pml4[0] &= ~(uint64_t)U;
    pml4[1] = (word)pdpt | P | W | U;
    pdpt[0] = (word)pd | P | W | U;
    flush();
    user_alias = ALIAS;

    permissions();
    structure();
    staleness();
    restart();
    address_spaces();
}
