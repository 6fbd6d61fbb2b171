/*
 * Vector and BMI instructions, all encodings, on both engines.
 *
 * Instructions are made of random bytes behind random legacy and VEX prefixes; those that decode to
 * something that runs in generated code are kept, with their memory operand at an address of ours:
 * so every form there is comes up, with every addressing form. Between them stands what might
 * disturb vector registers in the CPU: handlers, changes of MXCSR, of CR0.TS, CR4 and XCR0, faults,
 * accesses over page borders, legacy SSE after AVX. All state must be that of the interpreter.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/thunk/thunk_internal.h"
#include "cpu/translate/context.h"
#include "encode.h"
#include "listing.h"
#include "testvm.h"

#define SEED      0x5eca11u
#define PROGRAMS  3000u
#define RAM_SIZE  ((uint64_t)8 << 20)
#define CODE      0x100000u
#define CODE_MAX  0x2000u
#define COUNTER   0x200000u
#define SCRATCH   0x200010u
#define DATA      0x300000u
#define DATA_SIZE 0x4000u

struct program {
    uint8_t bytes[CODE_MAX];
    size_t length;
    struct random *random;
    struct vcpu *vcpu; /* that decodes */
};

static void put(struct program *p, const void *bytes, size_t length)
{
    memcpy(p->bytes + p->length, bytes, length);
    p->length += length;
}

static void put_u8(struct program *p, unsigned byte)
{
    p->bytes[p->length++] = (uint8_t)byte;
}

static void put_u32(struct program *p, uint32_t value)
{
    put(p, &value, 4);
}

static void put_constant(struct program *p, unsigned reg, uint64_t value)
{
    put_u8(p, 0x48 | (reg & 8) >> 3);
    put_u8(p, 0xb8 | (reg & 7));
    put(p, &value, 8);
}

/* mov dword [address], value: no flags. */
static void put_store(struct program *p, uint32_t address, uint32_t value)
{
    put(p, "\xc7\x04\x25", 3);
    put_u32(p, address);
    put_u32(p, value);
}

static unsigned below(struct program *p, unsigned limit)
{
    return (unsigned)random_below(p->random, limit);
}

/* Random bytes that may be an instruction of ours. Returns how many are worth decoding. */
static unsigned make_bytes(struct program *p, uint8_t *bytes)
{
    unsigned n = 0;
    bool vex = below(p, 2) != 0;
    unsigned map = 1 + below(p, 3);
    if (vex) {
        bytes[n++] = 0xc4;
        bytes[n++] = (uint8_t)((random_next(p->random) & 0xe0) | map);
        bytes[n++] = (uint8_t)random_next(p->random);
    } else {
        static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3};
        unsigned prefix = below(p, 4);
        if (prefix < 3)
            bytes[n++] = prefixes[prefix];
        if (below(p, 2))
            bytes[n++] = (uint8_t)(0x40 | (random_next(p->random) & 15));
        bytes[n++] = 0x0f;
        if (map > 1)
            bytes[n++] = map == 2 ? 0x38 : 0x3a;
    }
    uint64_t random = random_next(p->random), more = random_next(p->random);
    memcpy(bytes + n, &random, 8);
    memcpy(bytes + n + 8, &more, 8);
    return n + 11 > 15 ? 15 : n + 11;
}

/* Registers that give the memory operand an address in DATA. False: it cannot be done. */
static bool put_address(struct program *p, const struct insn *insn)
{
    uint64_t address = DATA + 0x800 + below(p, DATA_SIZE - 0x1000);
    if (below(p, 4) != 0)
        address &= ~31ull;
    if (below(p, 64) == 0)
        address = (uint64_t)1 << 30; /* not mapped */
    address -= (uint64_t)insn->displacement;
    if (insn->base >= GPR_COUNT || insn->seg >= SEG_FS || insn->base == insn->index)
        return false;
    if (insn->index < GPR_COUNT) {
        uint64_t index = below(p, 0x4000);
        put_constant(p, insn->index, index);
        address -= index << insn->scale;
    }
    if (insn->address_size == 4)
        address = (uint32_t)address | (uint64_t)below(p, 2) << 32;
    put_constant(p, insn->base, address);
    return true;
}

static void put_vector(struct program *p)
{
    for (;;) {
        uint8_t bytes[24];
        struct insn insn;
        bool ends;
        size_t before = p->length;
        unsigned available = make_bytes(p, bytes);
        if (insn_decode(p->vcpu, bytes, available, &insn, &ends) != INSN_DECODED || ends ||
            !vector_is_inline(&insn))
            continue;
        if (insn.exec == thunk_exec ? ((const struct thunk *)insn.extra)->memory_size != 0
                                    : vector_need(&insn) == FLAGS_SAVED) {
            if (!put_address(p, &insn)) {
                p->length = before;
                continue;
            }
        }
        put(p, bytes, insn.length);
        /* What BMI leaves undefined may differ. */
        if (insn.exec == thunk_exec &&
            ((const struct thunk *)insn.extra)->unit == THUNK_UNIT_VEX_GPR)
            put(p, "\x48\x85\xc0", 3); /* test rax, rax */
        return;
    }
}

static void put_mxcsr(struct program *p)
{
    uint32_t value = (uint32_t)random_next(p->random) & 0xffff;
    put_store(p, SCRATCH, below(p, 4) ? value | 0x1f80 : value);
    put(p, "\x0f\xae\x14\x25", 4); /* ldmxcsr [SCRATCH] */
    put_u32(p, SCRATCH);
}

/* What vector instructions must not be run under, for a while or for good. */
static void put_unavailable(struct program *p)
{
    bool again = below(p, 4) != 0;
    switch (below(p, 3)) {
    case 0:
        put(p, "\x0f\x20\xc0\x83\xc8\x08\x0f\x22\xc0", 9); /* mov rax, cr0; or eax, 8; and back */
        if (again)
            put(p, "\x0f\x06", 2); /* clts */
        break;
    case 1:
        put(p, "\x0f\x20\xe0\x25", 4); /* mov rax, cr4; and eax, ~OSFXSR; mov cr4, rax */
        put_u32(p, ~(uint32_t)CR4_OSFXSR);
        put(p, "\x0f\x22\xe0", 3);
        if (again) {
            put(p, "\x0d", 1);
            put_u32(p, CR4_OSFXSR);
            put(p, "\x0f\x22\xe0", 3);
        }
        break;
    default:
        /* xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv */
        if (!features_has(p->vcpu->features, FEATURE_AVX))
            break;
        put(p, "\x31\xc9\x31\xd2\xb8\x03\x00\x00\x00\x0f\x01\xd1", 12);
        if (again)
            put(p, "\xb8\x07\x00\x00\x00\x0f\x01\xd1", 8);
        break;
    }
}

/* Instructions that need the state in memory. */
static void put_handler(struct program *p)
{
    static const struct {
        uint8_t length;
        char bytes[10];
    } handlers[] = {
        {2, "\xd9\xe8"},                         /* fld1 */
        {3, "\x0f\xef\xc0"},                     /* pxor mm0, mm0 */
        {2, "\x0f\x77"},                         /* emms */
        {4, "\xf3\x0f\xd6\xc2"},                 /* movq2dq xmm0, mm2 */
        {8, "\x0f\xae\x1c\x25\x10\x00\x20\x00"}, /* stmxcsr [SCRATCH] */
        {9, "\x48\x0f\xae\x04\x25\x00\x00\x21"}, /* fxsave64 [0x210000] */
        {9, "\x48\x0f\xae\x0c\x25\x00\x00\x21"}, /* fxrstor64 [0x210000] */
    };
    unsigned n = below(p, ARRAY_LENGTH(handlers));
    put(p, handlers[n].bytes, handlers[n].length);
}

/* A conditional jump over one instruction. */
static void put_skip(struct program *p)
{
    put_u8(p, 0x0f);
    put_u8(p, 0x80 | below(p, 16));
    size_t at = p->length;
    put_u32(p, 0);
    put_vector(p);
    uint32_t displacement = (uint32_t)(p->length - (at + 4));
    memcpy(p->bytes + at, &displacement, 4);
}

static void make_program(struct program *p)
{
    p->length = 0;
    /* The image that FXRSTOR finds is one of FXSAVE. */
    put(p, "\x48\x0f\xae\x04\x25\x00\x00\x21\x00", 9);
    size_t start = p->length;
    unsigned count = 2 + below(p, 40);
    bool is_calm = below(p, 2);
    for (unsigned i = 0; i < count && p->length < CODE_MAX - 0x100; i++) {
        unsigned kind = below(p, 64);
        if (kind == 0 && !is_calm)
            put_unavailable(p);
        else if (kind <= 2 && !is_calm)
            put_mxcsr(p);
        else if (kind <= 6)
            put_handler(p);
        else if (kind <= 12)
            put_skip(p);
        else if (kind <= 14 && features_has(p->vcpu->features, FEATURE_AVX))
            put(p, "\xc5\xf8\x77", 3); /* vzeroupper */
        else if (kind <= 20)
            put(p, "\x48\x01\xc3", 3); /* add rbx, rax */
        else
            put_vector(p);
    }
    put(p, "\xff\x0c\x25", 3); /* dec dword [COUNTER] */
    put_u32(p, COUNTER);
    put(p, "\x0f\x85", 2); /* jnz */
    put_u32(p, (uint32_t)(start - (p->length + 4)));
    put_u8(p, 0xf4);
}

/* ---- Loops over arrays: what loop.c makes a second copy of, and what it must not ---- */

#define HOLE     0x600000u /* 2 MiB that are not mapped, */
#define ARRAY    (HOLE - 0x4000u)
#define PD_ENTRY (0x3000u + 8 * (HOLE >> 21))

/* ModRM and what follows: [rsi + d], [rdi + rdx * s + d], [rbp + rsi + d], or [rbx + d]. */
static void put_operand(struct program *p, unsigned reg)
{
    static const int32_t displacements[] = {0, 16, 32, -16, 0x40, 0x1000, -0x1010, 8, 1};
    int32_t d = displacements[below(p, ARRAY_LENGTH(displacements))];
    if (below(p, 4) == 0)
        d = 0;
    switch (below(p, 5)) {
    case 0:
        put_u8(p, 0x84 | (reg & 7) << 3);
        put_u8(p, below(p, 4) << 6 | 2 << 3 | 7);
        break;
    case 1:
        put_u8(p, 0x84 | (reg & 7) << 3);
        put_u8(p, 6 << 3 | 5);
        break;
    case 2:
        put_u8(p, 0x83 | (reg & 7) << 3);
        break;
    default:
        put_u8(p, 0x86 | (reg & 7) << 3);
        break;
    }
    put_u32(p, (uint32_t)d);
}

static void put_loop_insn(struct program *p)
{
    static const struct {
        uint8_t length;
        char bytes[4];
    } loop_forms[] = {
        {1, "\x8b"},         {2, "\x48\x8b"},     {2, "\x48\x03"},     {2, "\x48\x89"},
        {1, "\x88"},         {1, "\x01"},         {2, "\x48\x31"},     {2, "\x48\x3b"},
        {2, "\x0f\xb6"},     {2, "\x4c\x8b"},     {2, "\x4c\x29"},     {2, "\x0f\x10"},
        {2, "\x0f\x11"},     {2, "\x0f\x28"},     {2, "\x0f\x29"},     {2, "\x0f\x58"},
        {3, "\x66\x0f\xfe"}, {3, "\xf3\x0f\x10"}, {3, "\xf2\x0f\x58"}, {3, "\xf3\x0f\x6f"},
        {2, "\x13"},         {2, "\x0f\x44"},     {3, "\xc5\xfe\x6f"}, {3, "\xc5\xfe\x7f"},
        {3, "\xc5\xf4\x58"}};
    unsigned count = ARRAY_LENGTH(loop_forms);
    if (!features_has(p->vcpu->features, FEATURE_AVX))
        count -= 3;
    unsigned n = below(p, count);
    if (loop_forms[n].bytes[0] == 0x13) /* adc */
        put(p, "\x48\x13", 2);
    else
        put(p, loop_forms[n].bytes, loop_forms[n].length);
    put_operand(p, below(p, 4) ? below(p, 2) : below(p, 8) & 1); /* rax, rcx; R8, R9; XMM0, 1 */
}

/* Between registers that are none of the loop's own; some of them live in memory on the host. */
static void put_register_insn(struct program *p)
{
    static const uint8_t registers[] = {GPR_RAX, GPR_RCX, GPR_R8, GPR_R9,
                                        GPR_R10, GPR_R11, GPR_R15};
    static const uint8_t opcodes[] = {0x89, 0x89, 0x01, 0x31}; /* mov, add, xor */
    unsigned reg = registers[below(p, ARRAY_LENGTH(registers))];
    unsigned rm = registers[below(p, ARRAY_LENGTH(registers))];
    put_u8(p, 0x40 | below(p, 2) << 3 | (reg >> 3) << 2 | rm >> 3);
    put_u8(p, opcodes[below(p, ARRAY_LENGTH(opcodes))]);
    put_u8(p, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* rsi and rdx advance, the others do not. */
static void put_advance(struct program *p, int step, unsigned kind)
{
    switch (kind) {
    case 0:
        put(p, "\x48\x81\xc6", 3); /* add rsi, imm */
        put_u32(p, (uint32_t)step);
        break;
    case 1:
        put(p, "\x48\x8d\xb6", 3); /* lea rsi, [rsi + imm] */
        put_u32(p, (uint32_t)step);
        break;
    default:
        put(p, "\x48\x81\xee", 3); /* sub rsi, -imm */
        put_u32(p, (uint32_t)-step);
        break;
    }
}

static void make_loop(struct program *p)
{
    static const int steps[] = {1, 4, 8, 16, 16, 16, 32, 64, -1, -8, -16, -32, 24, 0, 256};
    int step = steps[below(p, ARRAY_LENGTH(steps))];
    unsigned rounds = 1 + below(p, 600), insns = 1 + below(p, 6);
    bool aligned = below(p, 4) != 0;
    p->length = 0;
    uint64_t array = ARRAY + below(p, 0x3000);
    if (step >= 0 && below(p, 16) == 0)
        array = CODE + 0x800; /* stores there take their slow path */
    put_constant(p, 6, aligned ? array & ~31ull : array);
    put_constant(p, 7, DATA + (aligned ? 0x1100 : 0x1100 + below(p, 0x1000)));
    put_constant(p, 2, below(p, 16) * 16);
    put_constant(p, 5, below(p, 4) * 16);
    put_constant(p, 3, DATA + 0x2000 + below(p, 64) * 16);
    put_constant(p, 12, rounds);
    size_t start = p->length;
    unsigned advance = below(p, insns + 1), kind = below(p, 3);
    for (unsigned i = 0; i <= insns; i++) {
        if (i == advance)
            put_advance(p, step, kind);
        if (i < insns)
            put_loop_insn(p);
        while (below(p, 3) == 0)
            put_register_insn(p);
        if (below(p, 12) == 0) { /* a loop of several blocks */
            put_u8(p, 0x70 | below(p, 16));
            put_u8(p, 0);
            size_t at = p->length;
            put_loop_insn(p);
            p->bytes[at - 1] = (uint8_t)(p->length - at);
        }
        if (below(p, 8) == 0)
            put(p, "\x48\xff\xc2", 3); /* inc rdx */
        if (below(p, 16) == 0)
            put(p, "\x48\x83\xd0\x00", 4); /* adc rax, 0 */
    }
    if (below(p, 8) == 0)
        put(p, "\x49\xff\xcc", 3); /* dec r12 */
    else
        put(p, "\x49\x83\xec\x01", 4); /* sub r12, 1 */
    if (below(p, 4) == 0)
        put(p, "\x0f\x28\xd8", 3); /* movaps xmm3, xmm0 */
    put(p, "\x0f\x85", 2);
    put_u32(p, (uint32_t)(start - (p->length + 4)));
    put(p, "\x48\x0f\x92\xc0", 4); /* setc al */
    put_u8(p, 0xf4);
}

struct inputs {
    uint64_t gpr[GPR_COUNT], rflags;
    uint32_t rounds;
    uint8_t data[DATA_SIZE], vectors[512];
};

static void make_inputs(struct random *random, struct inputs *in)
{
    for (unsigned g = 0; g < GPR_COUNT; g++)
        in->gpr[g] = random_value(random);
    in->rflags = FLAG_FIXED | (random_next(random) & FLAGS_STATUS);
    in->rounds = 1 + (uint32_t)random_below(random, 4);
    for (unsigned at = 0; at < sizeof(in->data); at++)
        in->data[at] = (uint8_t)random_next(random);
    for (unsigned at = 0; at < sizeof(in->vectors); at++)
        in->vectors[at] = (uint8_t)random_next(random);
    if (random_below(random, 2)) /* upper halves in their initial state */
        memset(in->vectors + 256, 0, 256);
}

static void load(struct testvm *vm, const struct program *p, const struct inputs *in)
{
    testvm_put(vm, CODE, in->data, sizeof(in->data));
    testvm_put(vm, CODE, p->bytes, p->length);
    testvm_put(vm, COUNTER, &in->rounds, sizeof(in->rounds));
    testvm_put(vm, DATA, in->data, sizeof(in->data));
    testvm_put(vm, ARRAY, in->data, sizeof(in->data));
    testvm_set_mode(vm, MODE_LONG, 8);
    static const uint8_t none[8];
    testvm_put(vm, PD_ENTRY, none, sizeof(none));
    mmu_flush(&vm->vcpu->mmu, false);
    memcpy(vm->vcpu->gpr, in->gpr, sizeof(in->gpr));
    vm->vcpu->rflags = in->rflags;
    struct xstate_image *image = xstate_of(vm->vcpu);
    memcpy(image->xmm, in->vectors, 256);
    memset(image->ymm_high, 0, 256);
    image->xstate_bv |= XSTATE_SSE;
    if (features_has(&vm->features, FEATURE_AVX) &&
        memcmp(in->vectors + 256, image->ymm_high, 256) != 0) {
        memcpy(image->ymm_high, in->vectors + 256, 256);
        image->xstate_bv |= XSTATE_AVX;
    }
}

/* XSTATE_BV may call in use what is in its initial state, and engines may differ there. */
static bool vectors_are_equal(const struct vcpu *a, const struct vcpu *b)
{
    static const uint8_t zero[256];
    struct xstate_image left, right;
    memcpy(&left, a->xstate, XSTATE_SIZE);
    memcpy(&right, b->xstate, XSTATE_SIZE);
    const uint64_t in_use = right.xstate_bv;
    left.xstate_bv = right.xstate_bv = 0;
    return memcmp(&left, &right, XSTATE_SIZE) == 0 &&
           (in_use & XSTATE_SSE || memcmp(right.xmm, zero, 256) == 0) &&
           (in_use & XSTATE_AVX || memcmp(right.ymm_high, zero, 256) == 0);
}

static bool is_equal(struct testvm *a, struct testvm *b)
{
    static uint8_t left[DATA_SIZE], right[DATA_SIZE];
    const struct vcpu *want = a->vcpu, *got = b->vcpu;
    bool equal = true;
    if (memcmp(want->gpr, got->gpr, sizeof(want->gpr)) != 0) {
        print_error("general registers differ\n");
        equal = false;
    }
    if (want->rflags != got->rflags || want->rip != got->rip || want->cr2 != got->cr2) {
        print_error("rflags %#lx, translated %#lx; rip %#lx, %#lx; cr2 %#lx, %#lx\n", want->rflags,
                    got->rflags, want->rip, got->rip, want->cr2, got->cr2);
        equal = false;
    }
    if (!vectors_are_equal(want, got)) {
        print_error("vector state differs\n");
        equal = false;
    }
    static const uint32_t areas[] = {DATA, ARRAY, CODE};
    for (unsigned i = 0; i < ARRAY_LENGTH(areas); i++) {
        assert_int_equal(pmap_read(a->map, areas[i], left, DATA_SIZE), STATUS_OK);
        assert_int_equal(pmap_read(b->map, areas[i], right, DATA_SIZE), STATUS_OK);
        if (memcmp(left, right, DATA_SIZE) != 0) {
            print_error("memory at %#x differs\n", areas[i]);
            equal = false;
        }
    }
    return equal;
}

typedef void make_fn(struct program *p);

static void run_programs(const struct engine_ops *engine, make_fn *make, uint64_t start)
{
    static struct program program;
    static struct inputs inputs;
    struct random random = {start};
    struct testvm interpreted, translated;
    const char *seed = getenv("AEROSTAT_TEST_SEED"), *count = getenv("AEROSTAT_TEST_COUNT");
    unsigned programs = count != NULL ? (unsigned)strtoul(count, NULL, 0) : PROGRAMS;
    unsigned halted = 0;

    if (seed != NULL)
        random.state = strtoull(seed, NULL, 0) | 1;
    print_message("seed %#lx\n", random.state);
    testvm_create(&interpreted, RAM_SIZE);
    testvm_create(&translated, RAM_SIZE);
    testvm_use_engine(&translated, engine);
    program.random = &random;
    program.vcpu = interpreted.vcpu;
    for (unsigned i = 0; i < programs; i++) {
        testvm_set_mode(&interpreted, MODE_LONG, 8);
        make(&program);
        make_inputs(&random, &inputs);
        load(&interpreted, &program, &inputs);
        load(&translated, &program, &inputs);
        translate_of(translated.vcpu)->relative_pages = i % 2 ? UINT64_MAX : 0;
        enum vcpu_exit expected = testvm_run(&interpreted, CODE);
        enum vcpu_exit got = testvm_run(&translated, CODE);
        halted += expected == VCPU_EXIT_HALTED;
        if (!is_equal(&interpreted, &translated) || expected != got) {
            print_error("program %u, %u rounds, ends %d, translated %d\n", i, inputs.rounds,
                        expected, got);
            listing_print(program.bytes, program.length, CODE);
            fail();
        }
    }
    print_message("%u programs, %u without an exception\n", programs, halted);
    assert_true(halted > programs / 8);
    assert_int_equal(translate_of(translated.vcpu)->stats.lockstep_differences, 0);
    program.random = NULL;
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

static void test_all_forms(void **state)
{
    run_programs(&translate_engine, make_program, SEED);
}

static void test_all_forms_in_lockstep(void **state)
{
    run_programs(&translate_lockstep_engine, make_program, SEED + 2);
}

static void test_loops(void **state)
{
    run_programs(&translate_engine, make_loop, SEED + 4);
}

/* A loop of vector instructions runs without leaving generated code: nothing of it is a handler,
 * and its back edge goes past the look at what is in the CPU. */
static void test_loop_stays(void **state)
{
    static const uint8_t code[] = "\xb9\x00\x00\x10\x00"                 /* mov ecx, 0x100000 */
                                  "\x0f\x58\xc1"                         /* 1: addps xmm0, xmm1 */
                                  "\x66\x0f\x6f\x14\x25\x00\x00\x30\x00" /* movdqa xmm2, [DATA] */
                                  "\xff\xc9"                             /* dec ecx */
                                  "\x75\xee"                             /* jnz 1b */
                                  "\xf4";
    struct testvm vm;
    testvm_create(&vm, RAM_SIZE);
    testvm_use_engine(&vm, &translate_engine);
    testvm_put(&vm, CODE, code, sizeof(code) - 1);
    testvm_set_mode(&vm, MODE_LONG, 8);
    assert_int_equal(testvm_run(&vm, CODE), VCPU_EXIT_HALTED);
    const struct translate *translate = translate_of(vm.vcpu);
    assert_in_range(translate->stats.dispatches, 1, 20);
    testvm_destroy(&vm);
}

/* At the end of each page the second copy of a loop comes back into the middle of the first, where
 * other scratch registers have copies of R9 and R10 and nothing has been probed. Each of these
 * loops adds to R8; counts are tried around a page's, so that some end right behind that place. */

#define LOOP_ROUNDS 4u

static void create_loop(struct testvm *vm, const uint8_t *code, size_t length)
{
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, &translate_engine);
    testvm_put(vm, CODE, code, length);
}

static uint64_t run_loop(struct testvm *vm, unsigned count)
{
    testvm_set_mode(vm, MODE_LONG, 8);
    vm->vcpu->gpr[GPR_R14] = ARRAY;
    vm->vcpu->gpr[GPR_R13] = count;
    vm->vcpu->gpr[GPR_RBX] = 0x40000000;
    vm->vcpu->gpr[GPR_RBP] = LOOP_ROUNDS;
    vm->vcpu->gpr[GPR_RAX] = vm->vcpu->gpr[GPR_R8] = 0;
    assert_int_equal(testvm_run(vm, CODE), VCPU_EXIT_HALTED);
    return vm->vcpu->gpr[GPR_R8];
}

/* Reads R9 behind that place, in the loop. */
static void test_loop_forgets_copies(void **state)
{
    static const uint8_t code[] = "\x4c\x89\xf6"     /* 2: mov rsi, r14 */
                                  "\x4d\x89\xec"     /* mov r12, r13 */
                                  "\x41\x89\xda"     /* 1: mov r10d, ebx */
                                  "\x03\x0e"         /* add ecx, [rsi] */
                                  "\x48\x8d\x76\x04" /* lea rsi, [rsi + 4] */
                                  "\x41\x89\xc1"     /* mov r9d, eax */
                                  "\x49\x83\xec\x01" /* sub r12, 1 */
                                  "\x4f\x8d\x04\x08" /* lea r8, [r8 + r9] */
                                  "\x8d\x40\x03"     /* lea eax, [rax + 3] */
                                  "\x75\xe7"         /* jnz 1b */
                                  "\xff\xcd"         /* dec ebp */
                                  "\x75\xdd"         /* jnz 2b */
                                  "\xf4";
    struct testvm vm;
    create_loop(&vm, code, sizeof(code) - 1);
    for (uint64_t count = PAGE_SIZE / 4 - 8; count < PAGE_SIZE / 4 + 8; count++) {
        uint64_t all = LOOP_ROUNDS * count;
        assert_int_equal(run_loop(&vm, (unsigned)count), 3 * all * (all - 1) / 2);
    }
    testvm_destroy(&vm);
}

/* Two accesses that could share a probe, on either side of that place. */
static void test_loop_probes_again(void **state)
{
    static const uint8_t code[] = "\x4c\x89\xf6"     /* 2: mov rsi, r14 */
                                  "\x4d\x89\xec"     /* mov r12, r13 */
                                  "\x8b\x0e"         /* 1: mov ecx, [rsi] */
                                  "\x49\x83\xec\x01" /* sub r12, 1 */
                                  "\x8b\x56\x04"     /* mov edx, [rsi + 4] */
                                  "\x4d\x8d\x04\x10" /* lea r8, [r8 + rdx] */
                                  "\x48\x8d\x76\x08" /* lea rsi, [rsi + 8] */
                                  "\x75\xed"         /* jnz 1b */
                                  "\xff\xcd"         /* dec ebp */
                                  "\x75\xe3"         /* jnz 2b */
                                  "\xf4";
    static uint32_t array[0x1000];
    struct testvm vm;
    for (unsigned i = 0; i < ARRAY_LENGTH(array); i++)
        array[i] = i * 2654435761u;
    create_loop(&vm, code, sizeof(code) - 1);
    testvm_put(&vm, ARRAY, array, sizeof(array));
    for (unsigned count = PAGE_SIZE / 8 - 8; count < PAGE_SIZE / 8 + 8; count++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < count; i++)
            sum += LOOP_ROUNDS * (uint64_t)array[2 * i + 1];
        assert_int_equal(run_loop(&vm, count), sum);
    }
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_forms),
        cmocka_unit_test(test_all_forms_in_lockstep),
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_loop_stays),
        cmocka_unit_test(test_loop_forgets_copies),
        cmocka_unit_test(test_loop_probes_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
