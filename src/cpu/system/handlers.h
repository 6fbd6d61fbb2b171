#ifndef AEROSTAT_CPU_SYSTEM_HANDLERS_H
#define AEROSTAT_CPU_SYSTEM_HANDLERS_H

/* Every handler of this folder that handlers.c puts in its table. */

#include "cpu/insn.h"

/* segments.c */
insn_fn system_lds, system_les, system_lfs, system_lgs, system_lss;
/* tables.c */
insn_fn system_lgdt, system_lidt, system_sgdt, system_sidt, system_lldt, system_ltr, system_sldt,
    system_str;
/* verify.c */
insn_fn system_lar, system_lsl, system_verr, system_verw, system_arpl;
/* return.c */
insn_fn system_iret;
/* fast.c */
insn_fn system_syscall, system_sysret, system_sysenter, system_sysexit, system_swapgs,
    system_rdfsbase, system_rdgsbase, system_wrfsbase, system_wrgsbase;
/* control.c */
insn_fn system_lmsw, system_smsw, system_clts, system_xsetbv, system_xgetbv, system_invlpg,
    system_invpcid, system_wbinvd;
/* io.c */
insn_fn system_in, system_out, system_ins, system_outs;
/* misc.c */
insn_fn system_cli, system_sti, system_hlt, system_int, system_int1, system_int3, system_into,
    system_bound, system_undefined, system_rdtsc, system_rdtscp, system_rdpid, system_rdpmc,
    system_cpuid, system_stac, system_clac;
/* msr.c */
insn_fn system_rdmsr, system_wrmsr;

#endif
