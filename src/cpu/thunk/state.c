/*
 * FXSAVE, XSAVE and family, LDMXCSR and STMXCSR, by hand on the image, which has the standard XSAVE
 * layout already. SDM vol. 1 10.5 and ch. 13.
 *
 * The init optimization follows xstate_bv of the image, which may call a component in use that is
 * in its initial state: that is allowed (13.6). The modified optimization of XSAVEOPT is not done,
 * which is allowed too. Outside 64-bit mode registers 8-15 are neither saved nor restored.
 */

#include "cpu/insn.h"
#include "cpu/thunk/xstate.h"

#include <string.h>

#include <Zydis/Zydis.h>

#define LEGACY_SIZE   512u
#define HEADER_OFFSET 512u
#define HEADER_SIZE   64u
#define AVX_OFFSET    576u /* in both layouts: it is the only component after the header */
#define AVX_SIZE      256u
#define COMPACTED     ((uint64_t)1 << 63)

static unsigned vector_registers(const struct vcpu *vcpu)
{
    return vcpu->mode == MODE_LONG ? 16 : 8;
}

static uint64_t operand_linear(struct vcpu *vcpu, const struct insn *insn, unsigned size,
                               unsigned alignment, enum mmu_access access)
{
    uint64_t linear = access_linear(vcpu, (enum segment_register)insn->seg,
                                    insn_address(vcpu, insn), size, access);
    /* Which of #AC and #GP it is may vary. Intel's CPUs do this; so do AMD's for FXSAVE and
     * FXRSTOR, but XSAVE and its family always raise #GP there. */
    bool checked = alignment == 16 || !vcpu->features->amd;
    if (checked && vcpu->privilege == MMU_USER_CHECKED && (linear & 3) != 0)
        vcpu_raise_error(vcpu, VECTOR_AC, 0);
    if ((linear & (alignment - 1)) != 0)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
    return linear;
}

static void check_mxcsr(struct vcpu *vcpu, uint32_t mxcsr)
{
    if (mxcsr & ~MXCSR_VALID)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
}

/* ---- Parts of the legacy area ---- */

/* With REX.W a pointer is 64 bits, else 32 bits and a selector. */
static uint64_t pointer_image(uint64_t pointer, bool wide)
{
    return wide ? pointer : pointer & 0xffffffffffff;
}

/* Bytes 0-23 and 32-159. AMD's CPUs store zeros for the pointers unless an exception is pending
 * (FSW.ES); FNSTENV has them always. */
static void put_x87(struct vcpu *vcpu, bool wide, struct xstate_image *to)
{
    const struct xstate_image *from = xstate_of(vcpu);
    bool with_pointers = !vcpu->features->amd || (from->fsw & FSW_ES);
    memcpy(to, from, offsetof(struct xstate_image, mxcsr));
    to->reserved0 = 0;
    to->fop = with_pointers ? from->fop : 0;
    to->fip = with_pointers ? pointer_image(from->fip, wide) : 0;
    to->fdp = with_pointers ? pointer_image(from->fdp, wide) : 0;
    memset(to->st, 0, sizeof(to->st));
    for (unsigned i = 0; i < 8; i++)
        memcpy(to->st[i], from->st[i], 10);
}

static void get_x87(struct xstate_image *image, const struct xstate_image *from, bool wide)
{
    memcpy(image, from, offsetof(struct xstate_image, mxcsr));
    image->reserved0 = 0;
    image->fip = pointer_image(from->fip, wide);
    image->fdp = pointer_image(from->fdp, wide);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image->st[i], from->st[i], 10);
    xstate_canonicalize_x87(image);
}

/* ---- FXSAVE, FXRSTOR ---- */

static void exec_fxsave(struct vcpu *vcpu, const struct insn *insn)
{
    const struct xstate_image *image = xstate_of(vcpu);
    struct xstate_image out;
    xstate_require_x87(vcpu);
    uint64_t linear = operand_linear(vcpu, insn, LEGACY_SIZE, 16, MMU_WRITE);
    put_x87(vcpu, insn->mnemonic == ZYDIS_MNEMONIC_FXSAVE64, &out);
    out.mxcsr = image->mxcsr;
    out.mxcsr_mask = MXCSR_VALID;
    memcpy(out.xmm, image->xmm, sizeof(out.xmm));
    access_check_store(vcpu, linear, LEGACY_SIZE);
    access_store_bytes(vcpu, linear, &out,
                       (unsigned)offsetof(struct xstate_image, xmm) + 16 * vector_registers(vcpu));
}

static void exec_fxrstor(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    struct xstate_image in;
    xstate_require_x87(vcpu);
    uint64_t linear = operand_linear(vcpu, insn, LEGACY_SIZE, 16, MMU_READ);
    access_load_bytes(vcpu, linear, &in, LEGACY_SIZE);
    check_mxcsr(vcpu, in.mxcsr);
    image->mxcsr = in.mxcsr;
    memcpy(image->xmm, in.xmm, 16 * vector_registers(vcpu));
    get_x87(image, &in, insn->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64);
    image->xstate_bv |= XSTATE_X87 | XSTATE_SSE;
}

/* ---- XSAVE, XSAVEOPT, XSAVEC, XRSTOR ---- */

/* The requested-feature bitmap. */
static uint64_t begin_xsave(struct vcpu *vcpu)
{
    if (!(vcpu->mmu.cr4 & CR4_OSXSAVE))
        vcpu_raise(vcpu, VECTOR_UD);
    if (vcpu->mmu.cr0 & CR0_TS)
        vcpu_raise(vcpu, VECTOR_NM);
    uint64_t asked = (uint32_t)vcpu->gpr[GPR_RAX] | vcpu->gpr[GPR_RDX] << 32;
    return asked & vcpu->xcr0;
}

static void require_feature(struct vcpu *vcpu, enum feature feature)
{
    if (!features_has(vcpu->features, feature))
        vcpu_raise(vcpu, VECTOR_UD);
}

static uint64_t components_in_use(const struct xstate_image *image)
{
    uint64_t in_use = image->xstate_bv & (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
    return image->mxcsr == MXCSR_INITIAL ? in_use : in_use | XSTATE_SSE;
}

static void store_part(struct vcpu *vcpu, uint64_t linear, const struct xstate_image *out,
                       size_t offset, size_t size)
{
    access_store_bytes(vcpu, linear + offset, (const uint8_t *)out + offset, (unsigned)size);
}

#define PART(member)                                                                               \
    offsetof(struct xstate_image, member), sizeof(((struct xstate_image *)0)->member)

/* Writes `components`, MXCSR if asked, and then the header's first `header` bytes. */
static void store_components(struct vcpu *vcpu, const struct insn *insn, uint64_t linear,
                             uint64_t components, bool with_mxcsr, bool wide,
                             struct xstate_image *out, size_t header)
{
    const struct xstate_image *image = xstate_of(vcpu);
    size_t registers = 16 * vector_registers(vcpu);
    access_check_store(vcpu, linear, AVX_OFFSET + (components & XSTATE_AVX ? AVX_SIZE : 0));

    put_x87(vcpu, wide, out);
    out->mxcsr = image->mxcsr;
    out->mxcsr_mask = MXCSR_VALID;
    memcpy(out->xmm, image->xmm, sizeof(out->xmm));
    memcpy(out->ymm_high, image->ymm_high, sizeof(out->ymm_high));
    if (components & XSTATE_X87) {
        store_part(vcpu, linear, out, 0, offsetof(struct xstate_image, mxcsr));
        store_part(vcpu, linear, out, PART(st));
    }
    if (with_mxcsr)
        store_part(vcpu, linear, out, offsetof(struct xstate_image, mxcsr), 8);
    if (components & XSTATE_SSE)
        store_part(vcpu, linear, out, offsetof(struct xstate_image, xmm), registers);
    if (components & XSTATE_AVX)
        store_part(vcpu, linear, out, offsetof(struct xstate_image, ymm_high), registers);
    store_part(vcpu, linear, out, HEADER_OFFSET, header);
}

static void save_standard(struct vcpu *vcpu, const struct insn *insn, bool optimize)
{
    uint64_t rfbm = begin_xsave(vcpu);
    uint64_t in_use = components_in_use(xstate_of(vcpu));
    uint64_t components = optimize ? rfbm & in_use : rfbm;
    bool wide =
        insn->mnemonic == ZYDIS_MNEMONIC_XSAVE64 || insn->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64;
    struct xstate_image out;
    uint64_t linear = operand_linear(
        vcpu, insn, AVX_OFFSET + (components & XSTATE_AVX ? AVX_SIZE : 0), 64, MMU_WRITE);
    uint64_t old = access_load_linear(vcpu, linear + HEADER_OFFSET, 8);
    out.xstate_bv = (old & ~rfbm) | (in_use & rfbm);
    bool with_mxcsr = rfbm & (XSTATE_SSE | XSTATE_AVX);
    store_components(vcpu, insn, linear, components, with_mxcsr, wide, &out, 8);
}

static void exec_xsave(struct vcpu *vcpu, const struct insn *insn)
{
    require_feature(vcpu, FEATURE_XSAVE);
    save_standard(vcpu, insn, false);
}

static void exec_xsaveopt(struct vcpu *vcpu, const struct insn *insn)
{
    require_feature(vcpu, FEATURE_XSAVEOPT);
    save_standard(vcpu, insn, true);
}

static void exec_xsavec(struct vcpu *vcpu, const struct insn *insn)
{
    require_feature(vcpu, FEATURE_XSAVEC);
    uint64_t rfbm = begin_xsave(vcpu);
    uint64_t components = rfbm & components_in_use(xstate_of(vcpu));
    struct xstate_image out;
    uint64_t linear = operand_linear(
        vcpu, insn, AVX_OFFSET + (components & XSTATE_AVX ? AVX_SIZE : 0), 64, MMU_WRITE);
    out.xstate_bv = components;
    out.xcomp_bv = COMPACTED | rfbm;
    store_components(vcpu, insn, linear, components, components & XSTATE_SSE,
                     insn->mnemonic == ZYDIS_MNEMONIC_XSAVEC64, &out, 16);
}

/* SDM vol. 1 13.8: #GP where the header asks for what is not there. */
static void check_header(struct vcpu *vcpu, const struct xstate_image *in)
{
    bool valid;
    uint64_t reserved = 0;
    for (unsigned i = 1; i < ARRAY_LENGTH(in->reserved2); i++)
        reserved |= in->reserved2[i];
    if (in->xcomp_bv & COMPACTED)
        valid = features_has(vcpu->features, FEATURE_XSAVEC) &&
                !(in->xcomp_bv & ~COMPACTED & ~vcpu->xcr0) && !(in->xstate_bv & ~in->xcomp_bv) &&
                in->reserved2[0] == 0 && reserved == 0;
    else
        valid = in->xcomp_bv == 0 && in->reserved2[0] == 0 && !(in->xstate_bv & ~vcpu->xcr0);
    if (!valid)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
}

static void exec_xrstor(struct vcpu *vcpu, const struct insn *insn)
{
    require_feature(vcpu, FEATURE_XSAVE);
    struct xstate_image *image = xstate_of(vcpu);
    struct xstate_image in;
    uint64_t rfbm = begin_xsave(vcpu);
    uint64_t linear = operand_linear(vcpu, insn, AVX_OFFSET, 64, MMU_READ);
    access_load_bytes(vcpu, linear, &in, AVX_OFFSET);
    check_header(vcpu, &in);

    bool compacted = in.xcomp_bv & COMPACTED;
    uint64_t load = rfbm & in.xstate_bv, init = rfbm & ~in.xstate_bv;
    if (load & XSTATE_AVX)
        access_load_bytes(
            vcpu, operand_linear(vcpu, insn, AVX_OFFSET + AVX_SIZE, 64, MMU_READ) + AVX_OFFSET,
            in.ymm_high, AVX_SIZE);
    /* The standard form takes MXCSR from memory whatever XSTATE_BV says. */
    bool load_mxcsr = compacted ? load & XSTATE_SSE : rfbm & (XSTATE_SSE | XSTATE_AVX);
    if (load_mxcsr)
        check_mxcsr(vcpu, in.mxcsr);

    size_t registers = 16 * vector_registers(vcpu);
    if (load_mxcsr)
        image->mxcsr = in.mxcsr;
    else if (compacted && (init & XSTATE_SSE))
        image->mxcsr = MXCSR_INITIAL;
    if (init & XSTATE_SSE)
        memset(image->xmm, 0, registers);
    else if (load & XSTATE_SSE)
        memcpy(image->xmm, in.xmm, registers);
    if (init & XSTATE_AVX)
        memset(image->ymm_high, 0, registers);
    else if (load & XSTATE_AVX)
        memcpy(image->ymm_high, in.ymm_high, registers);
    if (init & XSTATE_X87) {
        xstate_init_x87(image);
        memset(image->st, 0, sizeof(image->st));
    } else if (load & XSTATE_X87) {
        get_x87(image, &in, insn->mnemonic == ZYDIS_MNEMONIC_XRSTOR64);
    }

    /* Registers 8-15 may still be in use where they were out of reach. */
    uint64_t cleared = vcpu->mode == MODE_LONG ? init : init & XSTATE_X87;
    image->xstate_bv = (image->xstate_bv & ~cleared) | load;
}

/* ---- MXCSR ---- */

static void require_mxcsr(struct vcpu *vcpu, const struct insn *insn)
{
    if (insn->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || insn->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR) {
        require_feature(vcpu, FEATURE_AVX);
        xstate_require_avx(vcpu);
    } else {
        xstate_require_sse(vcpu);
    }
}

static void exec_ldmxcsr(struct vcpu *vcpu, const struct insn *insn)
{
    require_mxcsr(vcpu, insn);
    uint32_t mxcsr =
        (uint32_t)access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), 4);
    check_mxcsr(vcpu, mxcsr);
    xstate_of(vcpu)->mxcsr = mxcsr;
    xstate_of(vcpu)->xstate_bv |= XSTATE_SSE;
}

static void exec_stmxcsr(struct vcpu *vcpu, const struct insn *insn)
{
    require_mxcsr(vcpu, insn);
    access_store(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), 4,
                 xstate_of(vcpu)->mxcsr);
}

/* XSAVES and XRSTORS are not offered, so they are not here and #UD. */
const struct insn_handler state_handlers[] = {
    {ZYDIS_MNEMONIC_FXSAVE, exec_fxsave, 0},
    {ZYDIS_MNEMONIC_FXSAVE64, exec_fxsave, 0},
    {ZYDIS_MNEMONIC_FXRSTOR, exec_fxrstor, 0},
    {ZYDIS_MNEMONIC_FXRSTOR64, exec_fxrstor, 0},
    {ZYDIS_MNEMONIC_XSAVE, exec_xsave, 0},
    {ZYDIS_MNEMONIC_XSAVE64, exec_xsave, 0},
    {ZYDIS_MNEMONIC_XSAVEOPT, exec_xsaveopt, 0},
    {ZYDIS_MNEMONIC_XSAVEOPT64, exec_xsaveopt, 0},
    {ZYDIS_MNEMONIC_XSAVEC, exec_xsavec, 0},
    {ZYDIS_MNEMONIC_XSAVEC64, exec_xsavec, 0},
    {ZYDIS_MNEMONIC_XRSTOR, exec_xrstor, 0},
    {ZYDIS_MNEMONIC_XRSTOR64, exec_xrstor, 0},
    {ZYDIS_MNEMONIC_LDMXCSR, exec_ldmxcsr, 0},
    {ZYDIS_MNEMONIC_VLDMXCSR, exec_ldmxcsr, 0},
    {ZYDIS_MNEMONIC_STMXCSR, exec_stmxcsr, 0},
    {ZYDIS_MNEMONIC_VSTMXCSR, exec_stmxcsr, 0},
    {ZYDIS_MNEMONIC_FWAIT, x87_exec_fwait, 0},
    {ZYDIS_MNEMONIC_EMMS, x87_exec_emms, 0},
    {ZYDIS_MNEMONIC_FNINIT, x87_exec_fninit, 0},
    {ZYDIS_MNEMONIC_FNCLEX, x87_exec_fnclex, 0},
    {ZYDIS_MNEMONIC_FENI8087_NOP, x87_exec_fnop_legacy, 0},
    {ZYDIS_MNEMONIC_FDISI8087_NOP, x87_exec_fnop_legacy, 0},
    {ZYDIS_MNEMONIC_FSETPM287_NOP, x87_exec_fnop_legacy, 0},
    {ZYDIS_MNEMONIC_FNSTSW, x87_exec_fnstsw, 0},
    {ZYDIS_MNEMONIC_FNSTCW, x87_exec_fnstcw, 0},
    {ZYDIS_MNEMONIC_FLDCW, x87_exec_fldcw, 0},
    {ZYDIS_MNEMONIC_FNSTENV, x87_exec_fnstenv, 0},
    {ZYDIS_MNEMONIC_FLDENV, x87_exec_fldenv, 0},
    {ZYDIS_MNEMONIC_FNSAVE, x87_exec_fnsave, 0},
    {ZYDIS_MNEMONIC_FRSTOR, x87_exec_frstor, 0},
    {0, NULL, 0},
};
