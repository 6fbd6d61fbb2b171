/*
 * No block is longer than what is reserved for one. Blocks as long as they get, of one instruction
 * each: thousands of random ones, and those that random programs do not have. What each took of
 * code and data memory must stay within the bounds, with room to spare.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "random_program.h"
#include "testvm.h"

#define SEED     0xb10c5u
#define PROGRAMS 300u
#define CODE     0x100000u
#define RAM_SIZE (64u << 20)

struct worst {
    struct testvm vm;
    uint32_t code, data; /* most that a block took */
    uint8_t code_bytes[16], data_bytes[16];
    unsigned tried;
};

/* Blocks of copies of an instruction: each starts in its own place, and the last goes to HLT. */
static void try_insn(struct worst *w, const uint8_t *bytes, size_t length)
{
    uint8_t code[BLOCK_MAX_INSNS * 16 + 1];
    struct vcpu *vcpu = w->vm.vcpu;
    struct translate *translate = translate_of(vcpu);
    for (unsigned i = 0; i < BLOCK_MAX_INSNS; i++)
        memcpy(code + i * length, bytes, length);
    code[BLOCK_MAX_INSNS * length] = 0xf4;
    /* Again where its blocks are known: then they follow in line. */
    for (unsigned pass = 0; pass < 2; pass++) {
        testvm_set_mode(&w->vm, MODE_LONG, 8);
        translate_drop(translate, MMU_ALL_PAGES);
        testvm_put(&w->vm, CODE, code, BLOCK_MAX_INSNS * length + 1);
        uint32_t code_at = translate->code_ring.at, aside_at = translate->aside_ring.at;
        uint32_t data_at = translate->data_ring.at;
        uint64_t made = translate->stats.translations;
        testvm_run(&w->vm, CODE);
        made = translate->stats.translations - made;
        uint32_t took_code = translate->code_ring.at - code_at;
        uint32_t took_aside = translate->aside_ring.at - aside_at;
        uint32_t took_data = translate->data_ring.at - data_at;
        if (made != 1 || translate->code_ring.at < code_at || translate->aside_ring.at < aside_at ||
            translate->data_ring.at < data_at)
            continue;
        took_code = took_aside > took_code ? took_aside : took_code;
        if (took_code > w->code) {
            w->code = took_code;
            memcpy(w->code_bytes, bytes, length);
        }
        if (took_data > w->data) {
            w->data = took_data;
            memcpy(w->data_bytes, bytes, length);
        }
    }
    w->tried++;
}

static bool is_branch(const uint8_t *bytes, size_t length)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, length, &insn)) ||
           insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
}

static void try_random(struct worst *w)
{
    static struct program program;
    for (unsigned i = 0; i < PROGRAMS; i++) {
        program_make(&program, SEED + i, &w->vm.features, true);
        for (unsigned n = 0; n < program.piece_count; n++) {
            const struct program_piece *piece = &program.pieces[n];
            const uint8_t *bytes = program.code + piece->at;
            if (piece->length <= 15 && !is_branch(bytes, piece->length))
                try_insn(w, bytes, piece->length);
        }
    }
}

/* Branches to the next instruction, and the kernel's. */
static void try_others(struct worst *w)
{
    static const struct {
        uint8_t length, bytes[11];
    } others[] = {
        {2, {0x74, 0x00}},
        {6, {0x0f, 0x84, 0x00, 0x00, 0x00, 0x00}},
        {5, {0xe8, 0x00, 0x00, 0x00, 0x00}},
        {5, {0xe9, 0x00, 0x00, 0x00, 0x00}},
        {2, {0xe2, 0x00}},
        {2, {0xe3, 0x00}},
        {1, {0xfa}},
        {1, {0xfb}},
        {1, {0x9c}},
        {1, {0x9d}},
        {1, {0xc3}},
        {1, {0xcb}},
        {2, {0x48, 0xcf}},
        {2, {0x0f, 0x05}},
        {3, {0x48, 0x0f, 0x07}},
        {2, {0x0f, 0x30}},
        {2, {0x0f, 0x31}},
        {2, {0x0f, 0x32}},
        {2, {0x0f, 0xa2}},
        {3, {0x0f, 0x01, 0xf8}},
        {3, {0x0f, 0x01, 0xca}},
        {3, {0x0f, 0x01, 0xcb}},
        {3, {0x0f, 0x01, 0x38}},
        {3, {0x0f, 0x20, 0xd8}},
        {3, {0x0f, 0x22, 0xd8}},
        {3, {0x0f, 0x20, 0xc0}},
        {3, {0x0f, 0x22, 0xc0}},
        {2, {0x8e, 0xd8}},
        {2, {0x8c, 0xd8}},
        {4, {0xff, 0x74, 0x24, 0x08}},
        {4, {0x8f, 0x44, 0x24, 0x08}},
        {10, {0x65, 0x67, 0x42, 0xff, 0xb4, 0x1d, 0x00, 0x00, 0x00, 0x00}},
        {10, {0x65, 0xf0, 0x4e, 0x0f, 0xb1, 0x9c, 0x1d, 0x00, 0x00, 0x00}},
        {2, {0xf3, 0xa4}},
        {3, {0xf3, 0x48, 0xab}},
        {1, {0x90}},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(others); i++)
        try_insn(w, others[i].bytes, others[i].length);
}

static void print_bytes(const char *what, uint32_t size, uint32_t limit, const uint8_t *bytes)
{
    print_message("%s: at most %u of %u bytes, by", what, size, limit);
    for (unsigned i = 0; i < 16; i++)
        print_message(" %02x", bytes[i]);
    print_message("\n");
}

static void test_longest_blocks(void **state)
{
    static struct worst worst;
    struct worst *w = &worst;
    struct error err = {0};
    testvm_create(&w->vm, RAM_SIZE);
    w->vm.engine->detach(w->vm.vcpu);
    w->vm.engine = &translate_engine;
    assert_int_equal(w->vm.engine->attach(w->vm.vcpu, &err), STATUS_OK);
    try_random(w);
    try_others(w);
    print_message("%u instructions\n", w->tried);
    print_bytes("code", w->code, BLOCK_CODE_MAX, w->code_bytes);
    print_bytes("data", w->data, BLOCK_DATA_MAX, w->data_bytes);
    assert_in_range(w->code, 1, BLOCK_CODE_MAX * 2 / 3);
    assert_in_range(w->data, 1, BLOCK_DATA_MAX);
    testvm_destroy(&w->vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_longest_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
