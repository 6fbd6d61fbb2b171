#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"
#include "cpu/system/interrupt_flag.h"

/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS/GS base instructions.
 *
 * Vendors differ, and a kernel chooses by vendor: Intel has SYSCALL only in 64-bit mode and
 * SYSENTER in all protected modes; AMD has SYSCALL in compatibility mode as well (through CSTAR)
 * and no SYSENTER in IA-32e mode. We are what our CPUID vendor says.
 */

#define FLAT_CODE  (SEG_S | SEG_P | SEG_G | TYPE_CODE | TYPE_READABLE | TYPE_ACCESSED)
#define FLAT_DATA  (SEG_S | SEG_P | SEG_G | SEG_DB | TYPE_WRITABLE | TYPE_ACCESSED)
#define SYSCALL_CS 32 /* shifts in STAR */
#define SYSRET_CS  48

/* CS and SS as these instructions load them: flat, whatever the tables hold. */
static void load_flat(struct vcpu *vcpu, uint64_t cs, uint64_t ss, unsigned cpl, uint32_t size)
{
    uint32_t level = cpl << 5;
    uint16_t rpl = (uint16_t)cpl;
    vcpu->seg[SEG_CS] = (struct segment){.limit = UINT32_MAX,
                                         .attributes = FLAT_CODE | level | size,
                                         .selector = (uint16_t)((cs & ~3ull) | rpl)};
    vcpu->seg[SEG_SS] = (struct segment){.limit = UINT32_MAX,
                                         .attributes = FLAT_DATA | level,
                                         .selector = (uint16_t)((ss & ~3ull) | rpl)};
    vcpu_update_mode(vcpu);
    vcpu->leave_block = true;
}

static void require_syscall(struct vcpu *vcpu)
{
    bool mode_allows =
        vcpu->mode == MODE_LONG || (vcpu->features->amd && vcpu->mode == MODE_COMPATIBILITY);
    if ((vcpu->mmu.efer & EFER_SCE) == 0 || !mode_allows)
        vcpu_raise(vcpu, VECTOR_UD);
}

void system_syscall(struct vcpu *vcpu, const struct insn *insn)
{
    require_syscall(vcpu);
    uint64_t flags = vcpu->rflags & ~(uint64_t)FLAG_RF;
    vcpu->gpr[GPR_RCX] = vcpu->next_rip;
    vcpu->gpr[GPR_R11] = flags;
    vcpu->next_rip = vcpu->mode == MODE_LONG ? vcpu->msr.lstar : vcpu->msr.cstar;
    uint64_t cs = vcpu->msr.star >> SYSCALL_CS;
    vcpu_set_rflags(vcpu, flags & ~vcpu->msr.sfmask);
    vcpu_step_by_new_flags(vcpu);
    load_flat(vcpu, cs, cs + 8, 0, SEG_L);
}

void system_sysret(struct vcpu *vcpu, const struct insn *insn)
{
    require_syscall(vcpu);
    require_cpl0(vcpu);
    bool to_64bit = insn->operand_size == 8;
    uint64_t rip = vcpu->gpr[GPR_RCX];
    /* Intel checks at CPL 0, before the switch. */
    if (to_64bit && !access_is_canonical(rip))
        vcpu_raise(vcpu, VECTOR_GP);
    const uint64_t loaded = FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT |
                            FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    vcpu->next_rip = to_64bit ? rip : (uint32_t)rip;
    uint64_t base = vcpu->msr.star >> SYSRET_CS;
    load_flat(vcpu, to_64bit ? base + 16 : base, base + 8, 3, to_64bit ? SEG_L : SEG_DB);
    vcpu_set_rflags(vcpu, vcpu->gpr[GPR_R11] & loaded);
    vcpu_step_by_new_flags(vcpu);
}

static void require_sysenter(struct vcpu *vcpu)
{
    if (vcpu->features->amd && cpu_in_ia32e(vcpu))
        vcpu_raise(vcpu, VECTOR_UD);
    if (vcpu->mode == MODE_REAL || (vcpu->msr.sysenter_cs & 0xfffc) == 0)
        vcpu_raise(vcpu, VECTOR_GP);
}

void system_sysenter(struct vcpu *vcpu, const struct insn *insn)
{
    require_sysenter(vcpu);
    bool is_long = cpu_in_ia32e(vcpu);
    uint64_t cs = vcpu->msr.sysenter_cs;
    vcpu->gpr[GPR_RSP] = is_long ? vcpu->msr.sysenter_esp : (uint32_t)vcpu->msr.sysenter_esp;
    vcpu->next_rip = is_long ? vcpu->msr.sysenter_eip : (uint32_t)vcpu->msr.sysenter_eip;
    vcpu_set_rflags(vcpu, vcpu->rflags & ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF));
    load_flat(vcpu, cs, (cs & ~3ull) + 8, 0, is_long ? SEG_L : SEG_DB);
}

void system_sysexit(struct vcpu *vcpu, const struct insn *insn)
{
    require_sysenter(vcpu);
    require_cpl0(vcpu);
    uint64_t rip = vcpu->gpr[GPR_RDX];
    uint64_t rsp = vcpu->gpr[GPR_RCX];
    uint64_t cs = vcpu->msr.sysenter_cs & ~3ull;
    bool to_64bit = insn->operand_size == 8;
    if (to_64bit && (!access_is_canonical(rip) || !access_is_canonical(rsp)))
        vcpu_raise(vcpu, VECTOR_GP);
    vcpu->next_rip = to_64bit ? rip : (uint32_t)rip;
    vcpu->gpr[GPR_RSP] = to_64bit ? rsp : (uint32_t)rsp;
    if (to_64bit)
        load_flat(vcpu, cs + 32, cs + 40, 3, SEG_L);
    else
        load_flat(vcpu, cs + 16, cs + 24, 3, SEG_DB);
}

void system_swapgs(struct vcpu *vcpu, const struct insn *insn)
{
    if (vcpu->mode != MODE_LONG)
        vcpu_raise(vcpu, VECTOR_UD);
    require_cpl0(vcpu);
    uint64_t base = vcpu->seg[SEG_GS].base;
    vcpu->seg[SEG_GS].base = vcpu->msr.kernel_gs_base;
    vcpu->msr.kernel_gs_base = base;
}

static void require_fsgsbase(struct vcpu *vcpu)
{
    if (vcpu->mode != MODE_LONG || (vcpu->mmu.cr4 & CR4_FSGSBASE) == 0)
        vcpu_raise(vcpu, VECTOR_UD);
}

static void read_base(struct vcpu *vcpu, const struct insn *insn, enum segment_register seg)
{
    require_fsgsbase(vcpu);
    insn_gpr_set(vcpu, insn->op[0].reg, insn->op[0].size, vcpu->seg[seg].base);
}

static void write_base(struct vcpu *vcpu, const struct insn *insn, enum segment_register seg)
{
    require_fsgsbase(vcpu);
    uint64_t base = insn_gpr_get(vcpu, insn->op[0].reg, insn->op[0].size);
    if (!access_is_canonical(base))
        vcpu_raise(vcpu, VECTOR_GP);
    vcpu->seg[seg].base = base;
}

void system_rdfsbase(struct vcpu *vcpu, const struct insn *insn)
{
    read_base(vcpu, insn, SEG_FS);
}

void system_rdgsbase(struct vcpu *vcpu, const struct insn *insn)
{
    read_base(vcpu, insn, SEG_GS);
}

void system_wrfsbase(struct vcpu *vcpu, const struct insn *insn)
{
    write_base(vcpu, insn, SEG_FS);
}

void system_wrgsbase(struct vcpu *vcpu, const struct insn *insn)
{
    write_base(vcpu, insn, SEG_GS);
}
