#include "cpu/system/control.h"
#include "cpu/system/msr.h"

/*
 * Memory type range registers (SDM vol. 3 11.11). They are storage: there is no cache whose
 * behaviour they could change. Reserved bits are #GP as on hardware, so that a kernel that probes
 * widths finds 46 bits.
 */

#define MTRR_VARIABLE_COUNT 8u
#define MTRRCAP_VALUE       (MTRR_VARIABLE_COUNT | 1u << 8 | 1u << 10) /* fixed ranges, WC */
#define MTRR_ENABLE         (1ull << 11)
#define MTRR_MASK_VALID     (1ull << 11)

bool mtrr_type_is_valid(uint64_t type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

void mtrr_reset(struct vcpu_msrs *msrs)
{
    msrs->mtrr_def_type = MTRR_ENABLE | 6;
}

static bool fixed_index(uint32_t number, unsigned *index)
{
    if (number == MSR_IA32_MTRR_FIX64K)
        *index = 0;
    else if (number >= MSR_IA32_MTRR_FIX16K && number < MSR_IA32_MTRR_FIX16K + 2)
        *index = 1 + (number - MSR_IA32_MTRR_FIX16K);
    else if (number >= MSR_IA32_MTRR_FIX4K && number < MSR_IA32_MTRR_FIX4K + 8)
        *index = 3 + (number - MSR_IA32_MTRR_FIX4K);
    else
        return false;
    return true;
}

static bool fixed_is_valid(uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        if (!mtrr_type_is_valid(value >> (8 * i) & 0xff))
            return false;
    return true;
}

/* Even numbers are bases, odd ones masks. */
static bool variable_is_valid(uint32_t number, uint64_t value)
{
    const uint64_t address = ((1ull << PHYSICAL_ADDRESS_BITS) - 1) & ~PAGE_MASK;
    if ((number & 1) != 0)
        return (value & ~(address | MTRR_MASK_VALID)) == 0;
    return (value & ~(address | 0xff)) == 0 && mtrr_type_is_valid(value & 0xff);
}

static bool def_type_is_valid(uint64_t value)
{
    return (value & ~0xcffull) == 0 && mtrr_type_is_valid(value & 0xff);
}

bool mtrr_access(struct vcpu *vcpu, uint32_t number, uint64_t *value, bool is_write, bool *known)
{
    uint64_t *slot;
    bool valid;
    unsigned index;
    *known = true;
    if (number == MSR_IA32_MTRRCAP) {
        if (!is_write)
            *value = MTRRCAP_VALUE;
        return !is_write;
    }
    if (number == MSR_IA32_MTRR_DEF_TYPE) {
        slot = &vcpu->msr.mtrr_def_type;
        valid = def_type_is_valid(*value);
    } else if (fixed_index(number, &index)) {
        slot = &vcpu->msr.mtrr_fixed[index];
        valid = fixed_is_valid(*value);
    } else if (number >= MSR_IA32_MTRR_PHYSBASE0 &&
               number < MSR_IA32_MTRR_PHYSBASE0 + 2 * MTRR_VARIABLE_COUNT) {
        slot = &vcpu->msr.mtrr_variable[number - MSR_IA32_MTRR_PHYSBASE0];
        valid = variable_is_valid(number, *value);
    } else {
        *known = false;
        return false;
    }
    if (!is_write)
        *value = *slot;
    else if (valid)
        *slot = *value;
    return !is_write || valid;
}
