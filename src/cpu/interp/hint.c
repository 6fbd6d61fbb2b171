/* Instructions that do nothing a guest can see, or little: NOP PAUSE, fences, cache line flushes.
 */

#include "cpu/access.h"
#include "cpu/interp/interp.h"

/* Also prefetches, ENDBR and all of the reserved NOP space: no access, no fault. */
void exec_nop(struct vcpu *vcpu, const struct insn *insn)
{
}

void exec_pause(struct vcpu *vcpu, const struct insn *insn)
{
    __builtin_ia32_pause();
}

/* LFENCE SFENCE MFENCE: guest accesses are host accesses, so a host fence orders them. */
void exec_fence(struct vcpu *vcpu, const struct insn *insn)
{
    __builtin_ia32_mfence();
}

/* CLFLUSH CLFLUSHOPT CLWB: caches are coherent and the host's affair, but the address is checked as
 * for a load of one byte. */
void exec_clflush(struct vcpu *vcpu, const struct insn *insn)
{
    access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), 1);
}
