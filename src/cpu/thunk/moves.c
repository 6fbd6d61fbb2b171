/*
 * Plain vector moves, by hand: they are half of the vector instructions that guests run, and need
 * neither the host's vector unit nor a copy of their operand. Also moves with a non-temporal hint
 * (which would be slow on a copy), zeroing idioms, VZEROUPPER and VZEROALL.
 */

#include "cpu/thunk/thunk_internal.h"

#include <string.h>

/* insn->extra. */
struct move {
    uint8_t size; /* 16 or 32 */
    bool aligned;
    bool vex;
};

static void begin(struct vcpu *vcpu, const struct move *move)
{
    if (move->vex)
        xstate_require_avx(vcpu);
    else
        xstate_require_sse(vcpu);
}

static uint64_t address(struct vcpu *vcpu, const struct insn *insn, const struct move *move,
                        enum mmu_access access)
{
    return access_linear_aligned(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn),
                                 move->size, access, move->aligned ? move->size - 1u : 0);
}

static void write_register(struct xstate_image *image, unsigned reg, const uint8_t *value,
                           const struct move *move)
{
    memcpy(image->xmm[reg], value, 16);
    image->xstate_bv |= XSTATE_SSE;
    if (!move->vex)
        return;
    if (move->size == 32)
        memcpy(image->ymm_high[reg], value + 16, 16);
    else
        memset(image->ymm_high[reg], 0, 16);
    image->xstate_bv |= XSTATE_AVX;
}

static void exec_load(struct vcpu *vcpu, const struct insn *insn)
{
    const struct move *move = insn->extra;
    uint8_t value[32];
    begin(vcpu, move);
    uint64_t linear = address(vcpu, insn, move, MMU_READ);
    if (likely(move->size == 16))
        xstate_load(vcpu, linear, value, 16);
    else
        xstate_load(vcpu, linear, value, 32);
    write_register(xstate_of(vcpu), insn->op[0].reg, value, move);
}

static void exec_store(struct vcpu *vcpu, const struct insn *insn)
{
    const struct move *move = insn->extra;
    const struct xstate_image *image = xstate_of(vcpu);
    begin(vcpu, move);
    uint64_t linear = address(vcpu, insn, move, MMU_WRITE);
    if (likely(move->size == 16)) {
        xstate_store(vcpu, linear, image->xmm[insn->op[1].reg], 16);
        return;
    }
    uint8_t value[32];
    memcpy(value, image->xmm[insn->op[1].reg], 16);
    memcpy(value + 16, image->ymm_high[insn->op[1].reg], 16);
    xstate_store(vcpu, linear, value, 32);
}

static void exec_copy(struct vcpu *vcpu, const struct insn *insn)
{
    const struct move *move = insn->extra;
    struct xstate_image *image = xstate_of(vcpu);
    uint8_t value[32];
    begin(vcpu, move);
    memcpy(value, image->xmm[insn->op[1].reg], 16);
    memcpy(value + 16, image->ymm_high[insn->op[1].reg], 16);
    write_register(image, insn->op[0].reg, value, move);
}

static void exec_zero(struct vcpu *vcpu, const struct insn *insn)
{
    static const uint8_t zero[32];
    begin(vcpu, insn->extra);
    write_register(xstate_of(vcpu), insn->op[0].reg, zero, insn->extra);
}

static void exec_vzeroupper(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    xstate_require_avx(vcpu);
    bool all_registers = vcpu->mode == MODE_LONG;
    memset(image->ymm_high, 0, all_registers ? 256 : 128);
    if (all_registers)
        image->xstate_bv &= ~(uint64_t)XSTATE_AVX;
}

static void exec_vzeroall(struct vcpu *vcpu, const struct insn *insn)
{
    exec_vzeroupper(vcpu, insn);
    memset(xstate_of(vcpu)->xmm, 0, vcpu->mode == MODE_LONG ? 256 : 128);
}

/* MOVNTI is an integer store. */
static void exec_movnti(struct vcpu *vcpu, const struct insn *insn)
{
    access_store(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), insn->op[1].size,
                 insn_gpr_get(vcpu, insn->op[1].reg, insn->op[1].size));
}

/* By size, alignment, encoding. */
static const struct move *find_move(unsigned size, bool aligned, bool vex)
{
    static const struct move moves[] = {
        {16, false, false}, {16, true, false}, {16, false, true},
        {16, true, true},   {32, false, true}, {32, true, true},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(moves); i++)
        if (moves[i].size == size && moves[i].aligned == aligned && moves[i].vex == vex)
            return &moves[i];
    return NULL;
}

static bool is_vector_operand(const ZydisDecodedOperand *operand, struct operand *named)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER && thunk_operand_register(operand, named) &&
           named->kind == OPERAND_VECTOR;
}

static bool bind_copy(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                      bool aligned, struct insn *insn)
{
    bool vex = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    bool to_vector = is_vector_operand(&operands[0], &insn->op[0]);
    bool from_vector = is_vector_operand(&operands[1], &insn->op[1]);
    unsigned memory = to_vector ? 1 : 0;
    insn->extra = find_move(operands[0].size / 8, aligned, vex);
    if (insn->extra == NULL || operands[0].size != operands[1].size)
        return false;
    if (to_vector && from_vector) {
        insn->exec = exec_copy;
        return true;
    }
    if ((!to_vector && !from_vector) || operands[memory].type != ZYDIS_OPERAND_TYPE_MEMORY ||
        operands[memory].mem.type != ZYDIS_MEMOP_TYPE_MEM)
        return false;
    thunk_bind_memory(decoded, &operands[memory], insn);
    insn->exec = to_vector ? exec_load : exec_store;
    return true;
}

/* XOR of a register with itself. */
static bool bind_zero(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                      struct insn *insn)
{
    bool vex = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    struct operand a, b;
    unsigned first = vex ? 1 : 0;
    if (!is_vector_operand(&operands[first], &a) || !is_vector_operand(&operands[first + 1], &b) ||
        a.reg != b.reg || !is_vector_operand(&operands[0], &insn->op[0]))
        return false;
    insn->extra = find_move(operands[0].size / 8, false, vex);
    insn->exec = exec_zero;
    return insn->extra != NULL;
}

bool thunk_describe_move(const struct insn *insn, struct thunk_move *out)
{
    static const struct {
        insn_fn *exec;
        enum thunk_move_kind kind;
    } kinds[] = {
        {exec_load, THUNK_MOVE_LOAD},
        {exec_store, THUNK_MOVE_STORE},
        {exec_copy, THUNK_MOVE_COPY},
        {exec_zero, THUNK_MOVE_ZERO},
        {exec_vzeroupper, THUNK_MOVE_ZERO_UPPER},
        {exec_vzeroall, THUNK_MOVE_ZERO_ALL},
        {exec_movnti, THUNK_MOVE_INTEGER},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        if (insn->exec != kinds[i].exec)
            continue;
        const struct move *move = insn->extra;
        *out = (struct thunk_move){.kind = kinds[i].kind};
        if (out->kind <= THUNK_MOVE_ZERO) {
            out->size = move->size;
            out->is_aligned = move->aligned;
            out->is_vex = move->vex;
        }
        return true;
    }
    return false;
}

bool thunk_bind_move(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                     struct insn *insn)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_VMOVUPS:
    case ZYDIS_MNEMONIC_VMOVUPD:
    case ZYDIS_MNEMONIC_VMOVDQU:
    case ZYDIS_MNEMONIC_VLDDQU:
        return bind_copy(decoded, operands, false, insn);
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return bind_copy(decoded, operands, true, insn);
    case ZYDIS_MNEMONIC_PXOR:
    case ZYDIS_MNEMONIC_XORPS:
    case ZYDIS_MNEMONIC_XORPD:
    case ZYDIS_MNEMONIC_VPXOR:
    case ZYDIS_MNEMONIC_VXORPS:
    case ZYDIS_MNEMONIC_VXORPD:
        return bind_zero(decoded, operands, insn);
    case ZYDIS_MNEMONIC_VZEROUPPER:
        insn->exec = exec_vzeroupper;
        return true;
    case ZYDIS_MNEMONIC_VZEROALL:
        insn->exec = exec_vzeroall;
        return true;
    case ZYDIS_MNEMONIC_MOVNTI:
        if (operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
            !thunk_operand_register(&operands[1], &insn->op[1]))
            return false;
        thunk_bind_memory(decoded, &operands[0], insn);
        insn->exec = exec_movnti;
        return true;
    default:
        return false;
    }
}
