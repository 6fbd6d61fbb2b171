#include "cpu/system/descriptor.h"

struct segment descriptor_segment(uint16_t selector, uint64_t raw)
{
    uint32_t limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));
    uint32_t attributes = descriptor_attributes(raw);
    return (struct segment){
        .base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000),
        .limit = attributes & SEG_G ? limit << 12 | 0xfff : limit,
        .attributes = attributes,
        .selector = selector,
    };
}

struct segment segment_null_stack(unsigned cpl)
{
    return (struct segment){.selector = (uint16_t)cpl, .attributes = SEG_UNUSABLE | cpl << 5};
}

bool segment_contains(const struct segment *segment, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;
    if ((segment->attributes & (SEG_S | TYPE_CODE | TYPE_EXPAND_DOWN)) !=
        (SEG_S | TYPE_EXPAND_DOWN))
        return last <= segment->limit;
    uint64_t top = segment->attributes & SEG_DB ? UINT32_MAX : UINT16_MAX;
    return offset > segment->limit && last <= top;
}

/* The table a selector points into. An unusable LDT has no entries. */
static bool table_of(const struct vcpu *vcpu, uint16_t selector, uint64_t *base, uint32_t *limit)
{
    if ((selector & SELECTOR_LDT) == 0) {
        *base = vcpu->gdtr.base;
        *limit = vcpu->gdtr.limit;
        return true;
    }
    *base = vcpu->ldtr.base;
    *limit = vcpu->ldtr.limit;
    return (vcpu->ldtr.attributes & SEG_UNUSABLE) == 0;
}

bool descriptor_find(struct vcpu *vcpu, uint16_t selector, struct descriptor *descriptor)
{
    uint64_t base;
    uint32_t limit;
    uint32_t offset = selector & ~7u;
    if (!table_of(vcpu, selector, &base, &limit) || offset + 7 > limit)
        return false;
    descriptor->address = system_linear(vcpu, base, offset);
    descriptor->raw = system_load(vcpu, descriptor->address, 8);
    return true;
}

bool descriptor_find_high(struct vcpu *vcpu, uint16_t selector, const struct descriptor *descriptor,
                          uint64_t *high)
{
    uint64_t base;
    uint32_t limit;
    if (!table_of(vcpu, selector, &base, &limit) || (selector & ~7u) + 15 > limit)
        return false;
    *high = system_load(vcpu, system_linear(vcpu, descriptor->address, 8), 8);
    return true;
}

void descriptor_set_type(struct vcpu *vcpu, const struct descriptor *descriptor, uint8_t bits)
{
    uint64_t address = system_linear(vcpu, descriptor->address, 5);
    /* If this raises, delivery recomputes the privilege (vcpu_deliver_fault). */
    enum mmu_privilege privilege = vcpu->privilege;
    vcpu->privilege = MMU_SUPERVISOR;
    uint8_t *host = access_rmw(vcpu, address, 1);
    vcpu->privilege = privilege;
    if (host != NULL)
        __atomic_fetch_or(host, bits, __ATOMIC_SEQ_CST);
    else
        access_store_system(vcpu, address, 1, access_load_system(vcpu, address, 1) | bits);
}
