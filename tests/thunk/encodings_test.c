/* Random encodings of legacy SSE, VEX and x87 instructions, with prefixes and extension bits that
 * mean nothing as well: whatever binds to a thunk must do what the host does with the same bytes.
 */

#include "native.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/thunk/thunk_internal.h"

enum { ENCODINGS = 60000, ROUNDS = 4 };

/* The memory operand, if any, is [rbx]. Returns the length with one byte of immediate, which there
 * need not be. */
static unsigned random_encoding(struct native *n, uint8_t *out)
{
    uint64_t random = native_random(n);
    unsigned length = 0, map = random >> 16 & 3;
    uint8_t modrm = (uint8_t)(random >> 40);
    switch (random & 3) {
    case 0:
    case 1:
        if (random & 4)
            out[length++] = 0x66;
        if (random & 8)
            out[length++] = random & 16 ? 0xf2 : 0xf3;
        if (random & 32)
            out[length++] = (uint8_t)(0x40 | (random >> 8 & 15));
        out[length++] = 0x0f;
        if (map == 1)
            out[length++] = 0x38;
        else if (map == 2)
            out[length++] = 0x3a;
        out[length++] = (uint8_t)(random >> 24);
        break;
    case 2:
        out[length++] = 0xc4;
        out[length++] = (uint8_t)((random >> 8 & 0xe0) | (1 + map % 3));
        out[length++] = (uint8_t)(random >> 24);
        out[length++] = (uint8_t)(random >> 32);
        break;
    default:
        if (random & 4)
            out[length++] = 0x66;
        if (random & 32)
            out[length++] = (uint8_t)(0x40 | (random >> 8 & 15));
        out[length++] = (uint8_t)(0xd8 | (random >> 24 & 7));
        break;
    }
    out[length++] = modrm >= 0xc0 ? modrm : (uint8_t)((modrm & 0x38) | 3);
    out[length++] = (uint8_t)(random >> 48);
    return length;
}

/* Can the host run it beside the guest? Not with RSP, nor with RBX as more than a base, nor where
 * REX.B makes the base another register; and random numbers cannot be compared. */
static bool is_comparable(const uint8_t *code, unsigned length, unsigned *actual_length)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, length, &decoded, operands)) ||
        decoded.meta.isa_set == ZYDIS_ISA_SET_RDRAND ||
        decoded.meta.isa_set == ZYDIS_ISA_SET_RDSEED)
        return false;
    *actual_length = decoded.length;
    for (unsigned i = 0; i < decoded.operand_count; i++) {
        const ZydisDecodedOperand *op = &operands[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.base != ZYDIS_REGISTER_RBX)
            return false;
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegister whole =
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value);
        if (whole == ZYDIS_REGISTER_RSP || whole == ZYDIS_REGISTER_RBX)
            return false;
    }
    return true;
}

static const char *compare_round(struct native *n, const struct insn *insn, const uint8_t *runnable,
                                 unsigned round)
{
    struct native_state host, guest;
    native_random_state(n, &host, round & 1);
    native_random_memory(n);
    unsigned offset = 1024 + (round >= 2 ? (unsigned)(native_random(n) % 64) : 0);
    guest = host;
    host.gpr[GPR_RBX] = (uintptr_t)n->page + offset;
    guest.gpr[GPR_RBX] = NATIVE_PAGE + offset;
    if (native_run_host(&host, runnable) != native_run_guest(n, &guest, insn))
        return "vector";
    if (host.gpr[GPR_RBX] == (uintptr_t)n->page + offset)
        host.gpr[GPR_RBX] = NATIVE_PAGE + offset;
    const char *difference = native_difference(&host, &guest);
    return difference != NULL || native_memory_equal(n) ? difference : "memory";
}

static void test_random_encodings_match_host(void **state)
{
    (void)state;
    struct native n;
    native_create(&n);
    unsigned bound = 0, failed = 0;
    uint8_t *pages = native_code_page((const uint8_t[]){0xc3}, 1);
    for (unsigned i = 0; i < ENCODINGS && failed < 20; i++) {
        uint8_t code[16] = {0};
        unsigned length = random_encoding(&n, code), actual;
        struct insn insn;
        if (!is_comparable(code, length, &actual) || !native_decode(&n, code, length, &insn) ||
            (insn.exec != thunk_exec && insn.exec != thunk_exec_uncached))
            continue;
        bound++;
        code[actual] = 0xc3;
        native_code_write(pages, code, actual + 1);
        for (unsigned round = 0; round < ROUNDS; round++) {
            const char *difference = compare_round(&n, &insn, pages, round);
            if (difference == NULL)
                continue;
            failed++;
            print_error("%s: %s differs in round %u:", ZydisMnemonicGetString(insn.mnemonic),
                        difference, round);
            for (unsigned b = 0; b < actual; b++)
                print_error(" %02x", code[b]);
            print_error("\n");
            break;
        }
    }
    struct thunk_set_stats stats;
    thunk_set_get_stats(n.vm.thunks, &stats);
    print_message("%u encodings bound, %u failed, %u thunks\n", bound, failed,
                  (unsigned)stats.thunks);
    native_code_free(pages);
    native_destroy(&n);
    assert_int_equal(failed, 0);
    assert_int_equal(stats.refused, 0);
    assert_true(bound > 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_encodings_match_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
