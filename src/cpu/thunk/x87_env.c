/*
 * x87 control instructions, by hand on the image: they are about the environment (control, status
 * and tag words, pointers), which must hold the guest's addresses and none of the host's. Where the
 * FPU would recompute something, the image is passed through the host's FPU.
 *
 * "Waiting" instructions first report a pending unmasked exception with #MF; those whose mnemonic
 * begins with FN do not.
 */

#include "cpu/insn.h"
#include "cpu/thunk/xstate.h"

#include <string.h>

#define STATUS_TOP(fsw) ((fsw) >> 11 & 7)

/* Physical registers stay where they are when the top of the stack moves, but the image begins with
 * ST(0). */
static void set_top(struct xstate_image *image, unsigned top)
{
    uint8_t rotated[8][16];
    unsigned by = top - STATUS_TOP(image->fsw);
    for (unsigned i = 0; i < 8; i++)
        memcpy(rotated[i], image->st[(i + by) & 7], 16);
    memcpy(image->st, rotated, sizeof(rotated));
    image->fsw = (uint16_t)((image->fsw & ~0x3800u) | top << 11);
}

void xstate_init_x87(struct xstate_image *image)
{
    set_top(image, 0);
    image->fcw = FCW_INITIAL;
    image->fsw = 0;
    image->ftw = 0;
    image->fop = 0;
    image->fip = 0;
    image->fdp = 0;
}

#define CLOBBER_FPU                                                                                \
    "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)", "mm0", "mm1", "mm2",      \
        "mm3", "mm4", "mm5", "mm6", "mm7", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", \
        "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* The pointers are kept away from the host, MXCSR is put back. */
void xstate_canonicalize_x87(struct xstate_image *image)
{
    uint64_t fip = image->fip, fdp = image->fdp;
    uint16_t fop = image->fop;
    uint32_t host_mxcsr;
    image->fip = 0;
    image->fdp = 0;
    __asm__ volatile("stmxcsr %1\n\t"
                     "fxrstor64 %0\n\t"
                     "fxsave64 %0\n\t"
                     "fninit\n\t"
                     "ldmxcsr %1"
                     : "+m"(*image), "=m"(host_mxcsr)
                     :
                     : CLOBBER_FPU);
    image->fip = fip;
    image->fdp = fdp;
    image->fop = fop & 0x7ff;
}

void xstate_enter_mmx(struct xstate_image *image)
{
    set_top(image, 0);
    image->ftw = 0xff;
    image->xstate_bv |= XSTATE_X87;
}

/* ---- Single words ---- */

void x87_exec_fwait(struct vcpu *vcpu, const struct insn *insn)
{
    if ((vcpu->mmu.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        vcpu_raise(vcpu, VECTOR_NM);
    xstate_wait_x87(vcpu);
}

void x87_exec_emms(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_mmx(vcpu);
    xstate_wait_x87(vcpu);
    xstate_enter_mmx(xstate_of(vcpu));
    xstate_of(vcpu)->ftw = 0;
}

void x87_exec_fninit(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_x87(vcpu);
    xstate_init_x87(xstate_of(vcpu));
    xstate_of(vcpu)->xstate_bv |= XSTATE_X87;
}

void x87_exec_fnclex(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_x87(vcpu);
    xstate_of(vcpu)->fsw &= 0x7f00;
    xstate_of(vcpu)->xstate_bv |= XSTATE_X87;
}

/* FENI, FDISI and FSETPM meant something to the 8087 and 80287. */
void x87_exec_fnop_legacy(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_x87(vcpu);
}

static void store_word(struct vcpu *vcpu, const struct insn *insn, uint16_t value)
{
    access_store(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), 2, value);
}

void x87_exec_fnstsw(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_x87(vcpu);
    uint16_t status = xstate_of(vcpu)->fsw;
    if (insn->operand_count > 0 && insn->op[0].kind == OPERAND_MEMORY)
        store_word(vcpu, insn, status);
    else
        insn_gpr_set(vcpu, GPR_RAX, 2, status);
}

void x87_exec_fnstcw(struct vcpu *vcpu, const struct insn *insn)
{
    xstate_require_x87(vcpu);
    store_word(vcpu, insn, xstate_of(vcpu)->fcw);
}

void x87_exec_fldcw(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    xstate_require_x87(vcpu);
    xstate_wait_x87(vcpu);
    image->fcw =
        (uint16_t)access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), 2);
    xstate_canonicalize_x87(image);
    image->xstate_bv |= XSTATE_X87;
}

/* ---- The environment in memory: SDM vol. 1 figures 8-9 to 8-12 ---- */

#define ENVIRONMENT_MAX 28u
#define REGISTERS_SIZE  80u

struct environment_format {
    bool wide; /* seven doublewords, else seven words */
    bool real; /* pointers are linear, not selector and offset */
};

static struct environment_format format_of(const struct vcpu *vcpu, const struct insn *insn)
{
    return (struct environment_format){
        .wide = insn->operand_size != 2,
        .real = vcpu->mode == MODE_REAL || (vcpu->rflags & FLAG_VM),
    };
}

static unsigned environment_size(struct environment_format format)
{
    return format.wide ? 28 : 14;
}

/* Two bits a physical register: 0 valid, 1 zero, 2 special, 3 empty. */
static uint16_t full_tag_word(const struct xstate_image *image)
{
    unsigned tags = 0, top = STATUS_TOP(image->fsw);
    for (unsigned p = 0; p < 8; p++) {
        const uint8_t *st = image->st[(p - top) & 7];
        uint64_t significand;
        uint16_t exponent;
        unsigned tag;
        memcpy(&significand, st, 8);
        memcpy(&exponent, st + 8, 2);
        exponent &= 0x7fff;
        if (!(image->ftw >> p & 1))
            tag = 3;
        else if (exponent == 0 && significand == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(significand >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= tag << (2 * p);
    }
    return (uint16_t)tags;
}

static void put_field(uint8_t *buffer, struct environment_format format, unsigned n, uint32_t value)
{
    memcpy(buffer + (format.wide ? 4 * n : 2 * n), &value, format.wide ? 4 : 2);
}

static uint32_t get_field(const uint8_t *buffer, struct environment_format format, unsigned n)
{
    uint32_t value = 0;
    memcpy(&value, buffer + (format.wide ? 4 * n : 2 * n), format.wide ? 4 : 2);
    return value;
}

static void put_environment(const struct xstate_image *image, struct environment_format format,
                            uint8_t *buffer)
{
    const uint32_t ones = 0xffff0000; /* upper halves as CPUs write them */
    uint32_t ip = (uint32_t)image->fip, cs = (uint16_t)(image->fip >> 32);
    uint32_t dp = (uint32_t)image->fdp, ds = (uint16_t)(image->fdp >> 32);
    put_field(buffer, format, 0, ones | image->fcw);
    put_field(buffer, format, 1, ones | image->fsw);
    put_field(buffer, format, 2, ones | full_tag_word(image));
    if (format.real) {
        ip += cs << 4;
        dp += ds << 4;
        put_field(buffer, format, 3, format.wide ? ones | (ip & 0xffff) : ip);
        put_field(buffer, format, 4, (ip >> 16 & 0xffff) << 12 | image->fop);
        put_field(buffer, format, 5, format.wide ? ones | (dp & 0xffff) : dp);
        put_field(buffer, format, 6, (dp >> 16 & 0xffff) << 12);
    } else {
        put_field(buffer, format, 3, ip);
        put_field(buffer, format, 4, cs | (uint32_t)image->fop << 16);
        put_field(buffer, format, 5, dp);
        put_field(buffer, format, 6, ones | ds);
    }
}

static void get_environment(struct xstate_image *image, struct environment_format format,
                            const uint8_t *buffer)
{
    image->fcw = (uint16_t)get_field(buffer, format, 0);
    image->fsw = (uint16_t)get_field(buffer, format, 1);
    uint16_t tags = (uint16_t)get_field(buffer, format, 2);
    image->ftw = 0;
    for (unsigned p = 0; p < 8; p++)
        if ((tags >> (2 * p) & 3) != 3)
            image->ftw |= (uint8_t)(1u << p);

    uint32_t ip = get_field(buffer, format, 3), ip_high = get_field(buffer, format, 4);
    uint32_t dp = get_field(buffer, format, 5), dp_high = get_field(buffer, format, 6);
    if (format.real) {
        image->fip = (ip & 0xffff) | (ip_high >> 12 & 0xffff) << 16;
        image->fdp = (dp & 0xffff) | (dp_high >> 12 & 0xffff) << 16;
        image->fop = ip_high & 0x7ff;
    } else {
        image->fip = ip | (uint64_t)(ip_high & 0xffff) << 32;
        image->fdp = dp | (uint64_t)(dp_high & 0xffff) << 32;
        /* The narrow protected-mode format has no room for the opcode. */
        image->fop = format.wide ? ip_high >> 16 & 0x7ff : image->fop;
    }
}

static uint64_t operand_linear(struct vcpu *vcpu, const struct insn *insn, unsigned size,
                               enum mmu_access access)
{
    return access_linear(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), size,
                         access);
}

void x87_exec_fnstenv(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    struct environment_format format = format_of(vcpu, insn);
    uint8_t buffer[ENVIRONMENT_MAX];
    xstate_require_x87(vcpu);
    put_environment(image, format, buffer);
    unsigned size = environment_size(format);
    access_store_bytes(vcpu, operand_linear(vcpu, insn, size, MMU_WRITE), buffer, size);
    /* All exceptions are masked afterwards. */
    image->fcw |= FCW_MASKS;
    xstate_canonicalize_x87(image);
    image->xstate_bv |= XSTATE_X87;
}

void x87_exec_fldenv(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    struct environment_format format = format_of(vcpu, insn);
    uint8_t buffer[ENVIRONMENT_MAX];
    xstate_require_x87(vcpu);
    xstate_wait_x87(vcpu);
    unsigned size = environment_size(format);
    access_load_bytes(vcpu, operand_linear(vcpu, insn, size, MMU_READ), buffer, size);
    unsigned top = STATUS_TOP(get_field(buffer, format, 1));
    set_top(image, top);
    get_environment(image, format, buffer);
    xstate_canonicalize_x87(image);
    image->xstate_bv |= XSTATE_X87;
}

void x87_exec_fnsave(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    struct environment_format format = format_of(vcpu, insn);
    uint8_t buffer[ENVIRONMENT_MAX + REGISTERS_SIZE];
    xstate_require_x87(vcpu);
    put_environment(image, format, buffer);
    unsigned size = environment_size(format);
    for (unsigned i = 0; i < 8; i++, size += 10)
        memcpy(buffer + size, image->st[i], 10);
    access_store_bytes(vcpu, operand_linear(vcpu, insn, size, MMU_WRITE), buffer, size);
    xstate_init_x87(image);
    image->xstate_bv |= XSTATE_X87;
}

void x87_exec_frstor(struct vcpu *vcpu, const struct insn *insn)
{
    struct xstate_image *image = xstate_of(vcpu);
    struct environment_format format = format_of(vcpu, insn);
    uint8_t buffer[ENVIRONMENT_MAX + REGISTERS_SIZE];
    xstate_require_x87(vcpu);
    xstate_wait_x87(vcpu);
    unsigned offset = environment_size(format), size = offset + REGISTERS_SIZE;
    access_load_bytes(vcpu, operand_linear(vcpu, insn, size, MMU_READ), buffer, size);
    get_environment(image, format, buffer);
    for (unsigned i = 0; i < 8; i++, offset += 10)
        memcpy(image->st[i], buffer + offset, 10);
    xstate_canonicalize_x87(image);
    image->xstate_bv |= XSTATE_X87;
}
