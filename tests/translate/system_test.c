/*
 * Random sequences of system instructions on both engines.
 *
 * Two machines are given the same program, registers, descriptors and interrupts; one interprets,
 * one translates. A program is a loop over snippets, most of one system instruction, which go to
 * CPL 3 by SYSRET or IRET and come back by SYSCALL, change flags, SMAP, AC and the segment bases,
 * and touch supervisor and user pages. Interrupts wait from the beginning: each is taken at the
 * first moment that IF and the interrupt shadow allow, and its handler writes down where that was.
 * A program ends at HLT, or in the handler of an exception, which is a HLT as well. Afterwards
 * registers, flags, segments, MSRs, control registers and memory must be equal.
 */

#include <stdio.h>
#include <stdlib.h>

#include "cpu/translate/translate.h"
#include "encode.h"
#include "fixture.h"

#define SEED     0x51c7e5u
#define PROGRAMS 2000u
#define CODE_MAX 0x4000u

/* The first 2 MiB are the kernel's, the second the program's. */
enum layout {
    INTERRUPT = 0x11000, /* handlers */
    SYSTEM_CALL = 0x11100,
    RESUME = DATA,      /* where the system call's handler goes on */
    TAKEN = DATA + 8,   /* interrupts taken, */
    LOG = DATA + 0x100, /* and the RIP of each */
    ROUNDS = DATA + 16, /* how often the loop is still to run */
    LOG_END = LOG + 8 * 256,
    USER_CODE = 0x200000, /* programs, 0x100 bytes each */
    USER_BYTES = 0x280000,
    USER_STACK = 0x300000,
};

GUEST(on_interrupt, "64",
      "mov 0x30008, %r12; mov (%rsp), %rbp; mov %rbp, 0x30100(,%r12,8)\n"
      "inc %r12b; mov %r12, 0x30008; iretq");
GUEST(on_system_call, "64", "mov $0x20000, %esp; jmp *0x30000");

/* At CPL 3. */
GUEST(user_flags, "64", "mov $0x300000, %rsp; pushfq; pop %rbx; syscall");
GUEST(user_popf, "64",
      "mov $0x300000, %rsp; push %r11; popfq; pushfq; pop %rbx; mov %ds, %eax; syscall");
GUEST(user_bases, "64", "rdfsbase %rax; wrgsbase %r14; rdgsbase %edx; syscall");
GUEST(user_tsc, "64", "rdtsc; xor %eax, %eax; xor %edx, %edx; syscall");
GUEST(user_direction, "64", "std; nop; cld; lfence; pause; syscall");
GUEST(user_load, "64", "mov (%r13), %rax; syscall");
GUEST(user_unaligned, "64", "mov 0x280001, %eax; syscall");
GUEST(user_cli, "64", "cli");
GUEST(user_sti, "64", "sti; syscall");
GUEST(user_swapgs, "64", "swapgs");
GUEST(user_stac, "64", "stac");
GUEST(user_control, "64", "mov %cr2, %rax");
GUEST(user_sysret, "64", "sysretq");

struct code {
    const char *name;
    const uint8_t *begin, *end;
    unsigned weight;
};
#define SNIPPET(name, weight)                                                                      \
    {                                                                                              \
#name, name, name##_end, weight                                                            \
    }

static const struct code user_programs[] = {
    SNIPPET(user_flags, 8),     SNIPPET(user_popf, 8), SNIPPET(user_bases, 6),
    SNIPPET(user_tsc, 6),       SNIPPET(user_load, 4), SNIPPET(user_direction, 4),
    SNIPPET(user_unaligned, 4), SNIPPET(user_cli, 1),  SNIPPET(user_sti, 1),
    SNIPPET(user_swapgs, 1),    SNIPPET(user_stac, 1), SNIPPET(user_control, 1),
    SNIPPET(user_sysret, 1),
};

/* At CPL 0. R8: code selector, R9: stack selector, R10: program for CPL 3, R11: flags, R13: address
 * of data, R14: segment base. */
GUEST(k_cli, "64", "cli");
GUEST(k_sti, "64", "sti");
GUEST(k_window, "64", "sti; nop; cli");
GUEST(k_pushf, "64", "pushfq; pop %rbx");
GUEST(k_popf, "64", "push %r11; popfq");
GUEST(k_swapgs, "64", "swapgs");
GUEST(k_stac, "64", "stac");
GUEST(k_clac, "64", "clac");
GUEST(k_load, "64", "mov (%r13), %rax");
GUEST(k_store, "64", "mov %rdx, (%r13)");
GUEST(k_copy, "64", "stac; mov 0x280000, %rax; add %rbx, %rax; mov %rax, 0x280008; clac");
GUEST(k_gs, "64", "mov %gs:0x180, %rax");
GUEST(k_read_bases, "64", "rdfsbase %rax; rdgsbase %ebx; rdgsbase %r9");
GUEST(k_write_fs, "64", "wrfsbase %r14");
GUEST(k_write_gs, "64", "wrgsbase %r14d");
GUEST(k_control, "64", "mov %cr0, %rax; mov %cr4, %r9; mov %cr3, %rcx; mov %cr2, %r15");
GUEST(k_segments, "64", "mov %ds, %eax; mov %ss, %rdx; mov %cs, %r9d; mov %fs, %r8w");
GUEST(k_null, "64", "xor %eax, %eax; mov %eax, %ds; mov %eax, %es");
GUEST(k_shadow, "64", "mov %ss, %eax; mov %eax, %ss; nop");
GUEST(k_direction, "64", "std; mov $0x30080, %esi; lodsb; cld; lodsq");
GUEST(k_fences, "64", "lfence; mfence; sfence; pause");
GUEST(k_add, "64", "add %rdx, %rbx");
GUEST(k_adc, "64", "adc %rbx, %rdx");
GUEST(k_smap, "64", "mov %cr4, %rax; xor $0x200000, %eax; mov %rax, %cr4");
GUEST(k_tsd, "64", "mov %cr4, %rax; xor $4, %eax; mov %rax, %cr4");
GUEST(k_tsc, "64", "rdtsc; lfence; rdtscp; xor %eax, %eax; xor %edx, %edx");
GUEST(k_write_msr, "64", "mov $0xc0000102, %ecx; mov %r14d, %eax; xor %edx, %edx; wrmsr; rdmsr");
GUEST(k_tpr, "64", "xor %eax, %eax; mov %rax, %cr8");
GUEST(k_syscall, "64", "lea 1f(%rip), %rax; mov %rax, 0x30000; syscall; 1:");
GUEST(k_sysret, "64", "lea 1f(%rip), %rax; mov %rax, 0x30000; mov %r10, %rcx; sysretq; 1:");
GUEST(k_sysret_far, "64", "mov $0x800000000000, %rcx; sysretq");
GUEST(k_iret_user, "64",
      "lea 1f(%rip), %rax; mov %rax, 0x30000\n"
      "push %r9; push $0x300000; push %r11; push %r8; push %r10; iretq; 1:");
GUEST(k_iret, "64",
      "lea 1f(%rip), %rax; push %r9; push $0x20000; push %r11; push %r8; push %rax; iretq; 1:");

static const struct code snippets[] = {
    SNIPPET(k_cli, 8),       SNIPPET(k_sti, 8),        SNIPPET(k_window, 4),
    SNIPPET(k_pushf, 8),     SNIPPET(k_popf, 8),       SNIPPET(k_swapgs, 6),
    SNIPPET(k_stac, 6),      SNIPPET(k_clac, 6),       SNIPPET(k_load, 6),
    SNIPPET(k_store, 6),     SNIPPET(k_copy, 4),       SNIPPET(k_gs, 6),
    SNIPPET(k_control, 3),   SNIPPET(k_read_bases, 3), SNIPPET(k_write_fs, 2),
    SNIPPET(k_write_gs, 3),  SNIPPET(k_segments, 3),   SNIPPET(k_null, 2),
    SNIPPET(k_shadow, 2),    SNIPPET(k_direction, 3),  SNIPPET(k_fences, 2),
    SNIPPET(k_add, 8),       SNIPPET(k_adc, 8),        SNIPPET(k_smap, 2),
    SNIPPET(k_tsd, 2),       SNIPPET(k_tsc, 3),        SNIPPET(k_write_msr, 3),
    SNIPPET(k_tpr, 2),       SNIPPET(k_syscall, 4),    SNIPPET(k_sysret, 12),
    SNIPPET(k_iret_user, 8), SNIPPET(k_iret, 6),       SNIPPET(k_sysret_far, 1),
};

/* ------------------------------------------------------------------------- interrupts */

struct fake_apic {
    unsigned remaining; /* all pending at once */
};

static int fake_pending(void *context)
{
    const struct fake_apic *apic = context;
    return apic->remaining != 0 ? 0x41 : -1;
}

static int fake_acknowledge(void *context)
{
    struct fake_apic *apic = context;
    return apic->remaining != 0 && apic->remaining-- != 0 ? 0x41 : -1;
}

static uint64_t fake_read_tpr(void *context)
{
    return 0;
}

static void fake_write_tpr(void *context, uint64_t cr8)
{
}

static bool fake_read_msr(void *context, uint32_t msr, uint64_t *value)
{
    return false;
}

static bool fake_write_msr(void *context, uint32_t msr, uint64_t value)
{
    return false;
}

static void fake_tsc_changed(void *context)
{
}

static const struct vcpu_apic_ops fake_ops = {
    .pending = fake_pending,
    .acknowledge = fake_acknowledge,
    .read_tpr = fake_read_tpr,
    .write_tpr = fake_write_tpr,
    .read_msr = fake_read_msr,
    .write_msr = fake_write_msr,
    .tsc_changed = fake_tsc_changed,
};

/* ------------------------------------------------------------------------- programs */

struct program {
    uint8_t bytes[CODE_MAX];
    size_t length;
    char text[1024];
    size_t text_length;
    struct random *random;
    bool has_smap, has_fsgsbase, has_rdtscp;
    bool steps;    /* single steps may happen, so the time may not be looked at, */
    bool has_time; /* and it is, so no interrupt may see it */
};

static void put(struct program *p, const void *bytes, size_t length)
{
    memcpy(p->bytes + p->length, bytes, length);
    p->length += length;
}

/* MOV r64, imm64: no flags. */
static void put_constant(struct program *p, unsigned reg, uint64_t value)
{
    uint8_t opcode[2] = {(uint8_t)(0x48 | (reg & 8) >> 3), (uint8_t)(0xb8 | (reg & 7))};
    put(p, opcode, 2);
    put(p, &value, 8);
}

static const struct code *choose(struct random *random, const struct code *codes, size_t count)
{
    unsigned total = 0;
    for (size_t i = 0; i < count; i++)
        total += codes[i].weight;
    uint64_t at = random_below(random, total);
    for (; at >= codes->weight; codes++)
        at -= codes->weight;
    return codes;
}

static bool one_in(struct random *random, unsigned n)
{
    return random_below(random, n) == 0;
}

static uint64_t random_flags(struct program *p)
{
    struct random *random = p->random;
    uint64_t all = random_next(random);
    uint64_t flags = all & (FLAGS_STATUS | FLAG_IF | FLAG_DF | FLAG_ID);
    if (one_in(random, 4))
        flags |= FLAG_AC;
    if (one_in(random, 24))
        flags |= all & (FLAG_TF | FLAG_NT | FLAG_IOPL | FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP);
    return (p->steps ? flags : flags & ~(uint64_t)FLAG_TF) | FLAG_FIXED;
}

static uint64_t random_base(struct random *random)
{
    static const uint64_t bases[] = {DATA, DATA + 0x80, USER_BYTES, 0x40000};
    if (one_in(random, 16))
        return 0x8000000000000000u | random_next(random) >> 20;
    return bases[random_below(random, ARRAY_LENGTH(bases))];
}

static uint16_t random_selector(struct random *random, uint16_t usual)
{
    static const uint16_t others[] = {0,     3,           0x1000,        DATA_FLAT,
                                      SPARE, USER_CODE32, USER_DATA | 3, USER_CODE64 | 3};
    return one_in(random, 16) ? others[random_below(random, ARRAY_LENGTH(others))] : usual;
}

static void put_registers(struct program *p, bool user)
{
    struct random *random = p->random;
    unsigned n =
        (unsigned)(choose(random, user_programs, ARRAY_LENGTH(user_programs)) - user_programs);
    if (p->steps && user_programs[n].begin == user_tsc)
        n = 0;
    p->has_time |= user && user_programs[n].begin == user_tsc;
    put_constant(p, 8, random_selector(random, user ? USER_CODE64 | 3 : CODE64));
    put_constant(p, 9, random_selector(random, user ? USER_DATA | 3 : DATA_FLAT));
    put_constant(p, 10, USER_CODE + n * 0x100);
    put_constant(p, 11, random_flags(p));
    put_constant(p, 13, one_in(random, 3) ? USER_BYTES + 0x10 : DATA + 0x80);
    put_constant(p, 14, random_base(random));
    if (user)
        p->text_length +=
            (size_t)snprintf(p->text + p->text_length, sizeof(p->text) - p->text_length,
                             " %s:", user_programs[n].name);
}

static bool is_offered(const struct program *p, const uint8_t *begin)
{
    if (begin == k_stac || begin == k_clac || begin == k_copy || begin == k_smap)
        return p->has_smap;
    if (begin == k_tsc)
        return p->has_rdtscp && !p->steps;
    return p->has_fsgsbase || (begin != k_read_bases && begin != k_write_fs && begin != k_write_gs);
}

static void make_program(struct program *p)
{
    p->length = p->text_length = 0;
    p->steps = one_in(p->random, 2);
    p->has_time = false;
    unsigned count = 4 + (unsigned)random_below(p->random, 24);
    for (unsigned i = 0; i < count; i++) {
        const struct code *code = choose(p->random, snippets, ARRAY_LENGTH(snippets));
        if (!is_offered(p, code->begin))
            continue;
        /* Now and then none between two snippets, so that what follows follows directly. */
        bool user = code->begin == k_sysret || code->begin == k_iret_user;
        if (i == 0 || user || code->begin == k_iret || one_in(p->random, 2))
            put_registers(p, user);
        p->has_time |= code->begin == k_tsc;
        put(p, code->begin, (size_t)(code->end - code->begin));
        p->text_length += (size_t)snprintf(p->text + p->text_length,
                                           sizeof(p->text) - p->text_length, " %s", code->name);
    }
    static const uint8_t again[] = {0xff, 0x0c, 0x25}; /* dec dword [ROUNDS] */
    const uint32_t rounds = ROUNDS;
    put(p, again, sizeof(again));
    put(p, &rounds, 4);
    put(p, "\x0f\x85", 2); /* jnz to the start */
    uint32_t back = (uint32_t) - (int64_t)(p->length + 4);
    put(p, &back, 4);
    put(p, "\xf4", 1);
}

/* ------------------------------------------------------------------------- machines */

struct inputs {
    uint64_t gpr[GPR_COUNT], rflags, cr0, cr4, efer, star, sfmask, gs_base, kernel_gs_base;
    uint64_t descriptor; /* of `selector` */
    uint16_t selector;
    unsigned rounds, interrupts;
    uint8_t data[256];
};

static void make_inputs(struct program *p, struct inputs *in)
{
    struct random *random = p->random;
    for (unsigned g = 0; g < GPR_COUNT; g++)
        in->gpr[g] = random_value(random);
    in->gpr[GPR_RSP] = STACK;
    in->rflags = FLAG_FIXED | (random_next(random) & (FLAGS_STATUS | FLAG_IF | FLAG_ID));
    in->cr0 = one_in(random, 2) ? CR0_AM : 0;
    in->cr4 = (p->has_smap && !one_in(random, 4) ? CR4_SMAP : 0) |
              (p->has_fsgsbase && !one_in(random, 8) ? CR4_FSGSBASE : 0) |
              (one_in(random, 8) ? CR4_TSD : 0);
    in->efer = one_in(random, 32) ? 0 : EFER_SCE;
    in->star = (uint64_t)(USER_CODE32 | random_below(random, 4)) << 48 |
               (uint64_t)(CODE64 | random_below(random, 4)) << 32;
    if (one_in(random, 16))
        in->star = random_next(random);
    in->sfmask = one_in(random, 4) ? (uint32_t)random_next(random)
                                   : FLAG_IF | FLAG_TF | FLAG_DF | FLAG_AC | FLAG_NT | FLAG_IOPL;
    in->gs_base = random_base(random);
    in->kernel_gs_base = random_base(random);
    /* One descriptor is unlike what it was, or only not yet accessed. */
    static const uint16_t selectors[] = {CODE64, DATA_FLAT, USER_DATA, USER_CODE64, SPARE};
    static const uint64_t usual[] = {0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff,
                                     0x00affb000000ffff, 0};
    size_t n = random_below(random, ARRAY_LENGTH(selectors));
    in->selector = selectors[n];
    in->descriptor = usual[n];
    if (one_in(random, 4))
        in->descriptor &= ~(1ull << 40); /* accessed */
    else if (one_in(random, 4))
        in->descriptor ^= 1ull << (40 + random_below(random, 13)); /* not L: 32-bit code */
    in->rounds = 1 + (unsigned)random_below(random, 4);
    in->interrupts = !p->has_time && one_in(random, 2) ? (unsigned)random_below(random, 6) : 0;
    for (size_t i = 0; i < sizeof(in->data); i++)
        in->data[i] = (uint8_t)random_next(random);
}

static void load(struct testvm *vm, struct fake_apic *apic, const struct program *p,
                 const struct inputs *in)
{
    struct vcpu *vcpu = vm->vcpu;
    fixture_reset(vm, MODE_LONG, 8);
    fixture_poke(vm, 0x3000, 0x83, 8); /* not the user's */
    fixture_set_gate(vm, 0x41, CODE64, INTERRUPT, 0x8e, 0);
    testvm_put(vm, INTERRUPT, on_interrupt, (size_t)(on_interrupt_end - on_interrupt));
    testvm_put(vm, SYSTEM_CALL, on_system_call, (size_t)(on_system_call_end - on_system_call));
    for (unsigned n = 0; n < ARRAY_LENGTH(user_programs); n++)
        testvm_put(vm, USER_CODE + n * 0x100, user_programs[n].begin,
                   (size_t)(user_programs[n].end - user_programs[n].begin));
    testvm_put(vm, CODE, p->bytes, p->length);
    for (uint64_t gpa = DATA; gpa < LOG_END; gpa += sizeof(in->data))
        testvm_put(vm, gpa, in->data, sizeof(in->data));
    fixture_poke(vm, TAKEN, 0, 8);
    fixture_poke(vm, ROUNDS, in->rounds, 4);
    testvm_put(vm, USER_BYTES, in->data, sizeof(in->data));
    if (in->descriptor != 0)
        fixture_set_descriptor(vm, in->selector, in->descriptor);
    memcpy(vcpu->gpr, in->gpr, sizeof(in->gpr));
    vcpu->rflags = in->rflags;
    vcpu->mmu.cr0 |= in->cr0;
    vcpu->mmu.cr4 |= in->cr4;
    vcpu->mmu.efer = (vcpu->mmu.efer & ~(uint64_t)EFER_SCE) | in->efer;
    vcpu->msr.star = in->star;
    vcpu->msr.lstar = SYSTEM_CALL;
    vcpu->msr.sfmask = in->sfmask;
    vcpu->seg[SEG_GS].base = in->gs_base;
    vcpu->msr.kernel_gs_base = in->kernel_gs_base;
    vcpu->msr.tsc_aux = 7;
    vcpu_update_mode(vcpu);
    *apic = (struct fake_apic){.remaining = in->interrupts};
    vcpu->apic = &fake_ops;
    vcpu->apic_context = apic;
    vcpu->irq_waiting = 0;
    if (in->interrupts != 0)
        vcpu_kick(vcpu, ATTENTION_IRQ);
}

#define SAME(member, format)                                                                       \
    do {                                                                                           \
        if (a->member != b->member) {                                                              \
            print_error(#member ": %#" format ", translated %#" format "\n", a->member,            \
                        b->member);                                                                \
            equal = false;                                                                         \
        }                                                                                          \
    } while (0)

static bool vcpu_is_equal(const struct vcpu *a, const struct vcpu *b)
{
    bool equal = true;
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (a->gpr[i] != b->gpr[i])
            print_error("%u: ", i);
        SAME(gpr[i], "lx");
    }
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        SAME(seg[i].base, "lx");
        SAME(seg[i].limit, "x");
        SAME(seg[i].attributes, "x");
        SAME(seg[i].selector, "x");
    }
    SAME(rip, "lx");
    SAME(rflags, "lx");
    SAME(cr2, "lx");
    SAME(mmu.cr0, "lx");
    SAME(mmu.cr4, "lx");
    SAME(cpl, "x");
    SAME(privilege, "x");
    SAME(mode, "x");
    SAME(is_translatable, "x");
    SAME(msr.kernel_gs_base, "lx");
    SAME(stats.interrupts, "lx");
    return equal;
}

static bool memory_is_equal(struct testvm *a, struct testvm *b, uint64_t gpa, size_t size)
{
    for (uint64_t end = gpa + size; gpa < end; gpa += 8) {
        uint64_t left = fixture_peek(a, gpa, 8), right = fixture_peek(b, gpa, 8);
        if (left != right) {
            print_error("memory at %#lx: %#lx, translated %#lx\n", gpa, left, right);
            return false;
        }
    }
    return true;
}

static bool is_equal(struct testvm *a, struct testvm *b)
{
    bool equal = vcpu_is_equal(a->vcpu, b->vcpu);
    equal &= memory_is_equal(a, b, DATA, LOG_END - DATA);
    equal &= memory_is_equal(a, b, STACK - 0x100, 0x100);
    equal &= memory_is_equal(a, b, INNER_STACK - 0x40, 0x40);
    equal &= memory_is_equal(a, b, USER_BYTES, 256);
    equal &= memory_is_equal(a, b, USER_STACK - 0x40, 0x40);
    return equal && memory_is_equal(a, b, GDT, GDT_END - GDT);
}

static void test_sequences(void **state)
{
    static struct program program;
    struct random random = {SEED};
    struct testvm interpreted, translated;
    struct fake_apic left, right;
    struct inputs inputs;
    const char *seed = getenv("AEROSTAT_TEST_SEED"), *count = getenv("AEROSTAT_TEST_COUNT");
    unsigned programs = count != NULL ? (unsigned)strtoul(count, NULL, 0) : PROGRAMS;
    unsigned completed = 0, interrupts = 0;

    if (seed != NULL)
        random.state = strtoull(seed, NULL, 0) | 1;
    print_message("seed %#lx\n", random.state);
    fixture_create(&interpreted, MODE_LONG, 8);
    fixture_create(&translated, MODE_LONG, 8);
    testvm_use_engine(&interpreted, &interp_engine);
    testvm_use_engine(&translated, &translate_engine);
    const struct features *features = &interpreted.features;
    program.random = &random;
    program.has_smap = features_has(features, FEATURE_SMAP);
    program.has_fsgsbase = features_has(features, FEATURE_FSGSBASE);
    program.has_rdtscp = features_has(features, FEATURE_RDTSCP);
    for (unsigned i = 0; i < programs; i++) {
        make_program(&program);
        make_inputs(&program, &inputs);
        load(&interpreted, &left, &program, &inputs);
        load(&translated, &right, &program, &inputs);
        translate_of(translated.vcpu)->relative_pages = i % 2 ? UINT64_MAX : 0;
        enum vcpu_exit expected = testvm_run(&interpreted, CODE);
        enum vcpu_exit got = testvm_run(&translated, CODE);
        completed += interpreted.vcpu->rip == CODE + program.length;
        interrupts += inputs.interrupts - left.remaining;
        if (!is_equal(&interpreted, &translated) || left.remaining != right.remaining ||
            expected != got) {
            print_error("program %u, %u rounds, exit %d, translated %d; stopped at %#lx:%.*s\n", i,
                        inputs.rounds, expected, got, interpreted.vcpu->rip - CODE,
                        (int)program.text_length, program.text);
            fail();
        }
    }
    print_message("%u programs, %u to their end, %u interrupts\n", programs, completed, interrupts);
    assert_true(completed > programs / 8);
    assert_true(interrupts > programs / 4);
    program.random = NULL;
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sequences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
