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
    uint16_t needs[2];
};

#define BASELINE(bit) FEATURE(FEATURE_1_EDX, bit)

static const struct isa_rule isa_rules[] = {
    {ZYDIS_ISA_SET_X87, {BASELINE(0), NO_FEATURE}},
    {ZYDIS_ISA_SET_FCMOV, {BASELINE(0), BASELINE(15)}},
    /* FCOMI and friends */
    {ZYDIS_ISA_SET_PPRO, {BASELINE(0), BASELINE(15)}},
    {ZYDIS_ISA_SET_PENTIUMMMX, {BASELINE(23), NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE, {BASELINE(25), NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE2, {BASELINE(26), NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE2MMX, {BASELINE(26), BASELINE(23)}},
    {ZYDIS_ISA_SET_SSE3, {FEATURE_SSE3, NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE3X87, {FEATURE_SSE3, BASELINE(0)}},
    {ZYDIS_ISA_SET_SSSE3, {FEATURE_SSSE3, NO_FEATURE}},
    {ZYDIS_ISA_SET_SSSE3MMX, {FEATURE_SSSE3, BASELINE(23)}},
    {ZYDIS_ISA_SET_SSE4, {FEATURE_SSE4_1, NO_FEATURE}},
    {ZYDIS_ISA_SET_SSE42, {FEATURE_SSE4_2, NO_FEATURE}},
    {ZYDIS_ISA_SET_POPCNT, {FEATURE_POPCNT, NO_FEATURE}},
    {ZYDIS_ISA_SET_MOVBE, {FEATURE_MOVBE, NO_FEATURE}},
    {ZYDIS_ISA_SET_LZCNT, {FEATURE_LZCNT, NO_FEATURE}},
    {ZYDIS_ISA_SET_AES, {FEATURE_AESNI, NO_FEATURE}},
    {ZYDIS_ISA_SET_PCLMULQDQ, {FEATURE_PCLMULQDQ, NO_FEATURE}},
    {ZYDIS_ISA_SET_SHA, {FEATURE_SHA, NO_FEATURE}},
    {ZYDIS_ISA_SET_GFNI, {FEATURE_GFNI, NO_FEATURE}},
    {ZYDIS_ISA_SET_AVX, {FEATURE_AVX, NO_FEATURE}},
    {ZYDIS_ISA_SET_AVXAES, {FEATURE_AVX, FEATURE_AESNI}},
    {ZYDIS_ISA_SET_AVX2, {FEATURE_AVX2, FEATURE_AVX}},
    {ZYDIS_ISA_SET_AVX2GATHER, {FEATURE_AVX2, FEATURE_AVX}},
    {ZYDIS_ISA_SET_FMA, {FEATURE_FMA, FEATURE_AVX}},
    {ZYDIS_ISA_SET_F16C, {FEATURE_F16C, FEATURE_AVX}},
    {ZYDIS_ISA_SET_AVX_GFNI, {FEATURE_GFNI, FEATURE_AVX}},
    {ZYDIS_ISA_SET_VAES, {FEATURE_VAES, FEATURE_AVX}},
    {ZYDIS_ISA_SET_VPCLMULQDQ, {FEATURE_VPCLMULQDQ, FEATURE_AVX}},
    {ZYDIS_ISA_SET_BMI1, {FEATURE_BMI1, NO_FEATURE}},
    {ZYDIS_ISA_SET_BMI2, {FEATURE_BMI2, NO_FEATURE}},
    {ZYDIS_ISA_SET_ADOX_ADCX, {FEATURE_ADX, NO_FEATURE}},
    {ZYDIS_ISA_SET_RDRAND, {FEATURE_RDRAND, NO_FEATURE}},
    {ZYDIS_ISA_SET_RDSEED, {FEATURE_RDSEED, NO_FEATURE}},
};

static bool isa_is_offered(const struct features *features, ZydisISASet isa_set)
{
    for (size_t i = 0; i < ARRAY_LENGTH(isa_rules); i++) {
        if (isa_rules[i].isa_set != isa_set)
            continue;
        for (unsigned n = 0; n < 2; n++)
            if (isa_rules[i].needs[n] != NO_FEATURE &&
                !features_has(features, (enum feature)isa_rules[i].needs[n]))
                return false;
        return true;
    }
    return false;
}

static bool has_state_handler(ZydisMnemonic mnemonic)
{
    for (const struct insn_handler *h = state_handlers; h->exec != NULL; h++)
        if (h->mnemonic == mnemonic)
            return true;
    return false;
}

bool thunk_policy_allows(const struct features *features, const ZydisDecodedInstruction *decoded,
                         const ZydisDecodedOperand *operands, enum thunk_unit *unit)
{
    bool is_vex = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (!is_vex && decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return false;
    if (!isa_is_offered(features, decoded->meta.isa_set) || has_state_handler(decoded->mnemonic))
        return false;

    bool mmx = false, vector = false, x87 = false;
    unsigned memory = 0;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *op = &operands[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            memory++;
            continue;
        }
        if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
            return false;
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(op->reg.value)) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
        case ZYDIS_REGCLASS_FLAGS:
            break;
        case ZYDIS_REGCLASS_X87:
            x87 = true;
            break;
        case ZYDIS_REGCLASS_MMX:
            mmx = true;
            break;
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
            vector = true;
            break;
        default:
            if (op->reg.value == ZYDIS_REGISTER_X87CONTROL ||
                op->reg.value == ZYDIS_REGISTER_X87STATUS ||
                op->reg.value == ZYDIS_REGISTER_X87TAG) {
                x87 = true;
                break;
            }
            return false;
        }
    }
    if (memory > 1)
        return false;
    /* Some x87 instructions name no register; all have their own opcodes. */
    x87 = x87 || (decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && decoded->opcode >= 0xd8 &&
                  decoded->opcode <= 0xdf);
    if (x87)
        *unit = THUNK_UNIT_X87;
    else if (mmx)
        *unit = vector ? THUNK_UNIT_MMX_SSE : THUNK_UNIT_MMX;
    else if (vector)
        *unit = is_vex ? THUNK_UNIT_AVX : THUNK_UNIT_SSE;
    else
        *unit = is_vex ? THUNK_UNIT_VEX_GPR : THUNK_UNIT_GPR;
    /* An instruction of an integer set with none of these, such as CMOVcc or a fence, is not ours;
     * VZEROUPPER and VZEROALL are, by hand (moves.c). */
    if (*unit == THUNK_UNIT_GPR && decoded->operand_count_visible == 0)
        return false;
    if (decoded->meta.isa_set == ZYDIS_ISA_SET_PPRO && !x87)
        return false;
    return true;
}
