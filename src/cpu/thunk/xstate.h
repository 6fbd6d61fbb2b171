#ifndef AEROSTAT_CPU_THUNK_XSTATE_H
#define AEROSTAT_CPU_THUNK_XSTATE_H

/*
 * The layout of vcpu->xstate, and whether the guest may use it now.
 *
 * x87, SSE and AVX state in the standard (not compacted) XSAVE layout, legacy part as FXSAVE64
 * would write it: SDM vol. 1 10.5.1 and 13.4. fip and fdp are the guest's: an offset, with the
 * selector in bits 32-47 where the instruction ran outside 64-bit mode.
 */

#include "cpu/access.h"
#include "cpu/vcpu.h"

struct xstate_image {
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged: bit p is 0 where physical register p is empty */
    uint8_t reserved0;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16]; /* ST(0) first; 10 bytes each */
    uint8_t xmm[16][16];
    uint8_t reserved1[96];
    uint64_t xstate_bv, xcomp_bv, reserved2[6];
    uint8_t ymm_high[16][16];
    uint8_t unused[XSTATE_SIZE - 832];
};
_Static_assert(sizeof(struct xstate_image) == XSTATE_SIZE, "fills vcpu.xstate");
_Static_assert(offsetof(struct xstate_image, xmm) == 160, "SDM vol. 1 table 10-2");
_Static_assert(offsetof(struct xstate_image, xstate_bv) == 512, "SDM vol. 1 13.4.2");
_Static_assert(offsetof(struct xstate_image, ymm_high) == 576, "SDM vol. 1 13.4.3");

/* From the low half of any vector register to its high half. */
#define XSTATE_YMM_HIGH_OFFSET                                                                     \
    (offsetof(struct xstate_image, ymm_high) - offsetof(struct xstate_image, xmm))

/* Components, as in XCR0 and XSTATE_BV. */
enum xstate_component { XSTATE_X87 = 1, XSTATE_SSE = 2, XSTATE_AVX = 4 };

#define MXCSR_INITIAL 0x1f80u
#define MXCSR_VALID   0xffffu
#define FCW_INITIAL   0x37fu
#define FCW_MASKS     0x3fu
#define FSW_ES        0x80u
#define FSW_BUSY      0x8000u

static inline struct xstate_image *xstate_of(struct vcpu *vcpu)
{
    return (struct xstate_image *)(void *)vcpu->xstate;
}

/* May an instruction of this kind run? Otherwise these raise #UD or #NM (SDM vol. 3 2.5, 13.1). */

static inline void xstate_require_sse(struct vcpu *vcpu)
{
    if (likely(!(vcpu->mmu.cr0 & (CR0_EM | CR0_TS)) && (vcpu->mmu.cr4 & CR4_OSFXSR)))
        return;
    bool undefined = (vcpu->mmu.cr0 & CR0_EM) || !(vcpu->mmu.cr4 & CR4_OSFXSR);
    vcpu_raise(vcpu, undefined ? VECTOR_UD : VECTOR_NM);
}

/* VEX prefixes are not recognized in real and virtual-8086 mode. */
static inline void xstate_require_vex(struct vcpu *vcpu)
{
    if (unlikely(vcpu->mode == MODE_REAL || (vcpu->rflags & FLAG_VM)))
        vcpu_raise(vcpu, VECTOR_UD);
}

static inline void xstate_require_avx(struct vcpu *vcpu)
{
    xstate_require_vex(vcpu);
    uint64_t both = XSTATE_SSE | XSTATE_AVX;
    if (unlikely(!(vcpu->mmu.cr4 & CR4_OSXSAVE) || (vcpu->xcr0 & both) != both))
        vcpu_raise(vcpu, VECTOR_UD);
    if (unlikely(vcpu->mmu.cr0 & CR0_TS))
        vcpu_raise(vcpu, VECTOR_NM);
}

static inline void xstate_require_x87(struct vcpu *vcpu)
{
    if (unlikely(vcpu->mmu.cr0 & (CR0_EM | CR0_TS)))
        vcpu_raise(vcpu, VECTOR_NM);
}

static inline void xstate_require_mmx(struct vcpu *vcpu)
{
    if (unlikely(vcpu->mmu.cr0 & CR0_EM))
        vcpu_raise(vcpu, VECTOR_UD);
    if (unlikely(vcpu->mmu.cr0 & CR0_TS))
        vcpu_raise(vcpu, VECTOR_NM);
}

/* What waiting x87 and all MMX instructions do first. With CR0.NE clear a CPU would assert FERR#
 * and wait for an interrupt by way of an external controller that this machine does not have; every
 * kernel since the i486 sets NE, so the difference is only ever seen as a more direct #MF. */
static inline void xstate_wait_x87(struct vcpu *vcpu)
{
    if (unlikely(xstate_of(vcpu)->fsw & FSW_ES))
        vcpu_raise(vcpu, VECTOR_MF);
}

/* memcpy, with the sizes of vector operands inline: a call would cost more than the instruction. */
static inline void xstate_copy(void *to, const void *from, unsigned size)
{
    switch (size) {
    case 4:
        __builtin_memcpy(to, from, 4);
        break;
    case 8:
        __builtin_memcpy(to, from, 8);
        break;
    case 16:
        __builtin_memcpy(to, from, 16);
        break;
    default:
        __builtin_memcpy(to, from, size);
        break;
    }
}

/* A memory operand of at most a page, the common case inline. */
static inline void xstate_load(struct vcpu *vcpu, uint64_t linear, void *buffer, unsigned size)
{
    const uint8_t *host = mmu_probe_read(&vcpu->mmu, vcpu->privilege, linear, size);
    if (likely(host != NULL))
        xstate_copy(buffer, host, size);
    else
        access_load_bytes(vcpu, linear, buffer, size);
}

static inline void xstate_store(struct vcpu *vcpu, uint64_t linear, const void *buffer,
                                unsigned size)
{
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, size);
    if (likely(host != NULL))
        xstate_copy(host, buffer, size);
    else
        access_store_bytes(vcpu, linear, buffer, size);
}

/* What FNINIT makes of the x87 state; the registers themselves are kept. */
void xstate_init_x87(struct xstate_image *image);
/* Passes an x87 state of guest making through the host's FPU, which cleans reserved bits and
 * recomputes FSW.ES just as it would if the guest had loaded it there. */
void xstate_canonicalize_x87(struct xstate_image *image);

/* What any MMX instruction does to the x87 state: top of stack 0, all registers valid. */
void xstate_enter_mmx(struct xstate_image *image);

/* Handlers in x87_env.c, for the table in state.c. */
struct insn;
void x87_exec_fwait(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_emms(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fninit(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fnclex(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fnop_legacy(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fnstsw(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fnstcw(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fldcw(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fnstenv(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fldenv(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_fnsave(struct vcpu *vcpu, const struct insn *insn);
void x87_exec_frstor(struct vcpu *vcpu, const struct insn *insn);

#endif
