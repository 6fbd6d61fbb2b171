#include "cpu/vcpu.h"

#include "cpu/system/descriptor.h"
#include "cpu/system/interrupt_flag.h"

/*
 * What CR0, EFER, CS, SS and RFLAGS.AC mean together (SDM vol. 3 2.2).
 *
 * CPL is the DPL of SS, as the hardware keeps it: CS's RPL may be anything just after PE was set,
 * and conforming code runs at the CPL of its caller. Every load of SS gives it the right DPL, a
 * null SS of 64-bit mode included.
 *
 * CS.D rules the code size in real mode too: it stays as protected mode left it until CS's
 * attributes are loaded anew.
 */

void vcpu_update_mode(struct vcpu *vcpu)
{
    const struct segment *cs = &vcpu->seg[SEG_CS];
    uint8_t legacy_size = cs->attributes & SEG_DB ? 4 : 2;
    if ((vcpu->mmu.cr0 & CR0_PE) == 0) {
        vcpu->mode = MODE_REAL;
        vcpu->code_size = legacy_size;
    } else if (!cpu_in_ia32e(vcpu)) {
        vcpu->mode = MODE_PROTECTED;
        vcpu->code_size = legacy_size;
    } else if ((cs->attributes & SEG_L) == 0) {
        vcpu->mode = MODE_COMPATIBILITY;
        vcpu->code_size = legacy_size;
    } else {
        vcpu->mode = MODE_LONG;
        vcpu->code_size = 8;
    }
    const struct segment *ss = &vcpu->seg[SEG_SS];
    vcpu->stack_size = vcpu->mode == MODE_LONG ? 8 : ss->attributes & SEG_DB ? 4 : 2;
    vcpu->cpl = vcpu->mode == MODE_REAL ? 0 : (uint8_t)attributes_dpl(ss->attributes);
    vcpu->privilege = vcpu_privilege_at(vcpu, vcpu->cpl);
    vcpu->is_translatable = vcpu->mode == MODE_LONG && (vcpu->cpl == 0 || vcpu->cpl == 3);
}
