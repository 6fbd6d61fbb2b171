#include "cpu/access.h"
#include "cpu/insn.h"
#include "cpu/system/debug.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"
#include "cpu/system/interrupt_flag.h"

#include <Zydis/Zydis.h>

/* IN, OUT, INS, OUTS (SDM vol. 1 ch. 19): permission by IOPL, then by the bitmap in the TSS. */

#define TSS_IO_MAP_BASE 102u

static void check_port(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    if (vcpu->mode == MODE_REAL || vcpu->cpl <= (vcpu->rflags & FLAG_IOPL) >> 12)
        return;
    unsigned type = attributes_type(vcpu->tr.attributes);
    bool has_map =
        (type == TYPE_TSS32 || type == TYPE_TSS32_BUSY) && vcpu->tr.limit >= TSS_IO_MAP_BASE + 1;
    if (!has_map)
        vcpu_raise(vcpu, VECTOR_GP);
    uint32_t map =
        (uint32_t)system_load(vcpu, system_linear(vcpu, vcpu->tr.base, TSS_IO_MAP_BASE), 2);
    /* Two bytes are read always, so that an access may straddle a byte of the map. */
    uint32_t offset = map + port / 8;
    if (offset + 1 > vcpu->tr.limit)
        vcpu_raise(vcpu, VECTOR_GP);
    uint64_t bits = system_load(vcpu, system_linear(vcpu, vcpu->tr.base, offset), 2);
    uint64_t mask = (bit(size) - 1) << (port & 7);
    if ((bits & mask) != 0)
        vcpu_raise(vcpu, VECTOR_GP);
}

/* Ports are named by an immediate byte or by DX. */
static uint16_t port_operand(const struct vcpu *vcpu, const struct insn *insn)
{
    for (unsigned i = 0; i < insn->operand_count && i < INSN_MAX_OPERANDS; i++)
        if (insn->op[i].kind == OPERAND_IMMEDIATE)
            return insn->immediate & 0xff;
    return (uint16_t)vcpu->gpr[GPR_RDX];
}

static unsigned port_size(const struct insn *insn)
{
    return insn->operand_size > 4 ? 4 : insn->operand_size;
}

void system_in(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = port_size(insn);
    uint16_t port = port_operand(vcpu, insn);
    check_port(vcpu, port, size);
    uint64_t value = access_port_read(vcpu, port, size);
    insn_gpr_set(vcpu, GPR_RAX, size, value);
    debug_port_access(vcpu, port, size);
}

void system_out(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = port_size(insn);
    uint16_t port = port_operand(vcpu, insn);
    check_port(vcpu, port, size);
    access_port_write(vcpu, port, size, insn_gpr_get(vcpu, GPR_RAX, size));
    debug_port_access(vcpu, port, size);
    /* The device may have stopped or reset the machine. */
    vcpu->leave_block = true;
}

/* One element of a string instruction; moves the index register past it. */
typedef void port_step_fn(struct vcpu *vcpu, const struct insn *insn, uint16_t port, unsigned size);

static void advance(struct vcpu *vcpu, const struct insn *insn, enum gpr index, unsigned size)
{
    uint64_t step = (vcpu->rflags & FLAG_DF) != 0 ? -(uint64_t)size : size;
    insn_gpr_set(vcpu, index, insn->address_size, vcpu->gpr[index] + step);
}

static void input_step(struct vcpu *vcpu, const struct insn *insn, uint16_t port, unsigned size)
{
    uint64_t offset = insn_gpr_get(vcpu, GPR_RDI, insn->address_size);
    uint64_t linear = access_linear(vcpu, SEG_ES, offset, size, MMU_WRITE);
    /* A read of a port cannot be taken back: be sure first that the store will work. */
    access_check_store(vcpu, linear, size);
    access_store_linear(vcpu, linear, size, access_port_read(vcpu, port, size));
    advance(vcpu, insn, GPR_RDI, size);
}

static void output_step(struct vcpu *vcpu, const struct insn *insn, uint16_t port, unsigned size)
{
    uint64_t offset = insn_gpr_get(vcpu, GPR_RSI, insn->address_size);
    access_port_write(vcpu, port, size, access_load(vcpu, insn->seg, offset, size));
    advance(vcpu, insn, GPR_RSI, size);
}

/* With REP the instruction can be left between any two elements, and begun again. */
static void repeat(struct vcpu *vcpu, const struct insn *insn, unsigned size, port_step_fn *step)
{
    uint16_t port = (uint16_t)vcpu->gpr[GPR_RDX];
    check_port(vcpu, port, size);
    vcpu->leave_block = true;
    if ((insn->prefixes & (INSN_REP | INSN_REPNE)) == 0) {
        step(vcpu, insn, port, size);
        debug_port_access(vcpu, port, size);
        return;
    }
    uint64_t count = insn_gpr_get(vcpu, GPR_RCX, insn->address_size);
    while (count != 0) {
        step(vcpu, insn, port, size);
        insn_gpr_set(vcpu, GPR_RCX, insn->address_size, --count);
        debug_port_access(vcpu, port, size);
        if (count != 0 && atomic_load_explicit(&vcpu->attention, memory_order_relaxed) != 0) {
            vcpu_suspend_repeat(vcpu);
            return;
        }
    }
}

void system_ins(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->mnemonic == ZYDIS_MNEMONIC_INSB   ? 1
                    : insn->mnemonic == ZYDIS_MNEMONIC_INSW ? 2
                                                            : 4;
    repeat(vcpu, insn, size, input_step);
}

void system_outs(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->mnemonic == ZYDIS_MNEMONIC_OUTSB   ? 1
                    : insn->mnemonic == ZYDIS_MNEMONIC_OUTSW ? 2
                                                             : 4;
    repeat(vcpu, insn, size, output_step);
}
