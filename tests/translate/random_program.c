#include "random_program.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "util/bits.h"

#define RIP_ROOM   0x1800u /* of code, for whatever one item may take */
#define ATTEMPTS   200u
#define NO_TARGET  0u
#define STACK_LOW  (ARENA_STACK + 0x400u)
#define STACK_HIGH (ARENA_STACK + 0xe00u)

struct generator {
    struct program *p;
    const struct features *features;
    struct random random;
    ZydisDecoder decoder;
    uint32_t at;    /* offset of the next instruction */
    uint16_t known; /* registers whose value is in value[] */
    uint64_t value[16];
    uint32_t undefined; /* status flags */
    bool keeps_stack;   /* in a function: RSP stays */
    unsigned depth, cells;
};

struct decoded {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

static uint64_t below(struct generator *g, uint64_t limit)
{
    return random_below(&g->random, limit);
}

static bool one_in(struct generator *g, unsigned n)
{
    return below(g, n) == 0;
}

/* ------------------------------------------------------------------------- what may be used */

static bool is_offered(const struct features *f, ZydisISAExt extension)
{
    switch (extension) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_CLFSH:
    case ZYDIS_ISA_EXT_PAUSE:
        return true;
    case ZYDIS_ISA_EXT_MOVBE:
        return features_has(f, FEATURE_MOVBE);
    case ZYDIS_ISA_EXT_ADOX_ADCX:
        return features_has(f, FEATURE_ADX);
    case ZYDIS_ISA_EXT_AES:
        return features_has(f, FEATURE_AESNI);
    case ZYDIS_ISA_EXT_AVXAES:
        return features_has(f, FEATURE_AESNI) && features_has(f, FEATURE_AVX);
    case ZYDIS_ISA_EXT_PCLMULQDQ:
        return features_has(f, FEATURE_PCLMULQDQ);
    case ZYDIS_ISA_EXT_SHA:
        return features_has(f, FEATURE_SHA);
    case ZYDIS_ISA_EXT_GFNI:
        return features_has(f, FEATURE_GFNI);
    case ZYDIS_ISA_EXT_AVX:
        return features_has(f, FEATURE_AVX);
    case ZYDIS_ISA_EXT_AVX2:
        return features_has(f, FEATURE_AVX2);
    case ZYDIS_ISA_EXT_FMA:
        return features_has(f, FEATURE_FMA);
    case ZYDIS_ISA_EXT_F16C:
        return features_has(f, FEATURE_F16C);
    case ZYDIS_ISA_EXT_VAES:
        return features_has(f, FEATURE_VAES);
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        return features_has(f, FEATURE_VPCLMULQDQ);
    case ZYDIS_ISA_EXT_BMI1:
        return features_has(f, FEATURE_BMI1);
    case ZYDIS_ISA_EXT_BMI2:
        return features_has(f, FEATURE_BMI2);
    case ZYDIS_ISA_EXT_RDWRFSGS:
        return features_has(f, FEATURE_FSGSBASE);
    default:
        return false;
    }
}

/* System state, branches (made on purpose, below), what tells of the machine. */
static bool is_category_excluded(ZydisInstructionCategory category)
{
    switch (category) {
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_CET:
        return true;
    default:
        return false;
    }
}

static bool is_mnemonic_excluded(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_LDMXCSR: /* on purpose, below */
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_POPF: /* on purpose, below */
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_FEMMS:
        return true;
    default:
        return false;
    }
}

static bool is_gpr_class(ZydisRegisterClass class)
{
    return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
           class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

/* The general register that a register is (part of), or -1. */
static int gpr_of(ZydisRegister reg)
{
    if (!is_gpr_class(ZydisRegisterGetClass(reg)))
        return -1;
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return ZydisRegisterGetId(whole);
}

static bool operand_is_excluded(const ZydisDecodedOperand *op)
{
    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return op->mem.type != ZYDIS_MEMOP_TYPE_MEM && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN;
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);
    return class == ZYDIS_REGCLASS_SEGMENT || class == ZYDIS_REGCLASS_CONTROL ||
           class == ZYDIS_REGCLASS_DEBUG || class == ZYDIS_REGCLASS_TABLE;
}

/* Results that the manual leaves open. */
static bool is_result_undefined(const struct decoded *d)
{
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_BSWAP:
        return d->insn.operand_width == 16;
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return d->insn.operand_width == 16 &&
               (d->operands[2].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
                (d->operands[2].imm.value.u & 31) > 16);
    default:
        return false;
    }
}

static bool is_usable(struct generator *g, const struct decoded *d)
{
    const ZydisDecodedInstruction *insn = &d->insn;
    ZydisMnemonic m = insn->mnemonic;
    if (insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
        !is_offered(g->features, insn->meta.isa_ext) || is_category_excluded(insn->meta.category) ||
        is_mnemonic_excluded(m) || is_result_undefined(d))
        return false;
    if (m == ZYDIS_MNEMONIC_UD0 || m == ZYDIS_MNEMONIC_UD1 || m == ZYDIS_MNEMONIC_UD2)
        return one_in(g, 20);
    if ((m == ZYDIS_MNEMONIC_DIV || m == ZYDIS_MNEMONIC_IDIV || m == ZYDIS_MNEMONIC_STD) &&
        !one_in(g, 3))
        return false;
    if (m == ZYDIS_MNEMONIC_ENTER && d->operands[0].imm.value.u > 0x100)
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (operand_is_excluded(op))
            return false;
        if (g->keeps_stack && op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && gpr_of(op->reg.value) == GPR_RSP)
            return false;
        /* The SHA and GFNI instructions with MMX registers do not exist; x87 would change FIP. */
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_X87)
            return false;
    }
    return true;
}

/* ------------------------------------------------------------------------- flags */

#define F_CF  0x001u
#define F_PF  0x004u
#define F_AF  0x010u
#define F_ZF  0x040u
#define F_SF  0x080u
#define F_OF  0x800u
#define F_ALL (F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF)

struct flag_effect {
    uint32_t reads, writes, leaves; /* leaves: undefined */
};

/* SDM vol. 2, by instruction. A count in CL may be 0: nothing is sure to be written then. */
static void shift_effect(const struct decoded *d, struct flag_effect *e)
{
    ZydisMnemonic m = d->insn.mnemonic;
    bool is_double = m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD;
    bool is_rotate = m == ZYDIS_MNEMONIC_ROL || m == ZYDIS_MNEMONIC_ROR ||
                     m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR;
    unsigned width = d->insn.operand_width;
    const ZydisDecodedOperand *op = &d->operands[is_double ? 2 : 1];
    bool is_constant = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    unsigned count = (unsigned)op->imm.value.u & (width == 64 ? 63 : 31);
    if (d->operands[0].size == 8)
        width = 8;
    e->reads = m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR ? F_CF : 0;
    e->writes = e->leaves = 0;
    if (is_constant && count == 0)
        return;
    e->leaves = is_constant && count == 1 ? 0 : F_OF;
    if (!is_rotate) {
        e->leaves |= F_AF;
        if (m != ZYDIS_MNEMONIC_SAR && width < 32 && (!is_constant || count >= width))
            e->leaves |= F_CF;
    }
    if (is_constant)
        e->writes = is_rotate ? F_CF | F_OF : F_ALL;
}

static bool is_shift(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default:
        return false;
    }
}

static void flag_effect(const struct decoded *d, struct flag_effect *e)
{
    const ZydisAccessedFlags *flags = d->insn.cpu_flags;
    *e = (struct flag_effect){0};
    if (is_shift(d->insn.mnemonic)) {
        shift_effect(d, e);
        return;
    }
    if (flags == NULL)
        return;
    e->reads = flags->tested & F_ALL;
    e->leaves = flags->undefined & F_ALL;
    e->writes = (flags->modified | flags->set_0 | flags->set_1) & F_ALL;
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
        e->leaves |= F_AF;
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        e->writes = F_CF;
        e->leaves = F_OF | F_SF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
        e->leaves = F_CF | F_OF | F_SF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        e->leaves = F_SF | F_ZF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        e->leaves = F_ALL;
        break;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFQ:
        e->reads = F_ALL;
        break;
    case ZYDIS_MNEMONIC_LAHF:
        e->reads = F_ALL & ~F_OF;
        break;
    default:
        break;
    }
    if (d->insn.attributes &
        (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        e->writes = 0; /* RCX may be 0 */
}

/* ------------------------------------------------------------------------- emission */

static bool decode(struct generator *g, const uint8_t *bytes, size_t length, struct decoded *d)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, bytes, length, &d->insn, d->operands));
}

static void put_raw(struct generator *g, const void *bytes, unsigned length, bool is_pinned)
{
    struct program *p = g->p;
    if (g->at + length > ARENA_CODE_SIZE - 16 || p->piece_count == PROGRAM_PIECES)
        return; /* make_items leaves room: never */
    memcpy(p->code + g->at, bytes, length);
    p->undefined[g->at] = (uint16_t)g->undefined;
    p->pieces[p->piece_count++] =
        (struct program_piece){(uint16_t)g->at, (uint16_t)length, is_pinned};
    g->at += length;
}

/* CMP of a register with a number: every status flag is defined after it. */
static void define_flags(struct generator *g)
{
    uint8_t cmp[4] = {0x48 | (uint8_t)below(g, 2), 0x83, 0xf8 | (uint8_t)below(g, 8),
                      (uint8_t)below(g, 256)};
    put_raw(g, cmp, sizeof(cmp), true);
    g->undefined = 0;
}

static unsigned stack_step(const struct decoded *d)
{
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return (unsigned)-(d->insn.operand_width / 8);
    case ZYDIS_MNEMONIC_POP:
        return d->insn.operand_width / 8u;
    default:
        return 0;
    }
}

/* What is known of registers and flags after it. */
static void note_effects(struct generator *g, const struct decoded *d, const struct flag_effect *e)
{
    bool knew_stack = g->known & 1u << GPR_RSP;
    bool names_stack = false;
    for (unsigned i = 0; i < d->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        int gpr = gpr_of(op->reg.value);
        if (gpr >= 0)
            g->known &= (uint16_t) ~(1u << gpr);
        if (gpr == GPR_RSP && op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            names_stack = true;
    }
    int step = (int)stack_step(d);
    if (step != 0 && knew_stack && !names_stack) {
        g->known |= 1u << GPR_RSP;
        g->value[GPR_RSP] += (uint64_t)(int64_t)step;
    }
    g->undefined = (g->undefined & ~e->writes) | e->leaves;
}

static void put(struct generator *g, const void *bytes, size_t length, bool is_pinned)
{
    struct decoded d;
    struct flag_effect e;
    if (!decode(g, bytes, length, &d))
        return;
    flag_effect(&d, &e);
    if (e.reads & g->undefined)
        define_flags(g);
    put_raw(g, bytes, d.insn.length, is_pinned);
    note_effects(g, &d, &e);
}

static void put_constant(struct generator *g, unsigned reg, uint64_t value)
{
    uint8_t mov[10] = {(uint8_t)(0x48 | (reg & 8) >> 3), (uint8_t)(0xb8 | (reg & 7))};
    memcpy(mov + 2, &value, 8);
    put_raw(g, mov, sizeof(mov), false);
    g->known |= (uint16_t)(1u << reg);
    g->value[reg] = value;
}

/* ------------------------------------------------------------------------- memory operands */

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

struct setup {
    uint16_t set; /* registers to be loaded first */
    uint64_t value[16];
};

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
    int base = gpr_of(op->mem.base), index = gpr_of(op->mem.index);
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
    int base = gpr_of(op->mem.base);
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
static bool prepare(struct generator *g, struct setup *s, struct decoded *d, uint8_t *bytes)
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
        !set_register(g, s, (unsigned)gpr_of(d->operands[1].reg.value), below(g, 0x4000) - 0x2000))
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
                                     target_of(g, d, gpr_of(op->mem.base), op->size / 8u)))
                return false;
        }
    }
    return true;
}

/* A RIP-relative operand, now that its place is known. */
static void aim_relative(struct generator *g, struct decoded *d, uint8_t *bytes)
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

/* ------------------------------------------------------------------------- one instruction */

static uint8_t random_opcode(struct generator *g)
{
    return (uint8_t)below(g, 256);
}

static size_t random_vex(struct generator *g, uint8_t *b)
{
    size_t n = 0;
    uint8_t vvvv = (uint8_t)(one_in(g, 3) ? 0x78 : below(g, 16) << 3);
    uint8_t last = vvvv | (uint8_t)below(g, 8); /* vvvv, L, pp */
    if (one_in(g, 4)) {
        b[n++] = 0xc5;
        b[n++] = last | (uint8_t)(below(g, 2) << 7);
    } else {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)(below(g, 8) << 5) | (uint8_t)(1 + below(g, 3));
        b[n++] = last | (uint8_t)(below(g, 2) << 7);
    }
    b[n++] = random_opcode(g);
    return n;
}

static size_t random_legacy(struct generator *g, uint8_t *b)
{
    size_t n = 0;
    unsigned map = (unsigned)below(g, 8); /* 0-3: one byte; 4-6: 0F; 7: 0F 38, 0F 3A */
    if (one_in(g, map < 4 ? 24 : 4))
        b[n++] = one_in(g, 2) ? 0xf2 : 0xf3;
    if (one_in(g, 20))
        b[n++] = 0xf0;
    if (one_in(g, map < 4 ? 8 : 3))
        b[n++] = 0x66;
    if (!one_in(g, 3))
        b[n++] = 0x40 | (uint8_t)below(g, 16);
    if (map >= 4)
        b[n++] = 0x0f;
    if (map == 7)
        b[n++] = one_in(g, 4) ? 0x3a : 0x38;
    b[n++] = random_opcode(g);
    return n;
}

static size_t random_bytes(struct generator *g, uint8_t *b)
{
    static const uint8_t segments[] = {0x64, 0x65, 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};
    size_t n = 0;
    if (one_in(g, 12) && native_has_bases())
        b[n++] = segments[below(g, sizeof(segments))];
    if (one_in(g, 12))
        b[n++] = 0x67;
    n += one_in(g, 4) ? random_vex(g, b + n) : random_legacy(g, b + n);
    b[n++] = one_in(g, 16) ? 0x05 | (uint8_t)(below(g, 8) << 3) : random_opcode(g);
    for (unsigned i = 0; i < 2; i++) { /* SIB, displacement, immediate: noise or corner values */
        uint64_t value = random_value(&g->random);
        if (i == 0 && one_in(g, 2))
            value = random_next(&g->random);
        memcpy(b + n, &value, 8);
        n += 8;
    }
    return n;
}

static void put_random(struct generator *g)
{
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        uint8_t bytes[40];
        struct decoded d;
        struct setup s = {0};
        struct flag_effect e;
        size_t length = random_bytes(g, bytes);
        if (!decode(g, bytes, length, &d) || !is_usable(g, &d) || !prepare(g, &s, &d, bytes))
            continue;
        for (unsigned reg = 0; reg < 16; reg++) {
            if (s.set & 1u << reg)
                put_constant(g, reg, s.value[reg]);
        }
        flag_effect(&d, &e);
        if (e.reads & g->undefined)
            define_flags(g);
        aim_relative(g, &d, bytes);
        put(g, bytes, d.insn.length, false);
        return;
    }
}

/* ------------------------------------------------------------------------- shapes of code */

static void put_items(struct generator *g, unsigned count);

static void put_u32_insn(struct generator *g, const char *opcode, unsigned length, uint32_t value,
                         bool is_pinned)
{
    uint8_t bytes[16];
    memcpy(bytes, opcode, length);
    memcpy(bytes + length, &value, 4);
    put(g, bytes, length + 4, is_pinned);
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
    put_items(g, 1 + (unsigned)below(g, 3));
    link_to(g, branch, g->at);
    g->known = 0;
    g->undefined |= undefined;
}

/* Fuel first: out of it, the loop is left. */
static uint32_t put_guard(struct generator *g)
{
    if (g->undefined != 0)
        define_flags(g);
    put_u32_insn(g, "\xff\x0c\x25", 3, CONTROL_FUEL, true); /* dec dword [fuel] */
    return put_branch(g, "\x0f\x8e", 2, true);              /* jle */
}

static void put_loop(struct generator *g)
{
    if (g->undefined != 0)
        define_flags(g);
    g->known = 0;
    if (one_in(g, 4))
        put_constant(g, GPR_RCX, 1 + below(g, 6));
    g->known = 0;
    uint32_t head = g->at;
    put_items(g, 1 + (unsigned)below(g, 5));
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
        put_random(g);
        if (g->undefined != 0)
            define_flags(g);
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
    put_constant(g, GPR_R11, 0);
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
        put_constant(g, reg, 0);
        *patch = g->at - 8;
        uint8_t bytes[3] = {(uint8_t)(0x40 | (reg & 8) >> 3), 0xff,
                            (uint8_t)((is_call ? 0xd0 : 0xe0) | (reg & 7))};
        put(g, bytes, 3, false);
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
        put(g, bytes, 3, false);
    } else {
        put(g, "\xc3", 1, false);
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
    put_constant(g, GPR_RSP, STACK_LOW + 8 * (20 + below(g, 0x100)));
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
    put_items(g, (unsigned)below(g, 3));
    g->keeps_stack = false;
    if (g->undefined != 0)
        define_flags(g);
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
    put(g, store, sizeof(store), false);
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
    put_constant(g, GPR_RSP, STACK_LOW + 8 * (20 + below(g, 0x100)));
    put_u32_insn(g, "\x68", 1, flags, false);
    put(g, "\x9d", 1, false);
    g->known &= (uint16_t) ~(1u << GPR_RSP);
}

static void put_items(struct generator *g, unsigned count)
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
            put_random(g);
    }
    g->depth--;
}

/* ------------------------------------------------------------------------- the whole */

/* Numbers that arithmetic has fun with, among noise. */
static void fill(struct random *random, void *to, size_t size)
{
    uint8_t *at = to;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t value = random_next(random);
        double d = (double)(int64_t)(value >> 44) / 16.0;
        float f[2] = {(float)d, (float)(int8_t)value};
        if (value & 1)
            memcpy(&value, value & 2 ? (void *)&d : (void *)f, 8);
        memcpy(at + i, &value, 8);
    }
}

static uint64_t random_segment_base(struct generator *g)
{
    switch (below(g, 4)) {
    case 0:
        return 0;
    case 1:
        return ARENA_DATA + below(g, 0x1000);
    case 2:
        return 0x7f0000000000 + below(g, 1ull << 36);
    default:
        return below(g, 1ull << 31);
    }
}

static void make_start(struct generator *g, bool with_bases)
{
    struct machine_state *start = &g->p->start;
    *start = (struct machine_state){.rip = ARENA_CODE + g->at};
    for (unsigned i = 0; i < 16; i++)
        start->gpr[i] = random_value(&g->random);
    start->gpr[GPR_RSP] = STACK_LOW + 0x200;
    start->rflags = FLAG_FIXED | FLAG_IF | (random_next(&g->random) & F_ALL);
    if (with_bases) {
        start->fs_base = random_segment_base(g);
        start->gs_base = random_segment_base(g);
    }
    struct xstate_image *x = &start->xstate;
    x->fcw = 0x37f;
    x->mxcsr = 0x1f80;
    x->mxcsr_mask = 0xffff;
    if (one_in(g, 8))
        return; /* all registers in their initial state */
    x->xstate_bv = XSTATE_SSE;
    fill(&g->random, x->xmm, sizeof(x->xmm));
    if (features_has(g->features, FEATURE_AVX) && !one_in(g, 4)) {
        x->xstate_bv |= XSTATE_AVX;
        fill(&g->random, x->ymm_high, sizeof(x->ymm_high));
    }
}

void program_make(struct program *program, uint64_t seed, const struct features *features,
                  bool with_bases)
{
    struct generator g = {.p = program, .features = features};
    g.random.state = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
    random_next(&g.random);
    ZydisDecoderInit(&g.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    memset(program->code, 0xcc, sizeof(program->code));
    memset(program->undefined, 0xff, sizeof(program->undefined));
    program->piece_count = 0;
    fill(&g.random, program->memory.data, sizeof(program->memory.data));
    fill(&g.random, program->memory.stack, sizeof(program->memory.stack));
    memset(program->memory.control, 0, sizeof(program->memory.control));
    uint32_t fuel = 1 + (uint32_t)below(&g, 24);
    memcpy(program->memory.control, &fuel, sizeof(fuel));
    g.at = (uint32_t)(one_in(&g, 3) ? 0xf00 + below(&g, 0xe0) : below(&g, 0x800));
    make_start(&g, with_bases);
    put_items(&g, 4 + (unsigned)below(&g, one_in(&g, 4) ? 60 : 16));
    put(&g, "\xcc", 1, true);
}

uint64_t program_undefined_flags(const struct program *program, uint64_t rip)
{
    uint64_t offset = rip - ARENA_CODE;
    if (offset >= ARENA_CODE_SIZE)
        return F_ALL;
    /* INT3 is a trap: RIP is behind it. Padding has 0xffff: all. */
    if (program->undefined[offset] == UINT16_MAX && offset > 0 && program->code[offset - 1] == 0xcc)
        offset--;
    return program->undefined[offset] & F_ALL;
}

void program_print(const struct program *program)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned i = 0; i < program->piece_count; i++) {
        const struct program_piece *piece = &program->pieces[i];
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        char text[128] = "?", hex[48];
        const uint8_t *bytes = program->code + piece->at;
        size_t length = 0;
        for (unsigned b = 0; b < piece->length; b++)
            length += (size_t)snprintf(hex + length, sizeof(hex) - length, "%02x", bytes[b]);
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, piece->length, &insn, operands)))
            ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                            text, sizeof(text), ARENA_CODE + piece->at, NULL);
        if (insn.mnemonic != ZYDIS_MNEMONIC_NOP || piece->length == 1 || bytes[0] != 0x90)
            print_error("%x  %-32s %s\n", ARENA_CODE + piece->at, hex, text);
    }
}
