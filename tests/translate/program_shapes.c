/* Random programs: skips, loops, calls, returns, jumps. */

#include <string.h>

#include "program_generator.h"

#define RIP_ROOM 0x1800u /* of code, for whatever one item may take */

static void put_u32_insn(struct generator *g, const char *opcode, unsigned length, uint32_t value,
                         bool is_pinned)
{
    uint8_t bytes[16];
    memcpy(bytes, opcode, length);
    memcpy(bytes + length, &value, 4);
    generator_put(g, bytes, length + 4, is_pinned);
}

/* A branch with a displacement of 32 bits. Returns its offset. */
static uint32_t put_branch(struct generator *g, const char *opcode, unsigned length, bool is_pinned)
{
    put_u32_insn(g, opcode, length, 0, is_pinned);
    return g->at - 4;
}

static uint32_t put_random_jcc(struct generator *g)
{
    char jcc[2] = {0x0f, (char)(0x80 | below(g, 16))};
    return put_branch(g, jcc, 2, false);
}

static void link_to(struct generator *g, uint32_t at, uint32_t target)
{
    uint32_t displacement = target - (at + 4);
    memcpy(g->p->code + at, &displacement, 4);
}

/* Moves on to where other code does not reach by falling through, at times to another page. */
static void leave_gap(struct generator *g)
{
    uint32_t gap = (uint32_t)(one_in(g, 6) ? below(g, 0x1000) : below(g, 24));
    if (g->at + gap + RIP_ROOM < ARENA_CODE_SIZE)
        g->at += gap;
}

static void put_skip(struct generator *g)
{
    uint32_t branch = put_random_jcc(g);
    uint32_t undefined = g->undefined;
    if (one_in(g, 3))
        leave_gap(g); /* not taken: INT3 */
    generator_put_items(g, 1 + (unsigned)below(g, 3));
    link_to(g, branch, g->at);
    g->known = 0;
    g->undefined |= undefined;
}

/* Fuel first: out of it, the loop is left. */
static uint32_t put_guard(struct generator *g)
{
    if (g->undefined != 0)
        generator_define_flags(g);
    put_u32_insn(g, "\xff\x0c\x25", 3, CONTROL_FUEL, true); /* dec dword [fuel] */
    return put_branch(g, "\x0f\x8e", 2, true);              /* jle */
}

static void put_loop(struct generator *g)
{
    if (g->undefined != 0)
        generator_define_flags(g);
    g->known = 0;
    if (one_in(g, 4))
        generator_put_constant(g, GPR_RCX, 1 + below(g, 6));
    g->known = 0;
    uint32_t head = g->at;
    generator_put_items(g, 1 + (unsigned)below(g, 5));
    uint32_t out = put_guard(g);
    uint32_t back;
    switch (below(g, 4)) {
    case 0:
        back = put_branch(g, "\xe9", 1, true);
        break;
    case 1: /* the flags of the guard */
        back = put_branch(g, "\x0f\x8f", 2, true);
        break;
    default:
        generator_put_random(g);
        if (g->undefined != 0)
            generator_define_flags(g);
        back = put_random_jcc(g);
        break;
    }
    link_to(g, back, head);
    link_to(g, out, g->at);
    g->known = 0;
}

/* An address in a cell of its own, for branches through memory. */
static uint32_t put_cell(struct generator *g, uint32_t *patch)
{
    uint32_t cell = CONTROL_CELLS + 8 * (g->cells++ % 256);
    generator_put_constant(g, GPR_R11, 0);
    *patch = g->at - 8;
    put_u32_insn(g, "\x4c\x89\x1c\x25", 4, cell, false); /* mov [cell], r11 */
    g->known &= (uint16_t) ~(1u << GPR_R11);
    return cell;
}

static void patch_address(struct generator *g, uint32_t at, uint32_t target)
{
    uint64_t address = ARENA_CODE + target;
    memcpy(g->p->code + at, &address, 8);
}

/* CALL or JMP through a register or a cell; *patch is where the address belongs. */
static void put_indirect(struct generator *g, bool is_call, uint32_t *patch)
{
    if (one_in(g, 2)) {
        uint32_t cell = put_cell(g, patch);
        put_u32_insn(g, is_call ? "\xff\x14\x25" : "\xff\x24\x25", 3, cell, false);
    } else {
        uint8_t reg = (uint8_t)below(g, 16);
        reg = reg == GPR_RSP ? GPR_R12 : reg;
        generator_put_constant(g, reg, 0);
        *patch = g->at - 8;
        uint8_t bytes[3] = {(uint8_t)(0x40 | (reg & 8) >> 3), 0xff,
                            (uint8_t)((is_call ? 0xd0 : 0xe0) | (reg & 7))};
        generator_put(g, bytes, 3, false);
    }
    g->known = 0;
}

static void put_jump(struct generator *g)
{
    uint32_t patch;
    uint32_t undefined = g->undefined;
    put_indirect(g, false, &patch);
    leave_gap(g);
    patch_address(g, patch, g->at);
    g->undefined |= undefined;
}

static void put_return(struct generator *g)
{
    if (one_in(g, 4)) {
        uint8_t bytes[3] = {0xc2, (uint8_t)(8 * below(g, 4)), 0};
        generator_put(g, bytes, 3, false);
    } else {
        generator_put(g, "\xc3", 1, false);
    }
}

/*      call f          or through a register or a cell
 *      jmp over
 *   f: ...
 *      ret
 *   over:
 */
static void put_call(struct generator *g)
{
    if (g->keeps_stack)
        return;
    generator_put_constant(g, GPR_RSP, STACK_LOW + 8 * (20 + below(g, 0x100)));
    bool direct = one_in(g, 2);
    uint32_t call = 0;
    if (direct)
        call = put_branch(g, "\xe8", 1, false);
    else
        put_indirect(g, true, &call);
    uint32_t over = put_branch(g, "\xe9", 1, true);
    leave_gap(g);
    if (direct)
        link_to(g, call, g->at);
    else
        patch_address(g, call, g->at);
    g->known = 0;
    uint32_t out = put_guard(g);
    g->keeps_stack = true;
    generator_put_items(g, (unsigned)below(g, 3));
    g->keeps_stack = false;
    if (g->undefined != 0)
        generator_define_flags(g);
    put_return(g);
    link_to(g, over, g->at);
    link_to(g, out, g->at);
    g->known = 0;
}

/* LDMXCSR: rounding, flush to zero, and at times exceptions that are not masked. */
static void put_mxcsr(struct generator *g)
{
    uint32_t value = (uint32_t)random_next(&g->random) & 0xffff;
    if (!one_in(g, 6))
        value |= 0x1f80;
    uint8_t store[11] = {0xc7, 0x04, 0x25};
    uint32_t at = CONTROL_MXCSR;
    memcpy(store + 3, &at, 4);
    memcpy(store + 7, &value, 4);
    generator_put(g, store, sizeof(store), false);
    put_u32_insn(g, "\x0f\xae\x14\x25", 4, at, false);
}

static void put_popf(struct generator *g)
{
    uint32_t flags = (uint32_t)random_next(&g->random) & F_ALL;
    flags |= one_in(g, 8) ? FLAG_DF : 0;
    flags |= one_in(g, 16) ? FLAG_NT : 0;
    flags |= one_in(g, 16) ? FLAG_ID : 0;
    flags |= one_in(g, 64) ? FLAG_TF : 0;
    flags |= one_in(g, 64) ? FLAG_AC : 0;
    flags |= one_in(g, 4) ? FLAG_IOPL | FLAG_IF : 0; /* not his to change */
    if (g->keeps_stack)
        return;
    generator_put_constant(g, GPR_RSP, STACK_LOW + 8 * (20 + below(g, 0x100)));
    put_u32_insn(g, "\x68", 1, flags, false);
    generator_put(g, "\x9d", 1, false);
    g->known &= (uint16_t) ~(1u << GPR_RSP);
}

void generator_put_items(struct generator *g, unsigned count)
{
    g->depth++;
    for (unsigned i = 0; i < count; i++) {
        if (g->at + RIP_ROOM > ARENA_CODE_SIZE || g->p->piece_count > PROGRAM_PIECES - 64)
            break;
        unsigned choice = (unsigned)below(g, 64);
        if (g->depth < 4 && choice < 4)
            put_skip(g);
        else if (g->depth < 4 && choice < 6)
            put_loop(g);
        else if (g->depth < 4 && choice < 8)
            put_call(g);
        else if (choice == 8)
            put_jump(g);
        else if (choice == 9)
            put_mxcsr(g);
        else if (choice == 10)
            put_popf(g);
        else
            generator_put_random(g);
    }
    g->depth--;
}
