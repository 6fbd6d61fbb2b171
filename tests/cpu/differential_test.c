/*
 * Every integer instruction form against the host CPU.
 *
 * For each form, size, list of operands and code size: some random encodings, each with many random
 * register, flag and memory contents, run by the host (host_run.c) and by the interpreter's
 * handler. Registers, RIP, flags, memory and faults must be equal. A form is a line in forms.c.
 *
 * The guest is at CPL 3, as the host is, with data and stack at the same addresses.
 */

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/exception.h"
#include "cpu/insn.h"
#include "encode.h"
#include "testvm.h"

#define SEED            0x5eed0fae305742u
#define ENCODINGS       24 /* of one list of operands */
#define ENCODE_ATTEMPTS 200
#define RUNS            40      /* of one encoding */
#define COMPARED_FLAGS  0x4cd5u /* status, DF, NT */

struct memory {
    uint8_t data[HOST_DATA_SIZE];
    uint8_t stack[HOST_STACK_SIZE];
};

struct harness {
    struct testvm vm;
    struct random random;
    struct memory image, expected, actual;
    unsigned failures, encodings;
    const struct form *last_failed; /* one report a form is enough */
    uint64_t cases, faults;
};

static bool host_is_intel(void)
{
    unsigned eax, ebx, ecx, edx;
    __asm__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(0), "c"(0));
    return ebx == 0x756e6547; /* "Genu" */
}

/* RAM for the fixed addresses would be 512 MiB; the tables map them onto low memory instead. */
#define GUEST_PAGES_GPA 0x100000u

static void put_u64(struct testvm *vm, uint64_t gpa, uint64_t value)
{
    testvm_put(vm, gpa, &value, sizeof(value));
}

/* Linear HOST_CODE.. +2 MiB -> GUEST_PAGES_GPA, by 4 KiB pages in a table at 0x8000. */
static void map_guest(struct testvm *vm)
{
    for (uint64_t i = 0; i < 512; i++)
        put_u64(vm, 0x8000 + 8 * i, (GUEST_PAGES_GPA + (i << 12)) | 7);
    put_u64(vm, 0x3000 + 8 * (HOST_CODE >> 21), 0x8000 | 7);
}

static uint64_t guest_gpa(uint64_t linear)
{
    return GUEST_PAGES_GPA + (linear - HOST_CODE);
}

static void set_user(struct testvm *vm, bool code32)
{
    struct vcpu *vcpu = vm->vcpu;
    testvm_set_mode(vm, code32 ? MODE_COMPATIBILITY : MODE_LONG, code32 ? 4 : 8);
    map_guest(vm);
    vcpu->seg[SEG_CS].attributes |= SEG_DPL;
    vcpu->seg[SEG_CS].selector = code32 ? 0x2b : 0x3b;
    vcpu->seg[SEG_SS].attributes |= SEG_DPL;
    vcpu->seg[SEG_SS].selector = 0x33;
    vcpu_update_mode(vcpu);
    assert_int_equal(vcpu->cpl, 3);
    mmu_flush(&vcpu->mmu, false);
}

static int signal_of_vector(unsigned vector)
{
    switch (vector) {
    case VECTOR_DE:
        return SIGFPE;
    case VECTOR_UD:
        return SIGILL;
    case VECTOR_DB:
    case VECTOR_BP:
        return SIGTRAP;
    default:
        return SIGSEGV;
    }
}

/* One instruction by its handler. */
static void guest_run(struct testvm *vm, const struct insn *insn, struct host_state *state)
{
    struct vcpu *vcpu = vm->vcpu;
    jmp_buf fault_exit;
    memcpy(vcpu->gpr, state->gpr, sizeof(vcpu->gpr));
    vcpu->rflags = state->rflags | FLAG_IF;
    vcpu->rip = HOST_CODE;
    vcpu->next_rip = HOST_CODE + insn->length;
    vcpu->fault_exit = &fault_exit;
    vcpu->leave_block = false;
    atomic_store(&vcpu->attention, 0);
    state->signal = 0;
    mmu_unpark(&vcpu->mmu);
    if (setjmp(fault_exit) == 0) {
        insn->exec(vcpu, insn);
        vcpu->rip = vcpu->next_rip;
    } else {
        state->signal = signal_of_vector(vcpu->fault.vector);
    }
    mmu_park(&vcpu->mmu);
    vcpu->fault_exit = NULL;
    memcpy(state->gpr, vcpu->gpr, sizeof(state->gpr));
    state->rflags = vcpu->rflags;
    state->rip = vcpu->rip;
}

static void print_sample(const struct sample *sample, const char *what)
{
    print_error("%s, %d-bit code, size %u:", sample->form->name, sample->code32 ? 32 : 64,
                sample->size);
    for (size_t i = 0; i < sample->length; i++)
        print_error(" %02x", sample->bytes[i]);
    print_error(": %s\n", what);
}

static void print_states(const struct host_state *in, const struct host_state *host,
                         const struct host_state *guest)
{
    print_error("          %16s %16s %16s\n", "before", "host", "guest");
    for (unsigned i = 0; i < 16; i++)
        print_error("    gpr%-2u %16lx %16lx %16lx%s\n", i, in->gpr[i], host->gpr[i], guest->gpr[i],
                    host->gpr[i] == guest->gpr[i] ? "" : " <--");
    print_error("    flags %16lx %16lx %16lx\n", in->rflags, host->rflags, guest->rflags);
    print_error("    rip   %16s %16lx %16lx\n", "", host->rip, guest->rip);
    print_error("    signal%16s %16d %16d\n", "", host->signal, guest->signal);
}

static const char *difference(const struct sample *sample, const struct host_state *host,
                              const struct host_state *guest, const struct memory *expected,
                              const struct memory *actual)
{
    uint64_t mask = sample->code32 ? UINT32_MAX : UINT64_MAX;
    if (host->signal != guest->signal)
        return "faults differ";
    if (host->rip != guest->rip)
        return "RIP differs";
    for (unsigned i = 0; i < (sample->code32 ? 8u : 16u); i++) {
        if ((host->gpr[i] ^ guest->gpr[i]) & mask)
            return "registers differ";
    }
    if (host->signal == 0 &&
        (host->rflags ^ guest->rflags) & COMPARED_FLAGS & ~sample->form->undefined)
        return "flags differ";
    if (memcmp(expected->data, actual->data, sizeof(expected->data)) != 0)
        return "data differ";
    if (memcmp(expected->stack, actual->stack, sizeof(expected->stack)) != 0)
        return "stacks differ";
    return NULL;
}

static void run_case(struct harness *h, const struct sample *sample, const struct insn *insn)
{
    struct host_state in = {0}, host, guest;
    sample_inputs(&h->random, sample, &in, h->image.data, h->image.stack);

    host = guest = in;
    memcpy((void *)(uintptr_t)HOST_DATA, h->image.data, sizeof(h->image.data));
    memcpy((void *)(uintptr_t)HOST_STACK, h->image.stack, sizeof(h->image.stack));
    host_run(&host);
    memcpy(h->expected.data, (void *)(uintptr_t)HOST_DATA, sizeof(h->expected.data));
    memcpy(h->expected.stack, (void *)(uintptr_t)HOST_STACK, sizeof(h->expected.stack));

    testvm_put(&h->vm, guest_gpa(HOST_DATA), h->image.data, sizeof(h->image.data));
    testvm_put(&h->vm, guest_gpa(HOST_STACK), h->image.stack, sizeof(h->image.stack));
    guest_run(&h->vm, insn, &guest);
    pmap_read(h->vm.map, guest_gpa(HOST_DATA), h->actual.data, sizeof(h->actual.data));
    pmap_read(h->vm.map, guest_gpa(HOST_STACK), h->actual.stack, sizeof(h->actual.stack));

    h->cases++;
    h->faults += host.signal != 0;
    const char *what = difference(sample, &host, &guest, &h->expected, &h->actual);
    if (what == NULL)
        return;
    h->failures++;
    if (h->last_failed != sample->form) {
        h->last_failed = sample->form;
        print_sample(sample, what);
        print_states(&in, &host, &guest);
    }
}

static void run_sample(struct harness *h, const struct sample *sample)
{
    struct insn insn;
    bool ends_block;
    uint8_t bytes[INSN_MAX_LENGTH] = {0};
    memcpy(bytes, sample->bytes, sample->length);
    enum insn_decode_result result =
        insn_decode(h->vm.vcpu, bytes, sizeof(bytes), &insn, &ends_block);
    if (result == INSN_DECODED && insn.length != sample->length) {
        h->failures++;
        print_sample(sample, "wrong length");
    }
    host_load(sample->bytes, sample->length, sample->code32);
    h->encodings++;
    for (unsigned run = 0; run < RUNS; run++)
        run_case(h, sample, &insn);
}

/* Does this host run it as we do, in any code? */
static bool form_is_comparable(const struct form *form)
{
    if ((form->flags & FORM_INTEL) && !host_is_intel())
        return false;
    return !(form->flags & FORM_ONLY32) || host_has_code32();
}

static bool form_applies(const struct form *form, bool code32)
{
    if (!form_is_comparable(form))
        return false;
    return !(form->flags & (code32 ? FORM_ONLY64 : FORM_ONLY32));
}

/* Returns how many encodings there were. */
static unsigned run_list(struct harness *h, const struct form *form, const char *list, bool code32)
{
    unsigned total = 0;
    for (const char *size = form->sizes; *size != '\0'; size++) {
        unsigned found = 0;
        for (unsigned i = 0; i < ENCODE_ATTEMPTS && found < ENCODINGS; i++) {
            struct sample sample;
            if (!sample_encode(&h->random, form, list, *size, code32, &sample))
                continue;
            run_sample(h, &sample);
            found++;
            if (*list == '\0')
                break; /* there is only the one */
        }
        total += found;
    }
    return total;
}

/* One form in one code size. Returns a bit for each list that had an encoding. */
static unsigned run_form(struct harness *h, const struct form *form, bool code32)
{
    struct sample sample;
    if (!form_applies(form, code32))
        return 0;
    if (form->mnemonic == ZYDIS_MNEMONIC_INVALID) {
        assert_true(sample_encode_raw(form, code32, &sample));
        for (unsigned i = 0; i < 4; i++)
            run_sample(h, &sample);
        return 1;
    }
    unsigned covered = 0;
    char list[32];
    for (unsigned n = 0; form_operand_list(form, n, list, sizeof(list)); n++) {
        if (run_list(h, form, list, code32) != 0)
            covered |= 1u << n;
    }
    return covered;
}

static unsigned lists_of(const struct form *form)
{
    char list[32];
    unsigned n = 0;
    while (form_operand_list(form, n, list, sizeof(list)))
        n++;
    return (1u << n) - 1;
}

static void run_all(struct harness *h, bool code32, unsigned *covered)
{
    set_user(&h->vm, code32);
    for (unsigned i = 0; i < form_count; i++)
        covered[i] |= run_form(h, &forms[i], code32);
    print_message("%d-bit code: %u encodings, %lu cases, %lu of them faults\n", code32 ? 32 : 64,
                  h->encodings, h->cases, h->faults);
}

static void test_forms(void **state)
{
    static struct harness harness;
    struct harness *h = &harness;
    unsigned *covered = calloc(form_count, sizeof(*covered));
    const char *seed = getenv("AEROSTAT_TEST_SEED");
    h->random.state = seed != NULL ? strtoull(seed, NULL, 0) | 1 : SEED;
    print_message("seed %#lx\n", h->random.state);
    testvm_create(&h->vm, 4 << 20);
    assert_true(host_open());
    for (size_t i = 0; i < sizeof(h->image); i++)
        ((uint8_t *)&h->image)[i] = (uint8_t)random_next(&h->random);

    run_all(h, false, covered);
    if (host_has_code32())
        run_all(h, true, covered);
    else
        print_message("no 32-bit code: this host has no segment for it\n");
    host_close();
    testvm_destroy(&h->vm);

    for (unsigned i = 0; i < form_count; i++) {
        if (!form_is_comparable(&forms[i]))
            continue;
        if (covered[i] != lists_of(&forms[i])) {
            print_error("%s: not every list of operands can be encoded\n", forms[i].name);
            h->failures++;
        }
    }
    free(covered);
    assert_int_equal(h->failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
