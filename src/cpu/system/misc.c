#include "cpu/access.h"
#include "cpu/insn.h"
#include "cpu/system/cpuid.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"
#include "cpu/system/interrupt_flag.h"

/* Interrupt flag, software interrupts, HLT, time-stamp counter, CPUID, SMAP's AC. */

static void require_iopl(struct vcpu *vcpu)
{
    if (vcpu->mode != MODE_REAL && vcpu->cpl > (vcpu->rflags & FLAG_IOPL) >> 12)
        vcpu_raise(vcpu, VECTOR_GP);
}

void system_cli(struct vcpu *vcpu, const struct insn *insn)
{
    require_iopl(vcpu);
    vcpu->rflags &= ~(uint64_t)FLAG_IF;
}

void system_sti(struct vcpu *vcpu, const struct insn *insn)
{
    require_iopl(vcpu);
    if ((vcpu->rflags & FLAG_IF) != 0)
        return;
    vcpu->rflags |= FLAG_IF;
    vcpu->interrupt_shadow = true;
    vcpu->step.shadow_debug = false;
    vcpu_attend(vcpu, vcpu_attention_for_if(vcpu) | ATTENTION_STEP);
}

void system_hlt(struct vcpu *vcpu, const struct insn *insn)
{
    require_cpl0(vcpu);
    vcpu->halted = true;
    vcpu->stats.halts++;
    vcpu_attend(vcpu, ATTENTION_STEP);
}

/* Software interrupts leave like faults, saying that RIP is the next instruction's. */
static _Noreturn void raise_software(struct vcpu *vcpu, uint8_t vector, bool check_dpl)
{
    vcpu->fault = (struct vcpu_event){.vector = vector, .is_trap = true, .is_software = check_dpl};
    longjmp(*vcpu->fault_exit, 1);
}

void system_int(struct vcpu *vcpu, const struct insn *insn)
{
    raise_software(vcpu, (uint8_t)insn->immediate, true);
}

void system_int3(struct vcpu *vcpu, const struct insn *insn)
{
    raise_software(vcpu, VECTOR_BP, true);
}

void system_into(struct vcpu *vcpu, const struct insn *insn)
{
    if (vcpu->mode == MODE_LONG)
        vcpu_raise(vcpu, VECTOR_UD);
    if ((vcpu->rflags & FLAG_OF) != 0)
        raise_software(vcpu, VECTOR_OF, true);
}

/* INT1 is a hardware-like #DB: any CPL may use it, and DR6 says nothing. */
void system_int1(struct vcpu *vcpu, const struct insn *insn)
{
    raise_software(vcpu, VECTOR_DB, false);
}

void system_bound(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t address = insn_address(vcpu, insn);
    uint64_t next = bits_truncate(address + size, insn->address_size);
    int64_t low = (int64_t)bits_sign_extend(access_load(vcpu, insn->seg, address, size), size);
    int64_t high = (int64_t)bits_sign_extend(access_load(vcpu, insn->seg, next, size), size);
    int64_t index = (int64_t)bits_sign_extend(insn_gpr_get(vcpu, insn->op[0].reg, size), size);
    if (index < low || index > high)
        vcpu_raise(vcpu, VECTOR_BR);
}

/* UD0-UD2, and what is not offered: VMX, SVM, MONITOR and MWAIT, KVM's hypercalls. */
void system_undefined(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu_raise(vcpu, VECTOR_UD);
}

static void set_edx_eax(struct vcpu *vcpu, uint64_t value)
{
    vcpu->gpr[GPR_RAX] = (uint32_t)value;
    vcpu->gpr[GPR_RDX] = value >> 32;
}

static void require_tsc(struct vcpu *vcpu)
{
    if ((vcpu->mmu.cr4 & CR4_TSD) != 0 && vcpu->cpl > 0)
        vcpu_raise(vcpu, VECTOR_GP);
}

void system_rdtsc(struct vcpu *vcpu, const struct insn *insn)
{
    require_tsc(vcpu);
    set_edx_eax(vcpu, vcpu_tsc(vcpu));
}

void system_rdtscp(struct vcpu *vcpu, const struct insn *insn)
{
    if (!features_has(vcpu->features, FEATURE_RDTSCP))
        vcpu_raise(vcpu, VECTOR_UD);
    require_tsc(vcpu);
    set_edx_eax(vcpu, vcpu_tsc(vcpu));
    vcpu->gpr[GPR_RCX] = (uint32_t)vcpu->msr.tsc_aux;
}

void system_rdpid(struct vcpu *vcpu, const struct insn *insn)
{
    if (!features_has(vcpu->features, FEATURE_RDPID))
        vcpu_raise(vcpu, VECTOR_UD);
    vcpu->gpr[insn->op[0].reg] = (uint32_t)vcpu->msr.tsc_aux;
}

/* There are no performance counters, so every index is out of range. */
void system_rdpmc(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu_raise(vcpu, VECTOR_GP);
}

void system_cpuid(struct vcpu *vcpu, const struct insn *insn)
{
    struct cpuid_result result =
        cpuid_query(vcpu, (uint32_t)vcpu->gpr[GPR_RAX], (uint32_t)vcpu->gpr[GPR_RCX]);
    vcpu->gpr[GPR_RAX] = result.eax;
    vcpu->gpr[GPR_RBX] = result.ebx;
    vcpu->gpr[GPR_RCX] = result.ecx;
    vcpu->gpr[GPR_RDX] = result.edx;
}

static void set_access_override(struct vcpu *vcpu, bool value)
{
    if (!features_has(vcpu->features, FEATURE_SMAP) || vcpu->cpl != 0)
        vcpu_raise(vcpu, VECTOR_UD);
    vcpu->rflags = value ? vcpu->rflags | FLAG_AC : vcpu->rflags & ~(uint64_t)FLAG_AC;
    vcpu->privilege = vcpu_privilege_at(vcpu, vcpu->cpl);
}

void system_stac(struct vcpu *vcpu, const struct insn *insn)
{
    set_access_override(vcpu, true);
}

void system_clac(struct vcpu *vcpu, const struct insn *insn)
{
    set_access_override(vcpu, false);
}
