/*
 * Vector instructions whose memory accesses depend on their data: masked moves and gathers. They
 * go element by element, and an element that is masked off is not accessed at all.
 *
 * Masked moves are all or nothing. A gather is not: elements that were read before one that faults
 * are in the destination and their mask bits are clear, so that running the instruction again goes
 * on where it was (SDM vol. 2, VPGATHERDD).
 */

#include "cpu/thunk/thunk_internal.h"

#include <string.h>

/* In insn->op[]: destination or source, mask, index register. Sizes are of elements. */
enum { OP_DATA, OP_MASK, OP_INDEX };

struct vector_value {
    _Alignas(32) uint8_t bytes[32];
};

static struct vector_value read_vector(struct vcpu *vcpu, unsigned reg)
{
    const struct xstate_image *image = xstate_of(vcpu);
    struct vector_value value;
    memcpy(value.bytes, image->xmm[reg], 16);
    memcpy(value.bytes + 16, image->ymm_high[reg], 16);
    return value;
}

static void write_vector(struct vcpu *vcpu, unsigned reg, const struct vector_value *value)
{
    struct xstate_image *image = xstate_of(vcpu);
    memcpy(image->xmm[reg], value->bytes, 16);
    memcpy(image->ymm_high[reg], value->bytes + 16, 16);
    image->xstate_bv |= XSTATE_SSE | XSTATE_AVX;
}

/* The top bit of element n. */
static bool is_selected(const uint8_t *mask, unsigned n, unsigned size)
{
    return mask[(n + 1) * size - 1] >> 7;
}

static uint64_t element_linear(struct vcpu *vcpu, const struct insn *insn, uint64_t offset,
                               unsigned size, enum mmu_access access)
{
    return access_linear(vcpu, (enum segment_register)insn->seg,
                         bits_truncate(offset, insn->address_size), size, access);
}

/* Elements are never checked for alignment: #AC is not raised for any mask (SDM vol. 2, VMASKMOV),
 * and not by gathers of CPUs there are. */
static enum mmu_privilege element_privilege(const struct vcpu *vcpu)
{
    return vcpu->privilege == MMU_USER_CHECKED ? MMU_USER : vcpu->privilege;
}

static uint64_t element_load(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    const uint8_t *host = mmu_probe_read(&vcpu->mmu, element_privilege(vcpu), linear, size);
    if (likely(host != NULL))
        return access_get(host, size);
    return access_load_slow(vcpu, linear, size, element_privilege(vcpu));
}

static void element_store(struct vcpu *vcpu, uint64_t linear, unsigned size, uint64_t value)
{
    uint8_t *host = mmu_probe_write(&vcpu->mmu, element_privilege(vcpu), linear, size);
    if (likely(host != NULL))
        access_put(host, size, value);
    else
        access_store_slow(vcpu, linear, size, value, element_privilege(vcpu));
}

/* All selected elements of `count`, or none. */
static void store_selected(struct vcpu *vcpu, const struct insn *insn, uint64_t base,
                           const uint8_t *data, const uint8_t *mask, unsigned count, unsigned size)
{
    /* Byte by byte, so that alignment does not count. */
    for (unsigned i = 0; i < count; i++) {
        if (!is_selected(mask, i, size))
            continue;
        uint64_t linear = element_linear(vcpu, insn, base + i * size, size, MMU_WRITE);
        access_check_store(vcpu, linear, 1);
        access_check_store(vcpu, linear + size - 1, 1);
    }
    for (unsigned i = 0; i < count; i++) {
        if (!is_selected(mask, i, size))
            continue;
        uint64_t value = 0;
        memcpy(&value, data + i * size, size);
        element_store(vcpu, element_linear(vcpu, insn, base + i * size, size, MMU_WRITE), size,
                      value);
    }
}

/* ---- VMASKMOVPS/PD, VPMASKMOVD/Q: op[OP_INDEX].size is the vector's ---- */

static void exec_masked_load(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_avx(vcpu);
    unsigned size = insn->op[OP_DATA].size, count = insn->op[OP_INDEX].size / size;
    struct vector_value mask = read_vector(vcpu, insn->op[OP_MASK].reg), result = {0};
    uint64_t base = insn_address(vcpu, insn);
    for (unsigned i = 0; i < count; i++) {
        if (!is_selected(mask.bytes, i, size))
            continue;
        uint64_t linear = element_linear(vcpu, insn, base + i * size, size, MMU_READ);
        uint64_t value = element_load(vcpu, linear, size);
        memcpy(result.bytes + i * size, &value, size);
    }
    write_vector(vcpu, insn->op[OP_DATA].reg, &result);
}

static void exec_masked_store(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_avx(vcpu);
    unsigned size = insn->op[OP_DATA].size, count = insn->op[OP_INDEX].size / size;
    struct vector_value mask = read_vector(vcpu, insn->op[OP_MASK].reg);
    struct vector_value data = read_vector(vcpu, insn->op[OP_DATA].reg);
    store_selected(vcpu, insn, insn_address(vcpu, insn), data.bytes, mask.bytes, count, size);
}

/* ---- MASKMOVDQU, VMASKMOVDQU, MASKMOVQ: bytes to DS:rDI ---- */

static void exec_maskmovdqu(struct vcpu *vcpu, const struct insn *insn)
{
    if (insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU)
        xstate_require_avx(vcpu);
    else
        xstate_require_sse(vcpu);
    const struct xstate_image *image = xstate_of(vcpu);
    store_selected(vcpu, insn, insn_address(vcpu, insn), image->xmm[insn->op[OP_DATA].reg],
                   image->xmm[insn->op[OP_MASK].reg], 16, 1);
}

static void exec_maskmovq(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_mmx(vcpu);
    xstate_wait_x87(vcpu);
    struct xstate_image *image = xstate_of(vcpu);
    /* MMi is physical register i; the image begins at the stack's top. */
    unsigned top = image->fsw >> 11 & 7;
    store_selected(vcpu, insn, insn_address(vcpu, insn),
                   image->st[(insn->op[OP_DATA].reg - top) & 7],
                   image->st[(insn->op[OP_MASK].reg - top) & 7], 8, 1);
    xstate_enter_mmx(image);
}

/* ---- Gathers ---- */

static void exec_gather(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_avx(vcpu);
    const struct operand *op = insn->op;
    unsigned size = op[OP_DATA].size, index_size = op[OP_INDEX].size, count = op[OP_MASK].size;
    struct vector_value data = read_vector(vcpu, op[OP_DATA].reg);
    struct vector_value mask = read_vector(vcpu, op[OP_MASK].reg);
    struct vector_value index = read_vector(vcpu, op[OP_INDEX].reg);
    /* Base and displacement; `index` names a vector register here. */
    struct insn scalar = *insn;
    scalar.index = INSN_REG_NONE;
    uint64_t base = insn_address(vcpu, &scalar);

    for (unsigned i = 0; i < count; i++) {
        if (!is_selected(mask.bytes, i, size))
            continue;
        uint64_t offset = 0;
        memcpy(&offset, index.bytes + i * index_size, index_size);
        offset = base + (bits_sign_extend(offset, index_size) << insn->scale);
        uint64_t linear = element_linear(vcpu, insn, offset, size, MMU_READ);
        uint64_t value = element_load(vcpu, linear, size);
        memcpy(data.bytes + i * size, &value, size);
        memset(mask.bytes + i * size, 0, size);
        /* The next element may fault. */
        write_vector(vcpu, op[OP_DATA].reg, &data);
        write_vector(vcpu, op[OP_MASK].reg, &mask);
    }
    memset(data.bytes + count * size, 0, sizeof(data.bytes) - count * size);
    memset(mask.bytes, 0, sizeof(mask.bytes));
    write_vector(vcpu, op[OP_DATA].reg, &data);
    write_vector(vcpu, op[OP_MASK].reg, &mask);
}

static bool bind_gather(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                        unsigned index_size, unsigned size, struct insn *insn)
{
    struct operand *op = insn->op;
    if (decoded->operand_count_visible != 3 || operands[1].type != ZYDIS_OPERAND_TYPE_MEMORY ||
        operands[1].mem.type != ZYDIS_MEMOP_TYPE_VSIB ||
        !thunk_operand_register(&operands[0], &op[OP_DATA]) ||
        !thunk_operand_register(&operands[2], &op[OP_MASK]))
        return false;
    thunk_bind_memory(decoded, &operands[1], insn);
    unsigned vector_size = decoded->raw.vex.L ? 32 : 16;
    op[OP_INDEX] = (struct operand){OPERAND_VECTOR, insn->index, (uint8_t)index_size};
    op[OP_DATA].size = (uint8_t)size;
    op[OP_MASK].size = (uint8_t)(vector_size / (index_size > size ? index_size : size));
    insn->exec = exec_gather;
    /* #UD where two are the same. */
    return op[OP_INDEX].reg < 16 && op[OP_DATA].reg != op[OP_MASK].reg &&
           op[OP_DATA].reg != op[OP_INDEX].reg && op[OP_MASK].reg != op[OP_INDEX].reg;
}

static bool bind_masked(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                        unsigned size, struct insn *insn)
{
    bool is_store = operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    const ZydisDecodedOperand *memory = &operands[is_store ? 0 : 2];
    if (decoded->operand_count_visible != 3 || memory->type != ZYDIS_OPERAND_TYPE_MEMORY ||
        memory->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
        !thunk_operand_register(&operands[is_store ? 2 : 0], &insn->op[OP_DATA]) ||
        !thunk_operand_register(&operands[1], &insn->op[OP_MASK]))
        return false;
    thunk_bind_memory(decoded, memory, insn);
    insn->op[OP_DATA].size = (uint8_t)size;
    insn->op[OP_INDEX].size = decoded->raw.vex.L ? 32 : 16; /* of the whole vector */
    insn->exec = is_store ? exec_masked_store : exec_masked_load;
    return true;
}

static bool bind_maskmov(const ZydisDecodedInstruction *decoded,
                         const ZydisDecodedOperand *operands, struct insn *insn)
{
    bool is_mmx = decoded->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
    for (unsigned i = 0; i < decoded->operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            thunk_bind_memory(decoded, &operands[i], insn);
    for (unsigned i = 0; i < 2; i++) {
        if (is_mmx)
            insn->op[i].reg = (uint8_t)(operands[i].reg.value - ZYDIS_REGISTER_MM0);
        else if (!thunk_operand_register(&operands[i], &insn->op[i]))
            return false;
    }
    insn->mnemonic = (uint16_t)decoded->mnemonic;
    insn->exec = is_mmx ? exec_maskmovq : exec_maskmovdqu;
    return insn->op[0].reg < 16 && insn->op[1].reg < 16;
}

bool thunk_bind_masked(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                       struct insn *insn)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
        return bind_masked(decoded, operands, 4, insn);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return bind_masked(decoded, operands, 8, insn);
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return bind_maskmov(decoded, operands, insn);
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VGATHERDPS:
        return bind_gather(decoded, operands, 4, 4, insn);
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VGATHERDPD:
        return bind_gather(decoded, operands, 4, 8, insn);
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
        return bind_gather(decoded, operands, 8, 4, insn);
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VGATHERQPD:
        return bind_gather(decoded, operands, 8, 8, insn);
    default:
        return false;
    }
}
