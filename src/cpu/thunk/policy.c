/*
 * Which instructions may run on the host.
 *
 * A whitelist by instruction set, each tied to the CPUID bits the guest must have been offered, and
 * by operands: no register but general, flags, x87, MMX, XMM and YMM ones, at most one memory
 * operand and that an explicit one. What is not named here is refused; so is every EVEX encoding.
 */

#include "cpu/thunk/thunk_internal.h"

#define NO_FEATURE UINT16_MAX

struct isa_rule {
    uint16_t isa_set; /* ZydisISASet */
    uint8_t unit;     /* enum thunk_unit, of most of its instructions */
    uint16_t needs[2];
};

#define BASELINE(bit) FEATURE(FEATURE_1_EDX, bit)

static const struct isa_rule isa_rules[] = {
    {ZYDIS_ISA_SET_X87, THUNK_UNIT_X87, {BASELINE(0), NO_FEATURE}},
    {ZYDIS_ISA_SET_FCMOV, THUNK_UNIT_X87, {BASELINE(0), BASELINE(15)}},
    {ZYDIS_ISA_SET_PPRO, THUNK_UNIT_X87, {BASELINE(0), BASELINE(15)}},
    {ZYDIS_ISA_SET_PENTIUMMMX, THUNK_UNIT_MMX, {BASELINE(23), NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE, THUNK_UNIT_SSE, {BASELINE(25), NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE2, THUNK_UNIT_SSE, {BASELINE(26), NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE2MMX, THUNK_UNIT_MMX, {BASELINE(26), BASELINE(23)}},
    {ZYDIS_ISA_SET_SSE3, THUNK_UNIT_SSE, {FEATURE_SSE3, NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE3X87, THUNK_UNIT_X87, {FEATURE_SSE3, BASELINE(0)}},
    {ZYDIS_ISA_SET_SSSE3, THUNK_UNIT_SSE, {FEATURE_SSSE3, NO_FEATURE}},
    {ZYDIS_ISA_SET_SSSE3MMX, THUNK_UNIT_MMX, {FEATURE_SSSE3, BASELINE(23)}},
    {ZYDIS_ISA_SET_SSE4, THUNK_UNIT_SSE, {FEATURE_SSE4_1, NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE42, THUNK_UNIT_SSE, {FEATURE_SSE4_2, NO_FEATURE}},
    {ZYDIS_ISA_SET_POPCNT, THUNK_UNIT_GPR, {FEATURE_POPCNT, NO_FEATURE}},
    {ZYDIS_ISA_SET_MOVBE, THUNK_UNIT_GPR, {FEATURE_MOVBE, NO_FEATURE}},
    {ZYDIS_ISA_SET_LZCNT, THUNK_UNIT_GPR, {FEATURE_LZCNT, NO_FEATURE}},
    {ZYDIS_ISA_SET_AES, THUNK_UNIT_SSE, {FEATURE_AESNI, NO_FEATURE}},
    {ZYDIS_ISA_SET_PCLMULQDQ, THUNK_UNIT_SSE, {FEATURE_PCLMULQDQ, NO_FEATURE}},
    {ZYDIS_ISA_SET_SHA, THUNK_UNIT_SSE, {FEATURE_SHA, NO_FEATURE}},
    {ZYDIS_ISA_SET_GFNI, THUNK_UNIT_SSE, {FEATURE_GFNI, NO_FEATURE}},
    {ZYDIS_ISA_SET_AVX, THUNK_UNIT_AVX, {FEATURE_AVX, NO_FEATURE}},
    {ZYDIS_ISA_SET_AVXAES, THUNK_UNIT_AVX, {FEATURE_AVX, FEATURE_AESNI}},
    {ZYDIS_ISA_SET_AVX2, THUNK_UNIT_AVX, {FEATURE_AVX2, FEATURE_AVX}},
    {ZYDIS_ISA_SET_AVX2GATHER, THUNK_UNIT_AVX, {FEATURE_AVX2, FEATURE_AVX}},
    {ZYDIS_ISA_SET_FMA, THUNK_UNIT_AVX, {FEATURE_FMA, FEATURE_AVX}},
    {ZYDIS_ISA_SET_F16C, THUNK_UNIT_AVX, {FEATURE_F16C, FEATURE_AVX}},
    {ZYDIS_ISA_SET_AVX_GFNI, THUNK_UNIT_AVX, {FEATURE_GFNI, FEATURE_AVX}},
    {ZYDIS_ISA_SET_VAES, THUNK_UNIT_AVX, {FEATURE_VAES, FEATURE_AVX}},
    {ZYDIS_ISA_SET_VPCLMULQDQ, THUNK_UNIT_AVX, {FEATURE_VPCLMULQDQ, FEATURE_AVX}},
    {ZYDIS_ISA_SET_BMI1, THUNK_UNIT_VEX_GPR, {FEATURE_BMI1, NO_FEATURE}},
    {ZYDIS_ISA_SET_BMI2, THUNK_UNIT_VEX_GPR, {FEATURE_BMI2, NO_FEATURE}},
    {ZYDIS_ISA_SET_ADOX_ADCX, THUNK_UNIT_GPR, {FEATURE_ADX, NO_FEATURE}},
    {ZYDIS_ISA_SET_RDRAND, THUNK_UNIT_GPR, {FEATURE_RDRAND, NO_FEATURE}},
    {ZYDIS_ISA_SET_RDSEED, THUNK_UNIT_GPR, {FEATURE_RDSEED, NO_FEATURE}},
};

/* FCOMI and its like are in a set of their own from Zydis 4.1 on, where 4.0 has PPRO. */
static ZydisISASet isa_set_of(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP:
        return ZYDIS_ISA_SET_PPRO;
    default:
        return decoded->meta.isa_set;
    }
}

static const struct isa_rule *find_rule(const struct features *features, ZydisISASet isa_set)
{
    for (size_t i = 0; i < ARRAY_LENGTH(isa_rules); i++) {
        const struct isa_rule *rule = &isa_rules[i];
        if (rule->isa_set != isa_set)
            continue;
        for (unsigned n = 0; n < 2; n++)
            if (rule->needs[n] != NO_FEATURE &&
                !features_has(features, (enum feature)rule->needs[n]))
                return NULL;
        return rule;
    }
    return NULL;
}

static bool has_state_handler(ZydisMnemonic mnemonic)
{
    for (const struct insn_handler *h = state_handlers; h->exec != NULL; h++)
        if (h->mnemonic == mnemonic)
            return true;
    return false;
}

/* Members of a vector instruction set that work on general registers alone. */
static bool is_general(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_TZCNT: /* of BMI1, but not VEX-encoded */
        return true;
    default:
        return false;
    }
}

/* MMX registers together with what is in MXCSR or XMM registers. */
static bool is_mmx_and_sse(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPI2PD:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
    case ZYDIS_MNEMONIC_MOVQ2DQ:
    case ZYDIS_MNEMONIC_MOVDQ2Q:
        return true;
    default:
        return false;
    }
}

/* Counts operands; false for a register of a kind that is not ours. */
static bool count_operands(const ZydisDecodedInstruction *decoded,
                           const ZydisDecodedOperand *operands, unsigned *mmx, unsigned *memory)
{
    *mmx = 0;
    *memory = 0;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *op = &operands[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            ++*memory;
            continue;
        }
        if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
            return false;
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(op->reg.value)) {
        case ZYDIS_REGCLASS_MMX:
            ++*mmx;
            break;
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
        case ZYDIS_REGCLASS_FLAGS:
        case ZYDIS_REGCLASS_X87:
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
            break;
        default:
            if (op->reg.value != ZYDIS_REGISTER_X87CONTROL &&
                op->reg.value != ZYDIS_REGISTER_X87STATUS && op->reg.value != ZYDIS_REGISTER_X87TAG)
                return false;
            break;
        }
    }
    return true;
}

bool thunk_policy_allows(const struct features *features, const ZydisDecodedInstruction *decoded,
                         const ZydisDecodedOperand *operands, enum thunk_unit *unit)
{
    bool is_vex = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (!is_vex && decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return false;
    const struct isa_rule *rule = find_rule(features, isa_set_of(decoded));
    unsigned mmx, memory;
    if (rule == NULL || has_state_handler(decoded->mnemonic) ||
        !count_operands(decoded, operands, &mmx, &memory) || memory > 1)
        return false;

    /* FISTTP is of SSE3 in one of its forms for Zydis. */
    bool is_x87 = decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && decoded->opcode >= 0xd8 &&
                  decoded->opcode <= 0xdf;
    *unit = (enum thunk_unit)rule->unit;
    if (is_x87)
        *unit = THUNK_UNIT_X87;
    else if (is_general(decoded))
        *unit = THUNK_UNIT_GPR;
    else if (mmx != 0)
        *unit = is_mmx_and_sse(decoded) ? THUNK_UNIT_MMX_SSE : THUNK_UNIT_MMX;
    /* What the sets above also have, and what is not ours: fences, CMOVcc, RDPMC. */
    switch (*unit) {
    case THUNK_UNIT_X87:
        return is_x87;
    case THUNK_UNIT_VEX_GPR:
    case THUNK_UNIT_AVX:
        return is_vex;
    default:
        return !is_vex && decoded->operand_count_visible != 0;
    }
}
