#ifndef AEROSTAT_CPU_SYSTEM_DESCRIPTOR_H
#define AEROSTAT_CPU_SYSTEM_DESCRIPTOR_H

/*
 * Segment and system descriptors, GDT and LDT (SDM vol. 3 3.4.5 and 3.5).
 *
 * Tables are read by implicit supervisor accesses: a #PF may leave any function that takes a vCPU.
 */

#include "cpu/access.h"
#include "cpu/insn.h"
#include "cpu/vcpu.h"

/* System descriptor types (S = 0). In IA-32e mode 9, 11, 12, 14 and 15 are the 64-bit forms. */
enum descriptor_type {
    TYPE_TSS16 = 1,
    TYPE_LDT = 2,
    TYPE_TSS16_BUSY = 3,
    TYPE_CALL_GATE16 = 4,
    TYPE_TASK_GATE = 5,
    TYPE_INTERRUPT_GATE16 = 6,
    TYPE_TRAP_GATE16 = 7,
    TYPE_TSS32 = 9,
    TYPE_TSS32_BUSY = 11,
    TYPE_CALL_GATE32 = 12,
    TYPE_INTERRUPT_GATE32 = 14,
    TYPE_TRAP_GATE32 = 15,
};

/* Type bits of code and data descriptors (S = 1). */
#define TYPE_ACCESSED    0x1u
#define TYPE_WRITABLE    0x2u /* data */
#define TYPE_READABLE    0x2u /* code */
#define TYPE_EXPAND_DOWN 0x4u /* data */
#define TYPE_CONFORMING  0x4u /* code */
#define TYPE_CODE        0x8u

#define SELECTOR_RPL 0x3u
#define SELECTOR_LDT 0x4u
#define SELECTOR_EXT 0x1u /* of error codes */
#define SELECTOR_IDT 0x2u

struct descriptor {
    uint64_t raw;     /* first eight bytes */
    uint64_t address; /* linear, of the first byte */
};

static inline bool selector_is_null(uint16_t selector)
{
    return (selector & ~SELECTOR_RPL) == 0;
}

static inline bool cpu_in_ia32e(const struct vcpu *vcpu)
{
    return (vcpu->mmu.efer & EFER_LMA) != 0;
}

/* attributes as in struct segment. */
static inline uint32_t descriptor_attributes(uint64_t raw)
{
    return (uint32_t)(raw >> 40) & 0xf0ff;
}

static inline unsigned attributes_type(uint32_t attributes)
{
    return attributes & SEG_TYPE;
}

static inline unsigned attributes_dpl(uint32_t attributes)
{
    return (attributes & SEG_DPL) >> 5;
}

static inline bool attributes_is_code(uint32_t attributes)
{
    return (attributes & (SEG_S | TYPE_CODE)) == (SEG_S | TYPE_CODE);
}

static inline bool attributes_is_conforming(uint32_t attributes)
{
    return (attributes & (SEG_S | TYPE_CODE | TYPE_CONFORMING)) ==
           (SEG_S | TYPE_CODE | TYPE_CONFORMING);
}

static inline bool attributes_is_writable_data(uint32_t attributes)
{
    return (attributes & (SEG_S | TYPE_CODE | TYPE_WRITABLE)) == (SEG_S | TYPE_WRITABLE);
}

static inline bool attributes_is_readable(uint32_t attributes)
{
    return (attributes & SEG_S) != 0 &&
           ((attributes & TYPE_CODE) == 0 || (attributes & TYPE_READABLE) != 0);
}

/* What a segment register holds after loading this descriptor. */
struct segment descriptor_segment(uint16_t selector, uint64_t raw);

/* The SS that 64-bit mode gives a new privilege level: null, with its DPL for the CPL. */
struct segment segment_null_stack(unsigned cpl);

/* True when [offset, offset + size) is inside the segment's limit (expand-down honoured). */
bool segment_contains(const struct segment *segment, uint64_t offset, unsigned size);

/* Fetches the descriptor that a selector (not null) names; false when it is outside its table. */
bool descriptor_find(struct vcpu *vcpu, uint16_t selector, struct descriptor *descriptor);

/* The second half of a 16-byte descriptor; false when that is outside the table. */
bool descriptor_find_high(struct vcpu *vcpu, uint16_t selector, const struct descriptor *descriptor,
                          uint64_t *high);

/* Sets type bits (accessed, busy) in the table by a locked update. */
void descriptor_set_type(struct vcpu *vcpu, const struct descriptor *descriptor, uint8_t bits);

/* Sets the accessed bit of a code or data descriptor if it is clear, in the table and in *raw. */
static inline void descriptor_set_accessed(struct vcpu *vcpu, struct descriptor *descriptor)
{
    if ((descriptor->raw >> 40 & TYPE_ACCESSED) != 0)
        return;
    descriptor_set_type(vcpu, descriptor, TYPE_ACCESSED);
    descriptor->raw |= (uint64_t)TYPE_ACCESSED << 40;
}

/* #GP, #NP, #SS or #TS with a selector's error code; ext: 0 or SELECTOR_EXT. */
static inline _Noreturn void raise_selector(struct vcpu *vcpu, enum vector vector,
                                            uint16_t selector, uint32_t ext)
{
    vcpu_raise_error(vcpu, vector, (selector & ~SELECTOR_RPL) | ext);
}

static inline void require_cpl0(struct vcpu *vcpu)
{
    if (vcpu->cpl != 0)
        vcpu_raise(vcpu, VECTOR_GP);
}

/* Implicit supervisor load; probes the TLB first. */
static inline uint64_t system_load(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    const uint8_t *host = mmu_probe_read(&vcpu->mmu, MMU_SUPERVISOR, linear, size);
    if (likely(host != NULL))
        return access_get(host, size);
    return access_load_system(vcpu, linear, size);
}

/* Linear addresses of table entries wrap at 4 GiB outside IA-32e mode. */
static inline uint64_t system_linear(const struct vcpu *vcpu, uint64_t base, uint64_t offset)
{
    return cpu_in_ia32e(vcpu) ? base + offset : (uint32_t)(base + offset);
}

/* Puts a value in the stack pointer, as wide as the stack is. */
static inline void stack_pointer_set(struct vcpu *vcpu, unsigned width, uint64_t value)
{
    insn_gpr_set(vcpu, GPR_RSP, width, value);
}

/* Loads a segment register as MOV does, in any mode (not CS). Raises before anything changes. */
void segment_load(struct vcpu *vcpu, enum segment_register seg, uint16_t selector);

#endif
