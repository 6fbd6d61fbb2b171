#ifndef AEROSTAT_CPU_VCPU_H
#define AEROSTAT_CPU_VCPU_H

/*
 * One virtual CPU: architectural state, and what the engines need beside it.
 *
 * Threads. The vCPU's own thread owns everything here except `attention`, `sipi_vector` and the
 * wake-up pair, which anybody may touch through vcpu_kick.
 *
 * Safepoints. An engine looks at `attention` at every block entry. If it is not 0 it calls
 * vcpu_service, which serves MMU revocations, interrupts, NMI, INIT, SIPI and requests to leave.
 *
 * Faults. A handler that finds an exception calls vcpu_raise (exception.h), which does not return:
 * it jumps to the engine's run loop, which delivers it. So a handler changes guest state only after
 * everything that can fault has been done, and never calls what may raise while holding a lock.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu/features.h"
#include "mem/bus.h"
#include "mmu/mmu.h"

enum gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_COUNT
};

/* In the order of their encoding in instructions. */
enum segment_register { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* Descriptor attributes, as in bits 40-47 and 52-55 of a descriptor: type 0-3, S 4, DPL 5-6, P 7,
 * AVL 12, L 13, D/B 14, G 15. SEG_UNUSABLE: a null selector was loaded. */
#define SEG_TYPE     0x000fu
#define SEG_S        0x0010u
#define SEG_DPL      0x0060u
#define SEG_P        0x0080u
#define SEG_L        0x2000u
#define SEG_DB       0x4000u
#define SEG_G        0x8000u
#define SEG_UNUSABLE 0x10000u

struct segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attributes;
    uint16_t selector;
};

struct descriptor_table {
    uint64_t base;
    uint16_t limit;
};

enum cpu_mode {
    MODE_REAL,
    MODE_PROTECTED, /* 16 or 32 bit, by CS.D */
    MODE_COMPATIBILITY,
    MODE_LONG, /* 64-bit code */
};

enum rflags {
    FLAG_CF = 1 << 0,
    FLAG_FIXED = 1 << 1,
    FLAG_PF = 1 << 2,
    FLAG_AF = 1 << 4,
    FLAG_ZF = 1 << 6,
    FLAG_SF = 1 << 7,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_OF = 1 << 11,
    FLAG_IOPL = 3 << 12,
    FLAG_NT = 1 << 14,
    FLAG_RF = 1 << 16,
    FLAG_VM = 1 << 17,
    FLAG_AC = 1 << 18,
    FLAG_VIF = 1 << 19,
    FLAG_VIP = 1 << 20,
    FLAG_ID = 1 << 21,
    FLAGS_STATUS = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF,
};

enum cr0_bits {
    CR0_PE = 1u << 0,
    CR0_MP = 1u << 1,
    CR0_EM = 1u << 2,
    CR0_TS = 1u << 3,
    CR0_ET = 1u << 4,
    CR0_NE = 1u << 5,
    CR0_WP = 1u << 16,
    CR0_AM = 1u << 18,
    CR0_NW = 1u << 29,
    CR0_CD = 1u << 30,
};
#define CR0_PG (1u << 31)

enum cr4_bits {
    CR4_VME = 1 << 0,
    CR4_PVI = 1 << 1,
    CR4_TSD = 1 << 2,
    CR4_DE = 1 << 3,
    CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5,
    CR4_MCE = 1 << 6,
    CR4_PGE = 1 << 7,
    CR4_PCE = 1 << 8,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10,
    CR4_UMIP = 1 << 11,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21,
};

enum efer_bits { EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

enum vector {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_NMI = 2,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_MC = 18,
    VECTOR_XM = 19,
};

/* Bits of vcpu.attention. */
enum attention {
    ATTENTION_MMU = 1 << 0, /* mmu_service wanted */
    ATTENTION_IRQ = 1 << 1, /* the APIC may have something deliverable */
    ATTENTION_NMI = 1 << 2,
    ATTENTION_INIT = 1 << 3,
    ATTENTION_SIPI = 1 << 4, /* sipi_vector is good */
    ATTENTION_EXIT = 1 << 5, /* leave the run loop: stop, pause, reset */
    ATTENTION_STEP = 1 << 6, /* own thread: TF, RF, a pending #DB or an interrupt shadow to be
                                considered before the next instruction */
};

/* Why an engine's run function returned. */
enum vcpu_exit {
    VCPU_EXIT_REQUESTED, /* ATTENTION_EXIT was set (and is now cleared) */
    VCPU_EXIT_HALTED,    /* HLT, or waiting for SIPI: vcpu_wait, then run again */
    VCPU_EXIT_SHUTDOWN,  /* triple fault */
    VCPU_EXIT_LOST,      /* it needs a page that is lost (pmap.h); run again, it tries again */
};

/* How the CPU sees its local APIC; `context` belongs to the device (dev/lapic). */
struct vcpu_apic_ops {
    /* The vector that can be delivered now (above the processor priority, or from the legacy PIC
     * through LINT0), else -1. */
    int (*pending)(void *context);
    /* Takes it: it is now in service. -1 where it has vanished. */
    int (*acknowledge)(void *context);
    uint64_t (*read_tpr)(void *context); /* CR8: bits 7-4 of the TPR */
    void (*write_tpr)(void *context, uint64_t cr8);
    /* IA32_APIC_BASE, TSC_DEADLINE, x2APIC MSRs. False: #GP. */
    bool (*read_msr)(void *context, uint32_t msr, uint64_t *value);
    bool (*write_msr)(void *context, uint32_t msr, uint64_t value);
    /* tsc_offset has changed: an armed TSC deadline is another moment now. */
    void (*tsc_changed)(void *context);
};

#define XSTATE_SIZE 1024 /* legacy area, header, AVX state at 576; rounded up */

/* Model-specific registers without a home elsewhere. */
struct vcpu_msrs {
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, tsc_aux, spec_ctrl, bios_sign;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_variable[16];
    uint64_t mcg_status, mcg_ctl;
    uint64_t pvclock_system, pvclock_wall, pv_eoi, pv_poll_control;
};

struct vcpu_stats {
    uint64_t instructions; /* guest instructions completed */
    uint64_t blocks_decoded;
    uint64_t interrupts, exceptions[32];
    uint64_t port_io, halts;
};

/* cpu/system/service.c's own: what the instruction now being stepped over began with. */
struct vcpu_step {
    bool active;       /* the last vcpu_service let one instruction start with stepping on */
    bool trap;         /* it started with TF */
    bool shadowed;     /* it ran in the interrupt shadow, which ends with it */
    bool shadow_debug; /* the shadow is of MOV SS or POP SS: it holds back #DB traps as well */
};

struct vcpu_event { /* an exception on its way to the guest */
    uint8_t vector;
    bool has_error_code;
    bool is_trap;       /* saved RIP is the next instruction: #BP, #OF, single step */
    bool is_software;   /* INT n, INT3, INTO: the gate's DPL is checked */
    bool is_breakpoint; /* the #DB fault of an instruction breakpoint: RF is pushed as it is */
    uint32_t error_code;
};

/* Whether the guest's vector registers and MXCSR are in the host CPU rather than in xstate: never
 * while C code runs (cpu/translate/vector_state.c). */
struct vcpu_vectors {
    uint8_t sse_absent; /* 0: XMM registers and MXCSR are there, and the guest may use them */
    uint8_t avx_absent; /* 0: the same for YMM registers */
    bool interpret;     /* generated code may not run this block: the interpreter is to */
    uint32_t host_mxcsr;
};

struct thunk_set;
struct interp; /* the interpreter's caches, one a vCPU */

struct vcpu {
    /* Registers. rip is the current instruction until its handler is done; next_rip is where it
     * goes on: handlers of branches write next_rip. */
    uint64_t gpr[GPR_COUNT];
    uint64_t rip, next_rip;
    uint64_t rflags; /* always whole and exact; FLAG_FIXED set */

    /* Derived by vcpu_update_mode from CR0, EFER, CS and RFLAGS. */
    enum cpu_mode mode;
    uint8_t code_size;  /* default operand/address size of code: 2, 4 or 8 (address size) */
    uint8_t stack_size; /* width of the stack pointer: 2, 4 or 8 */
    uint8_t cpl;
    enum mmu_privilege privilege; /* for explicit data accesses now */
    bool is_translatable;         /* 64-bit code at CPL 0 or 3, so that privilege tells the CPL */

    bool leave_block;       /* the block being run must end after this instruction */
    bool interrupt_shadow;  /* STI, MOV SS, POP SS: none taken before the next instruction ends */
    bool halted;            /* HLT executed, waiting for an interrupt */
    bool wait_for_sipi;     /* an application processor after INIT */
    bool nmi_blocked;       /* until IRET */
    unsigned undelivered;   /* 1 + the vector of an interrupt that is being delivered; 0: none */
    uint64_t pending_debug; /* DR6 bits of a #DB trap to be raised after this instruction */
    struct vcpu_step step;

    _Alignas(8) _Atomic uint32_t attention;
    /* Own thread, 0 or 1: an ATTENTION_IRQ was seen with IF clear, so whatever sets IF sets it
     * again. Behind attention, so that generated code can look at both at once. */
    uint32_t irq_waiting;
    _Atomic uint8_t sipi_vector;

    struct segment seg[SEG_COUNT], ldtr, tr;
    struct descriptor_table gdtr, idtr;
    uint64_t cr2;
    uint64_t dr[8]; /* 4 and 5 unused */
    uint64_t xcr0;
    int64_t tsc_offset; /* guest TSC = host TSC + this */
    uint64_t tsc_lost;  /* ticks for which the VM stood still: already subtracted from the above */
    struct vcpu_msrs msr;

    /* x87, SSE and AVX state in the standard XSAVE layout (header's XSTATE_BV always says what is
     * not in its initial state, or more). Every part is valid in memory whenever C code runs. */
    _Alignas(64) uint8_t xstate[XSTATE_SIZE];

    struct vcpu_vectors vectors;
    /* Linear base of the page in which generated code runs, where that is made for any such
     * (cpu/translate/relative.c). */
    uint64_t code_page;

    struct mmu mmu;

    /* Where vcpu_raise goes. */
    jmp_buf *fault_exit;
    bool is_lost; /* jumped to by vcpu_lose: no fault to deliver */
    struct vcpu_event fault;

    /* Wiring. */
    unsigned index; /* = initial APIC id; 0 is the boot processor */
    const struct features *features;
    struct bus *ports;
    const struct vcpu_apic_ops *apic;
    void *apic_context;
    struct interp *interp;
    struct thunk_set *thunks;    /* shared by the vCPUs of a VM */
    struct code_pool *code_pool; /* the translator's; NULL: it makes its own when attached */
    unsigned cpu_count;          /* in this VM, for CPUID topology */

    pthread_mutex_t wake_lock;
    pthread_cond_t wake;

    struct vcpu_stats stats;
};

struct vcpu_config {
    unsigned index, cpu_count;
    const struct features *features;
    struct mmu_domain *domain;
    struct bus *mmio; /* this vCPU's own bus, with its local APIC */
    struct bus *ports;
    struct thunk_set *thunks;
    const struct vcpu_apic_ops *apic;
    void *apic_context;
};

/* A vCPU in its power-on state (SDM vol. 3 table 9-1), parked. Pointers in config are kept. */
enum status vcpu_create(struct vcpu **vcpu, const struct vcpu_config *config, struct error *err);
void vcpu_destroy(struct vcpu *vcpu);

/* INIT or power-on state (`init`: caches, FPU, MSRs and CR0.CD/NW survive as the SDM says). */
void vcpu_reset(struct vcpu *vcpu, bool init);

/* Recomputes mode, sizes, CPL and privilege. After any change of CR0, EFER, CS, SS, RFLAGS.AC/VM.
 */
void vcpu_update_mode(struct vcpu *vcpu);

/* Any thread: sets attention bits and wakes the vCPU if it waits. */
void vcpu_kick(struct vcpu *vcpu, uint32_t attention);

/* Own thread, after VCPU_EXIT_HALTED: parks until an interrupt can be taken, or NMI, INIT, SIPI or
 * ATTENTION_EXIT arrives. */
void vcpu_wait(struct vcpu *vcpu);

/* Own thread, at a safepoint with attention != 0. Delivers what can be delivered. Returns true when
 * the engine must leave its loop, with *exit set. May raise (through vcpu_raise). */
bool vcpu_service(struct vcpu *vcpu, enum vcpu_exit *exit);

/* Guest TSC now. */
uint64_t vcpu_tsc(const struct vcpu *vcpu);

/* All registers as text, some 25 lines, for the report of a triple fault. Returns bytes needed, as
 * snprintf. */
int vcpu_describe(const struct vcpu *vcpu, char *buffer, size_t size);

#endif
