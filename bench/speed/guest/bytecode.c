/*
 * A bytecode interpreter's loop, as language runtimes have it: an indirect jump for each operation.
 * Its program adds up how many steps Collatz's sequences take that start below a limit.
 */
#include "bench.h"

enum opcode { OP_SET, OP_ADD, OP_ADD_CONSTANT, OP_TRIPLE, OP_HALVE, OP_IF_ODD, OP_IF_NOT, OP_END };

struct instruction {
    uint8_t opcode, target, source;
    int32_t value; /* a constant, or where to jump */
};

/* Of all starts from 1 to LIMIT - 1 together: known. */
enum { LIMIT = 50, STEPS = 1042, OPERATIONS = 7786 };

enum { R_N, R_START, R_STEPS, R_COMPARE, R_ZERO, REGISTERS };

static const struct instruction program[] = {
    {OP_SET, R_START, 0, 1},
    {OP_SET, R_STEPS, 0, 0},
    /* 2: the next start */
    {OP_SET, R_N, 0, 0},
    {OP_ADD, R_N, R_START, 0},
    /* 4: is n 1? */
    {OP_SET, R_COMPARE, 0, -1},
    {OP_ADD, R_COMPARE, R_N, 0},
    {OP_IF_NOT, R_COMPARE, 0, 13},
    {OP_ADD_CONSTANT, R_STEPS, 0, 1},
    {OP_IF_ODD, R_N, 0, 11},
    {OP_HALVE, R_N, 0, 0},
    {OP_IF_NOT, R_ZERO, 0, 4},
    /* 11: n is odd */
    {OP_TRIPLE, R_N, 0, 1},
    {OP_IF_NOT, R_ZERO, 0, 4},
    /* 13: n is 1 */
    {OP_ADD_CONSTANT, R_START, 0, 1},
    {OP_SET, R_COMPARE, 0, -LIMIT},
    {OP_ADD, R_COMPARE, R_START, 0},
    {OP_IF_NOT, R_COMPARE, 0, 18},
    {OP_IF_NOT, R_ZERO, 0, 2},
    /* 18 */
    {OP_END, 0, 0, 0},
};

/* Runs a program; the registers are all 0 at first. Gives how many operations it did. */
__attribute__((noinline)) static uint64_t interpret(const struct instruction *code,
                                                    int64_t registers[REGISTERS])
{
    const struct instruction *pc = code;
    uint64_t count = 0;
    for (;;) {
        count++;
        switch ((enum opcode)pc->opcode) {
        case OP_SET:
            registers[pc->target] = pc->value;
            pc++;
            break;
        case OP_ADD:
            registers[pc->target] += registers[pc->source];
            pc++;
            break;
        case OP_ADD_CONSTANT:
            registers[pc->target] += pc->value;
            pc++;
            break;
        case OP_TRIPLE:
            registers[pc->target] = 3 * registers[pc->target] + pc->value;
            pc++;
            break;
        case OP_HALVE:
            registers[pc->target] >>= 1;
            pc++;
            break;
        case OP_IF_ODD:
            pc = registers[pc->target] & 1 ? code + pc->value : pc + 1;
            break;
        case OP_IF_NOT:
            pc = registers[pc->target] == 0 ? code + pc->value : pc + 1;
            break;
        case OP_END:
            return count;
        }
    }
}

static bool bytecode_run(void *state)
{
    int64_t registers[REGISTERS] = {0};
    /* The compiler must not fit the interpreter to this program. */
    const struct instruction *code = (const struct instruction *)opaque((uintptr_t)program);
    return interpret(code, registers) == OPERATIONS && registers[R_STEPS] == STEPS;
}

const struct bench bytecode_benches[] = {
    {"bytecode", "operation", OPERATIONS, 0, NULL, bytecode_run, NULL, NULL},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
