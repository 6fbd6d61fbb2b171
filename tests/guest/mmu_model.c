/*
 * The model: a walk of the tables as the manual says it, written for nothing but to be read; and
 * accesses that are held against it.
 *
 * After an access without a fault, all entries used have A, the last one D after a write, and
 * nothing else has changed. After a fault nothing has changed, but that A may be set in entries
 * that were used on the way (SDM vol. 3 4.8 leaves that open). `digest` has that too: it must be
 * equal for all MMUs of one VMM.
 */

#include "mmu.h"

void access_write(void *), access_fetch(void *);
void user_read(void), user_write(void), user_fetch(void);

enum { WRITTEN = 0x5a5a5a5a, WRONG_PRINTED = 3 };

struct format format;
struct space space;
uint64_t digest = 0xcbf29ce484222325ull;
static unsigned tried, wrong;

bool tcg_differs(enum tcg_gap gap)
{
    static int is_tcg = -1;
    (void)gap; /* which one it is is for the reader */
    if (is_tcg < 0)
        is_tcg = on_tcg();
    return is_tcg;
}

uint64_t entry_read(word at)
{
    return format.wide ? *(volatile uint64_t *)at : *(volatile uint32_t *)at;
}

void entry_write(word at, uint64_t value)
{
    if (format.wide)
        *(volatile uint64_t *)at = value;
    else
        *(volatile uint32_t *)at = (uint32_t)value;
}

static unsigned shift_of(unsigned level)
{
    return 12 + level * format.index_bits;
}

word entry_of(word table, unsigned level, word address)
{
    word index = address >> shift_of(level) & (((word)1 << format.index_bits) - 1);
    return table + index * (format.wide ? 8 : 4);
}

uint64_t open_entry(unsigned level, unsigned leaf)
{
    if (level > leaf)
        return space.table[level - 1] | P | W | U;
    word size = (word)1 << shift_of(level);
    return ((word)page & ~(size - 1)) | P | W | U | (level > 0 ? PS : 0);
}

void open_all(unsigned leaf)
{
    for (unsigned level = leaf; level <= format.top; level++)
        entry_write(entry_of(space.table[level], level, linear), open_entry(level, leaf));
    for (unsigned level = 0; level < format.top; level++) {
        uint64_t to = level > 0 ? space.alternate[level - 1] : (word)other;
        entry_write(entry_of(space.alternate[level], level, linear), to | P | W | U);
    }
}

static uint64_t reserved_bits(unsigned level, bool is_large)
{
    uint64_t reserved = 0;
    if (format.wide) {
        reserved = ADDRESS_ALL & ~(((uint64_t)1 << physical_width) - 1);
        if (!IS_64)
            reserved |= 0x7ff0000000000000ull; /* in PAE the ignored bits of 4-level paging */
        if (!has_nx || !(rdmsr(MSR_EFER) & EFER_NXE))
            reserved |= NX;
    }
    if (is_large && format.wide)
        reserved |= (((uint64_t)1 << shift_of(level)) - 1) & ~(uint64_t)0x1fff;
    if (is_large && !format.wide)
        reserved |=
            1u << 21 | (physical_width < 40 ? 0x1fe000u & ~((1u << (physical_width - 19)) - 1) : 0);
    if (format.ps_reserved[level])
        reserved |= PS;
    return reserved;
}

/* The rights of all levels together, as an access with these rules has them. */
static bool is_allowed(bool writable, bool user, bool no_execute, enum access access,
                       const struct rules *rules)
{
    if (access == FETCH && no_execute)
        return false;
    if (rules->user)
        return user && (access != WRITE || writable);
    if (access == FETCH)
        return !(rules->smep && user);
    if (rules->smap && user && !rules->ac)
        return false;
    return access != WRITE || writable || !rules->wp;
}

void model(struct outcome *o, word address, enum access access, const struct rules *rules)
{
    bool forbids_fetches = rules->smep || (rules->nxe && format.wide);
    bool writable = true, user = true, no_execute = false;
    word table = space.root;
    *o = (struct outcome){.error = (access == WRITE ? ERR_W : 0) | (rules->user ? ERR_U : 0) |
                                   (access == FETCH && forbids_fetches ? ERR_FETCH : 0)};
    for (unsigned level = format.top;; level--) {
        unsigned i = o->count++;
        o->entry[i] = entry_of(table, level, address);
        uint64_t value = o->before[i] = o->after[i] = entry_read(o->entry[i]);
        if (!(value & P))
            return;
        bool is_large = value & PS && format.large[level];
        if (value & reserved_bits(level, is_large)) {
            o->error |= ERR_RSVD | (tcg_differs(TCG_RSVD_WITHOUT_P) ? 0 : ERR_P);
            if (tcg_differs(TCG_RSVD_ACCESSED))
                o->touched = o->count;
            return;
        }
        o->touched = o->count;
        writable = writable && value & W;
        user = user && value & U;
        no_execute = no_execute || (format.wide && value & NX);
        if (is_large || level == 0) {
            word inside = ((word)1 << shift_of(level)) - 1;
            o->physical = ((word)(value & ADDRESS_ALL) & ~inside) | (address & inside);
            break;
        }
        table = (word)(value & ADDRESS_ALL);
    }
    if (!is_allowed(writable, user, no_execute, access, rules)) {
        o->error |= ERR_P;
        return;
    }
    o->error = NO_FAULT;
    /* A table that maps itself is used at two levels by one entry. */
    for (unsigned i = 0; i < o->count; i++) {
        uint64_t sets = A | (access == WRITE && i == o->count - 1 ? D : 0);
        for (unsigned j = 0; j < o->count; j++) {
            if (o->entry[j] == o->entry[i])
                o->after[j] |= sets;
        }
    }
}

void set_ac(bool on)
{
    word flags;
    __asm__ volatile("pushf; pop %0" : "=r"(flags));
    flags = on ? flags | FLAG_AC : flags & ~(word)FLAG_AC;
    __asm__ volatile("push %0; popf" : : "r"(flags) : "cc", "memory");
}

struct request {
    word address;
    enum access access;
    bool ac;
    uint32_t value;
};

static void supervisor_access(void *argument)
{
    struct request *request = argument;
    void *at = (void *)request->address;
    if (request->ac)
        set_ac(true);
    if (request->access == READ)
        request->value = *(volatile uint32_t *)at;
    else if (request->access == WRITE)
        access_write(at);
    else
        access_fetch(at);
    if (request->ac)
        set_ac(false);
}

static int user_access(word address, enum access access, bool ac)
{
    static void (*const calls[])(void) = {user_read, user_write, user_fetch};
    static uint8_t stack[1024] __attribute__((aligned(16)));
    struct user user = {
        .ip = (word)calls[access] + user_alias,
        .sp = (word)(stack + sizeof(stack) - 64) + user_alias,
        .flags = 2 | (ac ? FLAG_AC : 0),
        .cs = SEL_UCODE,
        .ss = SEL_UDATA,
        .arg = address,
    };
    return trap_try(user_run, &user);
}

int attempt(word address, enum access access, const struct rules *rules, uint32_t *value)
{
    int vector;
    if (rules->user) {
        vector = user_access(address, access, rules->ac);
        *value = (uint32_t)trap.frame.ax;
        if (vector == 0x80)
            return NO_FAULT;
    } else {
        struct request request = {address, access, rules->ac, 0};
        vector = trap_try(supervisor_access, &request);
        *value = request.value;
        if (vector == -1)
            return NO_FAULT;
    }
    /* CPL 3 fetches 16 bytes further on, where the page has INT 0x80. */
    word faulting = rules->user && access == FETCH ? address + 16 : address;
    return vector == 14 && trap.cr2 == faulting ? (int)trap.frame.error : -2;
}

static void mix(uint64_t value)
{
    digest = (digest ^ value) * 0x100000001b3ull;
    digest ^= digest >> 29;
}

bool agrees(const struct outcome *want, enum access access, int got, uint32_t value)
{
    if (got != want->error)
        return false;
    mix((uint64_t)(unsigned)got);
    for (unsigned i = 0; i < want->count; i++) {
        uint64_t now = entry_read(want->entry[i]);
        mix(now);
        if (got != NO_FAULT && i < want->touched)
            now = (now & ~(uint64_t)A) | (want->after[i] & A);
        if (now != want->after[i])
            return false;
    }
    if (got != NO_FAULT || access == FETCH)
        return true;
    uint32_t there = *(volatile uint32_t *)want->physical;
    return access == READ ? value == there : there == WRITTEN;
}

static void complain(const struct outcome *want, word address, int got, const char *what)
{
    if (wrong >= WRONG_PRINTED)
        return;
    print("# %s at 0x%x: got %d (vector %d cr2 0x%x), want %d; entries now, before, wanted:", what,
          address, got, trap.vector, trap.cr2, want->error);
    for (unsigned i = 0; i < want->count; i++) {
        uint64_t values[] = {entry_read(want->entry[i]), want->before[i], want->after[i]};
        for (unsigned j = 0; j < 3; j++)
            print(" %x:%x", (word)(values[j] >> 32), (word)(uint32_t)values[j]);
        print(i + 1 < want->count ? "," : "\n");
    }
}

bool hold(const struct outcome *want, word address, int got, const char *what)
{
    if (agrees(want, FETCH, got, 0))
        return count(true);
    complain(want, address, got, what);
    return count(false);
}

bool try_access(word address, enum access access, const struct rules *rules)
{
    static const char *const names[] = {"read", "write", "fetch"};
    struct outcome want;
    uint32_t value;
    model(&want, address, access, rules);
    if (want.error == NO_FAULT && access != FETCH)
        *(volatile uint32_t *)want.physical = MARK;
    int got = attempt(address, access, rules, &value);
    if (agrees(&want, access, got, value))
        return count(true);
    complain(&want, address, got, names[access]);
    return count(false);
}

void count_start(void)
{
    tried = wrong = 0;
}

bool count(bool is_right)
{
    tried++;
    wrong += !is_right;
    return is_right;
}

void count_report(const char *name)
{
    if (wrong > 0)
        fail(name, "%u of %u wrong", wrong, tried);
    else if (tried > 0)
        pass(name);
}

void flush_all(void)
{
    word cr4 = read_cr4();
    if (has_pge) {
        write_cr4(cr4 ^ CR4_PGE);
        write_cr4(cr4);
    } else {
        write_cr3(read_cr3());
    }
}

void rules_set(const struct rules *rules)
{
    word cr0 = read_cr0() & ~(word)CR0_WP, cr4 = read_cr4() & ~(word)(CR4_SMEP | CR4_SMAP);
    write_cr0(cr0 | (rules->wp ? CR0_WP : 0));
    write_cr4(cr4 | (rules->smep ? CR4_SMEP : 0) | (rules->smap ? CR4_SMAP : 0));
    if (has_nx) {
        uint64_t efer = rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE;
        wrmsr(MSR_EFER, efer | (rules->nxe ? EFER_NXE : 0));
    }
    flush_all();
}

static const char *join(const char *const *parts, unsigned count)
{
    static char text[96];
    char *to = text;
    for (unsigned i = 0; i < count; i++) {
        for (const char *from = parts[i]; *from != 0 && to < text + sizeof(text) - 1; from++)
            *to++ = *from;
    }
    *to = 0;
    return text;
}

const char *in_format(const char *name)
{
    const char *const parts[] = {format.name, ", ", name};
    return join(parts, 3);
}

const char *rules_name(const struct rules *rules)
{
    const char *const parts[] = {
        format.name,
        rules->user ? ", user" : ", supervisor",
        rules->wp ? ", WP" : "",
        rules->smep ? ", SMEP" : "",
        rules->smap ? ", SMAP" : "",
        rules->ac ? ", AC" : "",
        rules->nxe ? ", NXE" : "",
    };
    return join(parts, sizeof(parts) / sizeof(*parts));
}
