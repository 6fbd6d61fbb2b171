/*
 * Fuzzes the translator: what it makes of any code must be what the interpreter does with it.
 *
 * Input: how the guest begins (struct fuzz_input), then its code. It begins in user mode or in the
 * kernel, in a small memory that code may write, where it can reach SYSCALL, exceptions, page
 * tables and descriptors. The interpreter runs it first, and says whether its end is one that the
 * manual defines and that can be waited for (fuzz_translate_oracle.c). Then a new translator does:
 * all registers, system registers and memory must be equal.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/thunk/xstate.h"
#include "cpu/translate/translate.h"
#include "fuzz_translate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct testvm interpreted, translated;
static struct code_pool *pool;

/* Once for all inputs. */
static void setup(void)
{
    struct error err = {0};
    if (pool != NULL)
        return;
    if (code_pool_create(&pool, CODE_POOL_LEAST, 1, &err) != STATUS_OK)
        abort();
    testvm_create(&interpreted, FUZZ_RAM);
    interpreted.engine->detach(interpreted.vcpu);
    testvm_create(&translated, FUZZ_RAM);
    translated.engine->detach(translated.vcpu);
    translated.vcpu->code_pool = pool;
}

/* An engine that knows of nothing yet. */
static void begin(struct testvm *vm, const struct engine_ops *engine,
                  const struct fuzz_input *input)
{
    struct error err = {0};
    vm->engine = engine;
    if (engine->attach(vm->vcpu, &err) != STATUS_OK)
        abort();
    fuzz_guest_reset(vm, input);
}

static struct fuzz_input input_of(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {0};
    const size_t begin = offsetof(struct fuzz_input, code), most = begin + sizeof(input.code);
    size = size < most ? size : most;
    memcpy(&input, data, size);
    input.code_size = size > begin ? size - begin : 0;
    return input;
}

/* Components that are not in memory are in their initial state. */
static void normalize(struct xstate_image *x)
{
    if (!(x->xstate_bv & XSTATE_X87)) {
        x->fcw = FCW_INITIAL;
        x->fsw = x->fop = 0;
        x->ftw = 0;
        x->fip = x->fdp = 0;
        memset(x->st, 0, sizeof(x->st));
    }
    for (unsigned i = 0; i < 8; i++)
        memset(x->st[i] + 10, 0, 6);
    if (!(x->xstate_bv & XSTATE_SSE))
        memset(x->xmm, 0, sizeof(x->xmm));
    if (!(x->xstate_bv & XSTATE_AVX))
        memset(x->ymm_high, 0, sizeof(x->ymm_high));
    x->xstate_bv = 0;
}

static bool vectors_are_equal(const struct vcpu *a, const struct vcpu *b)
{
    struct xstate_image x, y;
    memcpy(&x, a->xstate, sizeof(x));
    memcpy(&y, b->xstate, sizeof(y));
    normalize(&x);
    normalize(&y);
    return memcmp(&x, &y, sizeof(x)) == 0;
}

static bool segments_are_equal(const struct segment *a, const struct segment *b)
{
    return a->base == b->base && a->limit == b->limit && a->attributes == b->attributes &&
           a->selector == b->selector;
}

/* The registers that system instructions change. NULL: equal. */
static const char *system_difference(const struct vcpu *a, const struct vcpu *b)
{
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (!segments_are_equal(&a->seg[i], &b->seg[i]))
            return "a segment";
    }
    if (!segments_are_equal(&a->ldtr, &b->ldtr) || !segments_are_equal(&a->tr, &b->tr))
        return "LDTR or TR";
    if (a->gdtr.base != b->gdtr.base || a->gdtr.limit != b->gdtr.limit ||
        a->idtr.base != b->idtr.base || a->idtr.limit != b->idtr.limit)
        return "GDTR or IDTR";
    if (a->mmu.cr0 != b->mmu.cr0 || a->cr2 != b->cr2 || a->mmu.cr3 != b->mmu.cr3 ||
        a->mmu.cr4 != b->mmu.cr4 || a->mmu.efer != b->mmu.efer || a->xcr0 != b->xcr0)
        return "a control register";
    if (memcmp(a->dr, b->dr, sizeof(a->dr)) != 0)
        return "a debug register";
    if (memcmp(&a->msr, &b->msr, sizeof(a->msr)) != 0)
        return "an MSR";
    if (a->mode != b->mode || a->cpl != b->cpl || a->privilege != b->privilege ||
        a->is_translatable != b->is_translatable)
        return "the mode";
    return NULL;
}

static const char *state_difference(const struct vcpu *a, const struct vcpu *b,
                                    const struct fuzz_end *end, enum vcpu_exit exit)
{
    if (end->exit != exit)
        return "the end";
    if (a->rip != b->rip)
        return "RIP";
    if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)) != 0)
        return "a register";
    if ((a->rflags ^ b->rflags) & ~(uint64_t)end->undefined & ~(uint64_t)FLAG_RF)
        return "flags";
    if (!vectors_are_equal(a, b))
        return "vector state";
    return system_difference(a, b);
}

/* Where an exception has pushed flags, some of which may be undefined; FUZZ_RAM: nowhere. */
static uint64_t pushed_flags(const struct vcpu *vcpu)
{
    uint64_t vector = vcpu->rip - 1 - FUZZ_STUBS;
    if (vector >= 256)
        return FUZZ_RAM;
    bool has_error_code = vector < 32 && 0x27d00 >> vector & 1;
    uint64_t at = vcpu->gpr[GPR_RSP] + (has_error_code ? 24 : 16);
    return at < FUZZ_RAM - 8 ? at : FUZZ_RAM;
}

/* Of the first byte that differs; FUZZ_RAM: none does. */
static uint64_t memory_difference(const struct fuzz_end *end)
{
    static uint8_t a[FUZZ_RAM], b[FUZZ_RAM];
    uint64_t frame = pushed_flags(interpreted.vcpu), at = 0;
    pmap_read(interpreted.map, 0, a, sizeof(a));
    pmap_read(translated.map, 0, b, sizeof(b));
    if (frame < FUZZ_RAM) {
        for (unsigned i = 0; i < 4; i++) {
            a[frame + i] &= (uint8_t) ~(end->undefined >> 8 * i);
            b[frame + i] &= (uint8_t) ~(end->undefined >> 8 * i);
        }
    }
    if (memcmp(a, b, sizeof(a)) == 0)
        return FUZZ_RAM;
    while (a[at] == b[at])
        at++;
    fprintf(stderr, "memory %#lx: interpreted %02x, translated %02x\n", at, a[at], b[at]);
    return at;
}

static void describe(const char *name, const struct vcpu *vcpu)
{
    char text[4096];
    vcpu_describe(vcpu, text, sizeof(text));
    fprintf(stderr, "%s:\n%s\n", name, text);
}

static void fail(const char *what)
{
    fprintf(stderr, "%s: not as interpreted\n", what);
    describe("interpreted", interpreted.vcpu);
    describe("translated", translated.vcpu);
    abort();
}

/* Runs it translated, and compares all with the oracle's end. */
static void check(const struct fuzz_input *input, const struct fuzz_end *end)
{
    begin(&translated,
          input->options & FUZZ_LOCKSTEP ? &translate_lockstep_engine : &translate_engine, input);
    struct translate *translate = translate_of(translated.vcpu);
    if (input->options & FUZZ_WITHOUT_RORX)
        translate->has_rorx = false;
    if (input->options & FUZZ_RELATIVE)
        translate->relative_pages = UINT64_MAX;
    enum vcpu_exit exit = translated.engine->run(translated.vcpu);
    const char *what = state_difference(interpreted.vcpu, translated.vcpu, end, exit);
    if (what != NULL)
        fail(what);
    if (memory_difference(end) != FUZZ_RAM)
        fail("memory");
    if (translate->stats.lockstep_differences != 0)
        fail("a block");
    translate->is_lockstep = false; /* no report */
    translated.engine->detach(translated.vcpu);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct fuzz_input input = input_of(data, size);
    struct fuzz_end end;
    setup();
    begin(&interpreted, &interp_engine, &input);
    fuzz_oracle_run(&interpreted, &input, &end);
    if (!end.is_unclear)
        check(&input, &end);
    interpreted.engine->detach(interpreted.vcpu);
    return 0;
}
