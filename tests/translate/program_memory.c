/* Random programs: operands that hit something. */

#include <string.h>

#include "program_generator.h"

#include "util/bits.h"

#define NO_TARGET  0u
#define STACK_HIGH (ARENA_STACK + 0xe00u)

/* An address for an access of `size` bytes; NO_TARGET is never one. */
static uint64_t random_target(struct generator *g, unsigned size)
{
    uint64_t address;
    switch (below(g, 96)) {
    case 0:
        address = ARENA_DATA + ARENA_DATA_RW + below(g, 0x1000 - size);
        break;
    case 1: /* into the page that is not there */
        address = ARENA_DATA + ARENA_DATA_SIZE - below(g, size + 1);
        break;
    case 2:
        return (one_in(g, 2) ? 0x800000001000 : 0xffff7fffffffe000) + below(g, 0x80);
    case 3:
        return ARENA_DATA - 0x1000 + below(g, 0x1000 + size); /* the same, before it */
    case 4:
    case 5:
    case 6:
        address = ARENA_STACK + below(g, ARENA_STACK_SIZE - size);
        break;
    case 7:
    case 8:
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
        return ARENA_DATA + 0x1000 * (1 + below(g, 3)) - below(g, size + 1);
    case 15:
        address = ARENA_CODE + below(g, ARENA_CODE_SIZE - size);
        break;
    default:
        address = ARENA_DATA + below(g, ARENA_DATA_RW - size);
        break;
    }
    if (size >= 16 && !one_in(g, 8))
        address &= ~(uint64_t)(size - 1);
    return address;
}

static bool set_register(struct generator *g, struct setup *s, unsigned reg, uint64_t value)
{
    uint16_t mask = (uint16_t)(1u << reg);
    if (s->set & mask)
        return s->value[reg] == value;
    if (reg == GPR_RSP && g->keeps_stack)
        return false;
    s->set |= mask;
    s->value[reg] = value;
    return true;
}

/* The value that a register will have; false: not known. */
static bool get_register(const struct generator *g, const struct setup *s, unsigned reg,
                         uint64_t *value)
{
    uint16_t mask = (uint16_t)(1u << reg);
    if (!((s->set | g->known) & mask))
        return false;
    *value = s->set & mask ? s->value[reg] : g->value[reg];
    return true;
}

/* A register that points to the stack. */
static bool set_stack(struct generator *g, struct setup *s, unsigned reg)
{
    uint64_t value;
    if (get_register(g, s, reg, &value) && value >= STACK_LOW && value < STACK_HIGH)
        return true;
    return set_register(g, s, reg, STACK_LOW + 8 * (20 + below(g, 0x100)));
}

static bool patch_displacement(struct decoded *d, uint8_t *bytes, uint64_t value)
{
    unsigned offset = d->insn.raw.disp.offset, size = d->insn.raw.disp.size / 8u;
    if (size == 0)
        return value == 0;
    if (size < 8) {
        int64_t wanted = (int64_t)value, kept = (int64_t)bits_sign_extend(value, size);
        if (wanted != kept)
            return false;
    }
    memcpy(bytes + offset, &value, size);
    return true;
}

static uint64_t segment_base(const struct generator *g, ZydisRegister segment)
{
    return segment == ZYDIS_REGISTER_FS   ? g->p->start.fs_base
           : segment == ZYDIS_REGISTER_GS ? g->p->start.gs_base
                                          : 0;
}

/* Makes an operand with a ModRM byte (or an absolute address) be at `target`. */
static bool aim(struct generator *g, struct setup *s, struct decoded *d, uint8_t *bytes,
                const ZydisDecodedOperand *op, uint64_t target)
{
    bool small = d->insn.address_width == 32;
    uint64_t want = target - segment_base(g, op->mem.segment);
    int base = zydis_gpr(op->mem.base), index = zydis_gpr(op->mem.index);
    if (small && want > UINT32_MAX)
        return false;
    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
        return false; /* aim_relative, when its place is known */
    uint64_t known_base = 0, known_index = 0;
    if (index >= 0 && !get_register(g, s, (unsigned)index, &known_index)) {
        known_index = one_in(g, 4) ? random_value(&g->random) : below(g, 0x100);
        if (!set_register(g, s, (unsigned)index, known_index))
            return false;
    }
    want -= known_index * op->mem.scale;
    if (base < 0 || get_register(g, s, (unsigned)base, &known_base)) {
        uint64_t rest = want - known_base;
        if (small)
            rest = bits_sign_extend(rest & UINT32_MAX, 4);
        if (patch_displacement(d, bytes, rest))
            return true;
        if (base < 0)
            return false;
    }
    if (base == index || base == GPR_RSP)
        return false;
    uint64_t value = want - (uint64_t)op->mem.disp.value;
    if (small)
        value = (uint32_t)value | (one_in(g, 2) ? random_next(&g->random) << 32 : 0);
    return set_register(g, s, (unsigned)base, value);
}

static bool is_bit_string(const struct decoded *d)
{
    ZydisMnemonic m = d->insn.mnemonic;
    return (m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
            m == ZYDIS_MNEMONIC_BTC) &&
           d->operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool touches_memory(const struct decoded *d, const ZydisDecodedOperand *op)
{
    return op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
           d->insn.meta.category != ZYDIS_CATEGORY_PREFETCH &&
           d->insn.meta.category != ZYDIS_CATEGORY_WIDENOP &&
           d->insn.meta.category != ZYDIS_CATEGORY_NOP;
}

/* Where the manual leaves open what a fault comes after: CMPS reads two operands in an order of the
 * CPU's own, a masked store may or may not look at what it does not write, and VCVTPS2PH may have
 * noted its exceptions. Their operands are good ones, and aligned. */
static bool must_not_fault(const struct decoded *d, int base)
{
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
        return base == GPR_RSI;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VCVTPS2PH:
        return true;
    default:
        return false;
    }
}

static uint64_t target_of(struct generator *g, const struct decoded *d, int base, unsigned size)
{
    if (must_not_fault(d, base))
        return ARENA_DATA + 0x400 + (below(g, 0x3000) & ~0xfull);
    return random_target(g, size);
}

/* Operands that have fixed registers: strings, the stack. With 32-bit addresses all of the register
 * counts: a string instruction that faults may have cut it. */
static bool prepare_implicit(struct generator *g, struct setup *s, const struct decoded *d,
                             const ZydisDecodedOperand *op)
{
    int base = zydis_gpr(op->mem.base);
    if (base == GPR_RSP || base == GPR_RBP)
        return set_stack(g, s, (unsigned)base);
    if (base < 0)
        return false;
    uint64_t value;
    if (!must_not_fault(d, base) && get_register(g, s, (unsigned)base, &value) &&
        value - ARENA_DATA < ARENA_DATA_RW && one_in(g, 2))
        return true;
    value = target_of(g, d, base, 8) - segment_base(g, op->mem.segment);
    if (d->insn.address_width == 32 && value > UINT32_MAX)
        return false;
    return set_register(g, s, (unsigned)base, value);
}

/* Loads what the instruction wants in registers before it, and aims its operands. False: another
 * one, please. */
bool generator_prepare(struct generator *g, struct setup *s, struct decoded *d, uint8_t *bytes)
{
    const uint64_t repeats = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    ZydisMnemonic m = d->insn.mnemonic;
    if (d->insn.attributes & repeats &&
        !set_register(g, s, GPR_RCX, one_in(g, 8) ? 0 : below(g, 48)))
        return false;
    if (m == ZYDIS_MNEMONIC_LEAVE && !set_stack(g, s, GPR_RBP))
        return false;
    if (m == ZYDIS_MNEMONIC_ENTER && (!set_stack(g, s, GPR_RBP) || !set_stack(g, s, GPR_RSP)))
        return false;
    if ((m == ZYDIS_MNEMONIC_DIV || m == ZYDIS_MNEMONIC_IDIV) && !one_in(g, 4)) {
        if (!set_register(g, s, GPR_RDX, 0) || !set_register(g, s, GPR_RAX, below(g, 0x100)))
            return false;
    }
    if (is_bit_string(d) && d->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
        !set_register(g, s, (unsigned)zydis_gpr(d->operands[1].reg.value),
                      below(g, 0x4000) - 0x2000))
        return false;
    for (unsigned hidden = 2; hidden-- > 0;) { /* hidden ones first: they leave no choice */
        for (unsigned i = 0; i < d->insn.operand_count; i++) {
            const ZydisDecodedOperand *op = &d->operands[i];
            bool is_hidden = op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
                             op->encoding == ZYDIS_OPERAND_ENCODING_NONE;
            if (is_hidden != (hidden == 1) || !touches_memory(d, op))
                continue;
            if (is_hidden ? !prepare_implicit(g, s, d, op)
                          : op->mem.base != ZYDIS_REGISTER_RIP &&
                                !aim(g, s, d, bytes, op,
                                     target_of(g, d, zydis_gpr(op->mem.base), op->size / 8u)))
                return false;
        }
    }
    return true;
}

/* A RIP-relative operand, now that its place is known. */
void generator_aim_relative(struct generator *g, struct decoded *d, uint8_t *bytes)
{
    for (unsigned i = 0; i < d->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (!touches_memory(d, op) || op->mem.base != ZYDIS_REGISTER_RIP)
            continue;
        uint64_t target;
        do
            target = target_of(g, d, -1, op->size / 8u);
        while (target > UINT32_MAX);
        target -= segment_base(g, op->mem.segment) + ARENA_CODE + g->at + d->insn.length;
        if (!patch_displacement(d, bytes, target))
            patch_displacement(d, bytes, random_target(g, 8) & 0x3fff);
    }
}
