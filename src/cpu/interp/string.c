/*
 * MOVS STOS LODS SCAS CMPS, with REP, REPE, REPNE.
 *
 * Each iteration is complete before the next one begins: the registers always say what is left, so
 * an instruction that faults or is interrupted in the middle is simply executed again. Between
 * iterations `attention` is looked at; an instruction that stops for it leaves next_rip at itself.
 *
 * REP MOVS and REP STOS work in runs that end at a page's end, by memmove and memset on the pages'
 * host addresses, where the TLB has both. What the TLB does not have (a miss, a device, a watched
 * page, a page with code) goes element by element through the ordinary accesses, which brings the
 * page in for the next run. A whole page that is away is overwritten without being brought back
 * (mmu_overwrite).
 */

#include <string.h>

#include "cpu/access.h"
#include "cpu/interp/alu.h"
#include "cpu/system/interrupt_flag.h"

static inline uint64_t string_register(const struct vcpu *vcpu, const struct insn *insn, enum gpr r)
{
    return insn_gpr_get(vcpu, r, insn->address_size);
}

static inline bool string_backward(const struct vcpu *vcpu)
{
    return vcpu->rflags & FLAG_DF;
}

/* Moves an index register by `count` elements. */
static inline void string_advance(struct vcpu *vcpu, const struct insn *insn, enum gpr r,
                                  uint64_t count)
{
    uint64_t bytes = count * insn->operand_size;
    insn_gpr_set(vcpu, r, insn->address_size,
                 string_backward(vcpu) ? vcpu->gpr[r] - bytes : vcpu->gpr[r] + bytes);
}

static inline bool string_repeats(const struct insn *insn)
{
    return insn->prefixes & (INSN_REP | INSN_REPNE);
}

/* True where a repeated instruction must stop for now, and has arranged to be executed again. */
static inline bool string_suspend(struct vcpu *vcpu)
{
    if (likely(atomic_load_explicit(&vcpu->attention, memory_order_relaxed) == 0 &&
               !vcpu->leave_block))
        return false;
    vcpu_suspend_repeat(vcpu);
    return true;
}

/* ------------------------------------------------------------------------- runs within a page */

struct string_run {
    uint64_t linear; /* of the first element */
    uint64_t count;  /* elements from there, in the direction of DF, within the page */
};

/* Protected mode: the segment's type is one that a run may read, or write. */
static bool string_segment_allows(const struct segment *segment, enum mmu_access access)
{
    const uint32_t code = 0x8, expand_down = 0x4, readable_or_writable = 0x2;
    uint32_t type = segment->attributes & SEG_TYPE;
    if ((segment->attributes & SEG_UNUSABLE) || (type & (code | expand_down)) == expand_down)
        return false;
    if (access == MMU_WRITE)
        return (type & (code | readable_or_writable)) == readable_or_writable;
    return !(type & code) || (type & readable_or_writable);
}

/* How far elements at seg:offset go without leaving the page, the segment or the address size.
 * False where the plain way must find out (and raise, perhaps). */
static bool string_run_at(struct vcpu *vcpu, const struct insn *insn, enum segment_register seg,
                          uint64_t offset, enum mmu_access access, struct string_run *run)
{
    unsigned size = insn->operand_size;
    bool backward = string_backward(vcpu);
    uint64_t linear = offset;
    uint64_t last = bits_truncate(~(uint64_t)0, insn->address_size); /* greatest good offset */

    if (vcpu->mode == MODE_LONG) {
        if (seg >= SEG_FS)
            linear += vcpu->seg[seg].base;
    } else {
        const struct segment *segment = &vcpu->seg[seg];
        if (!string_segment_allows(segment, access))
            return false;
        linear = (uint32_t)(segment->base + offset);
        if (segment->limit < last)
            last = segment->limit;
    }
    uint64_t in_page = linear & PAGE_MASK;
    if (in_page > PAGE_SIZE - size || offset > last || last - offset < size - 1)
        return false;
    uint64_t by_page = backward ? in_page / size + 1 : (PAGE_SIZE - in_page) / size;
    uint64_t by_offset = backward ? offset / size + 1 : (last - offset - (size - 1)) / size + 1;
    run->linear = linear;
    run->count = by_page < by_offset ? by_page : by_offset;
    return true;
}

/* The lowest byte of a run of n elements whose first is at `first`. */
static inline uint8_t *run_start(uint8_t *first, uint64_t count, unsigned size, bool backward)
{
    return backward ? first - (count - 1) * size : first;
}

static void copy_elements(uint8_t *dst, const uint8_t *src, uint64_t count, unsigned size,
                          bool backward)
{
    int64_t step = backward ? -(int64_t)size : (int64_t)size;
    for (; count != 0; count--, dst += step, src += step)
        access_put(dst, size, access_get(src, size));
}

static uint64_t minimum(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Whether a run of `count` elements is a whole page, and *page its address. */
static bool is_whole_page(const struct vcpu *vcpu, const struct string_run *run, uint64_t count,
                          unsigned size, uint64_t *page)
{
    *page = string_backward(vcpu) ? run->linear - (count - 1) * size : run->linear;
    return count * size == PAGE_SIZE && (*page & PAGE_MASK) == 0 && access_is_canonical(*page);
}

/* A whole page is copied to one that is away: that one need not be brought back for it. */
static bool movs_away(struct vcpu *vcpu, const struct insn *insn, const struct string_run *from,
                      const struct string_run *to, uint64_t count)
{
    unsigned size = insn->operand_size;
    uint64_t src_page, dst_page;
    struct mmu_target src;
    struct mmu_fault fault;
    if (!is_whole_page(vcpu, to, count, size, &dst_page) ||
        !is_whole_page(vcpu, from, count, size, &src_page) || vcpu->mmu.watched_count != 0 ||
        !pmap_has_away(vcpu->mmu.map))
        return false;
    /* A fault, or a device, is for the first element's own access. */
    if (mmu_resolve(&vcpu->mmu, src_page, MMU_READ, vcpu->privilege, &src, &fault) != MMU_OK)
        return false;
    uint8_t bytes[1 << PAGE_SHIFT];
    memcpy(bytes, src.host, sizeof(bytes));
    return mmu_overwrite(&vcpu->mmu, dst_page, vcpu->privilege, bytes);
}

/* Fills `count` elements from `start` up. */
static void fill_elements(uint8_t *start, uint64_t value, uint64_t count, unsigned size)
{
    if (value == (uint8_t)value * (bits_truncate(~(uint64_t)0, size) / 0xff))
        memset(start, (uint8_t)value, count * size);
    else
        for (uint64_t i = 0; i < count; i++)
            access_put(start + i * size, size, value);
}

/* A page that is away is filled: likewise. */
static bool stos_away(struct vcpu *vcpu, const struct insn *insn, const struct string_run *to,
                      uint64_t count)
{
    unsigned size = insn->operand_size;
    uint64_t page;
    if (!is_whole_page(vcpu, to, count, size, &page) || !pmap_has_away(vcpu->mmu.map))
        return false;
    _Alignas(8) uint8_t bytes[1 << PAGE_SHIFT];
    fill_elements(bytes, insn_gpr_get(vcpu, GPR_RAX, size), count, size);
    return mmu_overwrite(&vcpu->mmu, page, vcpu->privilege, bytes);
}

/* Each returns how many elements it has done, 0 where it cannot. */
static uint64_t movs_run(struct vcpu *vcpu, const struct insn *insn, uint64_t count)
{
    unsigned size = insn->operand_size;
    struct string_run from, to;
    if (!string_run_at(vcpu, insn, (enum segment_register)insn->seg,
                       string_register(vcpu, insn, GPR_RSI), MMU_READ, &from) ||
        !string_run_at(vcpu, insn, SEG_ES, string_register(vcpu, insn, GPR_RDI), MMU_WRITE, &to))
        return 0;
    count = minimum(count, minimum(from.count, to.count));
    uint8_t *src = mmu_probe_read(&vcpu->mmu, vcpu->privilege, from.linear, size);
    uint8_t *dst = mmu_probe_write(&vcpu->mmu, vcpu->privilege, to.linear, size);
    if (src == NULL || dst == NULL) {
        if (dst != NULL || !movs_away(vcpu, insn, &from, &to, count))
            return 0;
        string_advance(vcpu, insn, GPR_RSI, count);
        string_advance(vcpu, insn, GPR_RDI, count);
        return count;
    }

    /* memmove does what the CPU does, except where elements written are read again later. */
    bool backward = string_backward(vcpu);
    uint64_t bytes = count * size;
    uintptr_t ahead = backward ? (uintptr_t)src - (uintptr_t)dst : (uintptr_t)dst - (uintptr_t)src;
    if (ahead != 0 && ahead < bytes)
        copy_elements(dst, src, count, size, backward);
    else
        memmove(run_start(dst, count, size, backward), run_start(src, count, size, backward),
                bytes);
    string_advance(vcpu, insn, GPR_RSI, count);
    string_advance(vcpu, insn, GPR_RDI, count);
    return count;
}

static uint64_t stos_run(struct vcpu *vcpu, const struct insn *insn, uint64_t count)
{
    unsigned size = insn->operand_size;
    struct string_run to;
    if (!string_run_at(vcpu, insn, SEG_ES, string_register(vcpu, insn, GPR_RDI), MMU_WRITE, &to))
        return 0;
    count = minimum(count, to.count);
    uint8_t *dst = mmu_probe_write(&vcpu->mmu, vcpu->privilege, to.linear, size);
    if (dst != NULL)
        fill_elements(run_start(dst, count, size, string_backward(vcpu)),
                      insn_gpr_get(vcpu, GPR_RAX, size), count, size);
    else if (!stos_away(vcpu, insn, &to, count))
        return 0;
    string_advance(vcpu, insn, GPR_RDI, count);
    return count;
}

/* ------------------------------------------------------------------------- single elements */

static void movs_one(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value = access_load(vcpu, (enum segment_register)insn->seg,
                                 string_register(vcpu, insn, GPR_RSI), insn->operand_size);
    access_store(vcpu, SEG_ES, string_register(vcpu, insn, GPR_RDI), insn->operand_size, value);
    string_advance(vcpu, insn, GPR_RSI, 1);
    string_advance(vcpu, insn, GPR_RDI, 1);
}

static void stos_one(struct vcpu *vcpu, const struct insn *insn)
{
    access_store(vcpu, SEG_ES, string_register(vcpu, insn, GPR_RDI), insn->operand_size,
                 vcpu->gpr[GPR_RAX]);
    string_advance(vcpu, insn, GPR_RDI, 1);
}

static void lods_one(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value = access_load(vcpu, (enum segment_register)insn->seg,
                                 string_register(vcpu, insn, GPR_RSI), insn->operand_size);
    insn_gpr_set(vcpu, GPR_RAX, insn->operand_size, value);
    string_advance(vcpu, insn, GPR_RSI, 1);
}

typedef uint64_t string_run_fn(struct vcpu *vcpu, const struct insn *insn, uint64_t count);

static uint64_t no_run(struct vcpu *vcpu, const struct insn *insn, uint64_t count)
{
    return 0;
}

/* Nothing to do, but Intel's CPUs still truncate the registers to a 32-bit address size in 64-bit
 * code: RCX always, the indices of MOVS and STOS. */
enum string_indices { INDICES_NONE = 0, INDEX_RSI = 1, INDEX_RDI = 2 };

static void string_truncate(struct vcpu *vcpu, const struct insn *insn, unsigned indices)
{
    if (insn->address_size != 4)
        return;
    vcpu->gpr[GPR_RCX] = (uint32_t)vcpu->gpr[GPR_RCX];
    if (indices & INDEX_RSI)
        vcpu->gpr[GPR_RSI] = (uint32_t)vcpu->gpr[GPR_RSI];
    if (indices & INDEX_RDI)
        vcpu->gpr[GPR_RDI] = (uint32_t)vcpu->gpr[GPR_RDI];
}

/* While attention is wanted there is one element a time: single steps stop after each. */
static ALWAYS_INLINE void string_repeat(struct vcpu *vcpu, const struct insn *insn, insn_fn *one,
                                        string_run_fn *run, unsigned indices)
{
    if (!string_repeats(insn)) {
        one(vcpu, insn);
        return;
    }
    uint64_t count = string_register(vcpu, insn, GPR_RCX);
    if (count == 0)
        string_truncate(vcpu, insn, indices);
    while (count != 0) {
        uint64_t done = 0;
        if (atomic_load_explicit(&vcpu->attention, memory_order_relaxed) == 0)
            done = run(vcpu, insn, count);
        if (done == 0) {
            one(vcpu, insn);
            done = 1;
        }
        count -= done;
        insn_gpr_set(vcpu, GPR_RCX, insn->address_size, count);
        if (count != 0 && string_suspend(vcpu))
            return;
    }
}

void exec_movs(struct vcpu *vcpu, const struct insn *insn)
{
    string_repeat(vcpu, insn, movs_one, movs_run, INDEX_RSI | INDEX_RDI);
}

void exec_stos(struct vcpu *vcpu, const struct insn *insn)
{
    string_repeat(vcpu, insn, stos_one, stos_run, INDEX_RDI);
}

void exec_lods(struct vcpu *vcpu, const struct insn *insn)
{
    string_repeat(vcpu, insn, lods_one, no_run, INDICES_NONE);
}

/* ------------------------------------------------------------------------- comparisons */

static uint64_t compare_flags(unsigned size, uint64_t left, uint64_t right, uint64_t flags)
{
    switch (size) {
    case 1:
        alu_compute(ALU_CMP, 1, left, right, &flags);
        break;
    case 2:
        alu_compute(ALU_CMP, 2, left, right, &flags);
        break;
    case 4:
        alu_compute(ALU_CMP, 4, left, right, &flags);
        break;
    default:
        alu_compute(ALU_CMP, 8, left, right, &flags);
        break;
    }
    return flags;
}

static uint64_t scas_one(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t value = access_load(vcpu, SEG_ES, string_register(vcpu, insn, GPR_RDI), size);
    string_advance(vcpu, insn, GPR_RDI, 1);
    return compare_flags(size, vcpu->gpr[GPR_RAX], value, vcpu->rflags);
}

static uint64_t cmps_one(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t left = access_load(vcpu, (enum segment_register)insn->seg,
                                string_register(vcpu, insn, GPR_RSI), size);
    uint64_t right = access_load(vcpu, SEG_ES, string_register(vcpu, insn, GPR_RDI), size);
    string_advance(vcpu, insn, GPR_RSI, 1);
    string_advance(vcpu, insn, GPR_RDI, 1);
    return compare_flags(size, left, right, vcpu->rflags);
}

/* RFLAGS is written when the instruction ends or stops: a fault in the middle finds the flags from
 * before it (SDM vol. 2 REP). AMD's CPUs write it with each element. */
static ALWAYS_INLINE void string_compare(struct vcpu *vcpu, const struct insn *insn,
                                         uint64_t (*one)(struct vcpu *, const struct insn *))
{
    if (!string_repeats(insn)) {
        vcpu->rflags = one(vcpu, insn);
        return;
    }
    uint64_t count = string_register(vcpu, insn, GPR_RCX), flags = vcpu->rflags;
    bool while_equal = insn->prefixes & INSN_REP;
    if (count == 0)
        string_truncate(vcpu, insn, INDICES_NONE);
    while (count != 0) {
        flags = one(vcpu, insn);
        count--;
        insn_gpr_set(vcpu, GPR_RCX, insn->address_size, count);
        if (vcpu->features->amd)
            vcpu->rflags = flags;
        if (!!(flags & FLAG_ZF) != while_equal)
            break;
        if (count != 0 && string_suspend(vcpu)) {
            flags |= FLAG_RF;
            break;
        }
    }
    vcpu->rflags = flags;
}

void exec_scas(struct vcpu *vcpu, const struct insn *insn)
{
    string_compare(vcpu, insn, scas_one);
}

void exec_cmps(struct vcpu *vcpu, const struct insn *insn)
{
    string_compare(vcpu, insn, cmps_one);
}
