#ifndef AEROSTAT_CPU_TRANSLATE_EMIT_H
#define AEROSTAT_CPU_TRANSLATE_EMIT_H

/*
 * Writing x86-64 instructions.
 *
 * Every instruction that the translator generates goes through emit_op: prefixes, REX, opcode,
 * ModRM and SIB are put together here from numbers, never copied from the guest. Code is written
 * at `at`, in the writable mapping; offsets from `base` are the same in the executable one.
 * Whoever begins a translation makes sure that there is room for all of it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu/vcpu.h"

struct emit {
    uint8_t *base, *at;
    /* Registers, a bit each, that may have been written since somebody cleared the bit: all that an
     * instruction has named but as an address. */
    unsigned spoilt;
    uint32_t pinned; /* what is before this offset stays where it is: emit_cut */
};

static inline struct emit emit_begin(uint8_t *base, uint32_t offset)
{
    return (struct emit){.base = base, .at = base + offset, .spoilt = UINT32_MAX};
}

enum host_register {
    HOST_RAX,
    HOST_RCX,
    HOST_RDX,
    HOST_RBX,
    HOST_RSP,
    HOST_RBP,
    HOST_RSI,
    HOST_RDI,
    HOST_R8,
    HOST_R9,
    HOST_R10,
    HOST_R11,
    HOST_R12,
    HOST_R13,
    HOST_R14,
    HOST_R15,
    HOST_NONE,
};

enum emit_flags {
    EMIT_W = 1 << 0,  /* 64-bit operand */
    EMIT_66 = 1 << 1, /* 16-bit operand */
    EMIT_F3 = 1 << 2, /* mandatory prefix */
    EMIT_LOCK = 1 << 3,
    EMIT_BYTE_REG = 1 << 4, /* the reg field is a byte register: SPL and friends need a REX */
    EMIT_BYTE_RM = 1 << 5,  /* the same for rm */
    EMIT_F2 = 1 << 6,       /* mandatory prefix */
};

/* The r/m operand: a register, [base + index * 2^scale + displacement], or the same from gs. */
struct emit_rm {
    uint8_t is_memory, gs;
    uint8_t reg; /* or base; HOST_NONE: none */
    uint8_t index, scale;
    int32_t displacement;
};

static inline struct emit_rm rm_reg(unsigned reg)
{
    return (struct emit_rm){.reg = (uint8_t)reg};
}

static inline struct emit_rm rm_at(unsigned base, int32_t displacement)
{
    return (struct emit_rm){1, 0, (uint8_t)base, HOST_NONE, 0, displacement};
}

/* Where in struct vcpu the gs base is: the TLB of user code is what is used most, and near it the
 * displacement from a register is a byte or none. */
#define VCPU_GS_BASE offsetof(struct vcpu, mmu.tlb)

/* A member of struct vcpu. */
static inline struct emit_rm rm_vcpu(size_t offset)
{
    return (struct emit_rm){1, 1, HOST_NONE, HOST_NONE, 0, (int32_t)(offset - VCPU_GS_BASE)};
}

static inline void emit_u8(struct emit *e, unsigned byte)
{
    *e->at++ = (uint8_t)byte;
}

static inline void emit_u32(struct emit *e, uint32_t value)
{
    memcpy(e->at, &value, 4);
    e->at += 4;
}

static inline void emit_u64(struct emit *e, uint64_t value)
{
    memcpy(e->at, &value, 8);
    e->at += 8;
}

/* The low `size` bytes of value, at most 4: an immediate operand. */
static inline void emit_immediate(struct emit *e, uint64_t value, unsigned size)
{
    unsigned bytes = size < 4 ? size : 4;
    memcpy(e->at, &value, bytes);
    e->at += bytes;
}

/* ModRM, SIB and displacement. */
static inline void emit_modrm(struct emit *e, unsigned reg, struct emit_rm rm)
{
    unsigned field = (reg & 7) << 3, base = rm.reg, index = rm.index;
    if (!rm.is_memory) {
        emit_u8(e, 0xc0 | field | (base & 7));
    } else if (base == HOST_NONE) {
        emit_u8(e, 0x04 | field); /* SIB, no base, 32-bit displacement */
        emit_u8(e, (unsigned)rm.scale << 6 | (index == HOST_NONE ? 4 : index & 7) << 3 | 5);
        emit_u32(e, (uint32_t)rm.displacement);
    } else {
        int32_t d = rm.displacement;
        unsigned mod = d == 0 && (base & 7) != HOST_RBP ? 0x00 : d == (int8_t)d ? 0x40 : 0x80;
        bool sib = index != HOST_NONE || (base & 7) == HOST_RSP;
        emit_u8(e, mod | field | (sib ? 4 : base & 7));
        if (sib)
            emit_u8(e, (unsigned)rm.scale << 6 | (index == HOST_NONE ? 4 : index & 7) << 3 |
                           (base & 7));
        if (mod == 0x40)
            emit_u8(e, (uint8_t)d);
        else if (mod == 0x80)
            emit_u32(e, (uint32_t)d);
    }
}

/* opcode: one to three bytes, the first in the highest place: 0x0fb6 is 0F B6. */
static inline void emit_op(struct emit *e, unsigned flags, uint32_t opcode, unsigned reg,
                           struct emit_rm rm)
{
    if (flags & EMIT_LOCK)
        emit_u8(e, 0xf0);
    if (flags & EMIT_66)
        emit_u8(e, 0x66);
    if (flags & EMIT_F2)
        emit_u8(e, 0xf2);
    if (flags & EMIT_F3)
        emit_u8(e, 0xf3);
    if (rm.is_memory && rm.gs)
        emit_u8(e, 0x65);

    unsigned base = rm.reg, index = rm.is_memory ? rm.index : HOST_NONE, rex = 0;
    e->spoilt |= 1u << reg | (rm.is_memory ? 0 : 1u << base);
    rex |= flags & EMIT_W ? 0x48 : 0;
    rex |= reg & 8 ? 0x44 : 0;
    rex |= base != HOST_NONE && base & 8 ? 0x41 : 0;
    rex |= index != HOST_NONE && index & 8 ? 0x42 : 0;
    if ((flags & EMIT_BYTE_REG && reg >= HOST_RSP) ||
        (flags & EMIT_BYTE_RM && !rm.is_memory && base >= HOST_RSP))
        rex |= 0x40;
    if (rex != 0)
        emit_u8(e, rex);
    if (opcode > 0xffff)
        emit_u8(e, opcode >> 16);
    if (opcode > 0xff)
        emit_u8(e, opcode >> 8);
    emit_u8(e, opcode);
    emit_modrm(e, reg, rm);
}

/* Prefix flags of an operand size. */
static inline unsigned emit_size(unsigned size)
{
    return size == 8 ? EMIT_W : size == 2 ? EMIT_66 : size == 1 ? EMIT_BYTE_REG | EMIT_BYTE_RM : 0;
}

static inline void emit_mov(struct emit *e, unsigned to, unsigned from)
{
    emit_op(e, EMIT_W, 0x8b, to, rm_reg(from));
}

static inline void emit_load(struct emit *e, unsigned to, struct emit_rm from)
{
    emit_op(e, EMIT_W, 0x8b, to, from);
}

static inline void emit_store(struct emit *e, struct emit_rm to, unsigned from)
{
    emit_op(e, EMIT_W, 0x89, from, to);
}

/* No flags. An address that is a register is moved, which many CPUs do in no time. */
static inline void emit_lea(struct emit *e, unsigned to, struct emit_rm from)
{
    if (from.reg == HOST_NONE || from.index != HOST_NONE || from.displacement != 0)
        emit_op(e, EMIT_W, 0x8d, to, from);
    else if (from.reg != to)
        emit_mov(e, to, from.reg);
}

/* Shortest move of a constant; no flags. */
static inline void emit_constant(struct emit *e, unsigned to, uint64_t value)
{
    e->spoilt |= 1u << to;
    if (value <= UINT32_MAX) {
        if (to & 8)
            emit_u8(e, 0x41);
        emit_u8(e, 0xb8 | (to & 7));
        emit_u32(e, (uint32_t)value);
    } else if ((int64_t)value == (int32_t)value) {
        emit_op(e, EMIT_W, 0xc7, 0, rm_reg(to));
        emit_u32(e, (uint32_t)value);
    } else {
        emit_u8(e, 0x48 | (to & 8) >> 3);
        emit_u8(e, 0xb8 | (to & 7));
        emit_u64(e, value);
    }
}

/* Arithmetic with an immediate: `op` is 0-7 for ADD OR ADC SBB AND SUB XOR CMP. */
static inline void emit_alu_immediate(struct emit *e, unsigned op, unsigned size, struct emit_rm rm,
                                      uint64_t value)
{
    if (size == 1) {
        emit_op(e, EMIT_BYTE_RM, 0x80, op, rm);
        emit_u8(e, (uint8_t)value);
    } else if ((int64_t)value == (int8_t)value) {
        emit_op(e, emit_size(size), 0x83, op, rm);
        emit_u8(e, (uint8_t)value);
    } else {
        emit_op(e, emit_size(size), 0x81, op, rm);
        emit_immediate(e, value, size);
    }
}

/* Where we are: somebody may refer to it from now on, as to the displacement of a branch. */
static inline uint32_t emit_offset(struct emit *e)
{
    return e->pinned = (uint32_t)(e->at - e->base);
}

/* The same, for emit_cut alone. */
static inline uint32_t emit_mark(const struct emit *e)
{
    return (uint32_t)(e->at - e->base);
}

/* Takes [from, to) out again; what comes after it moves down. False: it is pinned. */
static inline bool emit_cut(struct emit *e, uint32_t from, uint32_t to)
{
    if (from < e->pinned)
        return false;
    memmove(e->base + from, e->base + to, (size_t)(e->at - e->base - to));
    e->at -= to - from;
    return true;
}

/* Branches with a 32-bit displacement. They return the offset of the displacement, for emit_link.
 */
static inline uint32_t emit_jcc(struct emit *e, unsigned condition)
{
    emit_u8(e, 0x0f);
    emit_u8(e, 0x80 | condition);
    emit_u32(e, 0);
    return emit_offset(e) - 4;
}

static inline uint32_t emit_jmp(struct emit *e)
{
    emit_u8(e, 0xe9);
    emit_u32(e, 0);
    return emit_offset(e) - 4;
}

/* Makes the branch whose displacement is at `at` go to `target`. Both are offsets. */
static inline void emit_link(struct emit *e, uint32_t at, uint32_t target)
{
    uint32_t displacement = target - (at + 4);
    memcpy(e->base + at, &displacement, 4);
}

static inline void emit_jmp_to(struct emit *e, uint32_t target)
{
    uint32_t at = emit_jmp(e);
    emit_link(e, at, target);
}

static inline void emit_call_to(struct emit *e, uint32_t target)
{
    e->spoilt = UINT32_MAX;
    emit_u8(e, 0xe8);
    emit_u32(e, 0);
    emit_link(e, emit_offset(e) - 4, target);
}

/* By the ModRM byte. */
enum emit_fence { EMIT_LFENCE = 0xe8, EMIT_MFENCE = 0xf0, EMIT_SFENCE = 0xf8 };

static inline void emit_fence(struct emit *e, enum emit_fence fence)
{
    emit_u8(e, 0x0f);
    emit_u8(e, 0xae);
    emit_u8(e, fence);
}

/* Opcode of a VEX-encoded instruction. */
struct vex {
    uint8_t map; /* 1-3: 0F, 0F 38, 0F 3A */
    uint8_t pp;  /* mandatory prefix 0-3: none, 66, F3, F2 */
    bool w, l;
    uint8_t opcode;
};

static inline void emit_vex(struct emit *e, struct vex v, unsigned reg, unsigned vvvv,
                            struct emit_rm rm)
{
    unsigned x = rm.is_memory && rm.index != HOST_NONE ? rm.index >> 3 : 0;
    unsigned b = rm.reg != HOST_NONE ? rm.reg >> 3 : 0;
    unsigned last = (~vvvv & 15) << 3 | (unsigned)v.l << 2 | v.pp;
    e->spoilt |= 1u << reg | 1u << vvvv | (rm.is_memory ? 0 : 1u << rm.reg);
    if (rm.is_memory && rm.gs)
        emit_u8(e, 0x65);
    if (v.map == 1 && !v.w && x == 0 && b == 0) {
        emit_u8(e, 0xc5);
        emit_u8(e, (~reg >> 3 & 1) << 7 | last);
    } else {
        emit_u8(e, 0xc4);
        emit_u8(e, (~reg >> 3 & 1) << 7 | (~x & 1) << 6 | (~b & 1) << 5 | v.map);
        emit_u8(e, (unsigned)v.w << 7 | last);
    }
    emit_u8(e, v.opcode);
    emit_modrm(e, reg, rm);
}

static inline void emit_ldmxcsr(struct emit *e, struct emit_rm from)
{
    emit_op(e, 0, 0x0fae, 2, from);
}

static inline void emit_stmxcsr(struct emit *e, struct emit_rm to)
{
    emit_op(e, 0, 0x0fae, 3, to);
}

#define CONDITION_B  2u
#define CONDITION_AE 3u
#define CONDITION_E  4u
#define CONDITION_NE 5u
#define CONDITION_BE 6u
#define CONDITION_A  7u

/* ZF: reg is a canonical address. Spoils `scratch`. */
static inline void emit_compare_canonical(struct emit *e, unsigned scratch, unsigned reg)
{
    emit_mov(e, scratch, reg);
    emit_op(e, EMIT_W, 0xc1, 4, rm_reg(scratch)); /* shl */
    emit_u8(e, 64 - 48);
    emit_op(e, EMIT_W, 0xc1, 7, rm_reg(scratch)); /* sar */
    emit_u8(e, 64 - 48);
    emit_op(e, EMIT_W, 0x3b, scratch, rm_reg(reg));
}

#endif
