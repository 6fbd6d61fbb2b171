/*
 * Runs of memory accesses (src/cpu/translate/run.c), and flags that are not saved for them.
 *
 * As in sequence_test.c, two machines are given the same random program, one interprets and one
 * translates, and all state must be equal afterwards. These programs are made of what runs are made
 * of: few base registers with small displacements, pushes and pops, and arithmetic on the bases
 * between the accesses. The bases are near page borders, and pages are missing, read-only, without
 * RAM, mapped twice, or have code. So faults happen at any access of a run (there is no IDT: in a
 * shutdown, with everything as it was then), and runs over a border until their block is translated
 * without them.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "encode.h"
#include "testvm.h"

#define PROGRAMS  1500u
#define CODE      0x100000u
#define CODE_MAX  0x1000u
#define COUNTER   0x200000u /* how often the loop is still to run */
#define TABLE     0x6000u   /* page table of PAGES */
#define HIGH_PDPT 0x7000u
#define HIGH_PD   0x8000u
#define PAGES     0x400000u /* linear */
/* Added to that: the same pages once more, for user code; and where the window has no place. */
#define HIGH      0x7f0000000000u
#define FAR       0x100000000000u
#define PAGE_MAX  8u
#define APART     (TLB_ENTRIES * PAGE_SIZE) /* mapped thrice, so far apart: of one TLB slot */
#define POOL      0x300000u /* what they map, and a function at FUNCTION in the first */
#define POOL_SIZE (4u * PAGE_SIZE)
#define FUNCTION  0x800u
#define RAM_SIZE  0x400000u
#define NO_RAM    0x10000000u

struct program {
    struct random *random;
    bool is_user; /* at CPL 3, with all pages in both halves of the window */
    size_t length;
    uint8_t bytes[CODE_MAX];
};

static unsigned below(struct program *p, unsigned limit)
{
    return (unsigned)random_below(p->random, limit);
}

static void put_u8(struct program *p, unsigned byte)
{
    p->bytes[p->length++] = (uint8_t)byte;
}

static void put(struct program *p, const void *bytes, size_t length)
{
    memcpy(p->bytes + p->length, bytes, length);
    p->length += length;
}

static void put_u32(struct program *p, uint32_t value)
{
    put(p, &value, 4);
}

static void put_constant(struct program *p, unsigned reg, uint64_t value)
{
    put_u8(p, 0x48 | reg >> 3);
    put_u8(p, 0xb8 | (reg & 7));
    put(p, &value, 8);
}

/* ------------------------------------------------------------------------- instructions */

static const uint8_t bases[] = {GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_R10, GPR_R12};
static const uint8_t others[] = {GPR_RAX, GPR_RDX, GPR_R8, GPR_R9, GPR_R11, GPR_R14, GPR_R15};

#define ANY(p, array) ((array)[below((p), ARRAY_LENGTH(array))])

/* Any register at times, mostly none that is a base. RCX is the index. */
static unsigned any_register(struct program *p)
{
    return below(p, 20) == 0 ? below(p, 16) : ANY(p, others);
}

struct operand_form {
    unsigned base, index, scale;
    int32_t displacement;
};

static struct operand_form any_operand(struct program *p)
{
    unsigned index = below(p, 6) == 0 ? GPR_RCX : HOST_NONE;
    int32_t displacement = (int32_t)below(p, 12) * 8 - 40;
    if (below(p, 5) == 0)
        displacement = (int32_t)below(p, 400) - 200;
    return (struct operand_form){ANY(p, bases), index, below(p, 4), displacement};
}

/* REX, opcode, and ModRM of a register and memory. size 1 to 8, 16: of vectors. */
static void put_memory(struct program *p, unsigned prefix, unsigned size, unsigned opcode,
                       unsigned reg, struct operand_form m)
{
    unsigned index = m.index == HOST_NONE ? 4 : m.index;
    if (prefix != 0)
        put_u8(p, prefix);
    if (size == 2)
        put_u8(p, 0x66);
    put_u8(p, 0x40 | (size == 8) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | m.base >> 3);
    if (opcode > 0xff)
        put_u8(p, opcode >> 8);
    put_u8(p, opcode & 0xff);
    put_u8(p, 0x84 | (reg & 7) << 3);
    put_u8(p, m.scale << 6 | (index & 7) << 3 | (m.base & 7));
    put_u32(p, (uint32_t)m.displacement);
}

static void put_registers(struct program *p, unsigned size, unsigned opcode, unsigned reg,
                          unsigned rm)
{
    if (size == 2)
        put_u8(p, 0x66);
    put_u8(p, 0x40 | (size == 8) << 3 | (reg >> 3) << 2 | rm >> 3);
    if (opcode > 0xff)
        put_u8(p, opcode >> 8);
    put_u8(p, opcode & 0xff);
    put_u8(p, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static unsigned any_size(struct program *p)
{
    return 1u << below(p, 4);
}

static void put_access(struct program *p)
{
    static const uint16_t of_register[] = {0x88, 0x88, 0x8a, 0x8a, 0x8a, 0x00, 0x02,   0x10,  0x28,
                                           0x22, 0x30, 0x38, 0x3a, 0x84, 0x86, 0x0fb0, 0x0fc0};
    unsigned size = any_size(p), reg = any_register(p), wide = size > 1;
    struct operand_form m = any_operand(p);
    unsigned prefix = below(p, 12) == 0 ? 0x64 : 0;
    switch (below(p, 8)) {
    case 0: /* immediate */
        put_memory(p, prefix, size, 0xc6 | wide, 0, m);
        for (unsigned i = 0; i < (size < 4 ? size : 4); i++)
            put_u8(p, below(p, 256));
        break;
    case 1: /* arithmetic with an immediate, locked at times */
        put_memory(p, below(p, 4) == 0 ? 0xf0 : 0, size, wide ? 0x83 : 0x80, below(p, 7), m);
        put_u8(p, below(p, 256));
        break;
    case 2: /* INC, DEC, NOT, NEG */
        if (below(p, 2) == 0)
            put_memory(p, 0, size, 0xfe | wide, below(p, 2), m);
        else
            put_memory(p, 0, size, 0xf6 | wide, 2 + below(p, 2), m);
        break;
    case 3: { /* moves of vectors, with alignment at times */
        unsigned aligned = below(p, 4) == 0;
        if (aligned)
            m.displacement &= ~15;
        put_memory(p, 0, 16, (aligned ? 0x0f28u : 0x0f10u) | below(p, 2), below(p, 16), m);
        break;
    }
    case 4: /* MOVZX, CMOV */
        put_memory(p, prefix, size > 2 ? size : 4, below(p, 2) ? 0x0fb6 : 0x0f40 | below(p, 16),
                   reg, m);
        break;
    default:
        put_memory(p, prefix, size, ANY(p, of_register) | wide, reg, m);
        break;
    }
}

/* What changes a base, or copies one to another. */
static void put_base(struct program *p)
{
    unsigned base = ANY(p, bases);
    unsigned small = below(p, 33) * 4;
    switch (below(p, 6)) {
    case 0:
        put_registers(p, 8, 0x83, 0, base); /* add */
        put_u8(p, small & 0x7f);
        break;
    case 1:
        put_registers(p, 8, 0x83, 5, base); /* sub */
        put_u8(p, small & 0x7f);
        break;
    case 2:
        put_registers(p, 8, 0xff, below(p, 2), base); /* inc, dec */
        break;
    case 3:
        put_memory(p, 0, 8, 0x8d, base,
                   (struct operand_form){ANY(p, bases), HOST_NONE, 0, (int32_t)small - 64});
        break;
    case 4:
        put_registers(p, 8, 0x89, ANY(p, bases), base); /* mov */
        break;
    default:
        put_constant(p, GPR_RCX, below(p, 8));
        break;
    }
}

static void put_stack(struct program *p)
{
    unsigned reg = below(p, 8) == 0 ? ANY(p, bases) : any_register(p);
    switch (below(p, 9)) {
    case 0:
        put_u8(p, 0x6a); /* push imm8 */
        put_u8(p, below(p, 256));
        break;
    case 1:
        put_memory(p, 0, 4, 0xff, 6, any_operand(p)); /* push mem */
        break;
    case 2:
        put_u8(p, 0xc9); /* leave */
        break;
    case 3:
    case 4:
    case 5:
        if (reg == GPR_RSP)
            put_u8(p, 0x54); /* push rsp */
        put_u8(p, 0x40 | reg >> 3);
        put_u8(p, 0x58 | (reg & 7)); /* pop */
        break;
    default:
        put_u8(p, 0x40 | reg >> 3);
        put_u8(p, 0x50 | (reg & 7)); /* push */
        break;
    }
}

/* Without REX, so that 4 to 7 are AH to BH: arithmetic, MOV, MOVZX. */
static void put_high(struct program *p)
{
    static const uint8_t usual[] = {0, 2, 4, 6};
    unsigned rm = below(p, 6) == 0 ? 7 : ANY(p, usual);
    unsigned reg = below(p, 6) == 0 ? below(p, 8) : ANY(p, usual);
    switch (below(p, 6)) {
    case 0: /* behind flags of the same register */
        put_u8(p, 0xf6);
        put_u8(p, 0xd8 | (rm & 3)); /* neg */
        /* fallthrough */
    case 5:
        put_u8(p, 0xb0 | rm); /* mov */
        put_u8(p, below(p, 256));
        return;
    case 1:
        put_u8(p, 0x80);
        put_u8(p, 0xc0 | below(p, 8) << 3 | rm);
        put_u8(p, below(p, 256));
        return;
    case 2:
        put_u8(p, 0x0f);
        put_u8(p, below(p, 2) ? 0xb6 : 0xbe);
        reg = below(p, 2) ? GPR_RAX : GPR_RDX;
        break;
    case 3:
        put_u8(p, below(p, 2) ? 0x84 : 0x88 | below(p, 2) << 1);
        break;
    default:
        put_u8(p, below(p, 8) << 3 | below(p, 2) << 1);
        break;
    }
    put_u8(p, 0xc0 | reg << 3 | rm);
}

/* Registers only: writes flags, keeps some, reads them, or none of it. */
static void put_arithmetic(struct program *p)
{
    unsigned size = any_size(p), wide = size > 1, reg = any_register(p), rm = ANY(p, others);
    switch (below(p, 9)) {
    case 0: /* rotations and shifts */
        put_registers(p, size, 0xc0 | wide, below(p, 8), rm);
        put_u8(p, below(p, 40));
        put_registers(p, 8, 0x85, rm, rm); /* their flags may be undefined: test */
        break;
    case 1:
        put_registers(p, size, 0xc0 | wide, below(p, 2), rm); /* by 1: all defined */
        put_u8(p, 1);
        break;
    case 2:
        put_registers(p, size, 0xfe | wide, below(p, 2), rm); /* inc, dec */
        break;
    case 3:
        put_registers(p, size, 0xf6 | wide, 2 + below(p, 2), rm); /* not, neg */
        break;
    case 4:
        put_registers(p, 4, 0x0f40 | below(p, 16), reg, rm); /* cmov */
        break;
    case 5:
        put_registers(p, 1, 0x0f90 | below(p, 16), 0, rm); /* set */
        break;
    case 6:
        put_registers(p, size, wide ? 0x83 : 0x80, below(p, 8), rm);
        put_u8(p, below(p, 256));
        break;
    case 7:
        put_registers(p, size, 0x84 | wide | below(p, 2) << 2, reg, rm); /* test, mov */
        break;
    default:
        put_registers(p, size, below(p, 8) << 3 | wide | below(p, 2) << 1, reg, rm);
        break;
    }
}

/* A division that may not fit, by a register or memory; of a sign-extended dividend at times. */
static void put_division(struct program *p)
{
    unsigned size = below(p, 2) ? 8 : 4, is_signed = below(p, 2);
    if (below(p, 4) != 0) {
        put_constant(p, GPR_RAX, random_value(p->random));
        put_constant(p, GPR_RDX, below(p, 3));
        if (is_signed) {
            put_u8(p, size == 8 ? 0x48 : 0x40);
            put_u8(p, 0x99); /* cqo, cdq */
        }
    }
    if (below(p, 2))
        put_memory(p, 0, size, 0xf7, 6 + is_signed, any_operand(p));
    else
        put_registers(p, size, 0xf7, 6 + is_signed, any_register(p));
}

/* Near a border of pages, or in the middle of one. */
static uint64_t any_address(struct program *p)
{
    uint64_t page = PAGES + PAGE_SIZE * (1 + below(p, PAGE_MAX - 2));
    page += (uint64_t)below(p, 3) * APART;
    if (p->is_user && below(p, 2) == 0)
        page += below(p, 8) == 0 ? FAR : HIGH;
    if (below(p, 3) == 0)
        return page + 0x400 + 8 * below(p, 16);
    return page - 0x80 + (below(p, 4) ? 8 * below(p, 32) : below(p, 256));
}

/* How many elements: few, more than a page, to the end of the page or one more, or so many that
 * their bytes are few again in 64 bits (which ends where no page is). */
static uint64_t any_count(struct program *p, uint64_t to, unsigned size, bool backward)
{
    switch (below(p, 16)) {
    case 0:
    case 1:
        return below(p, 5000);
    case 2:
        return (PAGE_SIZE - (to & PAGE_MASK)) / size + below(p, 2);
    case 3:
        return size > 1 && !backward ? (UINT64_MAX / size + 1) + below(p, 40) : 0;
    default:
        return below(p, 40);
    }
}

/* REP STOS and MOVS of any size, up to more than a page, at times backward or none at all. */
static void put_string(struct program *p)
{
    unsigned size = any_size(p), backward = below(p, 6) == 0;
    uint64_t to = any_address(p);
    put_constant(p, GPR_RDI, to);
    if (below(p, 2))
        put_constant(p, GPR_RSI, any_address(p));
    if (below(p, 4) == 0) { /* overlapping */
        put_registers(p, 8, 0x8d, GPR_RDI, GPR_RSI);
        p->bytes[p->length - 1] = 0x7e; /* lea rdi, [rsi + small] */
        put_u8(p, below(p, 40) - 20);
    }
    put_constant(p, GPR_RCX, any_count(p, to, size, backward));
    if (backward)
        put_u8(p, 0xfd); /* std */
    if (below(p, 10) != 0)
        put_u8(p, below(p, 10) == 0 ? 0xf2 : 0xf3);
    if (size == 2)
        put_u8(p, 0x66);
    else
        put_u8(p, size == 8 ? 0x48 : 0x40);
    put_u8(p, (below(p, 2) ? 0xaa : 0xa4) | (size > 1));
    if (backward)
        put_u8(p, 0xfc);
    put_constant(p, GPR_RCX, below(p, 8));
}

/* Bit strings, near and far from the address. */
static void put_bits(struct program *p)
{
    unsigned opcode = 0x0fa3 | below(p, 4) << 3, size = 2u << below(p, 3), reg = ANY(p, others);
    put_constant(p, reg, below(p, 2) ? random_value(p->random) : (uint64_t)below(p, 4096) - 2048);
    put_memory(p, opcode != 0x0fa3 && below(p, 3) == 0 ? 0xf0 : 0, size, opcode, reg,
               any_operand(p));
}

/* CMPXCHG8B and 16B, of what is there or not, aligned or not. */
static void put_pair(struct program *p)
{
    struct operand_form m = {GPR_R12, HOST_NONE, 0, 0};
    unsigned size = below(p, 2) ? 8 : 4;
    put_constant(p, GPR_R12, any_address(p) & ~(below(p, 4) ? 15ull : 0ull));
    put_constant(p, GPR_RBX, random_value(p->random));
    if (below(p, 2)) {
        put_memory(p, 0, size, 0x8b, GPR_RAX, m);
        m.displacement = (int32_t)size;
        put_memory(p, 0, size, 0x8b, GPR_RDX, m);
        m.displacement = 0;
    }
    put_memory(p, below(p, 2) ? 0xf0 : 0, size, 0x0fc7, 1, m);
    put_constant(p, GPR_RBX, any_address(p));
}

/* The index of an address changes between two accesses, by an instruction that does not name it. */
static void put_scan(struct program *p)
{
    struct operand_form m = {ANY(p, bases), GPR_RCX, below(p, 4), (int32_t)below(p, 8) * 8};
    put_memory(p, 0, 8, 0x8b, ANY(p, others), m);
    put(p, "\x66\x0f\x3a\x63", 4); /* pcmpistri */
    put_u8(p, 0xc0 | below(p, 64));
    put_u8(p, below(p, 128));
    put_memory(p, 0, 8, 0x89, ANY(p, others), m);
}

static void put_skip(struct program *p)
{
    put_u8(p, 0x70 | below(p, 16));
    size_t at = p->length++;
    put_access(p);
    p->bytes[at] = (uint8_t)(p->length - at - 1);
}

/* A load or store by RIP, near a border of pages; at times over a jump to what comes next. */
static void put_relative(struct program *p)
{
    uint64_t to = PAGES + PAGE_SIZE - 0x20 + 8 * below(p, 6);
    if (below(p, 2)) {
        put_u8(p, 0xeb);
        put_u8(p, 3);
        put(p, "\x90\x90\x90", 3);
    }
    put_u8(p, 0x48);
    put_u8(p, below(p, 2) ? 0x8b : 0x89);
    put_u8(p, 0x05); /* rax */
    put_u32(p, (uint32_t)(to - (CODE + p->length + 4)));
}

/* A call of what comes next, or a jump there, mostly by way of memory. A return address is popped.
 */
static void put_call(struct program *p)
{
    bool calls = below(p, 3) != 0;
    if (below(p, 3) == 0) {
        put_u8(p, 0xe8);
        put_u32(p, 0);
        calls = true;
    } else {
        struct operand_form m = any_operand(p);
        put(p, "\x48\x8d\x05", 3); /* lea rax, [rip + ...] */
        size_t at = p->length;
        put_u32(p, 0);
        put_memory(p, 0, 8, 0x89, GPR_RAX, m);
        put_memory(p, 0, 4, 0xff, calls ? 2 : 4, m);
        uint32_t distance = (uint32_t)(p->length - (at + 4));
        memcpy(p->bytes + at, &distance, 4);
    }
    if (calls) {
        put_u8(p, 0x41);
        put_u8(p, 0x5b); /* pop r11 */
    }
}

static void put_bases(struct program *p)
{
    for (unsigned i = 0; i < ARRAY_LENGTH(bases); i++)
        put_constant(p, bases[i], any_address(p));
    put_constant(p, GPR_RCX, below(p, 8));
}

/* Back to `start` so many times as COUNTER says. */
static void put_end(struct program *p, size_t start)
{
    put(p, "\xff\x0c\x25", 3); /* dec dword [COUNTER] */
    put_u32(p, COUNTER);
    put(p, "\x0f\x85", 2); /* jnz */
    put_u32(p, (uint32_t)(start - (p->length + 4)));
    put_u8(p, 0xf4);
}

/* A loop that stays in its page, its bases on the move: its blocks are made anew in one piece, with
 * runs from one to the next. */
static void make_hot_loop(struct program *p)
{
    p->length = 0;
    put_bases(p);
    size_t start = p->length;
    unsigned count = 4 + below(p, 16);
    for (unsigned i = 0; i < count; i++) {
        switch (below(p, 9)) {
        case 0:
            put_skip(p);
            break;
        case 1:
            put_relative(p);
            break;
        case 2:
        case 8:
            put_base(p);
            break;
        case 3:
            put_stack(p);
            break;
        case 4:
            put_arithmetic(p);
            break;
        default:
            put_access(p);
            break;
        }
    }
    put_end(p, start);
}

static void make_program(struct program *p)
{
    p->length = 0;
    put_constant(p, GPR_RSP, PAGES + 0x600);
    put_constant(p, GPR_RAX, PAGES + FUNCTION);
    put(p, "\xc6\x00\xc3", 3); /* mov byte [rax], ret: strings may have been there */
    put(p, "\xff\xd0", 2);     /* call rax: its page has code now */
    put_bases(p);
    unsigned count = 4 + below(p, 30);
    for (unsigned i = 0; i < count; i++) {
        switch (below(p, 16)) {
        case 0:
            put_skip(p);
            break;
        case 1:
            put_call(p);
            break;
        case 2:
        case 3:
            put_base(p);
            break;
        case 4:
            if (below(p, 4) == 0)
                put_division(p);
            else if (below(p, 4) == 0)
                put_scan(p);
            break;
        case 10:
            if (below(p, 2))
                put_string(p);
            else if (below(p, 2))
                put_bits(p);
            else
                put_pair(p);
            break;
        case 5:
        case 6:
            put_stack(p);
            break;
        case 7:
        case 8:
        case 9:
            if (below(p, 3) == 0)
                put_high(p);
            else
                put_arithmetic(p);
            break;
        default:
            put_access(p);
            break;
        }
    }
    put_end(p, 0);
}

/* ------------------------------------------------------------------------- machines */

struct inputs {
    uint64_t gpr[GPR_COUNT], rflags, table[PAGE_MAX];
    uint32_t rounds;
    uint8_t pool[POOL_SIZE];
};

/* Present, writable, the user's, accessed, dirty: as a page may be. */
static uint64_t any_page(struct program *p, bool faults)
{
    uint64_t page = POOL + PAGE_SIZE * below(p, POOL_SIZE / PAGE_SIZE);
    switch (faults ? below(p, 10) : 9) {
    case 0:
        return 0;
    case 1:
        return page | 5;
    case 2:
        return NO_RAM | 7;
    default:
        return page | 7 | (below(p, 2) ? 0x60u : 0u);
    }
}

static void make_inputs(struct program *p, struct inputs *in)
{
    bool faults = below(p, 3) == 0;
    for (unsigned i = 0; i < PAGE_MAX; i++)
        in->table[i] = any_page(p, faults);
    in->table[0] = POOL | 7;
    for (unsigned g = 0; g < GPR_COUNT; g++)
        in->gpr[g] = random_value(p->random);
    in->rflags = FLAG_FIXED | (random_next(p->random) & FLAGS_STATUS);
    in->rounds = 1 + below(p, below(p, 4) == 0 ? 40 : 3);
    for (unsigned at = 0; at < sizeof(in->pool); at++)
        in->pool[at] = (uint8_t)random_next(p->random);
    in->pool[FUNCTION] = 0xc3;
}

/* Page tables of the higher half, and CPL 3. */
static void make_user(struct testvm *vm)
{
    struct vcpu *vcpu = vm->vcpu;
    const uint64_t directory = HIGH_PDPT | 7, pages = HIGH_PD | 7, table = TABLE | 7;
    testvm_put(vm, 0x1000 + 8 * (HIGH >> 39), &directory, 8);
    testvm_put(vm, 0x1000 + 8 * (FAR >> 39), &directory, 8);
    testvm_put(vm, HIGH_PDPT, &pages, 8);
    for (unsigned i = 0; i < 3; i++)
        testvm_put(vm, HIGH_PD + 8 * ((PAGES + i * APART) >> 21), &table, 8);
    vcpu->seg[SEG_CS] = (struct segment){0, UINT32_MAX, 0xfb | SEG_G | SEG_L, 0x3b};
    vcpu->seg[SEG_SS] = (struct segment){0, UINT32_MAX, 0xf3 | SEG_G | SEG_DB, 0x33};
    vcpu_update_mode(vcpu);
}

static void load(struct testvm *vm, const struct program *p, const struct inputs *in)
{
    uint64_t directory = TABLE | 7, none = 0;
    testvm_put(vm, CODE, p->bytes, p->length);
    testvm_put(vm, COUNTER, &in->rounds, sizeof(in->rounds));
    testvm_put(vm, POOL, in->pool, sizeof(in->pool));
    testvm_set_mode(vm, MODE_LONG, 8);
    for (unsigned i = 0; i < 3; i++)
        testvm_put(vm, 0x3000 + 8 * ((PAGES + i * APART) >> 21), &directory, 8);
    testvm_put(vm, TABLE, in->table, sizeof(in->table));
    testvm_put(vm, TABLE + sizeof(in->table), &none, 8);
    vm->vcpu->mmu.cr0 |= CR0_WP;
    if (p->is_user)
        make_user(vm);
    mmu_flush(&vm->vcpu->mmu, false);
    memcpy(vm->vcpu->gpr, in->gpr, sizeof(in->gpr));
    vm->vcpu->rflags = in->rflags;
    vm->vcpu->seg[SEG_FS].base = 24;
}

static bool is_equal(struct testvm *a, struct testvm *b)
{
    static uint8_t left[POOL_SIZE], right[POOL_SIZE];
    bool equal = true;
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (a->vcpu->gpr[i] == b->vcpu->gpr[i])
            continue;
        print_error("gpr %u: %#lx, translated %#lx\n", i, a->vcpu->gpr[i], b->vcpu->gpr[i]);
        equal = false;
    }
    if (a->vcpu->rflags != b->vcpu->rflags || a->vcpu->rip != b->vcpu->rip ||
        a->vcpu->cr2 != b->vcpu->cr2) {
        print_error("rflags %#lx, translated %#lx; rip %#lx, %#lx; cr2 %#lx, %#lx\n",
                    a->vcpu->rflags, b->vcpu->rflags, a->vcpu->rip, b->vcpu->rip, a->vcpu->cr2,
                    b->vcpu->cr2);
        equal = false;
    }
    assert_int_equal(pmap_read(a->map, POOL, left, POOL_SIZE), STATUS_OK);
    assert_int_equal(pmap_read(b->map, POOL, right, POOL_SIZE), STATUS_OK);
    for (unsigned i = 0; i < POOL_SIZE && equal; i++) {
        if (left[i] != right[i]) {
            print_error("pool at %#x: %02x, translated %02x\n", i, left[i], right[i]);
            equal = false;
        }
    }
    const uint8_t *vectors = (const uint8_t *)a->vcpu->xstate;
    const uint8_t *translated = (const uint8_t *)b->vcpu->xstate;
    for (unsigned i = 0; i < XSTATE_SIZE && equal; i++) {
        if (vectors[i] != translated[i] && i != 512) { /* which parts are in use: sequence_test.c */
            print_error("xstate at %u: %02x, translated %02x\n", i, vectors[i], translated[i]);
            equal = false;
        }
    }
    return equal;
}

static void print_program(const struct program *p)
{
    for (size_t at = 0; at < p->length; at++)
        print_error("%02x%s", p->bytes[at], at % 32 == 31 ? "\n" : "");
    print_error("\n");
}

/* At its HLT, which at CPL 3 is a fault, and so a shutdown. */
static bool has_ended(const struct program *p, const struct testvm *vm, enum vcpu_exit exit)
{
    return p->is_user ? vm->vcpu->rip == CODE + p->length - 1 : exit == VCPU_EXIT_HALTED;
}

typedef void make_fn(struct program *p);

static void run_programs(const struct engine_ops *engine, make_fn *make, uint64_t start,
                         bool is_user)
{
    static struct program program;
    static struct inputs inputs;
    struct random random = {start};
    struct testvm interpreted, translated;
    const char *seed = getenv("AEROSTAT_TEST_SEED"), *count = getenv("AEROSTAT_TEST_COUNT");
    unsigned programs = count != NULL ? (unsigned)strtoul(count, NULL, 0)
                        : is_user     ? 8 * PROGRAMS
                                      : PROGRAMS;
    unsigned halted = 0, bad = 0, direct = 0;

    if (seed != NULL)
        random.state = strtoull(seed, NULL, 0) | 1;
    print_message("seed %#lx\n", random.state);
    program.random = &random;
    program.is_user = is_user;
    testvm_create(&interpreted, RAM_SIZE);
    testvm_create(&translated, RAM_SIZE);
    testvm_use_engine(&translated, engine);
    for (unsigned i = 0; i < programs; i++) {
        make(&program);
        make_inputs(&program, &inputs);
        /* That the last program's runs were bad says nothing about this one's. */
        memset(translate_of(translated.vcpu)->bad_runs, 0, BAD_RUNS);
        load(&interpreted, &program, &inputs);
        load(&translated, &program, &inputs);
        translate_of(translated.vcpu)->relative_pages = i % 2 ? UINT64_MAX : 0;
        enum vcpu_exit expected = testvm_run(&interpreted, CODE);
        if (is_user) {
            direct_open(translate_of(translated.vcpu));
            direct += translate_of(translated.vcpu)->direct.is_open;
        }
        enum vcpu_exit got = testvm_run(&translated, CODE);
        halted += has_ended(&program, &interpreted, expected);
        bad += memchr(translate_of(translated.vcpu)->bad_runs, BAD_RUNS_MAX, BAD_RUNS) != NULL;
        if (!is_equal(&interpreted, &translated) || expected != got) {
            print_error("program %u, %u rounds, ends %d, translated %d\n", i, inputs.rounds,
                        expected, got);
            print_program(&program);
            fail();
        }
    }
    print_message("%u programs, %u without an exception, %u with bad runs\n", programs, halted,
                  bad);
    assert_true(halted > programs / 4 && halted < programs);
    /* Compilers differ in the order of arguments, so the programs do. */
    assert_true(direct == programs || direct == 0); /* none: the host has no room for a window */
    assert_true(bad > programs / 300 || is_user || engine == &translate_lockstep_engine);
    assert_int_equal(translate_of(translated.vcpu)->stats.lockstep_differences, 0);
    program.random = NULL;
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

static void test_runs(void **state)
{
    run_programs(&translate_engine, make_program, 0x5eed1u, false);
}

static void test_lockstep(void **state)
{
    run_programs(&translate_lockstep_engine, make_program, 0x5eed3u, false);
}

static void test_hot_loops(void **state)
{
    run_programs(&translate_engine, make_hot_loop, 0x5eed5u, false);
}

static void test_direct(void **state)
{
    run_programs(&translate_engine, make_program, 0x5eed7u, true);
}

static void test_direct_hot_loops(void **state)
{
    run_programs(&translate_engine, make_hot_loop, 0x5eed9u, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_lockstep),
        cmocka_unit_test(test_hot_loops),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_direct_hot_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
