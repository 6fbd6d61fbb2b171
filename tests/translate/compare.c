#include "compare.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct outcome {
    struct machine_state state;
    struct machine_memory memory;
};

/* Components that are not in memory are in their initial state. The instruction and data pointers
 * of x87 are not compared: they are the thunks' own. Nor is x87 after #XM: a conversion to MMX may
 * have reset its stack before it was found to fault. */
static void normalize(struct xstate_image *x, unsigned vector)
{
    const uint64_t bv = x->xstate_bv & ~(vector == VECTOR_XM ? (uint64_t)XSTATE_X87 : 0);
    struct xstate_image out = {.fcw = 0x37f, .mxcsr = x->mxcsr};
    if (bv & XSTATE_X87) {
        out.fcw = x->fcw;
        out.fsw = x->fsw;
        out.ftw = x->ftw;
        for (unsigned i = 0; i < 8; i++)
            memcpy(out.st[i], x->st[i], 10);
    }
    if (bv & XSTATE_SSE)
        memcpy(out.xmm, x->xmm, sizeof(out.xmm));
    if (bv & XSTATE_AVX)
        memcpy(out.ymm_high, x->ymm_high, sizeof(out.ymm_high));
    *x = out;
}

static void run_native(const struct program *p, struct outcome *out)
{
    out->state = p->start;
    out->memory = p->memory;
    native_run(p->code, sizeof(p->code), &out->state, &out->memory);
    out->state.fs_base = p->start.fs_base;
    out->state.gs_base = p->start.gs_base;
}

static void run_guest(struct guest *guest, const struct program *p, struct outcome *out)
{
    out->state = p->start;
    out->memory = p->memory;
    guest_run(guest, p->code, sizeof(p->code), &out->state, &out->memory);
}

static uint64_t flags_mask(const struct program *p, const struct machine_state *host)
{
    return ~program_undefined_flags(p, host->rip);
}

/* NULL: equal. */
static const char *difference(const struct program *p, const struct outcome *host,
                              const struct outcome *guest)
{
    const struct machine_state *a = &host->state, *b = &guest->state;
    if (a->vector != b->vector)
        return "exception";
    if (a->rip != b->rip)
        return "RIP";
    if (a->error_code != b->error_code && a->vector != VECTOR_BP)
        return "error code";
    if (a->vector == VECTOR_PF && a->cr2 != b->cr2)
        return "CR2";
    if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)) != 0)
        return "registers";
    if ((a->rflags ^ b->rflags) & flags_mask(p, a))
        return "flags";
    if (a->fs_base != b->fs_base || a->gs_base != b->gs_base)
        return "segment bases";
    if (a->xstate.mxcsr != b->xstate.mxcsr)
        return "MXCSR";
    struct xstate_image x = a->xstate, y = b->xstate;
    normalize(&x, a->vector);
    normalize(&y, a->vector);
    if (memcmp(&x, &y, sizeof(x)) != 0)
        return "vector state";
    return memcmp(&host->memory, &guest->memory, sizeof(host->memory)) != 0 ? "memory" : NULL;
}

static struct outcome host_outcome, guest_outcome;

static const char *differs(const struct program *p, struct guest *guest)
{
    run_native(p, &host_outcome);
    if (host_outcome.state.vector == MACHINE_ENDLESS)
        return NULL;
    run_guest(guest, p, &guest_outcome);
    return difference(p, &host_outcome, &guest_outcome);
}

/* Takes out whatever the difference does not need. NOPs stay in its place: addresses hold. */
static void reduce(struct program *p, struct guest *guest, const char *what)
{
    bool smaller;
    do {
        smaller = false;
        for (unsigned i = p->piece_count; i-- > 0;) {
            const struct program_piece piece = p->pieces[i];
            uint8_t kept[16];
            if (piece.is_pinned || piece.length > sizeof(kept) || p->code[piece.at] == 0x90)
                continue;
            memcpy(kept, p->code + piece.at, piece.length);
            memset(p->code + piece.at, 0x90, piece.length);
            const char *now = differs(p, guest);
            if (now != NULL && strcmp(now, what) == 0)
                smaller = true;
            else
                memcpy(p->code + piece.at, kept, piece.length);
        }
    } while (smaller);
}

static void print_registers(const struct program *p)
{
    const struct machine_state *a = &host_outcome.state, *b = &guest_outcome.state;
    print_error("          %16s %16s %16s\n", "before", "host", "guest");
    for (unsigned i = 0; i < GPR_COUNT; i++)
        print_error("    gpr%-2u %16lx %16lx %16lx%s\n", i, p->start.gpr[i], a->gpr[i], b->gpr[i],
                    a->gpr[i] == b->gpr[i] ? "" : " <--");
    print_error("    flags %16lx %16lx %16lx (undefined: %lx)\n", p->start.rflags, a->rflags,
                b->rflags, ~flags_mask(p, a));
    print_error("    rip   %16lx %16lx %16lx\n", p->start.rip, a->rip, b->rip);
    print_error("    vector %15s %16u %16u\n", "", a->vector, b->vector);
    print_error("    error %16s %16x %16x\n", "", a->error_code, b->error_code);
    print_error("    cr2   %16s %16lx %16lx\n", "", a->cr2, b->cr2);
    print_error("    mxcsr %16x %16x %16x\n", p->start.xstate.mxcsr, a->xstate.mxcsr,
                b->xstate.mxcsr);
    print_error("    fs %lx, %lx; gs %lx, %lx\n", a->fs_base, b->fs_base, a->gs_base, b->gs_base);
}

static void print_xstate(void)
{
    struct xstate_image a = host_outcome.state.xstate, b = guest_outcome.state.xstate;
    normalize(&a, host_outcome.state.vector);
    normalize(&b, host_outcome.state.vector);
    for (unsigned i = 0; i < 16; i++) {
        const uint8_t *parts[4] = {a.ymm_high[i], a.xmm[i], b.ymm_high[i], b.xmm[i]};
        if (memcmp(parts[0], parts[2], 16) == 0 && memcmp(parts[1], parts[3], 16) == 0)
            continue;
        for (unsigned part = 0; part < 4; part++) {
            if (part % 2 == 0)
                print_error("    ymm%-2u %s ", i, part == 0 ? "host " : "guest");
            for (unsigned byte = 16; byte-- > 0;)
                print_error("%02x", parts[part][byte]);
            print_error(part % 2 == 0 ? "_" : "\n");
        }
    }
    if (memcmp(a.st, b.st, sizeof(a.st)) != 0 || a.fsw != b.fsw || a.ftw != b.ftw)
        print_error("    x87 and MMX: fsw %x, %x; ftw %x, %x\n", a.fsw, b.fsw, a.ftw, b.ftw);
}

static void print_memory(void)
{
    const uint8_t *a = (const uint8_t *)&host_outcome.memory;
    const uint8_t *b = (const uint8_t *)&guest_outcome.memory;
    unsigned shown = 0;
    for (unsigned i = 0; i < sizeof(host_outcome.memory) && shown < 32; i++) {
        if (a[i] != b[i]) {
            unsigned where = i < 0x5000   ? ARENA_DATA + i
                             : i < 0x6000 ? ARENA_STACK + i - 0x5000
                                          : ARENA_CONTROL + i - 0x6000;
            print_error("    memory %x: %02x, %02x\n", where, a[i], b[i]);
            shown++;
        }
    }
}

static void report(struct program *p, uint64_t seed, struct guest *guest, const char *what)
{
    print_error("program %#lx: %s: %s differs from the host (#%u, #%u)\n", seed, guest->name, what,
                host_outcome.state.vector, guest_outcome.state.vector);
    if (getenv("AEROSTAT_TEST_WHOLE") == NULL)
        reduce(p, guest, what);
    what = differs(p, guest);
    print_error("made smaller (%s):\n", what != NULL ? what : "no difference any more");
    program_print(p);
    print_registers(p);
    print_xstate();
    print_memory();
}

/* Some hosts under a hypervisor lose a segment base when they switch contexts, very seldom. Then a
 * second run ends otherwise than the first, and counts. */
static bool host_was_unsteady(const struct program *p)
{
    static struct outcome before;
    before = host_outcome;
    run_native(p, &host_outcome);
    return difference(p, &before, &host_outcome) != NULL;
}

bool compare_seed(struct comparison *c, uint64_t seed)
{
    static struct program program;
    program_make(&program, seed, &c->guests[0]->vm.features, native_has_fsgsbase());
    run_native(&program, &host_outcome);
    c->programs++;
    if (host_outcome.state.vector == MACHINE_ENDLESS) {
        c->endless++;
        return true;
    }
    c->vectors[host_outcome.state.vector % 32]++;
    for (unsigned i = 0; i < c->guest_count; i++) {
        run_guest(c->guests[i], &program, &guest_outcome);
        const char *what = difference(&program, &host_outcome, &guest_outcome);
        if (what != NULL && host_was_unsteady(&program)) {
            c->unsteady++;
            what = difference(&program, &host_outcome, &guest_outcome);
        }
        if (what != NULL) {
            report(&program, seed, c->guests[i], what);
            return false;
        }
    }
    return true;
}
