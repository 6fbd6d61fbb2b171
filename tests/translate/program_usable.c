/* Random programs: which instructions may be used. */

#include "program_generator.h"

static bool is_offered(const struct generator *g, ZydisISAExt extension)
{
    const struct features *f = g->features;
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
        return g->with_fsgsbase && features_has(f, FEATURE_FSGSBASE);
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
int zydis_gpr(ZydisRegister reg)
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

bool generator_may_use(struct generator *g, const struct decoded *d)
{
    const ZydisDecodedInstruction *insn = &d->insn;
    ZydisMnemonic m = insn->mnemonic;
    if (insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED || !is_offered(g, insn->meta.isa_ext) ||
        is_category_excluded(insn->meta.category) || is_mnemonic_excluded(m) ||
        is_result_undefined(d))
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
            op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && zydis_gpr(op->reg.value) == GPR_RSP)
            return false;
        /* The SHA and GFNI instructions with MMX registers do not exist; x87 would change FIP. */
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_X87)
            return false;
    }
    return true;
}
