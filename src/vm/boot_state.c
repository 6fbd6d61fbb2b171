#include "vm/boot_state.h"

#define BOOT_CODE_SELECTOR 0x10u
#define BOOT_DATA_SELECTOR 0x18u

void boot_state_apply(struct vcpu *vcpu, const struct boot_entry *entry)
{
    bool is_long = entry->mode == BOOT_LINUX64;
    uint32_t code_size = is_long ? SEG_L : SEG_DB;

    vcpu->rip = entry->rip;
    vcpu->gpr[GPR_RAX] = entry->rax;
    vcpu->gpr[GPR_RBX] = entry->rbx;
    vcpu->gpr[GPR_RSI] = entry->rsi;
    vcpu->gpr[GPR_RSP] = entry->rsp;

    vcpu->gdtr = (struct descriptor_table){entry->gdt_base, entry->gdt_limit};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        vcpu->seg[i] = (struct segment){0, UINT32_MAX, 0x93 | SEG_G | SEG_DB, BOOT_DATA_SELECTOR};
    vcpu->seg[SEG_CS] =
        (struct segment){0, UINT32_MAX, 0x9b | SEG_G | code_size, BOOT_CODE_SELECTOR};

    vcpu->mmu.cr0 = CR0_PE | CR0_ET | CR0_NE;
    if (is_long) {
        vcpu->mmu.cr0 |= CR0_PG;
        vcpu->mmu.cr3 = entry->cr3;
        vcpu->mmu.cr4 = CR4_PAE;
        vcpu->mmu.efer = EFER_LME | EFER_LMA;
    }
    vcpu_update_mode(vcpu);
    mmu_flush(&vcpu->mmu, false);
}
