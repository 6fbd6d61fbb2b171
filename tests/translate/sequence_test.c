/*
 * Random instruction sequences on both engines.
 *
 * Two machines are given the same program, registers and memory; one interprets, one translates.
 * Afterwards all registers, flags, vector state and memory must be equal. A program is a loop over
 * some dozen instructions from the forms of tests/cpu, with what their memory operands need set up
 * before each, joined by conditional jumps over one instruction, calls and returns, so that
 * links, the jump cache, TLB misses and hits, and accesses over a page border all happen. It ends
 * at HLT, or in an exception: there is no IDT, so then in a shutdown at the same RIP.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/thunk/xstate.h"
#include "cpu/translate/translate.h"
#include "encode.h"
#include "listing.h"
#include "testvm.h"

#define SEED     0x7a5e9u
#define PROGRAMS 1000u
#define CODE     0x100000u
#define CODE_MAX 0x3000u
#define COUNTER  0x200000u /* how often the loop is still to run */
#define RAM_SIZE (HOST_STACK + 0x10000u)

struct program {
    uint8_t bytes[CODE_MAX];
    size_t length;
    struct random *random;
    bool has_avx;
};

static void put(struct program *p, const void *bytes, size_t length)
{
    memcpy(p->bytes + p->length, bytes, length);
    p->length += length;
}

static void put_u32(struct program *p, uint32_t value)
{
    put(p, &value, 4);
}

static void put_u8(struct program *p, unsigned byte)
{
    p->bytes[p->length++] = (uint8_t)byte;
}

/* MOV r64, imm64: no flags. */
static void put_constant(struct program *p, unsigned reg, uint64_t value)
{
    put_u8(p, 0x48 | (reg & 8) >> 3);
    put_u8(p, 0xb8 | (reg & 7));
    put(p, &value, 8);
}

/* What a sample needs before it: a stack, an address. */
static bool put_sample(struct program *p, const struct sample *s)
{
    struct random *random = p->random;
    if (s->form->flags & (FORM_STACK | FORM_FRAME))
        put_constant(p, 4, HOST_STACK + 0x800 + 8 * random_below(random, 0x40));
    if (s->form->flags & FORM_FRAME)
        put_constant(p, 5, HOST_STACK + 0x900);
    if (s->form->flags & FORM_STRING) {
        put_constant(p, 6, HOST_DATA + 0x800 + random_below(random, 0x1000));
        put_constant(p, 7, HOST_DATA + 0x800 + random_below(random, 0x1000));
        put_constant(p, 1, random_below(random, 40));
    }
    if (s->form->flags & FORM_TABLE)
        put_constant(p, 3, HOST_DATA + 0x600);
    if (s->form->flags & FORM_BITSTRING && s->source >= 0)
        put_constant(p, (unsigned)s->source, random_below(random, 0x1000));
    if (s->has_memory && s->base >= 0) {
        uint64_t index = random_below(random, 0x80);
        uint64_t base = s->address - (uint64_t)s->displacement;
        if (s->index >= 0) {
            if (s->index == 4 || s->index == s->base)
                return false;
            put_constant(p, (unsigned)s->index, index);
            base -= index * s->scale;
        }
        if (s->address32)
            base = (uint32_t)base | random_next(random) << 32;
        put_constant(p, (unsigned)s->base, base);
    }
    put(p, s->bytes, s->length);
    if (s->form->undefined != 0)
        put(p, "\x48\x85\xc0", 3); /* test rax, rax: no undefined flags live on */
    return true;
}

static bool form_is_usable(const struct form *form)
{
    const unsigned never = FORM_ONLY32 | FORM_TARGET | FORM_INTEL | FORM_FLAGS_ON_STACK;
    return !(form->flags & never) && form->name[0] != 'J' && form->name[0] != 'j' &&
           strstr(form->name, "rsp") == NULL && strstr(form->name, "loop") == NULL;
}

static void put_random_insn(struct program *p)
{
    for (;;) {
        const struct form *form = &forms[random_below(p->random, form_count)];
        struct sample sample;
        size_t before = p->length;
        if (!form_is_usable(form))
            continue;
        if (form->mnemonic == ZYDIS_MNEMONIC_INVALID) {
            if (!sample_encode_raw(form, false, &sample))
                continue;
        } else {
            char list[32];
            unsigned lists = 0;
            while (form_operand_list(form, lists, list, sizeof(list)))
                lists++;
            if (!form_operand_list(form, (unsigned)random_below(p->random, lists), list,
                                   sizeof(list)) ||
                strchr(list, 'j') != NULL)
                continue;
            char size = form->sizes[random_below(p->random, strlen(form->sizes))];
            if (!sample_encode(p->random, form, list, size, false, &sample))
                continue;
        }
        if (put_sample(p, &sample))
            return;
        p->length = before;
    }
}

enum vector_form { VECTOR_ANY, VECTOR_REGISTER, VECTOR_GENERAL };

/* Mandatory prefix (0: none), opcode after 0F, whether an immediate follows. GENERAL: the reg or
 * r/m is a general register, 64 bits wide at times. */
static const struct {
    uint8_t prefix, opcode, has_immediate, form;
} vectors[] = {
    {0, 0x10, 0, 0},    {0, 0x11, 0, 0},    {0, 0x14, 0, 0},    {0, 0x28, 0, 0},
    {0, 0x29, 0, 0},    {0, 0x2e, 0, 0},    {0, 0x51, 0, 0},    {0, 0x57, 0, 0},
    {0, 0x58, 0, 0},    {0, 0x5a, 0, 0},    {0, 0x5e, 0, 0},    {0, 0xc6, 1, 0},
    {0x66, 0x2f, 0, 0}, {0x66, 0x54, 0, 0}, {0x66, 0x58, 0, 0}, {0x66, 0x60, 0, 0},
    {0x66, 0x6f, 0, 0}, {0x66, 0x70, 1, 0}, {0x66, 0x7f, 0, 0}, {0x66, 0xd6, 0, 0},
    {0x66, 0xef, 0, 0}, {0x66, 0xfc, 0, 0}, {0x66, 0xd4, 0, 0}, {0x66, 0xd7, 0, 1},
    {0x66, 0x6e, 0, 2}, {0x66, 0x7e, 0, 2}, {0xf3, 0x10, 0, 0}, {0xf3, 0x11, 0, 0},
    {0xf3, 0x2a, 0, 2}, {0xf3, 0x2c, 0, 2}, {0xf3, 0x58, 0, 0}, {0xf3, 0x5a, 0, 0},
    {0xf3, 0x6f, 0, 0}, {0xf3, 0x7e, 0, 0}, {0xf3, 0x7f, 0, 0}, {0xf2, 0x10, 0, 0},
    {0xf2, 0x11, 0, 0}, {0xf2, 0x2a, 0, 2}, {0xf2, 0x2d, 0, 2}, {0xf2, 0x51, 0, 0},
    {0xf2, 0x58, 0, 0}, {0xf2, 0x59, 0, 0}, {0xf2, 0x5a, 0, 0}, {0xf2, 0x5d, 0, 0},
};

static void put_vector(struct program *p)
{
    struct random *random = p->random;
    unsigned n = (unsigned)random_below(random, ARRAY_LENGTH(vectors));
    unsigned reg = (unsigned)random_below(random, 16), rm = (unsigned)random_below(random, 16);
    bool memory = vectors[n].form != VECTOR_REGISTER && random_below(random, 2) == 0;
    if (memory) {
        uint64_t address = HOST_DATA + 0x800 + random_below(random, 0x1000);
        rm = (unsigned)random_below(random, 16) & ~4u; /* neither SIB nor displacement */
        put_constant(p, rm, random_below(random, 4) == 0 ? address : address & ~15ull);
    }
    if (vectors[n].prefix != 0)
        put_u8(p, vectors[n].prefix);
    unsigned wide = vectors[n].form == VECTOR_GENERAL && random_below(random, 2) ? 8 : 0;
    put_u8(p, 0x40 | wide | (reg & 8) >> 1 | (rm & 8) >> 3);
    put_u8(p, 0x0f);
    put_u8(p, vectors[n].opcode);
    put_u8(p, (memory ? 0x00 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    if (vectors[n].has_immediate)
        put_u8(p, (unsigned)random_next(random) & 0xff);
}

/* Moves of 16 or 32 bytes, VEX-encoded; VZEROUPPER at times. */
static void put_avx(struct program *p)
{
    struct random *random = p->random;
    unsigned pp = 1 + (unsigned)random_below(random, 2), reg = (unsigned)random_below(random, 8);
    bool store = random_below(random, 2), wide = random_below(random, 2);
    if (random_below(random, 8) == 0) {
        put(p, "\xc5\xf8\x77", 3);
        return;
    }
    put_constant(p, 3,
                 (HOST_DATA + 0x800 + random_below(random, 0x1000)) &
                     (random_below(random, 4) ? ~31ull : ~0ull));
    put_u8(p, 0xc5);
    put_u8(p, 0xf8 | (unsigned)wide << 2 | pp);
    put_u8(p, store ? 0x7f : 0x6f);
    put_u8(p, (random_below(random, 4) ? 0x03 : 0xc3) | reg << 3);
}

/* LDMXCSR: rounding and masks as they come, in one program of some. */
static void put_mxcsr(struct program *p)
{
    uint32_t value = (uint32_t)random_next(p->random) & 0xffc0;
    if (random_below(p->random, 4) != 0)
        value |= 0x1f80;
    put_constant(p, 3, HOST_DATA + 0x40);
    put(p, "\xc7\x03", 2);
    put_u32(p, value);
    put(p, "\x0f\xae\x13", 3);
}

static void patch_rel32(struct program *p, size_t at)
{
    uint32_t displacement = (uint32_t)(p->length - (at + 4));
    memcpy(p->bytes + at, &displacement, 4);
}

static void put_skip(struct program *p)
{
    put_u8(p, 0x0f);
    put_u8(p, 0x80 | (unsigned)random_below(p->random, 16));
    size_t at = p->length;
    put_u32(p, 0);
    put_random_insn(p);
    patch_rel32(p, at);
}

/* A call over a jump: the function is one instruction, and padding to have it on another page. */
static void put_call(struct program *p, bool indirect)
{
    put_constant(p, 4, HOST_STACK + 0x800);
    unsigned gap = random_below(p->random, 8) == 0 ? 0x1000 : 0;
    if (indirect) {
        put_constant(p, 11, CODE + p->length + 10 + 3 + 5 + gap);
        put(p, "\x41\xff\xd3", 3); /* call r11 */
    } else {
        put_u8(p, 0xe8);
        put_u32(p, 5 + gap);
    }
    put_u8(p, 0xe9);
    size_t over = p->length;
    put_u32(p, 0);
    memset(p->bytes + p->length, 0x90, gap);
    p->length += gap;
    do {
        size_t before = p->length;
        const struct form *form = &forms[random_below(p->random, form_count)];
        if (form->mnemonic == ZYDIS_MNEMONIC_ADD) {
            put(p, "\x49\xff\xc1", 3); /* inc r9 */
            break;
        }
        p->length = before;
    } while (true);
    put_u8(p, 0xc3);
    patch_rel32(p, over);
}

static void make_program(struct program *p)
{
    p->length = 0;
    unsigned count = 4 + (unsigned)random_below(p->random, 40);
    for (unsigned i = 0; i < count && p->length < CODE_MAX - 0x1400; i++) {
        switch (random_below(p->random, 16)) {
        case 0:
            put_skip(p);
            break;
        case 1:
            put_call(p, random_below(p->random, 2));
            break;
        case 2:
        case 3:
        case 4:
            put_vector(p);
            break;
        case 5:
            if (p->has_avx)
                put_avx(p);
            break;
        case 6:
            if (random_below(p->random, 8) == 0)
                put_mxcsr(p);
            break;
        default:
            put_random_insn(p);
            break;
        }
    }
    put(p, "\xff\x0c\x25", 3); /* dec dword [COUNTER] */
    put_u32(p, COUNTER);
    put(p, "\x0f\x85", 2); /* jnz to the start */
    put_u32(p, (uint32_t) - (int64_t)(p->length + 4));
    put_u8(p, 0xf4);
}

struct inputs {
    uint64_t gpr[GPR_COUNT], rflags;
    uint32_t rounds;
    uint8_t data[HOST_DATA_SIZE], stack[HOST_STACK_SIZE];
};

static void load(struct testvm *vm, const struct program *p, const struct inputs *in)
{
    testvm_put(vm, CODE, p->bytes, p->length);
    testvm_put(vm, COUNTER, &in->rounds, sizeof(in->rounds));
    testvm_put(vm, HOST_DATA, in->data, sizeof(in->data));
    testvm_put(vm, HOST_STACK, in->stack, sizeof(in->stack));
    testvm_set_mode(vm, MODE_LONG, 8);
    memcpy(vm->vcpu->gpr, in->gpr, sizeof(in->gpr));
    vm->vcpu->rflags = in->rflags;
}

static bool memory_is_equal(struct testvm *a, struct testvm *b, uint64_t gpa, size_t size)
{
    static uint8_t left[HOST_DATA_SIZE], right[HOST_DATA_SIZE];
    assert_int_equal(pmap_read(a->map, gpa, left, size), STATUS_OK);
    assert_int_equal(pmap_read(b->map, gpa, right, size), STATUS_OK);
    for (size_t i = 0; i < size; i++) {
        if (left[i] != right[i]) {
            print_error("memory at %#lx: %02x, translated %02x\n", gpa + i, left[i], right[i]);
            return false;
        }
    }
    return true;
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
    bool equal = true;
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (a->vcpu->gpr[i] != b->vcpu->gpr[i]) {
            print_error("gpr %u: %#lx, translated %#lx\n", i, a->vcpu->gpr[i], b->vcpu->gpr[i]);
            equal = false;
        }
    }
    if (a->vcpu->rflags != b->vcpu->rflags || a->vcpu->rip != b->vcpu->rip ||
        a->vcpu->cr2 != b->vcpu->cr2) {
        print_error("rflags %#lx, translated %#lx; rip %#lx, %#lx; cr2 %#lx, %#lx\n",
                    a->vcpu->rflags, b->vcpu->rflags, a->vcpu->rip, b->vcpu->rip, a->vcpu->cr2,
                    b->vcpu->cr2);
        equal = false;
    }
    if (!vectors_are_equal(a->vcpu, b->vcpu)) {
        print_error("vector state differs\n");
        equal = false;
    }
    return memory_is_equal(a, b, HOST_DATA, HOST_DATA_SIZE) && equal &&
           memory_is_equal(a, b, HOST_STACK, HOST_STACK_SIZE) && memory_is_equal(a, b, COUNTER, 4);
}

/* pool: where code goes; NULL: the engine makes its own. */
static void translated_create(struct testvm *vm, uint64_t ram_size, const struct engine_ops *engine,
                              struct code_pool *pool)
{
    testvm_create(vm, ram_size);
    vm->vcpu->code_pool = pool;
    testvm_use_engine(vm, engine);
}

static void run_programs(const struct engine_ops *engine, uint64_t start, struct code_pool *pool)
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
    translated_create(&translated, RAM_SIZE, engine, pool);
    program.random = &random;
    program.has_avx = features_has(&interpreted.features, FEATURE_AVX);
    for (unsigned i = 0; i < programs; i++) {
        make_program(&program);
        for (unsigned g = 0; g < GPR_COUNT; g++)
            inputs.gpr[g] = random_value(&random);
        inputs.rflags = FLAG_FIXED | (random_next(&random) & FLAGS_STATUS);
        inputs.rounds = 1 + (uint32_t)random_below(&random, 4);
        for (unsigned at = 0; at < sizeof(inputs.data); at++)
            inputs.data[at] = (uint8_t)random_next(&random);
        memset(inputs.stack, 0x11, sizeof(inputs.stack));

        if (i % 16 == 15 && pool == NULL)
            ring_empty(translate_of(translated.vcpu));
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
    assert_true(halted > programs / 4); /* and not all cut short by #DE */

    const struct translate *translate = translate_of(translated.vcpu);
    assert_true(translate->stats.translations > programs);
    assert_true(pool == NULL || translate->stats.evictions > programs);
    if (translate->is_lockstep) {
        print_message("%lu blocks compared\n", translate->stats.lockstep_blocks);
        assert_true(translate->stats.lockstep_blocks > programs);
    }
    assert_int_equal(translate->stats.lockstep_differences, 0);
    program.random = NULL;
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

static void test_sequences(void **state)
{
    run_programs(&translate_engine, SEED, NULL);
}

/* With so little code memory that it is used round and round. */
static void test_little_memory(void **state)
{
    struct error err = {0};
    struct code_pool *pool = NULL;
    assert_int_equal(code_pool_create(&pool, CODE_PIECE_LEAST, 1, &err), STATUS_OK);
    run_programs(&translate_engine, SEED + 4, pool);
    code_pool_destroy(pool);
}

static void test_lockstep(void **state)
{
    run_programs(&translate_lockstep_engine, SEED + 2, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_little_memory),
        cmocka_unit_test(test_lockstep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
