/*
 * Guest registers that live in the frame (context_put): a store that nobody can have read is taken
 * out of the code again, the others stay where they are, and the interpreter comes to the same.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "testvm.h"

#define CODE     0x100000u
#define POOL     0x300000u
#define RAM_SIZE 0x400000u

/* MOV to a place of the frame in what has been translated. */
static unsigned count_stores(const struct translate *translate)
{
    const uint8_t *code = translate->code.write;
    unsigned count = 0;
    for (uint32_t at = translate->code_ring.start; at + 5 <= translate->code_ring.at; at++) {
        const uint8_t *bytes = code + at; /* REX.WR, opcode, ModRM, SIB, displacement */
        count += bytes[0] == 0x4c && bytes[1] == 0x89 && (bytes[2] & 0xc7) == 0x44 &&
                 bytes[3] == 0x24 && bytes[4] >= FRAME_GPRS &&
                 bytes[4] < FRAME_GPRS + 8 * FRAME_GPR_COUNT;
    }
    return count;
}

/* Both engines run the program; `stores` are in its translation. */
static void compare(const uint8_t *program, size_t length, unsigned stores)
{
    static const uint8_t hlt = 0xf4;
    static const struct engine_ops *const engines[2] = {&interp_engine, &translate_engine};
    struct testvm machines[2];
    for (unsigned i = 0; i < 2; i++) {
        testvm_create(&machines[i], RAM_SIZE);
        testvm_use_engine(&machines[i], engines[i]);
        testvm_set_mode(&machines[i], MODE_LONG, 8);
        testvm_put(&machines[i], CODE, program, length);
        testvm_put(&machines[i], CODE + length, &hlt, 1);
        for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++)
            machines[i].vcpu->gpr[gpr] = gpr * 0x123456789abcdefu;
        machines[i].vcpu->gpr[GPR_RBX] = POOL;
        assert_int_equal(testvm_run(&machines[i], CODE), VCPU_EXIT_HALTED);
    }
    assert_memory_equal(machines[0].vcpu->gpr, machines[1].vcpu->gpr,
                        sizeof(machines[0].vcpu->gpr));
    assert_int_equal(count_stores(translate_of(machines[1].vcpu)), stores);
    for (unsigned i = 0; i < 2; i++)
        testvm_destroy(&machines[i]);
}

static void test_written_again(void **state)
{
    static const uint8_t program[] = {
        0x41, 0x89, 0xf9,                /* mov r9d, edi */
        0x41, 0xc1, 0xc1, 0x0d,          /* rol r9d, 13 */
        0x41, 0x31, 0xc9,                /* xor r9d, ecx */
        0x41, 0xb9, 0x07, 0,    0, 0,    /* mov r9d, 7 */
        0x49, 0x81, 0xc1, 0,    1, 0, 0, /* add r9, 0x100 */
    };
    compare(program, sizeof(program), 1);
}

/* Others move down when one is taken out, before them and behind them. */
static void test_in_turns(void **state)
{
    static const uint8_t program[] = {
        0x41, 0xbf, 0x01, 0, 0, 0, /* mov r15d, 1 */
        0x41, 0xb9, 0x02, 0, 0, 0, /* mov r9d, 2 */
        0x41, 0xba, 0x03, 0, 0, 0, /* mov r10d, 3 */
        0x41, 0xb9, 0x04, 0, 0, 0, /* mov r9d, 4 */
        0x41, 0xbb, 0x05, 0, 0, 0, /* mov r11d, 5 */
        0x41, 0xba, 0x06, 0, 0, 0, /* mov r10d, 6 */
        0x41, 0xbb, 0x07, 0, 0, 0, /* mov r11d, 7 */
        0x41, 0xbf, 0x08, 0, 0, 0, /* mov r15d, 8 */
    };
    compare(program, sizeof(program), 4);
}

/* Read from the frame, by the instruction itself or by one that writes in place; seen by C, in a
 * handler and where an access may miss. */
static void test_read_between(void **state)
{
    static const uint8_t added[] = {
        0x41, 0xb9, 0x02, 0, 0, 0, /* mov r9d, 2 */
        0x41, 0xba, 0x03, 0, 0, 0, /* mov r10d, 3 */
        0x41, 0xbb, 0x04, 0, 0, 0, /* mov r11d, 4 */
        0x4c, 0x01, 0xc8,          /* add rax, r9 */
        0x49, 0x01, 0xca,          /* add r10, rcx */
        0x49, 0x01, 0xca,          /* add r10, rcx */
        0x41, 0xb9, 0x05, 0, 0, 0, /* mov r9d, 5 */
    };
    static const uint8_t cpuid[] = {
        0x41, 0xb9, 0x02, 0, 0, 0, /* mov r9d, 2 */
        0x0f, 0xa2,                /* cpuid */
        0x41, 0xb9, 0x05, 0, 0, 0, /* mov r9d, 5 */
    };
    static const uint8_t load[] = {
        0x41, 0xb9, 0x02, 0, 0, 0, /* mov r9d, 2 */
        0x48, 0x8b, 0x03,          /* mov rax, [rbx] */
        0x41, 0xb9, 0x05, 0, 0, 0, /* mov r9d, 5 */
    };
    compare(added, sizeof(added), 4);
    compare(cpuid, sizeof(cpuid), 2);
    compare(load, sizeof(load), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_again),
        cmocka_unit_test(test_in_turns),
        cmocka_unit_test(test_read_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
