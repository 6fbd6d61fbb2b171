/* Every form of forms.S through its thunk and directly on the host: registers, flags, memory and
 * faults must be the same, with random and special contents, at the very end of a page, misaligned,
 * and over the end of what is mapped. */

#include "native.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct form {
    const char *name;
    const uint8_t *code; /* NULL: `name` is the feature that the next ones need */
    uint64_t length;
};
extern const struct form thunk_forms[];

enum { ROUNDS = 40 };

static bool is_offered(const struct features *features, const char *name)
{
    static const struct {
        const char *name;
        enum feature needs[2];
    } names[] = {
        {"sse3", {FEATURE_SSE3, FEATURE_SSE3}},
        {"ssse3", {FEATURE_SSSE3, FEATURE_SSSE3}},
        {"sse4_1", {FEATURE_SSE4_1, FEATURE_SSE4_1}},
        {"sse4_2", {FEATURE_SSE4_2, FEATURE_SSE4_2}},
        {"aes", {FEATURE_AESNI, FEATURE_AESNI}},
        {"pclmulqdq", {FEATURE_PCLMULQDQ, FEATURE_PCLMULQDQ}},
        {"sha", {FEATURE_SHA, FEATURE_SHA}},
        {"gfni", {FEATURE_GFNI, FEATURE_GFNI}},
        {"vgfni", {FEATURE_GFNI, FEATURE_AVX}},
        {"avx", {FEATURE_AVX, FEATURE_AVX}},
        {"avx2", {FEATURE_AVX2, FEATURE_AVX2}},
        {"fma", {FEATURE_FMA, FEATURE_FMA}},
        {"f16c", {FEATURE_F16C, FEATURE_F16C}},
        {"vaes", {FEATURE_VAES, FEATURE_AVX}},
        {"vpclmulqdq", {FEATURE_VPCLMULQDQ, FEATURE_AVX}},
        {"bmi1", {FEATURE_BMI1, FEATURE_BMI1}},
        {"bmi2", {FEATURE_BMI2, FEATURE_BMI2}},
        {"adx", {FEATURE_ADX, FEATURE_ADX}},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (strcmp(names[i].name, name) == 0)
            return features_has(features, names[i].needs[0]) &&
                   features_has(features, names[i].needs[1]);
    return true; /* x87, MMX, SSE, SSE2: always */
}

struct shape {
    unsigned memory_size;
    unsigned address_register;
    bool is_x87;
    bool may_fault_masked; /* whether it faults on bytes that are masked off is up to the CPU */
    int mxcsr_offset;      /* of one that is loaded from the operand, or -1 */
    int mxcsr_mask_offset; /* of one that is stored there, or -1 */
};

static void find_shape(const struct form *form, struct shape *shape)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    assert_true(ZYAN_SUCCESS(
        ZydisDecoderDecodeFull(&decoder, form->code, form->length, &decoded, operands)));
    *shape =
        (struct shape){.address_register = GPR_RBX, .mxcsr_offset = -1, .mxcsr_mask_offset = -1};
    for (unsigned i = 0; i < decoded.operand_count; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        shape->memory_size = operands[i].size / 8;
        if (operands[i].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            shape->address_register = GPR_RDI;
    }
    shape->is_x87 = decoded.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ||
                    decoded.meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
                    decoded.meta.isa_set == ZYDIS_ISA_SET_FXSAVE64;
    shape->may_fault_masked = shape->address_register == GPR_RDI;
    switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        shape->mxcsr_offset = 0;
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        shape->mxcsr_offset = offsetof(struct xstate_image, mxcsr);
        break;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        shape->mxcsr_mask_offset = offsetof(struct xstate_image, mxcsr_mask);
        break;
    default:
        break;
    }
    /* Zydis names the 32-bit size, whatever the operand size. */
    bool narrow = decoded.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;
    if (decoded.mnemonic == ZYDIS_MNEMONIC_FNSTENV || decoded.mnemonic == ZYDIS_MNEMONIC_FLDENV)
        shape->memory_size = narrow ? 14 : 28;
    if (decoded.mnemonic == ZYDIS_MNEMONIC_FNSAVE || decoded.mnemonic == ZYDIS_MNEMONIC_FRSTOR)
        shape->memory_size = narrow ? 94 : 108;
}

/* MXCSR.MM is AMD's, which we do not offer: their MXCSR_MASK has it, the guest's has not. */
static void forgive_misalign_bit(struct native *n, const struct shape *shape, unsigned offset)
{
    const uint32_t misalign = 1u << 17;
    uint32_t mask;
    uint8_t *at = n->page + offset + shape->mxcsr_mask_offset;
    memcpy(&mask, at, sizeof(mask));
    mask &= ~misalign;
    memcpy(at, &mask, sizeof(mask));
}

/* One round; false with a line printed where the two differ. */
static bool run_round(struct native *n, const struct form *form, const struct shape *shape,
                      const struct insn *insn, unsigned round)
{
    struct native_state host, guest;
    native_random_state(n, &host, !shape->is_x87 && round % 4 != 0);
    unsigned offset = (unsigned)PAGE_SIZE - shape->memory_size;
    if (shape->memory_size != 0) {
        native_random_memory(n);
        if (round % 4 == 2)
            offset -= 1 + (unsigned)(native_random(n) % 64);
        else if (round % 4 == 3 && !shape->may_fault_masked)
            offset += 1 + (unsigned)(native_random(n) %
                                     (shape->memory_size < 16 ? shape->memory_size : 16));
        if (shape->mxcsr_offset >= 0) {
            unsigned at = offset + (unsigned)shape->mxcsr_offset + 2;
            n->page[at & PAGE_MASK] = n->page[(at + 1) & PAGE_MASK] = round & 8;
        }
        testvm_put(&n->vm, NATIVE_PAGE, n->page, PAGE_SIZE);
    }
    guest = host;
    if (shape->memory_size != 0) {
        host.gpr[shape->address_register] = (uintptr_t)n->page + offset;
        guest.gpr[shape->address_register] = NATIVE_PAGE + offset;
    }
    int host_vector = native_run_host(&host, form->code);
    int guest_vector = native_run_guest(n, &guest, insn);
    if (shape->memory_size != 0) {
        if (host.gpr[shape->address_register] == (uintptr_t)n->page + offset)
            host.gpr[shape->address_register] = NATIVE_PAGE + offset;
        if (shape->mxcsr_mask_offset >= 0 && host_vector == NATIVE_NO_FAULT)
            forgive_misalign_bit(n, shape, offset);
        /* CPUs store the larger x87 operands in pieces, and may fault after the first. */
        bool in_pieces = shape->is_x87 && shape->memory_size > 8 && host_vector == VECTOR_PF;
        if (!in_pieces && !native_memory_equal(n)) {
            print_error("%s, round %u: memory differs\n", form->name, round);
            return false;
        }
    }
    if (host_vector != guest_vector) {
        print_error("%s, round %u: vector %d on the host, %d in the guest\n", form->name, round,
                    host_vector, guest_vector);
        return false;
    }
    const char *difference = native_difference(&host, &guest);
    if (difference != NULL)
        print_error("%s, round %u: %s differs (fcw %x/%x fsw %x/%x mxcsr %x/%x)\n", form->name,
                    round, difference, host.image.fcw, guest.image.fcw, host.image.fsw,
                    guest.image.fsw, host.image.mxcsr, guest.image.mxcsr);
    return difference == NULL;
}

static void test_forms_match_host(void **state)
{
    (void)state;
    struct native n;
    native_create(&n);
    unsigned run = 0, skipped = 0, failed = 0;
    bool offered = true;
    for (const struct form *form = thunk_forms; strcmp(form->name, "end") != 0; form++) {
        if (form->code == NULL) {
            offered = is_offered(&n.vm.features, form->name);
            continue;
        }
        if (!offered) {
            skipped++;
            continue;
        }
        struct shape shape;
        struct insn insn;
        find_shape(form, &shape);
        if (!native_decode(&n, form->code, (unsigned)form->length, &insn)) {
            print_error("%s: undefined in the guest\n", form->name);
            failed++;
            continue;
        }
        run++;
        for (unsigned round = 0; round < ROUNDS; round++) {
            if (!run_round(&n, form, &shape, &insn, round)) {
                failed++;
                break;
            }
        }
    }
    print_message("%u forms run, %u not offered by this host, %u failed\n", run, skipped, failed);
    native_destroy(&n);
    assert_int_equal(failed, 0);
    assert_true(run > 900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_match_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
