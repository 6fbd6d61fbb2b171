/*
 * Page tables in 32-bit modes: 32-bit paging with 4 KiB and 4 MiB pages, and PAE with NX, each with
 * every combination of permission bits at two levels, against a model of the rules.
 *
 * The kernel's own pages are for the supervisor alone; CPL 3 sees the image through an alias.
 */

#include "guest.h"

void access_read(void *), access_write(void *), access_fetch(void *);
void user_read(void), user_write(void), user_fetch(void);

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };
enum { ERR_P = 1, ERR_W = 2, ERR_U = 4, ERR_RSVD = 8, ERR_FETCH = 16 };
#define NX    ((uint64_t)1 << 63)
#define BASE  0x40000000u /* under test */
#define ALIAS 0x80000000u /* of the first GiB, for CPL 3 */

static volatile uint32_t legacy[1024] __attribute__((aligned(4096)));
static volatile uint32_t legacy_table[1024] __attribute__((aligned(4096)));
static volatile uint64_t pae[4] __attribute__((aligned(4096)));
static volatile uint64_t pae_low[512] __attribute__((aligned(4096)));
static volatile uint64_t pae_alias[512] __attribute__((aligned(4096)));
static volatile uint64_t pae_test[512] __attribute__((aligned(4096)));
static volatile uint64_t pae_table[512] __attribute__((aligned(4096)));
static volatile uint8_t page[4096] __attribute__((aligned(4096)));

static bool is_pae, has_nx;

enum access { READ, WRITE, FETCH };

struct rules {
    bool user, wp, smep;
};

static int model(uint64_t directory, uint64_t entry, enum access access, const struct rules *rules)
{
    int error = (access == WRITE ? ERR_W : 0) | (rules->user ? ERR_U : 0) |
                (access == FETCH && ((has_nx && is_pae) || rules->smep) ? ERR_FETCH : 0);
    if (!(entry & P))
        return error;
    error |= ERR_P;
    bool writable = (directory & entry & W) != 0, user = (directory & entry & U) != 0;
    if (access == FETCH && ((directory | entry) & NX) != 0)
        return error;
    if (rules->user)
        return !user || (access == WRITE && !writable) ? error : -1;
    if (access == FETCH)
        return rules->smep && user ? error : -1;
    return access == WRITE && !writable && rules->wp ? error : -1;
}

static int attempt(bool user, enum access access, word address)
{
    static void (*const calls[])(void *) = {access_read, access_write, access_fetch};
    static void (*const user_calls[])(void) = {user_read, user_write, user_fetch};
    int vector =
        user ? user_try(user_calls[access], address) : trap_try(calls[access], (void *)address);
    if (vector == (user ? 0x80 : -1))
        return -1;
    if (vector != 14 || (trap.cr2 & ~(word)31) != address)
        return -2;
    return (int)trap.frame.error;
}

static void set_entries(uint64_t directory, uint64_t entry)
{
    if (is_pae) {
        pae_test[0] = directory | (word)pae_table;
        pae_table[0] = entry | (word)page;
    } else {
        legacy[BASE >> 22] = (uint32_t)directory | (word)legacy_table;
        legacy_table[0] = (uint32_t)entry | (word)page;
    }
}

static void matrix(const struct rules *rules, const char *name)
{
    unsigned wrong = 0, count = 0;
    word cr0 = read_cr0(), cr4 = read_cr4();
    write_cr0(rules->wp ? cr0 | CR0_WP : cr0 & ~(word)CR0_WP);
    write_cr4(rules->smep ? cr4 | CR4_SMEP : cr4 & ~(word)CR4_SMEP);
    bool nx = is_pae && has_nx;
    for (unsigned i = 0; i < (nx ? 128u : 32u); i++) {
        uint64_t entry = (i & 7) | (i & 64 ? NX : 0);
        uint64_t directory = P | (i & 8 ? W : 0) | (i & 16 ? U : 0) | (i & 32 ? NX : 0);
        for (enum access access = READ; access <= FETCH; access++) {
            set_entries(directory, entry);
            invlpg(BASE);
            int got = attempt(rules->user, access, access == WRITE ? BASE + 64 : BASE);
            int want = model(directory, entry, access, rules);
            uint64_t after = is_pae ? pae_table[0] : legacy_table[0];
            bool bits = want == -1 ? (after & A) != 0 && ((after & D) != 0) == (access == WRITE)
                                   : !(after & D);
            count++;
            if ((got != want || !bits) && wrong++ < 3)
                print("# case %u access %u: got %d, want %d\n", i, (unsigned)access, got, want);
        }
    }
    write_cr4(cr4);
    write_cr0(cr0);
    if (wrong == 0)
        pass(name);
    else
        fail(name, "%u of %u wrong", wrong, count);
}

static void all_rules(const char *const names[5])
{
    matrix(&(struct rules){.wp = false}, names[0]);
    matrix(&(struct rules){.wp = true}, names[1]);
    matrix(&(struct rules){.user = true}, names[2]);
    if (cpuid(7, 0).b >> 7 & 1) {
        matrix(&(struct rules){.wp = true, .smep = true}, names[3]);
        matrix(&(struct rules){.user = true, .smep = true}, names[4]);
    }
}

static void legacy_paging(void)
{
    for (unsigned i = 0; i < 256; i++) {
        legacy[i] = i << 22 | PS | W | P;
        legacy[(ALIAS >> 22) + i] = i << 22 | PS | U | W | P;
    }
    write_cr4((read_cr4() | CR4_PSE) & ~(word)CR4_PAE);
    write_cr3((word)legacy);
    write_cr0(read_cr0() | CR0_PG);
    all_rules((const char *const[]){"32-bit paging: supervisor", "32-bit paging: supervisor, WP",
                                    "32-bit paging: user", "32-bit paging: supervisor, SMEP",
                                    "32-bit paging: user, SMEP"});

    word inside = BASE + ((word)page & 0x3fffff) + 100;
    legacy[BASE >> 22] = ((word)page & ~(word)0x3fffff) | PS | W | P;
    invlpg(BASE);
    page[100] = 0x42;
    check_equal("4 MiB page: read", *(volatile uint8_t *)inside, 0x42);
    check_equal("4 MiB page: accessed", legacy[BASE >> 22] & (A | D), A);
    *(volatile uint8_t *)inside = 0x43;
    check("4 MiB page: dirty", page[100] == 0x43 && (legacy[BASE >> 22] & D) != 0);
    legacy[BASE >> 22] = 0;
    invlpg(BASE);
    check_equal("nothing at level 2", attempt(false, READ, BASE), 0);
    write_cr0(read_cr0() & ~CR0_PG);
}

static void pae_paging(void)
{
    is_pae = true;
    for (unsigned i = 0; i < 512; i++) {
        pae_low[i] = (uint64_t)i << 21 | PS | W | P;
        pae_alias[i] = (uint64_t)i << 21 | PS | U | W | P;
    }
    pae[0] = (word)pae_low | P;
    pae[1] = (word)pae_test | P;
    pae[2] = (word)pae_alias | P;
    if (has_nx)
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    write_cr4(read_cr4() | CR4_PAE);
    write_cr3((word)pae);
    write_cr0(read_cr0() | CR0_PG);
    all_rules((const char *const[]){"PAE: supervisor", "PAE: supervisor, WP", "PAE: user",
                                    "PAE: supervisor, SMEP", "PAE: user, SMEP"});

    pae_test[0] = ((word)page & ~(word)0x1fffff) | PS | W | P;
    invlpg(BASE);
    word inside = BASE + ((word)page & 0x1fffff) + 100;
    page[100] = 0x44;
    check_equal("PAE, 2 MiB page", *(volatile uint8_t *)inside, 0x44);
    /* The four top entries are read when CR3 is written, and not again. */
    pae[1] = 0;
    write_cr3((word)pae);
    check_equal("PAE: nothing at level 3", attempt(false, READ, BASE), 0);
    pae[1] = (word)pae_test | P;
    write_cr3((word)pae);
    check_equal("PAE: something again", attempt(false, READ, inside & ~(word)31), -1);
    write_cr0(read_cr0() & ~CR0_PG);
}

void guest_main(void)
{
    has_nx = cpuid(0x80000001, 0).d >> 20 & 1;
    page[0] = 0xc3;  /* ret */
    page[16] = 0xcd; /* int 0x80 */
    page[17] = 0x80;
    user_alias = ALIAS;
    legacy_paging();
    pae_paging();
}
