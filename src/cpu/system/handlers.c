#include "cpu/system/handlers.h"

#include <Zydis/Zydis.h>

/* What the decoder finds here by mnemonic. MOV, PUSH, POP and far transfers come by system.h. */

#define ENDS INSN_ENDS_BLOCK

const struct insn_handler system_handlers[] = {
    {ZYDIS_MNEMONIC_LDS, system_lds, 0},
    {ZYDIS_MNEMONIC_LES, system_les, 0},
    {ZYDIS_MNEMONIC_LFS, system_lfs, 0},
    {ZYDIS_MNEMONIC_LGS, system_lgs, 0},
    {ZYDIS_MNEMONIC_LSS, system_lss, ENDS},

    {ZYDIS_MNEMONIC_LGDT, system_lgdt, ENDS},
    {ZYDIS_MNEMONIC_LIDT, system_lidt, ENDS},
    {ZYDIS_MNEMONIC_SGDT, system_sgdt, 0},
    {ZYDIS_MNEMONIC_SIDT, system_sidt, 0},
    {ZYDIS_MNEMONIC_LLDT, system_lldt, ENDS},
    {ZYDIS_MNEMONIC_LTR, system_ltr, ENDS},
    {ZYDIS_MNEMONIC_SLDT, system_sldt, 0},
    {ZYDIS_MNEMONIC_STR, system_str, 0},

    {ZYDIS_MNEMONIC_LAR, system_lar, 0},
    {ZYDIS_MNEMONIC_LSL, system_lsl, 0},
    {ZYDIS_MNEMONIC_VERR, system_verr, 0},
    {ZYDIS_MNEMONIC_VERW, system_verw, 0},
    {ZYDIS_MNEMONIC_ARPL, system_arpl, 0},

    {ZYDIS_MNEMONIC_IRET, system_iret, ENDS},
    {ZYDIS_MNEMONIC_IRETD, system_iret, ENDS},
    {ZYDIS_MNEMONIC_IRETQ, system_iret, ENDS},

    {ZYDIS_MNEMONIC_SYSCALL, system_syscall, ENDS},
    {ZYDIS_MNEMONIC_SYSRET, system_sysret, ENDS},
    {ZYDIS_MNEMONIC_SYSENTER, system_sysenter, ENDS},
    {ZYDIS_MNEMONIC_SYSEXIT, system_sysexit, ENDS},
    {ZYDIS_MNEMONIC_SWAPGS, system_swapgs, 0},
    {ZYDIS_MNEMONIC_RDFSBASE, system_rdfsbase, 0},
    {ZYDIS_MNEMONIC_RDGSBASE, system_rdgsbase, 0},
    {ZYDIS_MNEMONIC_WRFSBASE, system_wrfsbase, 0},
    {ZYDIS_MNEMONIC_WRGSBASE, system_wrgsbase, 0},

    {ZYDIS_MNEMONIC_LMSW, system_lmsw, ENDS},
    {ZYDIS_MNEMONIC_SMSW, system_smsw, 0},
    {ZYDIS_MNEMONIC_CLTS, system_clts, ENDS},
    {ZYDIS_MNEMONIC_XSETBV, system_xsetbv, ENDS},
    {ZYDIS_MNEMONIC_XGETBV, system_xgetbv, 0},
    {ZYDIS_MNEMONIC_INVLPG, system_invlpg, ENDS},
    {ZYDIS_MNEMONIC_INVPCID, system_invpcid, ENDS},
    {ZYDIS_MNEMONIC_WBINVD, system_wbinvd, 0},
    {ZYDIS_MNEMONIC_INVD, system_wbinvd, 0},

    {ZYDIS_MNEMONIC_IN, system_in, 0},
    {ZYDIS_MNEMONIC_OUT, system_out, ENDS},
    {ZYDIS_MNEMONIC_INSB, system_ins, ENDS},
    {ZYDIS_MNEMONIC_INSW, system_ins, ENDS},
    {ZYDIS_MNEMONIC_INSD, system_ins, ENDS},
    {ZYDIS_MNEMONIC_OUTSB, system_outs, ENDS},
    {ZYDIS_MNEMONIC_OUTSW, system_outs, ENDS},
    {ZYDIS_MNEMONIC_OUTSD, system_outs, ENDS},

    {ZYDIS_MNEMONIC_CLI, system_cli, 0},
    {ZYDIS_MNEMONIC_STI, system_sti, 0},
    {ZYDIS_MNEMONIC_HLT, system_hlt, ENDS},
    {ZYDIS_MNEMONIC_INT, system_int, ENDS},
    {ZYDIS_MNEMONIC_INT1, system_int1, ENDS},
    {ZYDIS_MNEMONIC_INT3, system_int3, ENDS},
    {ZYDIS_MNEMONIC_INTO, system_into, ENDS},
    {ZYDIS_MNEMONIC_BOUND, system_bound, 0},
    {ZYDIS_MNEMONIC_UD0, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_UD1, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_UD2, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_RDTSC, system_rdtsc, 0},
    {ZYDIS_MNEMONIC_RDTSCP, system_rdtscp, 0},
    {ZYDIS_MNEMONIC_RDPID, system_rdpid, 0},
    {ZYDIS_MNEMONIC_RDPMC, system_rdpmc, ENDS},
    {ZYDIS_MNEMONIC_CPUID, system_cpuid, 0},
    {ZYDIS_MNEMONIC_STAC, system_stac, 0},
    {ZYDIS_MNEMONIC_CLAC, system_clac, 0},
    {ZYDIS_MNEMONIC_RDMSR, system_rdmsr, 0},
    {ZYDIS_MNEMONIC_WRMSR, system_wrmsr, 0},

    {ZYDIS_MNEMONIC_VMCALL, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_VMMCALL, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_MONITOR, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_MWAIT, system_undefined, ENDS},
    {ZYDIS_MNEMONIC_RSM, system_undefined, ENDS},

    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
