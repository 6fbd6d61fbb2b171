#include "cpu/system/debug.h"

#include "cpu/system/descriptor.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/system/system.h"

#define DR6_WRITABLE 0xe00full /* B0-B3, BD, BS, BT */
#define DR7_WRITABLE 0xffff23ffull
#define DR7_GD       (1ull << 13)

enum breakpoint_type { BREAK_CODE, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

static bool breakpoint_enabled(const struct vcpu *vcpu, unsigned n)
{
    return (vcpu->dr[7] >> (2 * n) & 3) != 0;
}

static enum breakpoint_type breakpoint_type(const struct vcpu *vcpu, unsigned n)
{
    return vcpu->dr[7] >> (16 + 4 * n) & 3;
}

bool debug_has_code_breakpoint(const struct vcpu *vcpu)
{
    if (likely((vcpu->dr[7] & 0xff) == 0))
        return false;
    for (unsigned n = 0; n < 4; n++)
        if (breakpoint_enabled(vcpu, n) && breakpoint_type(vcpu, n) == BREAK_CODE)
            return true;
    return false;
}

uint64_t debug_code_hits(const struct vcpu *vcpu)
{
    uint64_t linear =
        vcpu->mode == MODE_LONG ? vcpu->rip : (uint32_t)(vcpu->seg[SEG_CS].base + vcpu->rip);
    uint64_t hits = 0;
    for (unsigned n = 0; n < 4; n++)
        if (breakpoint_enabled(vcpu, n) && breakpoint_type(vcpu, n) == BREAK_CODE &&
            vcpu->dr[n] == linear)
            hits |= bit(n);
    return hits;
}

void debug_port_access(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    if (likely((vcpu->dr[7] & 0xff) == 0 || (vcpu->mmu.cr4 & CR4_DE) == 0))
        return;
    static const uint8_t lengths[] = {1, 2, 8, 4};
    for (unsigned n = 0; n < 4; n++) {
        if (!breakpoint_enabled(vcpu, n) || breakpoint_type(vcpu, n) != BREAK_IO)
            continue;
        uint64_t span = lengths[vcpu->dr[7] >> (18 + 4 * n) & 3];
        uint64_t start = align_down(vcpu->dr[n], span);
        if (start < (uint64_t)port + size && port < start + span) {
            vcpu->pending_debug |= bit(n);
            vcpu_attend(vcpu, ATTENTION_STEP);
        }
    }
}

void debug_update_watch(struct vcpu *vcpu)
{
    uint64_t pages[4];
    unsigned count = 0;
    for (unsigned n = 0; n < 4; n++) {
        enum breakpoint_type type = breakpoint_type(vcpu, n);
        if (breakpoint_enabled(vcpu, n) && (type == BREAK_WRITE || type == BREAK_ACCESS))
            pages[count++] = vcpu->dr[n] & ~PAGE_MASK;
    }
    if (count != 0 || vcpu->mmu.watched_count != 0)
        mmu_watch(&vcpu->mmu, pages, count);
    if (debug_has_code_breakpoint(vcpu))
        vcpu_attend(vcpu, ATTENTION_STEP);
}

/* DR4 and DR5 are names of DR6 and DR7 unless CR4.DE takes them away. */
static unsigned debug_number(struct vcpu *vcpu, unsigned number)
{
    if (number > 7)
        vcpu_raise(vcpu, VECTOR_UD);
    if (number == 4 || number == 5) {
        if ((vcpu->mmu.cr4 & CR4_DE) != 0)
            vcpu_raise(vcpu, VECTOR_UD);
        number += 2;
    }
    require_cpl0(vcpu);
    if ((vcpu->dr[7] & DR7_GD) != 0)
        vcpu_raise_debug(vcpu, (vcpu->dr[6] & 0xf) | DR6_BD, false);
    return number;
}

static void write_debug(struct vcpu *vcpu, unsigned number, uint64_t value)
{
    if (number >= 6 && value >> 32 != 0)
        vcpu_raise(vcpu, VECTOR_GP);
    if (number == 6) {
        vcpu->dr[6] = (value & DR6_WRITABLE) | DR6_FIXED;
        return;
    }
    vcpu->dr[number] = number == 7 ? (value & DR7_WRITABLE) | DR7_FIXED : value;
    debug_update_watch(vcpu);
    vcpu->leave_block = true;
}

void system_mov_debug(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = vcpu->mode == MODE_LONG ? 8 : 4;
    if (insn->op[0].kind == OPERAND_DEBUG) {
        unsigned number = debug_number(vcpu, insn->op[0].reg);
        write_debug(vcpu, number, insn_gpr_get(vcpu, insn->op[1].reg, size));
    } else {
        unsigned number = debug_number(vcpu, insn->op[1].reg);
        insn_gpr_set(vcpu, insn->op[0].reg, size, vcpu->dr[number]);
    }
}
